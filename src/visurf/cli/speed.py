"""``visurf bench``: how fast a step is, and against what."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visurf.cli.runs import quiet_libraries

if TYPE_CHECKING:
    from visurf.speed.benches import Plan

KINDS = {
    "step": "whole optimiser steps, and training forward and backward alone",
    "rollout": "sampling against transformers' generate",
    "memory": "peak memory of the training part",
    "scaling": "time over the group's size and the prompt's length",
}


def add(commands: Any) -> None:
    """Add the command."""
    bench = commands.add_parser("bench", description="measure speed and memory on replayed workloads with random weights")
    kinds = bench.add_subparsers(dest="what", metavar="WHAT", required=True)
    for name, text in KINDS.items():
        parser = kinds.add_parser(name, help=text, description=text)
        parser.add_argument(
            "--model", default="tiny", help="tiny, mid, and on a CUDA device 3b, 7b; smoke takes seconds (default tiny)"
        )
        if name != "scaling":
            parser.add_argument("--against", default="naive", help="naive, trl, or naive,trl (default naive)")
            parser.add_argument("--groups", type=int, default=0, help="prompts of a step (default: 8 for tiny, 1 for mid, else 2)")
        parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here")
        parser.add_argument("--repeats", type=int, default=5, help="rounds that count (default 5)")
        parser.add_argument("--warmup", type=int, default=1, help="rounds before them (default 1)")
        parser.add_argument("--length", type=int, default=0, help="longest completion of 3b and 7b (default 128)")
        parser.add_argument("--tokens", type=int, default=0, help="token budget of a micro-batch (default 16384; 3b and 7b 8192)")
        parser.add_argument(
            "--limit", type=float, default=0, metavar="SECONDS", help="begin no further round of a measurement after so long"
        )
        parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's)")
        if name == "scaling":
            parser.add_argument("--picture", type=Path, metavar="FILE.png", help="draw the curves; needs --json")
        parser.set_defaults(run=_bench)


def _bench(options: argparse.Namespace) -> int:
    from visurf.config import ConfigError

    if min(options.repeats, options.warmup + 1) < 1:
        raise ConfigError(f"--repeats: expected 1 or more, got {options.repeats}; --warmup: 0 or more, got {options.warmup}")
    if getattr(options, "groups", 0) < 0:
        raise ConfigError(f"--groups: expected 1 or more, or 0 for the model's own number, got {options.groups}")
    if getattr(options, "picture", None) is not None and options.json is None:
        raise ConfigError("--picture draws what --json wrote; give both")
    quiet_libraries()
    import torch

    from visurf.speed.benches import Plan, measure_rollout, measure_step

    if options.threads:
        torch.set_num_threads(options.threads)
    plan = Plan(
        options.model,
        tuple(getattr(options, "against", "naive").split(",")),
        options.repeats,
        options.warmup,
        options.length,
        options.tokens,
        options.limit,
        getattr(options, "groups", 0),
        shlex.join(["visurf", *sys.argv[1:]]),
    )
    if options.what == "scaling":
        return _scaling(plan, options)
    from visurf.speed.memory import measure_memory

    report = {"step": measure_step, "rollout": measure_rollout, "memory": measure_memory}[options.what](plan)
    print(report.table())
    if options.json is not None:
        report.write(options.json)
    return 0


def _scaling(plan: Plan, options: argparse.Namespace) -> int:
    from visurf.speed.scaling import draw, measure_scaling, table

    found = measure_scaling(plan)
    print(table(found))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.picture is not None:
        draw(options.json, options.picture)
    return 0
