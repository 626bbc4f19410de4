"""The command line. Exit codes: 0 done, 1 failed, 2 wrong usage, recipe or data, 130 interrupted (and resumable).

One module for each group of commands; nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from visurf.cli import datasets, environment, measuring, runs, scores, speed, studies

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130

DESCRIPTION = """\
Post-train vision-language models with supervision and reinforcement in one stage.

try it
  demo      train the embedded model with every paradigm and show what each learns
  env       versions, devices and optional parts

your own data
  init      write a recipe for a JSONL file
  recipes   list the published settings that ship with visurf, or print one
  train     run a recipe
  eval      measure a model, or another program's predictions, on a JSONL file or a benchmark

parts of it
  study     grids of runs with paired tests; `probe` of a checkpoint, `alarms` of a run
  score     any reward over a file of completions; checks against recorded results
  data      show a data set; convert COCO, YOLO or CSV; a model's own answers as labels
  bench     speed and memory against padded rows and TRL
"""
# Which extra brings a module.
_EXTRAS = {
    "torch": "train",
    "transformers": "train",
    "peft": "train",
    "safetensors": "train",
    "pycocotools": "metrics",
    "cv2": "segment",
    "datasets": "datasets",
    "pyarrow": "datasets",
    "matplotlib": "report",
}


def build_parser() -> argparse.ArgumentParser:
    """All commands and their arguments."""
    parser = argparse.ArgumentParser(
        "visurf", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter, add_help=False
    )
    # The line of usage names both; the room is for the commands.
    parser.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
    parser.add_argument("--version", action="store_true", help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for group in (runs, measuring, scores, datasets, environment, speed, studies):
        group.add(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    # argparse takes no second run of positionals after an option: key=value may stand anywhere.
    changes = [a for a in rest if "=" in a and not a.startswith("-")]
    if len(changes) < len(rest) or (rest and not hasattr(options, "override")):
        parser.error(f"unrecognized arguments: {' '.join(a for a in rest if a not in changes) or ' '.join(rest)}")
    if rest:
        options.override = [*options.override, *changes]
    if options.version:
        import visurf

        print(visurf.__version__)
        return 0
    if options.command is None:
        parser.print_help()
        return EXIT_USAGE
    from visurf.config import ConfigError
    from visurf.types import DataError

    try:
        return int(options.run(options))
    except (ConfigError, DataError, ValueError) as error:
        # Of several processes on a machine each found the same.
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"visurf: {error}", file=sys.stderr)
        if os.environ.get("VISURF_TRACEBACK"):
            raise
        return EXIT_USAGE
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            print("\nvisurf: interrupted; the same command goes on where it stood", file=sys.stderr)
        return EXIT_INTERRUPTED
    except ImportError as error:
        print(f"visurf: {error}{_remedy(error)}", file=sys.stderr)
        return EXIT_FAILED
    except (OSError, RuntimeError) as error:
        if os.environ.get("VISURF_TRACEBACK"):
            raise
        print(f"visurf: {error}\n(VISURF_TRACEBACK=1 shows where)", file=sys.stderr)
        return EXIT_FAILED


def _remedy(error: ImportError) -> str:
    """What to install, where the message does not say it already."""
    if "pip install" in str(error):
        return ""
    extra = _EXTRAS.get((error.name or "").partition(".")[0])
    return f"; install what this needs with: pip install 'visurf[{extra}]'" if extra else ""
