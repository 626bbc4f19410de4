"""Measure what a step of each paradigm costs and the memory it takes: time, tokens, floating-point operations, peak.

    python studies/costs.py [--rounds 3] [--steps 12] [--json docs/results/papers-costs.json]

Every run is a process of its own on the non-object task, with the settings of the main table and of the rivals' table; the
paradigms take turns, so that whatever slows the machine meets all of them. Paradigms that are a list of stages cost what their
stages cost.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

STUDIES = Path(__file__).parent
FILES = ("table1/nonobject.yaml", "rivals/nonobject.yaml")
# The first steps compile kernels and fill caches.
WARM = 2
SEED = "seed0-"


def configs() -> dict[str, Any]:
    """The settings of every paradigm that has one stage."""
    from visurf.stages import stages
    from visurf.studies.study import plan

    found: dict[str, Any] = {}
    for name in FILES:
        for job in plan(STUDIES / name)[4]:
            if job.name.startswith(SEED) and len(stages(job.config)) == 1:
                found.setdefault(job.name.removeprefix(SEED), job.config)
    return found


def child(name: str, steps: int) -> dict[str, float]:
    """Train some steps here, after a shorter run that loads all libraries and is not measured."""
    import torch

    from visurf import train
    from visurf.speed.measure import peak_memory

    config = configs()[name]
    quiet = {
        "data": dataclasses.replace(config.data, validation=""),
        "evaluation": dataclasses.replace(config.evaluation, every=0),
        "threads": 1,
    }
    with tempfile.TemporaryDirectory() as folder:
        train(dataclasses.replace(config, **quiet, steps=WARM, out=f"{folder}/warm"))
        run = dataclasses.replace(config, **quiet, steps=steps, out=f"{folder}/run")
        peak = peak_memory(lambda: train(run), torch.device("cpu"))
        rows = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()][WARM:]

    def middle(key: str) -> float:
        return statistics.median(row.get(key, 0.0) for row in rows)

    flops = statistics.median(sum(v for k, v in row.items() if k.startswith("flops/")) for row in rows)
    sampled = statistics.median(row["rate/tokens"] * row["time/step"] - row["train/tokens"] for row in rows)
    return {
        "seconds": middle("time/step"),
        "rollout": middle("time/rollout"),
        "training": middle("time/train"),
        "trained": middle("train/tokens"),
        "sampled": sampled,
        "flops": flops,
        "mib": peak,
    }


def in_child(name: str, steps: int) -> dict[str, float]:
    """Measure one paradigm in a process of its own."""
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", __file__, "--steps", str(steps), "--child", name]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if ran.returncode:
        raise RuntimeError(f"measuring {name} failed:\n{ran.stderr[-3000:]}")
    found: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure in turn, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.steps <= WARM:
        parser.error(f"--steps: expected more than the {WARM} that are not counted, got {options.steps}")
    if options.child:
        sys.stdout.write(json.dumps(child(options.child, options.steps)) + "\n")
        return
    names = list(configs())
    rounds = [{name: in_child(name, options.steps) for name in names} for _ in range(options.rounds)]
    rows = []
    for name in names:
        row: dict[str, Any] = {key: statistics.median(found[name][key] for found in rounds) for key in rounds[0][name]}
        ratios = [found[name]["seconds"] / found["sft"]["seconds"] for found in rounds]
        row |= {"paradigm": name, "ratio": statistics.median(ratios), "ratios": [min(ratios), max(ratios)]}
        rows.append(row)
        cost = f"{row['seconds']:.3f} s  {row['ratio']:.2f} x sft  {row['flops'] / 1e9:.1f} GFLOP  {row['mib']:.0f} MiB"
        sys.stdout.write(f"{name:<16} {cost}\n")
    if options.json:
        import torch

        from visurf.speed.report import machine, versions

        command = f"python studies/costs.py --rounds {options.rounds} --steps {options.steps} --json {options.json}"
        about = {"command": command, "machine": machine(torch.device("cpu")), "versions": versions()}
        options.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
