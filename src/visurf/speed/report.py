"""What was measured, as a table and as JSON, with the machine and the versions it was measured with."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from visurf.speed.measure import Series, ratios, summary

PACKAGES = ("visurf", "torch", "transformers", "peft", "trl")


@dataclass
class Report:
    """Numbers of one command.

    Attributes:
        command: What was run.
        model: The shape's name.
        about: The workload's sizes.
        rows: One a number: ``what``, ``side``, its value with range, its ratio to visurf's where there is one.
        speedup: The headline ratio.
        notes: What one must know to read the numbers.
    """

    command: str
    model: str
    about: dict[str, Any]
    device: torch.device
    rows: list[dict[str, Any]] = field(default_factory=list)
    speedup: float = 0.0
    notes: list[str] = field(default_factory=list)

    def add_times(self, what: str, series: Mapping[str, Series], tokens: int, **more: Any) -> float:
        """Add one row a contender, visurf first; returns the last rival's median ratio.

        Args:
            what: Which part of the work.
            series: From `visurf.speed.measure.alternate`.
            tokens: That all of them account for.
            more: Further fields of visurf's row, such as a floor.
        """
        mine = series["visurf"]
        ratio = 1.0
        for name, found in series.items():
            seconds = summary(found.wall)
            row: dict[str, Any] = {"what": what, "side": name, "seconds": seconds, "repeats": len(found.wall)}
            row |= {"tokens": tokens, "tokens_per_second": tokens / seconds["median"], "user_seconds": summary(found.user)}
            if name == "visurf":
                row |= more
            else:
                row["speedup"] = summary(ratios(found.wall, mine.wall))
                row["user_speedup"] = summary(ratios(found.user, mine.user))
                ratio = row["speedup"]["median"]
            self.rows.append(row)
        return ratio

    def to_dict(self) -> dict[str, Any]:
        """What the JSON file holds."""
        return {
            "command": self.command,
            "speedup": self.speedup,
            "model": self.model,
            "workload": self.about,
            "rows": self.rows,
            "notes": self.notes,
            "machine": machine(self.device),
            "versions": versions(),
        }

    def write(self, path: Path) -> None:
        """Write the JSON file, its folder included."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_dict(), indent=1) + "\n")

    def table(self) -> str:
        """What the terminal shows."""
        about = ", ".join(f"{name} {value}" for name, value in self.about.items())
        lines = [
            f"{self.model}: {about}",
            "",
            f"{'':<48} {'median':>12} {'range':>21} {'rate':>14} {'ratio':>18} {'of user time':>18}",
        ]
        lines += [_line(row) for row in self.rows]
        lines += ["", *(f"- {note}" for note in self.notes)]
        here = machine(self.device)
        found = ", ".join(f"{name} {version}" for name, version in versions().items())
        lines += [f"- {here['device']}, {here['threads']} threads of {here['processors']} processors; {found}"]
        return "\n".join(lines)


def _line(row: Mapping[str, Any]) -> str:
    name = f"{row['what']}, {row['side']}"
    if "mib" in row:
        return f"{name:<48} {row['mib']:>8.0f} MiB {'':>21} {'':>14} {_ratio(row.get('ratio')):>18}"
    seconds = row["seconds"]
    span = f"{seconds['min']:.3f} to {seconds['max']:.3f} s"
    rate = f"{row['tokens_per_second']:,.0f} tok/s"
    line = f"{name:<48} {seconds['median']:>10.3f} s {span:>21} {rate:>14} {_ratio(row.get('speedup')):>18}"
    line += f" {_ratio(row.get('user_speedup')):>18}"
    if row.get("mfu") is not None:
        line += f"  MFU {row['mfu']:.1%}"
    if row.get("floor_seconds"):
        line += f"  floor {row['floor_seconds']:.3f} s"
    return line.rstrip()


def _ratio(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return f"{value['median']:.2f} ({value['min']:.2f}-{value['max']:.2f})"
    return f"{value:.2f}"


def machine(device: torch.device) -> dict[str, Any]:
    """The machine as far as it bears on the numbers."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    load = os.getloadavg() if hasattr(os, "getloadavg") else ()
    return {
        "device": name,
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(v, 2) for v in load],
    }


def _processor() -> str:
    """The processor's name where the system tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _commit() -> str:
    """The commit of the checkout this runs in, marked where the working tree differs; empty outside of one."""
    here = Path(__file__)
    git = ["git", "-C", str(here.parent)]
    try:
        # An environment may lie in some other project's checkout.
        own = subprocess.run([*git, "ls-files", "--error-unmatch", here.name], capture_output=True, check=False).returncode == 0
        describe = [*git, "describe", "--always", "--dirty", "--exclude", "*"]
        return subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip() if own else ""
    except FileNotFoundError:
        return ""


def versions() -> dict[str, str]:
    """The versions of what the numbers depend on, Python's, and the commit where there is one."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    if commit := _commit():
        found["commit"] = commit
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
