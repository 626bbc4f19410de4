"""Labels that bring their own reasoning: read from rows, rendered in any model's frame, written back.

The answer is kept apart from the reasoning, in pixels of the original image, so that what one model wrote can teach another that
speaks another frame. Coordinates inside the reasoning cannot be converted: the frame they are in is kept beside them.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from visurf.config import DataConfig
from visurf.geometry import Frame
from visurf.targets import read_target
from visurf.tasks.task import Task
from visurf.types import (
    Answer,
    Choice,
    DataError,
    Demonstration,
    Detections,
    Masks,
    Number,
    Objects,
    Points,
    Size,
    Text,
    is_finite,
)

_OPEN, _CLOSE = "<think>", "</think>"
_KEYS = ("thinking", "answer", "frame")
# A bracket, a number, a comma, a number; possessive, so that it is searched in linear time.
_COORDINATES = re.compile(r"[\[(]\s*+\d++(?:\.\d++)?+\s*+,\s*+\d")


def render_demonstration(task: Task, demonstration: Demonstration, target: Answer, frame: Frame, align: bool = True) -> str:
    """The label's text in a model's frame: the reasoning in its tags, then the answer as the task writes labels.

    Args:
        task: Writes the answer.
        demonstration: Reasoning and, maybe, an answer of its own.
        target: The answer of a demonstration without one.
        frame: Of the model that is to write it.
        align: See `Task.label_text`.
    """
    if demonstration.extent is not None and tuple(demonstration.extent) != tuple(frame.extent):
        warnings.warn(
            "a demonstration's reasoning names coordinates of another frame than the model's; only its answer is converted",
            stacklevel=2,
        )
    answer = target if demonstration.answer is None else demonstration.answer
    return f"{_OPEN}{demonstration.thinking}{_CLOSE}{task.label_text(answer, frame, align)}"


def reasoning_of(text: str) -> str | None:
    """What stands between the thinking tags in front of a completion's answer; None for nothing but spaces, or a tag within.

    >>> reasoning_of("<think>two cups</think><answer>[]</answer>"), reasoning_of("<answer>[]</answer>")
    ('two cups', None)
    """
    start, answer = text.find(_OPEN), text.find("<answer>")
    end = text.find(_CLOSE, start)
    if not 0 <= start < end < answer:
        return None
    thinking = text[start + len(_OPEN) : end]
    return thinking if thinking.strip() and _OPEN not in thinking else None


def names_coordinates(thinking: str) -> bool:
    """Whether a reasoning seems to name coordinates: two numbers in brackets.

    >>> names_coordinates("it is at [12, 40]"), names_coordinates("two of 3, 4 cups (row 2)")
    (True, False)
    """
    return _COORDINATES.search(thinking) is not None


def read_response(
    value: Any, size: Size, config: DataConfig, where: str, wanted: tuple[type, ...], folder: Path
) -> str | Demonstration | None:
    """A row's own label: a whole text, or ``{"thinking", "answer", "frame"}`` of which the last two may be left out.

    Args:
        value: What stands in the file.
        size: Of the row's first image.
        config: Box format and frame of the file, which hold for the answer as for the target.
        where: File, line and field, for messages.
        wanted: The target types of the task.
        folder: What mask files are relative to.

    Raises:
        DataError: It is neither, or its values are impossible.
    """
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, Mapping) or not isinstance(value.get("thinking"), str) or not value["thinking"].strip():
        raise DataError(f'{where}: expected text, or {{"thinking": text, "answer": as a target}}, got {value!r}')
    if unknown := set(value) - set(_KEYS):
        raise DataError(f"{where}: unknown key {sorted(unknown)[0]!r}; known: {', '.join(_KEYS)}")
    if tags := [tag for tag in (_OPEN, _CLOSE, "<answer>", "</answer>") if tag in value["thinking"]]:
        raise DataError(f"{where}: thinking holds {tags[0]!r}; write what stands between the tags, without them")
    answer = _read_answer(value["answer"], size, config, where, wanted, folder) if "answer" in value else None
    extent = value.get("frame")
    if extent is not None:
        good = isinstance(extent, list) and len(extent) == 2 and all(is_finite(v) and v > 0 for v in extent)
        if not good:
            raise DataError(f"{where}: frame: expected its width and height, got {extent!r}")
        extent = (float(extent[0]), float(extent[1]))
    return Demonstration(value["thinking"], answer, extent)


def _read_answer(value: Any, size: Size, config: DataConfig, where: str, wanted: tuple[type, ...], folder: Path) -> Answer:
    where = f"{where}: answer"
    if not isinstance(value, Mapping) or "confidences" not in value:
        answer, _ = read_target(value, size, config, where, wanted, folder)
    else:
        confidences = value["confidences"]
        rest = {k: v for k, v in value.items() if k != "confidences"}
        answer, _ = read_target(rest, size, config, where, wanted, folder)
        good = isinstance(confidences, list) and all(isinstance(c, int | float) and 0 <= c <= 1 for c in confidences)
        if not isinstance(answer, Detections) or not good or len(confidences) != len(answer.boxes):
            raise DataError(f"{where}: confidences: expected one from 0 to 1 for each box of a detection, got {confidences!r}")
        answer = replace(answer, confidences=tuple(float(c) for c in confidences))
    if not isinstance(answer, wanted):
        raise DataError(f"{where}: expected {' or '.join(t.__name__ for t in wanted)}, got {type(answer).__name__}")
    return answer


def write_answer(answer: Answer) -> Any:
    """An answer as `read_response` takes it, in pixels of the original image: boxes xyxy.

    Raises:
        TypeError: The answer is made of masks, which are files.
    """
    match answer:
        case Objects() if not answer.boxes:
            return []
        case Objects() | Points() | Detections():
            names = ("boxes", "points", "confidences")
            found = {name: getattr(answer, name, None) for name in names}
            return {name: [_plain(v) for v in values] for name, values in found.items() if values is not None}
        case Choice():
            return {"choice": answer.letter, "options": list(answer.options)}
        case Number():
            return {"number": answer.text}
        case Text():
            return {"text": answer.text}
        case Masks():
            raise TypeError("masks are files; write their boxes and points")


def write_target(target: Answer) -> Any:
    """A true answer as a row's target: the confidences of what is true are known."""
    written = write_answer(target)
    if isinstance(target, Detections):
        return written["boxes"]
    return written


