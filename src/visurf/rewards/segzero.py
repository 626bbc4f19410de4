"""Seg-Zero's single-object rewards: five parts of 0 or 1, total 0-5, lenient or strict about the keys of the answer.

Source: Liu et al., "Seg-Zero", arXiv 2503.06520, and its released code (dvlab-research/Seg-Zero, seg.py, seg_restrict.py).
"""

from __future__ import annotations

import math
import re
from typing import Any

from visurf.geometry import convention_iou
from visurf.tags import is_number, load_json, think_answer_format
from visurf.types import Box, DataError, Point

IOU_ABOVE = 0.5
BOX_L1_BELOW = 10
POINT_BELOW = 100

_PAIR = r"\((\d++),(\d++)\),\((\d++),(\d++)\)"
_TRUE_BOX = re.compile(rf"<box>{_PAIR}</box>")
_TRUE_POINTS = re.compile(rf"<points>{_PAIR}</points>")


def thinking_format(text: str) -> float:
    """1 if the whole text is a thought followed by an answer, else 0."""
    return float(think_answer_format(text))


def segmentation_format(text: str, *, strict: bool = False) -> float:
    """1 if the text's object has a box of four elements and two points of two, else 0.

    Args:
        text: The whole completion; see `answer_object` for which object is read.
        strict: Ask for arrays under ``bbox``, ``points_1`` and ``points_2``. Otherwise the box is the first key that
            contains "bbox", the points are other keys that contain "point", and any value with the right length will do.
    """
    data = answer_object(text)
    if data is None:
        return 0.0
    if strict:
        values = [data.get(key) for key in ("bbox", "points_1", "points_2")]
        return float(all(isinstance(v, list) for v in values) and [len(v) for v in values if v is not None] == [4, 2, 2])
    box_key = _box_key(data)
    points = [key for key in data if "point" in key.lower() and key != box_key]
    if box_key is None or len(points) < 2:
        return 0.0
    sized = [data[key] for key in (box_key, *points[:2])]
    return float(all(isinstance(v, list | str | dict) for v in sized) and [len(v) for v in sized] == [4, 2, 2])


def iou(text: str, truth_text: str, *, strict: bool = False) -> float:
    """1 if the IoU of the text's box and the true box is above 0.5 (inclusive pixels), else 0.

    An overlap one pixel wide counts as none. A side without a usable box earns 0.
    """
    box, true = _box(answer_object(text), strict), true_box(truth_text)
    if box is None or true is None:
        return 0.0
    try:
        return float(convention_iou(box, true, "seg_zero") > IOU_ABOVE)
    except ArithmeticError:
        return 0.0


def box_l1(text: str, truth_text: str, *, strict: bool = False) -> float:
    """1 if the mean absolute difference of the four coordinates is below 10 pixels, else 0.

    A side without a usable box earns 0.
    """
    box, true = _box(answer_object(text), strict), true_box(truth_text)
    if box is None or true is None:
        return 0.0
    try:
        return float(sum(abs(a - b) for a, b in zip(box, true, strict=True)) / 4 < BOX_L1_BELOW)
    except OverflowError:
        return 0.0


def point_l1(text: str, truth_text: str, *, strict: bool = False) -> float:
    """1 if both points lie in the text's own box and are near the true ones, else 0.

    Near: a mean distance below 100 pixels under the better of the two pairings. Points are truncated to integers first.
    A side without usable points, or an answer without a usable box, earns 0.
    """
    data, true = answer_object(text), true_points(truth_text)
    box, points = _box(data, strict), _points(data, strict)
    if box is None or points is None or true is None:
        return 0.0
    if not all(box[0] <= x <= box[2] and box[1] <= y <= box[3] for x, y in points):
        return 0.0
    try:
        pairings = (true, true[::-1])
        distance = min(sum(math.dist(p, t) for p, t in zip(points, order, strict=True)) / 2 for order in pairings)
    except OverflowError:
        return 0.0
    return float(distance < POINT_BELOW)


def score(text: str, truth_text: str, *, strict: bool = False) -> dict[str, float]:
    """All parts of a completion's reward and their total, 0 to 5.

    Args:
        text: The whole completion.
        truth_text: Holds ``<box>(x1,y1),(x2,y2)</box>`` and ``<points>(x,y),(x,y)</points>``, unsigned integers without
            spaces. A part that needs a missing one is 0.
        strict: Exact key names, as in the released ``seg_restrict``.

    Returns:
        ``thinking_format``, ``segmentation_format``, ``iou``, ``box_l1``, ``point_l1`` and ``total``.
    """
    parts = {
        "thinking_format": thinking_format(text),
        "segmentation_format": segmentation_format(text, strict=strict),
        "iou": iou(text, truth_text, strict=strict),
        "box_l1": box_l1(text, truth_text, strict=strict),
        "point_l1": point_l1(text, truth_text, strict=strict),
    }
    return {**parts, "total": sum(parts.values())}


def answer_object(text: str) -> dict[str, Any] | None:
    """The first brace group of the whole text as a JSON object, or None if there is none or it is no JSON.

    A group runs from the first brace that is not closed at once to the nearest closing brace, so an object that holds
    another one cannot be read, and a group in the thought is read instead of the answer.
    """
    start = text.find("{")
    while start >= 0 and text[start + 1 : start + 2] == "}":
        start = text.find("{", start + 1)
    end = text.find("}", start + 1)
    if start < 0 or end < 0:
        return None
    try:
        data: dict[str, Any] = load_json(text[start : end + 1])
    except DataError:
        return None
    return data


def true_box(truth_text: str) -> Box | None:
    """The first true box of a label text, or None."""
    numbers = _numbers(_TRUE_BOX.search(truth_text))
    return None if numbers is None else (numbers[0], numbers[1], numbers[2], numbers[3])


def true_points(truth_text: str) -> tuple[Point, Point] | None:
    """The first two true points of a label text, or None."""
    numbers = _numbers(_TRUE_POINTS.search(truth_text))
    return None if numbers is None else ((numbers[0], numbers[1]), (numbers[2], numbers[3]))


def _numbers(match: re.Match[str] | None) -> list[int] | None:
    if match is None:
        return None
    try:
        return [int(group) for group in match.groups()]
    except ValueError:
        # More digits than Python converts.
        return None


def _box_key(data: dict[str, Any]) -> str | None:
    return next((key for key in data if "bbox" in key.lower()), None)


def _box(data: dict[str, Any] | None, strict: bool) -> Box | None:
    """The answered box, or None where the published arithmetic on it would fail."""
    if data is None:
        return None
    key = "bbox" if strict else _box_key(data)
    value = data.get(key) if key is not None else None
    if not isinstance(value, list) or len(value) != 4 or not all(is_number(v) for v in value):
        return None
    return value[0], value[1], value[2], value[3]


def _points(data: dict[str, Any] | None, strict: bool) -> list[tuple[int, int]] | None:
    """The two answered points, truncated to integers, or None where that fails."""
    if data is None:
        return None
    keys = ["points_1", "points_2"] if strict else [key for key in data if "points" in key.lower()][:2]
    values = [data.get(key) for key in keys]
    if len(values) < 2 or not all(isinstance(v, list | str) and len(v) >= 2 for v in values):
        return None
    try:
        first, second = ((int(v[0]), int(v[1])) for v in values if v is not None)
    except (TypeError, ValueError, OverflowError):
        return None
    return [first, second]
