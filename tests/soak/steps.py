"""Two thousand steps in one process: resident memory and open files must not grow.

Run with ``make soak``, or ``python tests/soak/steps.py --out FOLDER --json FILE``. It is one process from beginning to end, since
that is what is measured, of less than 20 minutes of one core: interrupted, it begins again.

The model is the embedded one with every part of a run taking part: rollouts, rewards, labels, backward passes, evaluation and
checkpoints. The exit status is 1 where resident memory at the end is more than 3 % away from that after step 200, or a file was
left open.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch

from visurf.cli.runs import quiet_libraries
from visurf.config import load_config
from visurf.mini.demo import RECIPE
from visurf.training import train

# Caches, threads and the allocator's arenas fill in the first steps.
WARM_STEPS, ALLOWED = 200, 0.03
EVERY = 50


def resident_mib() -> float:
    """Memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def open_files() -> int:
    """File descriptors that this process holds now, the one that counts them left out."""
    return len(os.listdir("/proc/self/fd")) - 1


def settings(out: Path, steps: int) -> dict[str, Any]:
    """A run whose steps are short, with everything in them that a run has."""
    return {
        "data": {"train": "world:shifted?count=400&seed=5", "validation": "world:shifted?count=8&seed=6"},
        "rollout": {"group_size": 4},
        "prompts_per_step": 2,
        "steps": steps,
        "evaluation": {"every": 100},
        "checkpoint": {"every": 50, "keep": 2},
        "optimizer": {"lr": 1e-5},
        "threads": 1,
        "out": str(out),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("build/soak-steps"), help="run folder; an earlier one is deleted")
    parser.add_argument("--json", type=Path, default=Path("build/soak-steps.json"))
    options = parser.parse_args()
    quiet_libraries()
    shutil.rmtree(options.out, ignore_errors=True)
    rows: list[dict[str, float]] = []
    began = time.monotonic()

    def report(event: dict[str, Any]) -> None:
        if event["event"] != "step" or event["step"] % EVERY:
            return
        row = {"step": event["step"], "resident_mib": round(resident_mib(), 1), "open_files": open_files()}
        rows.append(row)
        print(row, f"{time.monotonic() - began:.0f} s", flush=True)

    train(load_config(RECIPE, settings(options.out, options.steps)), report)
    after = next(row for row in rows if row["step"] >= min(WARM_STEPS, options.steps // 2))
    growth = rows[-1]["resident_mib"] / after["resident_mib"] - 1
    files = {row["open_files"] for row in rows if row["step"] >= after["step"]}
    written = (options.out / "metrics.jsonl").read_text().splitlines()
    passed = abs(growth) <= ALLOWED and len(files) == 1 and len(written) == options.steps
    found = {
        "command": f"python tests/soak/steps.py --steps {options.steps}",
        "machine": f"{platform.machine()}, one thread, torch {torch.__version__}, Python {platform.python_version()}",
        "steps": options.steps,
        "seconds": round(time.monotonic() - began),
        "from_step": after["step"],
        "growth": round(growth, 5),
        "open_files": sorted(files),
        "passed": passed,
        "rows": rows,
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(found, indent=1) + "\n")
    print(f"memory {growth:+.2%} from step {after['step']} to {rows[-1]['step']}, open files {sorted(files)}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
