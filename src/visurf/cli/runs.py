"""Commands that train a model: demo, init, recipes, train."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add the commands of this group."""
    demo = commands.add_parser("demo", description="train the embedded model with every paradigm")
    demo.add_argument("--paradigm", action="append", dest="paradigms", metavar="NAME", help="only this one (repeatable)")
    demo.add_argument("--out", type=Path, default=Path("demo-out"), help="folder of the results (default demo-out)")
    demo.add_argument("--seeds", type=int, default=1, help="runs of each paradigm (default 1)")
    demo.add_argument("--held-out", type=int, default=400, help="held-out prompts (default 400)")
    demo.add_argument("override", nargs="*", metavar="key=value", help="changes to the demo's recipe, such as steps=300")
    demo.set_defaults(run=_demo)
    add_mode(demo)

    init = commands.add_parser("init", description="write a recipe for a JSONL file")
    init.add_argument("data", type=Path, metavar="DATA.jsonl")
    init.add_argument("--images", type=Path, help="folder that image paths are relative to (default: the data's own)")
    init.add_argument("--model", default="Qwen/Qwen2.5-VL-3B-Instruct", help="folder or hub name of a checkpoint")
    init.add_argument("--out", type=Path, help="the recipe to write (default: beside the data)")
    init.add_argument("--full", action="store_true", help="train all parameters instead of adapters")
    init.add_argument("--force", action="store_true", help="write over a recipe that is there")
    init.add_argument("override", nargs="*", metavar="key=value", help="such as data.box_format=xywh task.name=detection")
    init.set_defaults(run=_init)

    recipes = commands.add_parser("recipes", description="list the recipes that ship with visurf, or print one")
    recipes.add_argument("name", nargs="?", metavar="RECIPE", help="print this one, to begin your own with")
    recipes.set_defaults(run=_recipes)

    train = commands.add_parser("train", description="run a recipe; runs that were interrupted go on where they stood")
    train.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the name of one that `visurf recipes` lists")
    train.add_argument("override", nargs="*", metavar="key=value", help="such as paradigm=rlvr optimizer.lr=1e-5")
    train.set_defaults(run=_train)
    add_mode(train)


def add_mode(parser: argparse.ArgumentParser) -> None:
    """How a command shows its progress."""
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--quiet", action="store_const", const="quiet", dest="mode", default="auto", help="no progress")
    shown.add_argument("--json", action="store_const", const="json", dest="mode", help="one JSON line per step")


def quiet_libraries() -> None:
    """Keep the libraries underneath from writing into our output."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", module="transformers|torch|huggingface_hub")
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    # bitsandbytes, imported by others wherever it is installed, tells of kernels that a CPU lacks.
    for name in ("torch", "bitsandbytes"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _demo(options: argparse.Namespace) -> int:
    quiet_libraries()
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
    from visurf.config import parse_overrides
    from visurf.recipe import write_recipe

    path = options.out or options.data.with_suffix(".yaml")
    changes = parse_overrides(options.override)
    written = write_recipe(options.data, options.model, path, options.images, changes, full=options.full, force=options.force)
    print(written.text)
    print(f"wrote {path}; {written.epoch}")
    for about, command in (("check it", "check"), ("then train", "train")):
        print(f"{about + ':':<12}{shlex.join(['visurf', command, str(path)])}")
    return 0


def _recipes(options: argparse.Namespace) -> int:
    from visurf.config import find_recipe, shipped_recipes
    from visurf.config.shipped import header

    if options.name is not None:
        print(find_recipe(options.name).read_text(), end="")
        return 0
    recipes = shipped_recipes()
    width = max(map(len, recipes))
    for name, path in recipes.items():
        print(f"{name:<{width}}  {header(path)['about']}")
    print("\nrun one: visurf train RECIPE data.root=FOLDER; print one: visurf recipes RECIPE")
    return 0


def _train(options: argparse.Namespace) -> int:
    quiet_libraries()
    from visurf.config import load_config, parse_overrides
    from visurf.data import describe
    from visurf.devices import described
    from visurf.stages import stages
    from visurf.terminal import Terminal, one_line
    from visurf.training import train

    if not _first_process():
        warnings.simplefilter("ignore")
    config = load_config(options.recipe, parse_overrides(options.override))
    with Terminal(stages(config)[-1].end, options.mode if _first_process() else "quiet") as terminal:

        def report(event: dict[str, Any]) -> None:
            if event["event"] == "start":
                counts = describe(event["data"])
                terminal.say(f"device: {described()}")
                terminal.say(", ".join(f"{v} {k}" for k, v in counts.items()))
                for where, problem in event["data"].skipped[:20]:
                    terminal.say(f"skipped {where}: {problem}")
                if event["resumed"]:
                    terminal.say(f"going on after step {event['resumed']} in {config.out}")
                    terminal.resume(event["resumed"])
            elif event["event"] == "before":
                terminal.say(f"before the first step: {one_line(event['metrics'])}")
            elif event["event"] == "alarm":
                terminal.say(f"ALARM {event['kind']} at step {event['step']}: {event['message']}")
            elif event["event"] == "step":
                terminal.step(event["stage"].paradigm.name, event["metrics"])

        result = _together(train, config, report)
    if result is None:
        return 1
    if _first_process():
        for name, value in result.validation.items():
            began = f"  ({result.before[name]:.4f} before the first step)" if name in result.before else ""
            print(f"validation {name:<14} {value:.4f}{began}")
        print(f"model in {result.model}")
    return 0


def _together(train: Callable[..., Any], *arguments: Any) -> Any:
    """Run as one of several processes; None where another one failed and the first says so."""
    from visurf import parallel

    try:
        result = train(*arguments)
    except parallel.OtherProcessError:
        if _first_process():
            raise
        return None
    parallel.stop()
    return result


def _first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"
