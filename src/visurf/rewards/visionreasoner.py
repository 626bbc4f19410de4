"""VisionReasoner's multi-object rewards: format (0-3), accuracy (0-3) and non-repetition (0-1), total 0-7.

Source: Liu et al., "VisionReasoner", arXiv 2505.12081, and its released code (dvlab-research/Seg-Zero, vision_reasoner.py).
The pixel thresholds are meant for images of 840 x 840 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from visurf.geometry import pairwise_iou
from visurf.rewards import Variant
from visurf.tags import first_answer, is_number, load_json, think_answer_format
from visurf.types import Box, DataError, Point

MAX_OBJECTS = 120
IOU_ABOVE = 0.5
BOX_L1_BELOW = 10.0
POINT_BELOW = 30.0
_FIELDS = (("bbox_2d", 4), ("point_2d", 2))


def thinking_format(text: str) -> float:
    """1 if the whole text is a thought followed by an answer, else 0."""
    return float(think_answer_format(text))


def answer_format(text: str, *, empty_truth: bool = False) -> float:
    """The share of answered objects with a four-element box plus the share with a two-element point, 0 to 2.

    An answer that is missing or no JSON earns 0, and a broken element ends the count there. An empty list earns 0, as
    published; with `empty_truth`, the rule of the sound variant for images without the object, it earns the full 2.
    """
    data = _answer(text)
    if isinstance(data, list) and not data:
        return 2.0 if empty_truth else 0.0
    if not isinstance(data, list | dict | str):
        return 0.0
    earned = 0
    for element in data:
        if not isinstance(element, list | dict | str):
            break
        if isinstance(element, dict):
            values = [(element.get(name), size) for name, size in _FIELDS]
            earned += sum(isinstance(value, list) and len(value) == size for value, size in values)
        elif any(name in element for name, _ in _FIELDS):
            # A text or array that holds the key as an element cannot be asked for the key's value.
            break
    return earned / len(data) if data else 0.0


def non_repeat(text: str) -> float:
    """0 if, between full stops, at least two pieces of the text repeat an earlier one, else 1.

    Tags and JSON are part of the text; pieces are trimmed and empty ones ignored.
    """
    pieces = [piece for part in text.split(".") if (piece := part.strip())]
    return float(len(pieces) - len(set(pieces)) < 2)


def accuracy(text: str, truth_text: str, *, variant: Variant = "sound") -> float:
    """`object_accuracy` of the first answer in a text against a JSON list of true objects, 0 to 3.

    Both are lists of ``{"bbox_2d": [x1, y1, x2, y2], "point_2d": [x, y]}``. Anything else on either side earns 0: the
    published reward cannot tell a broken truth from a broken answer, so validate truths before.
    """
    predicted, true = _objects(_answer(text)), _objects(_json_or_none(truth_text))
    if predicted is None or true is None:
        return 0.0
    return object_accuracy(*predicted, *true, variant=variant)


def object_accuracy(
    pred_boxes: Sequence[Box],
    pred_points: Sequence[Point],
    true_boxes: Sequence[Box],
    true_points: Sequence[Point],
    *,
    variant: Variant = "sound",
) -> float:
    """The best one-to-one assignment of predicted to true objects, summed over pairs and divided by the larger count.

    A pair earns 1 each for: IoU above 0.5 (inclusive pixels); mean absolute coordinate difference below 10 pixels; points
    closer than 30 pixels, the predicted one inside the predicted box. Only the first 120 objects of each side count.

    Args:
        pred_boxes: M boxes, xyxy, pixels. Not finite and swapped corners are allowed and earn what the formulas give.
        pred_points: M points, one per box.
        true_boxes: N boxes in the same frame.
        true_points: N points, one per box.
        variant: Two empty sides earn 0 as published and 3 under `sound`; nothing else differs.

    Returns:
        0 to 3; 0 when exactly one side is empty.

    Raises:
        ValueError: Boxes and points of a side do not pair up, or have not four and two coordinates.
    """
    if len(pred_boxes) != len(pred_points) or len(true_boxes) != len(true_points):
        raise ValueError("give one point per box on each side")
    if len(pred_boxes) == 0 or len(true_boxes) == 0:
        return 3.0 if variant == "sound" and len(pred_boxes) == len(true_boxes) else 0.0
    boxes, points = _array(pred_boxes, 4), _array(pred_points, 2)
    others, other_points = _array(true_boxes, 4), _array(true_points, 2)
    # Infinite coordinates make inf - inf = NaN, which compares false as published; no warning is wanted for it.
    with np.errstate(invalid="ignore", over="ignore"):
        overlaps = pairwise_iou(boxes, others, inclusive=True) > IOU_ABOVE
        near_box = np.abs(boxes[:, None] - others[None]).mean(axis=2) < BOX_L1_BELOW
        near_point = np.sqrt(((points[:, None] - other_points[None]) ** 2).sum(axis=2)) < POINT_BELOW
    own = np.all((boxes[:, :2] <= points) & (points <= boxes[:, 2:]), axis=1, keepdims=True)
    earned = overlaps.astype(np.float64) + near_box + (near_point & own)
    rows, columns = linear_sum_assignment(earned, maximize=True)
    return float(earned[rows, columns].sum() / max(len(boxes), len(others)))


def score(text: str, truth_text: str, *, variant: Variant = "sound") -> dict[str, float]:
    """All parts of a completion's reward and their total, 0 to 7.

    Args:
        text: The whole completion.
        truth_text: The true objects as JSON, see `accuracy`.
        variant: `published` and `paper` agree; `sound` pays an empty list in full where the truth is an empty list.

    Returns:
        ``thinking_format``, ``answer_format``, ``accuracy``, ``non_repeat`` and ``total``.
    """
    empty_truth = variant == "sound" and _json_or_none(truth_text) == []
    parts = {
        "thinking_format": thinking_format(text),
        "answer_format": answer_format(text, empty_truth=empty_truth),
        "accuracy": accuracy(text, truth_text, variant=variant),
        "non_repeat": non_repeat(text),
    }
    return {**parts, "total": sum(parts.values())}


def is_truth(truth_text: str) -> bool:
    """Whether a text is a JSON list of objects that each have a box of four and a point of two numbers."""
    return _objects(_json_or_none(truth_text)) is not None


def _json_or_none(text: str) -> Any:
    try:
        return load_json(text)
    except DataError:
        return None


def _answer(text: str) -> Any:
    content = first_answer(text)
    return None if content is None else _json_or_none(content.strip())


def _objects(data: Any) -> tuple[list[Box], list[Point]] | None:
    """Boxes and points of a list of objects, at most the first 120, or None if any object breaks the layout."""
    if not isinstance(data, list) or not all(isinstance(d, dict) and "bbox_2d" in d and "point_2d" in d for d in data):
        return None
    kept = data[:MAX_OBJECTS]
    if not all(_is_vector(d[name], size) for d in kept for name, size in _FIELDS):
        return None
    return [tuple(d["bbox_2d"]) for d in kept], [tuple(d["point_2d"]) for d in kept]


def _is_vector(value: Any, size: int) -> bool:
    if not isinstance(value, list) or len(value) != size or not all(is_number(v) for v in value):
        return False
    # An integer beyond the range of a double has no coordinate.
    return all(isinstance(v, float) or abs(v) < 2**1000 for v in value)


def _array(rows: Sequence[Sequence[float]], size: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    array = np.asarray(rows[:MAX_OBJECTS], dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != size:
        raise ValueError(f"expected rows of {size} coordinates, got shape {array.shape}")
    return array
