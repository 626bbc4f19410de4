"""The command line.

Exit codes: 0 done, 1 failed or something wrong found, 2 wrong usage, recipe or data, 3 an answer cannot be parsed, 130 interrupted
and resumable, 141 nobody reads the output any more. One module for each group of commands; nothing heavy is imported before a
command runs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from visurf.cli import checks, datasets, environment, exports, looking, measuring, runs, scores, serving, speed, studies

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_PIPE = 1, 2, 130, 141

# What people want -> the commands for it, a line each. The help must fit a screen of 24 lines of 80 characters.
WANTED = {
    "start": {
        "demo": "train the embedded model with every paradigm and compare",
        "env": "versions, devices and optional parts",
    },
    "prepare": {
        "init": "write a recipe for a JSONL file",
        "recipes": "published settings that ship with visurf: list, or print one",
        "data": "show a data set; convert COCO, YOLO, CSV; distil labels",
    },
    "train": {
        "check": "data, labels, rewards, memory, time, before a GPU is spent",
        "train": "run a recipe; an interrupted run goes on",
        "serve": "a vLLM server that samples for a recipe",
    },
    "study": {
        "study": "grids of runs: tuning, matched budgets, paired tests",
        "probe": "what a checkpoint promises, and what training changed",
        "alarms": "whether a run's rewards deceive",
    },
    "look": {
        "eval": "measure a model, or predictions, on JSONL or a benchmark",
        "predict": "ask a model about pictures, and draw the answer",
        "report": "curves and groups of runs as a page; compare two models",
        "score": "any reward over a file; checks against recorded results",
        "bench": "speed and memory against padded rows and TRL",
    },
    "use": {
        "export": "a run's model with its card, as a folder or on the hub",
        "completion": "make the shell complete commands and options",
    },
}


def description(wanted: dict[str, dict[str, str]]) -> str:
    """Commands in groups, one line each."""
    lines = ["Post-train vision-language models: supervision and reinforcement in one stage.", ""]
    for want, commands in wanted.items():
        for number, (name, about) in enumerate(commands.items()):
            lines.append(f"{'' if number else want:<9}{name:<11}{about}")
    return "\n".join([*lines, "", "Exit: 0 done, 1 failed, 2 wrong input, 3 unreadable answer, 130 interrupted."])


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
    "httpx": "vllm",
    "tensorboard": "report",
    "wandb": "report",
}


class _Listed:
    """Adds commands with the line that says what they are for, which completion shows beside them."""

    def __init__(self, commands: Any) -> None:
        self._commands = commands
        self._lines = {name: about for group in WANTED.values() for name, about in group.items()}

    def add_parser(self, name: str, **settings: Any) -> Any:
        return self._commands.add_parser(name, help=self._lines.get(name, ""), **settings)


def build_parser(*, listed: bool = False) -> argparse.ArgumentParser:
    """All commands and their arguments; `listed` where each is to say in a line what it is for."""
    parser = argparse.ArgumentParser(
        "visurf",
        description=description(WANTED),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        usage="visurf COMMAND ...     (visurf COMMAND --help shows its options)",
    )
    # The line of usage names both; the room is for the commands.
    parser.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
    parser.add_argument("--version", action="store_true", help=argparse.SUPPRESS)
    commands = parser.add_subparsers(prog="visurf", dest="command", metavar="COMMAND", help="" if listed else argparse.SUPPRESS)
    for group in (runs, checks, measuring, looking, scores, datasets, exports, environment, speed, studies, serving):
        group.add(_Listed(commands) if listed else commands)
    return parser


def _read(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command's options; ends the program where they are none."""
    named = next(iter(sys.argv[1:] if arguments is None else arguments), "-")
    if not named.startswith("-") and named not in (known := [name for group in WANTED.values() for name in group]):
        from visurf.naming import suggestion

        parser.error(f"unknown command {named!r}{suggestion(named, known)}")
    options, rest = parser.parse_known_args(arguments)
    # argparse takes no second run of positionals after an option: key=value may stand anywhere.
    changes = [a for a in rest if "=" in a and not a.startswith("-")]
    if len(changes) < len(rest) or (rest and not hasattr(options, "override")):
        other = [a for a in rest if a not in changes] or rest
        parser.error(f"unrecognized arguments: {' '.join(other)}{_as_setting(other[0]) if hasattr(options, 'override') else ''}")
    if rest:
        options.override = [*options.override, *changes]
    return options


def _as_setting(option: str) -> str:
    """How a setting is given that came as an option, as other programs have it."""
    from visurf.config.hints import named

    name = option.partition("=")[0].lstrip("-").replace("-", "_")
    return f"; settings are given as key=value, such as optimizer.lr=1e-5{named(name)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    parser = build_parser()
    options = _read(parser, arguments)
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
        code = int(options.run(options))
        sys.stdout.flush()
        return code
    except (ConfigError, DataError, ValueError) as error:
        # Of several processes on a machine each found the same.
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"visurf: {error}", file=sys.stderr)
        if os.environ.get("VISURF_TRACEBACK"):
            raise
        return EXIT_USAGE
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            command = shlex.join(["visurf", *(sys.argv[1:] if arguments is None else arguments)])
            print(f"\nvisurf: interrupted; the same command goes on where it stood: {command}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except ImportError as error:
        print(f"visurf: {error}{_remedy(error)}", file=sys.stderr)
        return EXIT_FAILED
    except BrokenPipeError:
        # Whoever read the output, such as `head`, has seen enough; what is still to be written has nowhere to go.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
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
    return f"; install what this needs with: pip install -e '.[{extra}]' in a clone of visurf" if extra else ""
