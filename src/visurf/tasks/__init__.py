"""Tasks, one file each: prompt, label text, parser, rewards, metrics.

A task is a plain `Task` value listed in `TASKS`, or named by outside code as ``pkg.module:NAME``.
"""

from __future__ import annotations

from visurf.tasks.pointing import POINTING
from visurf.tasks.referring import REFERRING
from visurf.tasks.short_answer import COUNTING, SHORT_ANSWER
from visurf.tasks.task import Part, RewardSettings, Task

TASKS: dict[str, Task] = {t.name: t for t in (REFERRING, POINTING, SHORT_ANSWER, COUNTING)}

__all__ = ["TASKS", "Part", "RewardSettings", "Task"]
