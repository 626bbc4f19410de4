"""``visurf serve``: a vLLM server that samples for a recipe."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add the command."""
    serve = commands.add_parser("serve", description="start a vLLM server that samples for a recipe (docs/servers.md)")
    serve.add_argument("recipe", metavar="RECIPE", help="the recipe that is trained, with the same key=value changes")
    serve.add_argument("override", nargs="*", metavar="key=value")
    serve.add_argument("--host", default="127.0.0.1", help="another than loopback needs a token and trains adapters only")
    serve.add_argument("--port", type=int, default=8000)
    serve.add_argument("--python", default="", help="interpreter with vLLM (default: .venv-vllm's, where it is, else this one)")
    serve.add_argument("--images", type=int, default=1, help="most images of a prompt (default 1)")
    serve.add_argument("--cpu", action="store_true", help="vLLM's CPU build: float32, no compilation")
    serve.add_argument(
        "--flag", action="append", default=[], metavar="FLAG", help="further flag of vLLM: --flag=--max-model-len=4096"
    )
    serve.add_argument("--print", action="store_true", dest="show", help="print the command instead of running it")
    serve.set_defaults(run=_serve)


def _serve(options: argparse.Namespace) -> int:
    from visurf.config import load_config, parse_overrides
    from visurf.serving import server_command

    config = load_config(options.recipe, parse_overrides(options.override))
    own = Path(".venv-vllm/bin/python")
    python = options.python or (str(own.absolute()) if own.exists() else sys.executable)
    command = server_command(
        config,
        _checkpoint(config.model.path, Path(config.out) / "served"),
        host=options.host,
        port=options.port,
        token=os.environ.get(config.rollout.servers.token_variable, ""),
        python=python,
        images=options.images,
        cpu=options.cpu,
    )
    arguments = [*command.arguments, *options.flag]
    if options.show:
        # The token is not shown.
        shown = [f"{name}={value}" for name, value in command.variables.items() if name != "VLLM_API_KEY"]
        print(shlex.join(["env", *shown, *arguments]))
        return 0
    environment = {**os.environ, **command.variables}
    # Settings of this interpreter mean nothing to the other one.
    for name in ("PYTHONPATH", "PYTHONHOME"):
        environment.pop(name, None)
    os.execvpe(arguments[0], arguments, environment)


def _checkpoint(path: str, folder: Path) -> str:
    """A checkpoint that vLLM can read; the embedded model is unpacked, for it is kept at half precision."""
    if path != "mini":
        return path
    from visurf.models import load_model, save_model

    model = load_model(path)
    save_model(model, model.network, folder)
    return str(folder.absolute())
