"""The command that checks a recipe before a GPU is spent on it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visurf.cli.runs import quiet_libraries

if TYPE_CHECKING:
    from visurf.doctor.findings import Section


def add(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("check", description="check data, labels, rewards, rollouts, memory and time of a recipe")
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file, a name that `visurf recipes` lists, or demo")
    parser.add_argument(
        "override", nargs="*", metavar="key=value", help="changes, such as data.root=/data reward.variant=published"
    )
    parser.add_argument(
        "--limit", type=int, default=0, metavar="N", help="samples whose labels and lengths are checked (default all)"
    )
    parser.add_argument("--prompts", type=int, default=8, metavar="N", help="prompts to sample rollouts of (default 8; 0 for none)")
    parser.add_argument("--rollouts", action="store_true", help="sample rollouts of a large model without a GPU too")
    device = parser.add_mutually_exclusive_group()
    device.add_argument("--gpu", default="", metavar="NAME", help="estimate memory and time for this device, such as H100 or 4090")
    device.add_argument("--gpu-memory", type=float, metavar="GB", help="estimate memory for any device with so much, not time")
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="processes, each with a GPU (default 1)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with the pictures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was found")
    parser.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    quiet_libraries()
    from visurf.config import load_config, parse_overrides
    from visurf.doctor.estimates import machine_for
    from visurf.doctor.examination import Choices, examine
    from visurf.doctor.page import page
    from visurf.doctor.report import as_dict, section_text

    if options.limit < 0 or options.prompts < 0:
        raise ValueError("--limit and --prompts take 0 or more")
    if options.gpus < 1:
        raise ValueError("--gpus takes 1 or more")
    if options.gpu_memory is not None and not options.gpu_memory > 0:
        raise ValueError(f"--gpu-memory takes more than 0 GB, got {options.gpu_memory:g}")
    # What the estimates and the pages need, before minutes of checks.
    if options.gpu:
        machine_for(options.gpu, 0, 0)
    for file in (options.html, options.json):
        if file is not None and not file.absolute().parent.is_dir():
            raise ValueError(f"{file}: there is no folder {file.absolute().parent}")
    config = load_config(options.recipe, parse_overrides(options.override))

    def tell(section: Section) -> None:
        print(section_text(section), flush=True)

    def progress(done: int, total: int) -> None:
        if sys.stderr.isatty() and total >= 1000:
            print(f"\r{done:,} of {total:,} pictures", end="\r" if done < total else "\n", file=sys.stderr, flush=True)

    choices = Choices(options.limit, options.prompts, options.rollouts, options.gpu, options.gpus, options.gpu_memory)
    diagnosis = examine(options.recipe, config, choices, tell, progress)
    print(f"\n{diagnosis.conclusion} ({diagnosis.seconds:.0f} s)")
    if options.html is not None:
        options.html.write_text(page(diagnosis), encoding="utf-8")
        print(f"page in {options.html}")
    if options.json is not None:
        options.json.write_text(json.dumps(as_dict(diagnosis), indent=1, default=str), encoding="utf-8")
    return diagnosis.exit_code
