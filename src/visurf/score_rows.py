"""Rows of files of completions, and their targets written as each published reward reads its label.

Every ``*_label`` function takes a target as data files have it, or JSON in the reward's own layout, and raises ValueError,
TypeError or LookupError for anything else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from visurf.geometry import box_centre
from visurf.types import Box, DataError, Objects, Point

_LARGEST = 1e9


@dataclass(frozen=True)
class Row:
    """One row, read field by field; every problem is a DataError that names the field."""

    values: Mapping[str, Any]

    @property
    def completion(self) -> str:
        """The model's text."""
        return cast(str, self.field("completion", str, "text"))

    def field(self, name: str, kinds: type | tuple[type, ...], expected: str) -> Any:
        """A field of the given type; a bool is no number."""
        if name not in self.values:
            raise DataError(f"field {name!r}: expected {expected}, but the row has only {', '.join(sorted(self.values))}")
        value = self.values[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
            raise DataError(f"field {name!r}: expected {expected}, got {value!r:.100}")
        return value

    def number(self, name: str, *, least: float = 0.0) -> float:
        """A finite number."""
        value = self.field(name, (int, float), "a number")
        if not least <= value <= _LARGEST:
            raise DataError(f"field {name!r}: expected a number from {least:g} to {_LARGEST:g}, got {value!r:.100}")
        return cast(float, value)

    def text_target(self, write: Callable[[Any], str]) -> str:
        """The target: a text as it is, anything else as `write` puts it into the reward's own layout."""
        value = self.field("target", (str, list, dict, int, float), "the reward's label as text, or a target as in data files")
        if isinstance(value, str):
            return value
        try:
            return write(value)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DataError(f"field 'target': not what this reward takes: {value!r:.100}") from error

    def objects(self) -> Objects:
        """The target as boxes with points."""
        value = self.field("target", (list, dict), "a target of boxes or points")
        try:
            return read_objects(value)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"field 'target': expected boxes or points, got {value!r:.100}") from error


def read_objects(value: Any) -> Objects:
    """Boxes and points of a target: ``{"boxes", "points"}``, a list of boxes, or ``[]``; points default to centres."""
    if isinstance(value, dict) and (not value or set(value) - {"boxes", "points"}):
        raise ValueError("expected boxes, points or both")
    boxes = value.get("boxes", []) if isinstance(value, dict) else value
    if not isinstance(boxes, list):
        raise TypeError("expected a list of boxes")
    found = tuple(_numbers(box, 4) for box in boxes)
    points = value.get("points") if isinstance(value, dict) else None
    if points is not None and not found:
        return Objects(tuple((*p, *p) for p in (_numbers(p, 2) for p in points)), tuple(_numbers(p, 2) for p in points))
    centres = [box_centre(cast(Box, box)) for box in found] if points is None else [_numbers(p, 2) for p in points]
    return Objects(cast("tuple[Box, ...]", found), cast("tuple[Point, ...]", tuple(centres)))


def _numbers(values: Any, count: int) -> tuple[Any, ...]:
    if not isinstance(values, list) or len(values) != count:
        raise ValueError(f"expected {count} numbers")
    # Also false for NaN, and safe for integers that no double holds.
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and -_LARGEST <= v <= _LARGEST for v in values):
        raise ValueError("expected finite numbers")
    return tuple(values)


def _is_list_of(value: Any, key: str) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) and key in v for v in value)


def visionreasoner_label(value: Any) -> str:
    """The true objects as VisionReasoner's reward reads them."""
    if _is_list_of(value, "bbox_2d"):
        return json.dumps(value)
    found = read_objects(value)
    pairs = zip(found.boxes, found.points or (), strict=True)
    return json.dumps([{"bbox_2d": list(box), "point_2d": list(point)} for box, point in pairs])


def segzero_label(value: Any) -> str:
    """One box and two points in Seg-Zero's tags."""
    (box,), (first, second) = value["boxes"], value["points"]
    corners = ["({:d},{:d})".format(*_numbers(pair, 2)) for pair in (box[:2], box[2:], first, second)]
    return f"<box>{corners[0]},{corners[1]}</box><points>{corners[2]},{corners[3]}</points>"


def detection_label(value: Any) -> str:
    """Boxes as Visual-RFT's detection reward reads them."""
    if not _is_list_of(value, "Position"):
        value = [{"Position": list(box), "Confidence": 1} for box in read_objects(value).boxes]
    return f"<answer>{json.dumps(value)}</answer>"


def grounding_label(value: Any) -> str:
    """One box as Visual-RFT's grounding reward reads it."""
    (box,) = read_objects(value).boxes
    x1, y1, x2, y2 = (round(v) for v in box)
    return f"<answer>({x1},{y1}),({x2},{y2})</answer>"


def referred_label(value: Any) -> str:
    """One box as VLM-R1's reward for referred boxes reads it."""
    flat = isinstance(value, list) and len(value) == 4 and not any(isinstance(v, list) for v in value)
    (box,) = (_numbers(value, 4),) if flat else read_objects(value).boxes
    return f"<answer>{json.dumps(list(box))}</answer>"


def fenced_label(value: Any) -> str:
    """Objects as VLM-R1's detection rewards read them."""
    if value and not _is_list_of(value, "bbox_2d"):
        raise ValueError("expected a list of objects with bbox_2d and label")
    return f"<answer>```json\n{json.dumps(value)}\n```</answer>"


def plain_label(value: Any) -> str:
    """A text or a number: bare, or the only value of a target."""
    if isinstance(value, dict):
        (value,) = value.values()
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise TypeError("expected a text or a number")
    return str(value)