def write_response(demonstration: Demonstration) -> dict[str, Any]:
    """A demonstration as `read_response` takes it."""
    row: dict[str, Any] = {"thinking": demonstration.thinking}
    if demonstration.answer is not None:
        row["answer"] = write_answer(demonstration.answer)
    if demonstration.extent is not None:
        row["frame"] = list(demonstration.extent)
    return row


def inside(answer: Answer, size: Size) -> Answer | None:
    """An answer cut to its image, as rendering cuts it to the frame; None where a box has nothing left.

    Args:
        answer: In pixels of the original image; what has no coordinates stays as it is.
        size: Width and height of the image.
    """
    if not isinstance(answer, Objects | Points | Detections):
        return answer
    width, height = float(size[0]), float(size[1])

    def clip(values: tuple[float, ...]) -> tuple[Any, ...]:
        return tuple(min(max(v, 0.0), (width, height)[axis % 2]) for axis, v in enumerate(values))

    cut: dict[str, Any] = {}
    for name in ("boxes", "points"):
        values = getattr(answer, name, None)
        if values is not None:
            cut[name] = tuple(clip(v) for v in values)
    if any(b[2] <= b[0] or b[3] <= b[1] for b in cut.get("boxes", ())):
        return None
    return replace(answer, **cut)


def _plain(value: Any) -> Any:
    return [float(v) for v in value] if isinstance(value, tuple) else float(value)
