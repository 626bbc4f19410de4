"""The command line. Exit codes: 0 done, 1 failed, 2 wrong usage, recipe or data, 130 interrupted (and resumable)."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130

DESCRIPTION = """\
Post-train vision-language models with supervision and reinforcement in one stage.

try it
  demo      train the embedded model with every paradigm and show what each learns
  env       versions, devices and optional parts

your own data
  init      write a recipe for a JSONL file
  train     run a recipe
  eval      measure a model on a JSONL file
"""


def build_parser() -> argparse.ArgumentParser:
    """All commands and their arguments."""
    parser = argparse.ArgumentParser("visurf", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    demo = commands.add_parser("demo", help="train the embedded model with every paradigm")
    demo.add_argument("--paradigm", action="append", dest="paradigms", metavar="NAME", help="only this one (repeatable)")
    demo.add_argument("--out", type=Path, default=Path("demo-out"), help="folder of the results (default demo-out)")
    demo.add_argument("--seeds", type=int, default=1, help="runs of each paradigm (default 1)")
    demo.add_argument("--held-out", type=int, default=400, help="held-out prompts (default 400)")
    demo.add_argument("override", nargs="*", metavar="key=value", help="changes to the demo's recipe, such as steps=300")
    _mode(demo)

    init = commands.add_parser("init", help="write a recipe for a JSONL file")
    init.add_argument("data", type=Path, metavar="DATA.jsonl")
    init.add_argument("--images", type=Path, help="folder that image paths are relative to (default: the data's own)")
    init.add_argument("--model", default="Qwen/Qwen2.5-VL-3B-Instruct", help="folder or hub name of a checkpoint")
    init.add_argument("--out", type=Path, help="the recipe to write (default: beside the data)")

    train = commands.add_parser("train", help="run a recipe; runs that were interrupted go on where they stood")
    train.add_argument("recipe", metavar="RECIPE.yaml")
    train.add_argument("override", nargs="*", metavar="key=value", help="such as paradigm=rlvr optimizer.lr=1e-5")
    _mode(train)

    evaluate = commands.add_parser("eval", help="measure a model on a JSONL file")
    evaluate.add_argument("model", metavar="MODEL", help="folder in the hub's layout, hub name, or mini")
    evaluate.add_argument("data", metavar="DATA.jsonl")
    evaluate.add_argument("--recipe", help="take task, prompt, reward and limits from this recipe")
    evaluate.add_argument("--out", type=Path, default=Path("evaluation"), help="folder of records.jsonl and summary.json")
    evaluate.add_argument("override", nargs="*", metavar="key=value")
    _mode(evaluate)

    commands.add_parser("env", help="versions, devices and optional parts")
    return parser


def _mode(parser: argparse.ArgumentParser) -> None:
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--quiet", action="store_const", const="quiet", dest="mode", default="auto", help="no progress")
    shown.add_argument("--json", action="store_const", const="json", dest="mode", help="one JSON line per step")


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
        return int(_COMMANDS[options.command](options))
    except (ConfigError, DataError, ValueError) as error:
        print(f"visurf: {error}", file=sys.stderr)
        if os.environ.get("VISURF_TRACEBACK"):
            raise
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("\nvisurf: interrupted; the same command goes on where it stood", file=sys.stderr)
        return EXIT_INTERRUPTED
    except ModuleNotFoundError as error:
        print(f"visurf: {error}; install what training needs with: pip install 'visurf[train]'", file=sys.stderr)
        return EXIT_FAILED
    except (OSError, RuntimeError) as error:
        if os.environ.get("VISURF_TRACEBACK"):
            raise
        print(f"visurf: {error}\n(VISURF_TRACEBACK=1 shows where)", file=sys.stderr)
        return EXIT_FAILED


def _quiet_libraries() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", module="transformers|torch|huggingface_hub")
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("torch").setLevel(logging.ERROR)


def _demo(options: argparse.Namespace) -> int:
    _quiet_libraries()
    from visurf.config import parse_overrides
    from visurf.mini.demo import PARADIGMS, demo, table
    from visurf.naming import look_up

    for name in options.paradigms or ():
        look_up(name, dict.fromkeys(PARADIGMS), "paradigm")
    results = demo(
        options.out,
        tuple(options.paradigms or PARADIGMS),
        tuple(range(options.seeds)),
        parse_overrides(options.override),
        options.held_out,
        options.mode,
    )
    print(table(results))
    print(f"\n{options.out / 'results.json'}\n{options.out / 'contact_sheet.png'}")
    return 0


def _init(options: argparse.Namespace) -> int:
    from visurf.recipe import write_recipe

    path = options.out or options.data.with_suffix(".yaml")
    print(write_recipe(options.data, options.model, path, options.images))
    print(f"\nwrote {path}; now: visurf train {path}")
    return 0


def _train(options: argparse.Namespace) -> int:
    _quiet_libraries()
    from visurf.config import load_config, parse_overrides
    from visurf.data import describe
    from visurf.stages import stages
    from visurf.terminal import Terminal
    from visurf.training import train

    config = load_config(options.recipe, parse_overrides(options.override))
    with Terminal(stages(config)[-1].end, options.mode if _first_process() else "quiet") as terminal:

        def report(event: dict[str, Any]) -> None:
            if event["event"] == "start":
                counts = describe(event["data"])
                terminal.say(", ".join(f"{v} {k}" for k, v in counts.items()))
                for where, problem in event["data"].skipped[:20]:
                    terminal.say(f"skipped {where}: {problem}")
                if event["resumed"]:
                    terminal.say(f"going on after step {event['resumed']} in {config.out}")
                    terminal.done = event["resumed"]
            elif event["event"] == "step":
                terminal.step(event["stage"].paradigm.name, event["metrics"])

        result = train(config, report)
    if _first_process():
        for name, value in result.validation.items():
            print(f"validation {name:<14} {value:.4f}")
        print(f"model in {result.model}")
    return 0


def _first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _eval(options: argparse.Namespace) -> int:
    _quiet_libraries()
    from visurf.config import load_config, merge, parse_overrides
    from visurf.terminal import Terminal
    from visurf.training import evaluate

    asked = {"model": {"path": options.model}, "data": {"validation": options.data}, "evaluation": {"limit": 0}}
    config = load_config(options.recipe, merge(asked, parse_overrides(options.override)))
    with Terminal(0, options.mode) as terminal:
        summary = evaluate(config, options.out, lambda done, total: terminal.count(done, total, "evaluating"))
    if options.mode == "json":
        print(json.dumps(summary))
    else:
        for name, value in summary.items():
            print(f"{name:<14} {value:.4f}")
        print(f"records in {options.out / 'records.jsonl'}")
    return 0


def _env(options: argparse.Namespace) -> int:
    import importlib.util
    import platform
    from importlib.metadata import PackageNotFoundError, version

    print(f"python {platform.python_version()} on {platform.platform()}, {os.cpu_count()} processors")
    optional = ("torch", "transformers", "peft", "datasets", "vllm", "tensorboard", "wandb", "matplotlib", "pycocotools")
    for name in ("visurf", "numpy", "pillow", *optional):
        try:
            print(f"{name:<14} {version(name)}")
        except PackageNotFoundError:
            print(f"{name:<14} not installed")
    if importlib.util.find_spec("torch"):
        import torch

        devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        print(f"devices        {', '.join(devices) or 'CPU only'}")
    return 0


_COMMANDS = {"demo": _demo, "init": _init, "train": _train, "eval": _eval, "env": _env}
