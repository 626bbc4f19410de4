"""Peak memory of the training part, each side in a process of its own where the system's count is all there is."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys

import torch

from visurf.speed.benches import Bench, Plan, default_device, fill_peaks
from visurf.speed.report import Report


def measure_memory(plan: Plan) -> Report:
    """Every side's peak, and its ratio to visurf's.

    Raises:
        RuntimeError: A side's process failed; its output is in the message.
    """
    if default_device().type == "cuda":
        return Bench(plan).peaks()
    peaks = {side: _in_child(plan, side) for side in ("visurf", *plan.against)}
    # Here only the workload's sizes are needed.
    return fill_peaks(Bench(dataclasses.replace(plan, against=("naive",))).report(), peaks)


def _in_child(plan: Plan, side: str) -> float:
    sizes = {"model": plan.model, "length": plan.length, "tokens": plan.budget, "groups": plan.groups}
    options = {**sizes, "threads": torch.get_num_threads(), "side": side}
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
    plan = Plan(options["model"], against, length=options["length"], tokens=options["tokens"], groups=options["groups"])
    sys.stdout.write(json.dumps({"mib": Bench(plan).memory(side)}) + "\n")


if __name__ == "__main__":
    main()
