"""What started a run: the exact command line, the versions and the machine, one line of `invocations.jsonl` a start."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

INVOCATIONS = "invocations.jsonl"
PACKAGES = ("visurf", "torch", "transformers", "peft", "safetensors", "numpy", "pillow", "scipy", "opencv-python-headless", "vllm")


def command_line(arguments: Sequence[str] | None = None) -> str:
    """The command as it can be typed again; a script of this package goes by its name.

    >>> command_line(["/usr/bin/python3", "/opt/bin/visurf", "train", "a b.yaml"])
    "visurf train 'a b.yaml'"
    >>> command_line(["python", "-m", "visurf", "demo"])
    'python -m visurf demo'
    """
    given = list(sys.orig_argv if arguments is None else arguments)
    for place, word in enumerate(given[:3]):
        if os.path.basename(word) == "visurf" and given[place - 1 : place] != ["-m"]:
            return shlex.join(["visurf", *given[place + 1 :]])
    return shlex.join([os.path.basename(given[0]), *given[1:]]) if given else ""


def versions() -> dict[str, str]:
    """Versions of the installed packages on which numbers depend."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def note_invocation(out: Path, *, step: int, processes: int, device: str) -> None:
    """Add a line to `invocations.jsonl` in a run folder.

    Args:
        out: The run folder, which exists.
        step: Steps that were done before.
        processes: That work on the run.
        device: What they compute on.
    """
    row: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(),
        "folder": str(Path.cwd()),
        "step": step,
        "processes": processes,
        "device": device,
        "machine": platform.platform(),
        "processors": os.cpu_count(),
        "versions": versions(),
    }
    with (out / INVOCATIONS).open("a") as lines:
        lines.write(json.dumps(row, ensure_ascii=False) + "\n")
