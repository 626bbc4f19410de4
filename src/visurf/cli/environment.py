"""``visurf env``: what is installed, and on what it runs."""

from __future__ import annotations

import argparse
import os
from typing import Any


def add(commands: Any) -> None:
    """Add the command."""
    commands.add_parser("env", description="versions, devices and optional parts").set_defaults(run=_env)


def _env(options: argparse.Namespace) -> int:
    import importlib.util
    import platform
    from importlib.metadata import PackageNotFoundError, version

    print(f"python {platform.python_version()} on {platform.platform()}, {os.cpu_count()} processors")
    optional = (
        "torch",
        "transformers",
        "peft",
        "datasets",
        "vllm",
        "tensorboard",
        "wandb",
        "matplotlib",
        "pycocotools",
        "opencv-python-headless",
    )
    for name in ("visurf", "numpy", "pillow", *optional):
        try:
            print(f"{name:<22} {version(name)}")
        except PackageNotFoundError:
            print(f"{name:<22} not installed")
    if importlib.util.find_spec("torch"):
        import torch

        devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        print(f"devices                {', '.join(devices) or 'CPU only'}")
    return 0
