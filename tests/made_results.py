"""What results.json of a study holds, made up."""

import numpy as np

from visurf.studies.columns import pack


def results(seeds=3, prompts=60):
    """What results.json holds, without any run."""
    generator, runs = np.random.default_rng(0), []
    easy = generator.random(prompts)
    rates = pack(np.round(easy * 4) / 4)

    def test(values, **more):
        summary = {"giou": float(values.mean()), "thinking": 1.0, "parse_failed": 0.0}
        columns = {"giou": {"value": pack(values)}, "tokens": {"value": pack(np.arange(prompts) % 7 + 20.0)}}
        return {"held_out": {"summary": summary, "prompts": "same", "columns": columns, **more}}

    before = (easy > 0.5).astype(float)
    start = {"role": "start", "name": "start", "axes": {}, "chosen": {}, "matching": [], "status": "done"}
    runs.append({**start, "tests": test(before, pass_rate=rates)})
    for paradigm, gain in (("sft", 0.0), ("visurf", 0.4)):
        for seed in range(seeds):
            axes = {"paradigm": paradigm, "seed": str(seed)}
            right = np.maximum(before, generator.random(prompts) < gain)
            run = {"role": "run", "name": f"{paradigm}-{seed}", "axes": axes, "chosen": {}, "matching": ["equal updates"]}
            run |= {"status": "done", "steps": 9, "costs": {"samples": 1.0, "updates": 9.0, "tokens": 5.0, "seconds": 2.0}}
            curves = {"side/colours/before": [[1, 0.9]], "side/colours": [[9, 0.6]], "validation/giou": [[9, 0.5]]}
            alarms = {"accuracy_falls": {"step": 5, "message": "m"}} if paradigm == "sft" else {}
            run |= {"curves": curves, "alarms": alarms, "correlations": {"total": 0.5, "bonus": None}}
            runs.append({**run, "tests": test(right)})
    lost = {"role": "run", "name": "sft-9", "axes": {"paradigm": "sft", "seed": "9"}, "chosen": {}, "matching": ["equal updates"]}
    runs.append({**lost, "status": "failed", "stage": "train", "error": "no | memory"})
    study = {
        "about": "A question.",
        "tests": {"held_out": "x"},
        "metrics": ["giou"],
        "matching": [{"name": "equal updates"}],
        "compare": {"axis": "paradigm", "against": ""},
        "resamples": 500,
        "tuning": None,
    }
    return {"name": "made", "command": "visurf study made.yaml", "versions": {}, "study": study, "choices": [], "runs": runs}
