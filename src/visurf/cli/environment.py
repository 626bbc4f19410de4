"""``visurf env``: what is installed, and on what it runs; ``visurf completion``: a script for the shell."""

from __future__ import annotations

import argparse
import os
from typing import Any

SHELLS = ("bash", "zsh", "fish")
# What each part is for, where a user may lack it.
OPTIONAL = {
    "torch": "training, evaluation",
    "transformers": "training, evaluation",
    "peft": "adapters",
    "datasets": "data sets in Arrow or Parquet",
    "pycocotools": "COCO and LVIS AP",
    "opencv-python-headless": "the classical segmenter",
    "math-verify": "mathematical answers as published",
    "matplotlib": "charts",
    "tensorboard": "trackers: [tensorboard]",
    "wandb": "trackers: [wandb]",
    "huggingface_hub": "models by name, visurf export --push",
    "vllm": "rollout servers",
}
COMPLETION = """\
Print a completion script. To have it in every new shell:
  bash: visurf completion bash > ~/.local/share/bash-completion/completions/visurf
  zsh:  visurf completion zsh > ~/.zfunc/_visurf   (with fpath+=~/.zfunc before compinit in ~/.zshrc)
  fish: visurf completion fish > ~/.config/fish/completions/visurf.fish
"""


def add(commands: Any) -> None:
    """Add the commands."""
    commands.add_parser("env", description="versions, devices and optional parts").set_defaults(run=_env)
    shape = argparse.RawDescriptionHelpFormatter
    completion = commands.add_parser("completion", description=COMPLETION, formatter_class=shape)
    completion.add_argument("shell", choices=SHELLS)
    completion.set_defaults(run=_completion)


def _completion(options: argparse.Namespace) -> int:
    import shtab

    from visurf.cli import build_parser

    print(shtab.complete(build_parser(listed=True), options.shell))
    return 0


def _env(options: argparse.Namespace) -> int:
    import importlib.util
    import platform
    from importlib.metadata import PackageNotFoundError, version

    print(f"python {platform.python_version()} on {platform.platform()}, {os.cpu_count()} processors")
    for name in ("visurf", "numpy", "pillow", "scipy", "rich", *OPTIONAL):
        try:
            print(f"{name:<22} {version(name)}")
        except PackageNotFoundError:
            use = OPTIONAL.get(name)
            print(f"{name:<22} not installed{f' (for: {use})' if use else ''}")
    if importlib.util.find_spec("torch"):
        import torch

        devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        print(f"devices                {', '.join(devices) or 'CPU only'}")
    return 0
