"""Commands that compare runs: study."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

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


def _study(options: argparse.Namespace) -> int:
    out = options.out or Path("runs") / options.study.stem
    if options.study.suffix == ".json":
        from visurf.studies.study import write_results

        write_results(json.loads(options.study.read_text()), out, print)
        print(out / "page.md")
        return 0
    from visurf.studies.study import plan, run_study

    if options.dry_run:
        study, _, tuned, pilots, runs = plan(options.study)
        for job in (*tuned, *pilots, *runs):
            print(f"{job.folder}  {job.config.steps} steps" + (f"  {dict(job.chosen)}" if job.role == "tuning" else ""))
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


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
