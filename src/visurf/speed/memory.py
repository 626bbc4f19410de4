"""Peak memory of the training part, each side in a process of its own where the system's count is all there is."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys

import torch

from visurf.speed.benches import Bench, Plan, default_device
from visurf.speed.report import Report

NOTE = "memory above the weights at the peak of one forward and backward, gradients included, without optimiser state"


def measure_memory(plan: Plan) -> Report:
    """Every side's peak, and its ratio to visurf's.

    Raises:
        RuntimeError: A side's process failed; its output is in the message.
    """
    sides = ("visurf", *plan.against)
    cuda = default_device().type == "cuda"
    # In one process on a GPU, whose allocator counts; elsewhere only sizes are needed here.
    bench = Bench(plan if cuda else dataclasses.replace(plan, against=("naive",)))
    report = bench.report()
    return fill(report, {side: bench.memory(side) if cuda else _in_child(plan, side) for side in sides})


def fill(report: Report, peaks: dict[str, float]) -> Report:
    """A report's rows from the peaks of all sides, visurf's among them."""
    for side, mib in peaks.items():
        row = {"what": "peak training memory", "side": side, "mib": mib}
        if side != "visurf":
            row["ratio"] = report.speedup = mib / peaks["visurf"]
        report.rows.append(row)
    report.notes.append(NOTE)
    return report


def _in_child(plan: Plan, side: str) -> float:
    options = {"model": plan.model, "length": plan.length, "tokens": plan.budget, "threads": torch.get_num_threads(), "side": side}
    command = [sys.executable, "-W", "ignore", "-m", "visurf.speed.memory", json.dumps(options)]
    # Freed blocks go back to the system at once, so that what is held is what is used.
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if ran.returncode:
        raise RuntimeError(f"measuring the memory of {side} failed:\n{ran.stderr[-2000:]}")
    return float(json.loads(ran.stdout.splitlines()[-1])["mib"])


def main() -> None:
    """Measure one side in this process; for `measure_memory` only."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("options", type=json.loads)
    options = parser.parse_args().options
    torch.set_num_threads(options["threads"])
    side = options["side"]
    against = ("naive",) if side == "visurf" else (side,)
    plan = Plan(options["model"], against, length=options["length"], tokens=options["tokens"])
    sys.stdout.write(json.dumps({"mib": Bench(plan).memory(side)}) + "\n")


if __name__ == "__main__":
    main()
