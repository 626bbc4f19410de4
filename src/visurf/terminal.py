"""What a run shows in the terminal: a live line where there is one, plain lines when piped, JSON lines when asked for."""

from __future__ import annotations

import json
import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from visurf.whole_files import finite_or_null

# What the one-line summary shows, in this order, where a step has it.
SHOWN = (
    ("reward/total", "reward {:.2f}"),
    ("label/advantage", "A_y {:+.2f}"),
    ("label/share", "label {:.0%}"),
    ("label/smoothed", "smoothed {:.0%}"),
    ("label/nll", "label nll {:.2f}"),
    ("validation/giou", "gIoU {:.3f}"),
    ("validation/n_acc", "N-acc {:.3f}"),
    ("validation/accuracy", "accuracy {:.3f}"),
    ("validation/box_iou", "box IoU {:.3f}"),
    ("validation/box_accuracy", "box accuracy {:.3f}"),
    ("validation/click_accuracy", "clicks {:.3f}"),
    ("validation/ap", "AP {:.3f}"),
    ("validation/roc_auc", "ROC-AUC {:.3f}"),
    ("group/zero_variance", "flat {:.0%}"),
    ("rate/tokens", "{:,.0f} tok/s"),
    ("rate/mfu", "MFU {:.0%}"),
)


def remaining(seconds: float) -> str:
    """Time left, in the unit that one would say it in.

    >>> remaining(42), remaining(600), remaining(9000)
    ('42 s left', '10 min left', '2 h 30 min left')
    """
    if seconds < 60:
        return f"{seconds:.0f} s left"
    minutes = round(seconds / 60)
    return f"{minutes} min left" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min left"


def one_line(metrics: dict[str, Any]) -> str:
    """The metrics of a step as one short line."""
    return "  ".join(form.format(metrics[name]) for name, form in SHOWN if name in metrics)


class Terminal:
    """Shows progress over a known number of steps; use as a context manager.

    Attributes:
        mode: `live` (a bar on a terminal), `plain` (a line every few seconds), `json` (a JSON line per step) or `quiet`.
    """

    def __init__(self, steps: int, mode: str = "auto", every: float = 10.0) -> None:
        """Prepare; `auto` is live on a terminal and plain elsewhere."""
        self.console = Console(stderr=True)
        self.mode = ("live" if self.console.is_terminal else "plain") if mode == "auto" else mode
        self.steps, self.every = steps, every
        self.done, self._shown = 0, 0.0
        # The first step of this process, in whose time models are loaded, says nothing of the others.
        self._first: tuple[int, float] | None = None
        self._sticky: dict[str, Any] = {}
        columns = (
            TextColumn("{task.description}"),
            BarColumn(20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[line]}"),
        )
        self._bar = Progress(*columns, console=self.console)
        self._task = self._bar.add_task("", total=steps, line="")

    def __enter__(self) -> Terminal:
        """Start the live line."""
        if self.mode == "live":
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        """Stop the live line."""
        if self.mode == "live":
            self._bar.stop()

    def say(self, text: str) -> None:
        """A message that stays."""
        if self.mode not in ("quiet", "json"):
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def step(self, name: str, metrics: dict[str, Any]) -> None:
        """One more step is done."""
        self.done += 1
        now = time.monotonic()
        first, began = self._first = self._first or (self.done, now)
        self._sticky |= {k: v for k, v in metrics.items() if k.startswith("validation/")}
        line = one_line({**metrics, **self._sticky})
        if self.mode == "live":
            self._bar.update(self._task, completed=self.done, description=name, line=line)
        elif self.mode == "json":
            sys.stdout.write(json.dumps(finite_or_null({"step": self.done, "name": name, **metrics}), allow_nan=False) + "\n")
            sys.stdout.flush()
        elif self.mode == "plain" and (now - self._shown >= self.every or self.done == self.steps or self.done == 1):
            self._shown = now
            known = self.done > first
            left = remaining((now - began) / (self.done - first) * (self.steps - self.done)) if known else ""
            self.say(f"{name}  {self.done}/{self.steps}  {line}  {left}".rstrip())

    def resume(self, done: int) -> None:
        """So many steps were done before this process; the time left goes by those of this one."""
        self.done = done

    def count(self, done: int, total: int, name: str) -> None:
        """Something else than steps is counted."""
        if self.mode == "live":
            self._bar.update(self._task, completed=done, total=total, description=name)

    def forget(self) -> None:
        """Begin another run: earlier validation numbers no longer hold."""
        self._sticky = {}
