"""Commands that compare runs and models: study, alarms, probe."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from visurf.cli.asking import asked_config
from visurf.cli.runs import add_mode, quiet_libraries

STUDY = """\
Tune, train and test every combination of a study file, and write tables with paired tests.
Runs that are done are not run again; the same command goes on where it stood.

run a study                            visurf study STUDY.yaml [--workers N]
write its tables again, without runs   visurf study RESULTS.json --out FOLDER
"""


def add(commands: Any) -> None:
    """Add the commands of this group."""
    study = commands.add_parser("study", description=STUDY, formatter_class=argparse.RawDescriptionHelpFormatter)
    study.add_argument("study", type=Path, metavar="STUDY.yaml", help="see docs/studies.md")
    study.add_argument("--out", type=Path, help="folder of runs and results (default: runs/NAME)")
    study.add_argument("--workers", type=int, default=0, help="runs at a time (default: one for each CUDA device, else one)")
    study.add_argument("--dry-run", action="store_true", help="only list the runs")
    study.add_argument("--tune-only", action="store_true", help="stop before any test set is opened")
    study.set_defaults(run=_study)

    about = "signs in a run's metrics that its reward deceives; exit status 1 where there are any"
    alarms = commands.add_parser("alarms", description=about)
    alarms.add_argument("run_folder", type=Path, metavar="RUN", help="a run's folder, or a metrics.jsonl")
    alarms.add_argument("--accuracy", help="the validation metric (default: as the run's recipe says)")
    alarms.add_argument("--json", action="store_true", help="print JSON")
    alarms.set_defaults(run=_alarms)

    about = "what a checkpoint can do before it is trained: pass@k, label likelihood, entropy, spread of rewards, label rescue"
    probe = commands.add_parser("probe", description=about)
    probe.add_argument("model", metavar="MODEL", help="folder of a run or in the hub's layout, hub name, mini")
    probe.add_argument("data", metavar="DATA", help="a JSONL file or another source, as in data.validation")
    probe.add_argument("--recipe", help="take task, prompt, reward and limits from this recipe (default: a run's own)")
    probe.add_argument("--samples", type=int, default=64, help="answers sampled of every prompt, the largest k (default 64)")
    probe.add_argument("--against", default="", metavar="MODEL", help="KL divergence from this one, and how the weights changed")
    probe.add_argument("--measure", default="", help="per-sample measure of being right (default: the headline metric's)")
    probe.add_argument("--threshold", type=float, default=0.5, help="value from which an answer is right (default 0.5)")
    probe.add_argument("--limit", type=int, default=0, help="only so many prompts")
    probe.add_argument("--out", type=Path, metavar="FILE", help="write everything as JSON, a record for each prompt")
    probe.add_argument("override", nargs="*", metavar="key=value")
    probe.set_defaults(run=_probe)
    add_mode(probe)


def _study(options: argparse.Namespace) -> int:
    out = options.out or Path("runs") / options.study.stem
    if options.study.suffix == ".json":
        from visurf.studies.study import write_results

        write_results(json.loads(options.study.read_text()), out, print)
        print(out / "page.md")
        return 0
    from visurf.studies.grid import own_steps
    from visurf.studies.study import plan, run_study

    if options.dry_run:
        study, _, tuned, pilots, runs = plan(options.study)
        for job in (*tuned, *pilots, *runs):
            print(f"{job.folder}  {own_steps(job.config)} steps" + (f"  {dict(job.chosen)}" if job.role == "tuning" else ""))
        matched = [m.name for m in study.matching if m.reference]
        print(f"{len(tuned)} tuning runs, {len(pilots)} pilots, {len(runs)} runs, {len(study.tests)} tests of each")
        if matched:
            print(f"more runs with other steps, once their costs are measured: {', '.join(matched)}")
        return 0
    from visurf.studies.running import Workers, cuda_devices

    devices = cuda_devices()
    workers = Workers(options.workers or len(devices) or 1, devices)
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        results = run_study(options.study, out, workers, _say, options.tune_only)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if results is None:
        print(out / "tuning.json")
        return 0
    failed = sum(run["status"] != "done" for run in results["runs"])
    print(f"{out / 'page.md'}" + (f"; {failed} of {len(results['runs'])} runs failed, see there" if failed else ""))
    return int(failed > 0)


def _alarms(options: argparse.Namespace) -> int:
    from visurf.alarms import correlations, find_alarms, read_metrics, watched
    from visurf.config import load_config
    from visurf.curves import read_curve

    folder = options.run_folder if options.run_folder.is_dir() else options.run_folder.parent
    rows = read_metrics(folder / "metrics.jsonl" if options.run_folder.is_dir() else options.run_folder)
    if not rows:
        raise ValueError(f"{options.run_folder}: no metrics.jsonl with steps; name the folder of a run")
    recipe = folder / "config.yaml"
    accuracy, form = watched(load_config(recipe)) if recipe.exists() else ("", [])
    accuracy = options.accuracy or accuracy
    points = len(read_curve(rows, accuracy).steps)
    found, ranks = find_alarms(rows, accuracy, form), correlations(rows, accuracy)
    if options.json:
        plain = {name: None if value != value else value for name, value in ranks.items()}
        alarms = [{"kind": a.kind, "step": a.step, "message": a.message} for a in found]
        print(json.dumps({"accuracy": accuracy, "evaluations": points, "correlations": plain, "alarms": alarms}))
        return int(bool(found))
    print(f"{len(rows)} steps, {points} evaluations of {accuracy or 'nothing: set evaluation.every and data.validation'}")
    for name, value in ranks.items():
        print(f"{name:<24} rank correlation with accuracy {'-' if value != value else format(value, '+.2f')}")
    for alarm in found:
        print(f"ALARM {alarm.kind} at step {alarm.step}: {alarm.message}")
    if not found:
        print("no alarm" if points >= 4 else "too few evaluations for alarms: at least 4")
    return int(bool(found))


def _probe(options: argparse.Namespace) -> int:
    # A path on the command line is relative to where the command is started, not to the recipe's data.root.
    data = str(Path(options.data).absolute()) if Path(options.data).exists() else options.data
    config = asked_config(options, {"data": {"validation": data}, "evaluation": {"limit": options.limit}})
    quiet_libraries()
    from visurf.probing import probe
    from visurf.terminal import Terminal

    with Terminal(0, options.mode) as terminal:

        def count(done: int, total: int) -> None:
            terminal.count(done, total, "probing")

        chosen = {"against": options.against, "measure": options.measure, "threshold": options.threshold}
        found = probe(config, options.samples, **chosen, progress=count)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1))
    if options.mode == "json":
        print(json.dumps({name: value for name, value in found.items() if name != "prompts"}))
        return 0
    for k, value in found["pass_at"].items():
        print(f"pass@{k:<13} {value:.4f}")
    for name, value in found["summary"].items():
        print(f"{name:<18} {value:.4f}")
    if "weights" in found:
        print(f"\n{'matrix':<58} {'change':>9} {'spectrum':>9} {'rotation':>9}")
        for name, change in found["weights"].items():
            print(f"{name[-58:]:<58} {change['relative']:>9.2e} {change['spectrum']:>9.2e} {change['rotation']:>8.3f}°")
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
