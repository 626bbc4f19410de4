"""Tasks, one file each: prompt, label text, parser, rewards, metrics; docs/tasks.md has a section for each.

A task is a plain `Task` value listed in `TASKS`, or named by outside code as ``pkg.module:NAME``.
"""

from __future__ import annotations

from visurf.tasks.anomaly import ANOMALY, ANOMALY_YES_NO
from visurf.tasks.classification import CLASSIFICATION
from visurf.tasks.counting import COUNTING
from visurf.tasks.detection import DETECTION
from visurf.tasks.grounding import GROUNDING
from visurf.tasks.gui import GUI
from visurf.tasks.lesion import LESION
from visurf.tasks.mathematics import MATHEMATICS
from visurf.tasks.multiple_choice import MULTIPLE_CHOICE
from visurf.tasks.question_answering import QUESTION_ANSWERING
from visurf.tasks.reasoning_segmentation import REASONING_SEGMENTATION
from visurf.tasks.referring import REFERRING, with_segmenter
from visurf.tasks.task import Metric, Part, RewardSettings, Task
from visurf.tasks.yes_no import YES_NO

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        REFERRING,
        REASONING_SEGMENTATION,
        DETECTION,
        CLASSIFICATION,
        GROUNDING,
        GUI,
        ANOMALY,
        ANOMALY_YES_NO,
        LESION,
        MATHEMATICS,
        QUESTION_ANSWERING,
        MULTIPLE_CHOICE,
        YES_NO,
        COUNTING,
    )
}

__all__ = ["TASKS", "Metric", "Part", "RewardSettings", "Task", "with_segmenter"]
