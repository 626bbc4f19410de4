"""What an evaluation may be asked for beside its answers: held against task and samples before a model answers. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from visurf.benchmarks.masks import EmptyMask
from visurf.benchmarks.rows import RowReport
from visurf.config import ConfigError
from visurf.metrics.detection import CONFIDENCE_SOURCES
from visurf.metrics.segmentation import SEGMENTATION_CONVENTIONS
from visurf.naming import suggestion
from visurf.tasks.segmentation import compares_masks, true_mask
from visurf.tasks.task import Task
from visurf.types import DataError, Objects, Sample


def check_choices(
    task: Task, *, confidence: str = "model", convention: str | None = None, exist_check: str = "none", scored: bool = False
) -> None:
    """Refuse a name that nobody knows, and what another kind of task is asked for.

    Args:
        task: Of the samples.
        confidence: Where scores of detections come from.
        convention: A published mask evaluation.
        exist_check: Which pairs of a detection evaluation are asked.
        scored: Whether predictions bring the scores of their detections.

    Raises:
        ConfigError: Says which there are, or which task is needed.
    """
    _check_name("confidence", confidence, [*CONFIDENCE_SOURCES])
    if task.name != "detection":
        for name, value, default in (("confidence", confidence, "model"), ("exist_check", exist_check, "none")):
            if value != default:
                raise ConfigError(f"{name}={value}: expected task 'detection', got {task.name!r}; leave it out")
    if confidence == "log_prob" and not scored:
        raise ConfigError(
            "confidence=log_prob: expected predictions as COCO results, whose scores are log-probabilities; for what a model "
            "answers here choose model, constant or box_area"
        )
    if convention is None:
        return
    _check_name("convention", convention, [*SEGMENTATION_CONVENTIONS])
    if not compares_masks(task):
        raise ConfigError(f"convention={convention}: expected a task that compares masks, got {task.name!r}; leave it out")


def _check_name(what: str, name: str, known: list[str]) -> None:
    if name not in known:
        raise ConfigError(f"{what}: unknown {name!r}{suggestion(name, known)}; known: {', '.join(known)}")


def check_true_masks(samples: Sequence[Sample], source: str) -> None:
    """Refuse to compare a segmenter's masks with boxes.

    Args:
        samples: Of the source; one without an object needs no mask.
        source: For the message.

    Raises:
        DataError: A sample has boxes alone.
    """
    for sample in samples:
        if isinstance(sample.target, Objects) and sample.target.boxes and sample.known_mask is None:
            raise DataError(
                f"{source}: sample {sample.id!r} has no true mask that a segmenter's could be compared with (of masks that JSONL "
                "names only boxes and points are kept); leave the segmenter out, or evaluate a data set that brings its masks: "
                "--benchmark NAME --data PATH, or benchmark:NAME?root=FOLDER&split=SPLIT as DATA"
            )


def comparable(samples: Sequence[Sample], task: Task) -> tuple[list[Sample], dict[str, str]]:
    """Samples without those whose mask file is empty, and what was left out in words; all where the task compares no masks.

    By a mask that has lost its object no answer can be told right or wrong. Copies of data sets in a lower resolution hold some.

    Args:
        samples: Of a data set; their masks are decoded, one at a time.
        task: Theirs.

    Raises:
        DataError: Names the sample whose mask cannot be read; or every mask is empty.
    """
    if not compares_masks(task):
        return list(samples), {}
    kept, report = [], RowReport()
    for sample in samples:
        try:
            true_mask(sample)
        except EmptyMask:
            report.leave_out(sample.id, "the mask is empty")
        except DataError as error:
            raise DataError(f"sample {sample.id}: {error}") from error
        else:
            kept.append(sample)
    left_out = report.summary()
    if left_out and not kept:
        raise DataError(f"no sample can be compared; {left_out}")
    return kept, {"masks": left_out} if left_out else {}
