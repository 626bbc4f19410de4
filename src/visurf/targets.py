"""A row's images and target, as JSON values, become typed records; what is impossible is an error that names its place."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from visurf.config import DataConfig
from visurf.geometry import box_centre, mask_box, mask_point
from visurf.mask_pictures import stored_values
from visurf.types import (
    Answer,
    Box,
    Choice,
    DataError,
    Detections,
    ImageRef,
    Number,
    Objects,
    Point,
    Points,
    Size,
    Text,
    check_boxes,
    is_finite,
)

_TARGETS = ("boxes", "points", "masks", "class", "number", "text", "choice")


def image_refs(value: Any, folder: Path, where: str) -> tuple[ImageRef, ...]:
    """Lazy images of a path or a list of paths, relative to a folder that they cannot leave."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(n, str) and n for n in names):
        raise DataError(f"{where}: field image: expected a path or a list of paths, got {value!r}")
    for name in names:
        pure = PurePosixPath(name.replace("\\", "/"))
        if pure.is_absolute() or ".." in pure.parts or (len(name) > 1 and name[1] == ":"):
            raise DataError(f"{where}: field image: {name!r} leaves the image folder; paths are relative to {folder}")
    return tuple(ImageRef(folder / n.replace("\\", "/")) for n in names)


def read_target(
    value: Any, size: Size, config: DataConfig, where: str, wanted: tuple[type, ...], folder: Path
) -> tuple[Answer, int]:
    """A row's target, and how many points were derived.

    Args:
        value: What stands in the file.
        size: Of the row's first image.
        config: Box format and frame of the file.
        where: File, line and field, for messages.
        wanted: The target types of the task.
        folder: What mask files are relative to.

    Raises:
        DataError: It is none of the kinds, or its values are impossible.
    """
    if isinstance(value, list):
        # The empty list is "no object"; a list of boxes is short for {"boxes": ...}.
        value = {"boxes": value}
    if isinstance(value, str):
        said = f'{{"class": {json.dumps(value, ensure_ascii=False)}}}, or with "text" for an answer to the row\'s question'
        raise DataError(f"{where}: expected an object or a list, got {value!r}; write {said}")
    if not isinstance(value, dict) or len(kinds := [k for k in _TARGETS if k in value]) == 0:
        raise DataError(f"{where}: expected an empty list or one of {', '.join(_TARGETS)}, got {value!r}")
    if unknown := set(value) - set(_TARGETS) - ({"options"} if "choice" in value else set()):
        raise DataError(f"{where}: unknown key {sorted(unknown)[0]!r}; known: {', '.join(_TARGETS)}")
    if len(kinds) > 1 and not set(kinds) <= {"boxes", "points", "masks"}:
        raise DataError(f"{where}: {' and '.join(kinds)} exclude each other; give one of them, or boxes with points or masks")
    if "class" in kinds or "text" in kinds:
        text = value.get("class", value.get("text"))
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{where}: expected text, got {text!r}")
        return Text(text.strip()), 0
    if "choice" in kinds:
        return _choice(value, where), 0
    if "number" in kinds:
        number = Number(str(value["number"]).strip())
        if not math.isfinite(number.value) or isinstance(value["number"], bool):
            raise DataError(f"{where}: expected a finite number, got {value['number']!r}")
        return number, 0
    return _objects(value, kinds, size, config, where, wanted, folder)


def _objects(
    value: Mapping[str, Any], kinds: list[str], size: Size, config: DataConfig, where: str, wanted: tuple[type, ...], folder: Path
) -> tuple[Answer, int]:
    """Boxes, points and masks as the target that the task wants; points that are missing are derived and counted."""
    if kinds == ["points"]:
        return Points(_points(value["points"], size, config, where)), 0
    masks = _masks(value["masks"], folder, size, where) if "masks" in kinds else None
    boxes = _boxes(value["boxes"], size, config, where) if "boxes" in kinds else tuple(box for box, _ in masks or ())
    if "points" in kinds:
        points, derived = _points(value["points"], size, config, where), 0
    elif masks is not None:
        points, derived = tuple(point for _, point in masks), len(masks)
    else:
        points, derived = tuple(box_centre(b) for b in boxes), len(boxes)
    if len(points) != len(boxes) or (masks is not None and len(masks) != len(boxes)):
        raise DataError(f"{where}: {len(boxes)} boxes but {len(points)} points; give one point or mask per box")
    if Points in wanted and "points" in kinds:
        return Points(points, boxes), 0
    if Detections in wanted:
        return Detections(boxes, (1.0,) * len(boxes)), 0
    return Objects(boxes, points), derived


def _masks(value: Any, folder: Path, size: Size, where: str) -> list[tuple[Box, Point]]:
    """The tight box and the deepest point of each mask file; what is not 0 is the object."""
    found = []
    for image in image_refs(value, folder, where):
        try:
            mask = (stored_values(image) > 0).astype(np.uint8)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        if mask.shape != (size[1], size[0]):
            raise DataError(f"{where}: mask {image.name} is {mask.shape[1]} x {mask.shape[0]}, its image {size[0]} x {size[1]}")
        box, point = mask_box(mask), mask_point(mask)
        if box is None or point is None:
            raise DataError(f'{where}: mask {image.name} is empty; an image without the object has "target": []')
        found.append((box, point))
    return found


def _choice(value: Mapping[str, Any], where: str) -> Choice:
    letter, options = value["choice"], value.get("options")
    if not isinstance(options, list) or not options or not all(isinstance(o, str) and o.strip() for o in options):
        raise DataError(f"{where}: expected options, a list of texts, beside choice, got {options!r}")
    letters = [chr(ord("A") + i) for i in range(len(options))]
    if letter not in letters:
        raise DataError(f"{where}: expected choice to be one of {', '.join(letters)}, got {letter!r}")
    return Choice(letter, tuple(options))


def _scale(size: Size, config: DataConfig) -> tuple[float, float]:
    if config.frame == "pixel":
        return 1.0, 1.0
    return (size[0] / 1000, size[1] / 1000) if config.frame == "1000" else (float(size[0]), float(size[1]))


def _numbers(row: Any, count: int, where: str) -> list[float]:
    good = isinstance(row, Sequence) and not isinstance(row, str) and len(row) == count
    if not good or not all(map(is_finite, row)):
        raise DataError(f"{where}: expected {count} finite numbers, got {row!r}")
    return [float(v) for v in row]


def _boxes(value: Any, size: Size, config: DataConfig, where: str) -> tuple[Box, ...]:
    if not isinstance(value, list):
        raise DataError(f"{where}: expected a list of boxes, got {value!r}")
    if len(value) == 4 and all(map(is_finite, value)):
        raise DataError(f"{where}: expected a list of boxes, got {value!r}; one box is a list too: {[value]!r}")
    if value and size == (0, 0):
        raise DataError(f"{where}: missing field 'image'; boxes need one")
    sx, sy = _scale(size, config)
    scaled = []
    for row in value:
        a, b, c, d = _numbers(row, 4, where)
        if config.box_format == "xywh":
            c, d = a + c, b + d
        if config.frame == "pixel" and _within_unit((a, b, c, d)) and max(size) > 1:
            raise DataError(f"{where}: box {row!r} is less than a pixel; if these are fractions, set data.frame=unit")
        scaled.append((a * sx, b * sy, c * sx, d * sy))
    frame = "if the file is in another frame set data.frame=1000 or data.frame=unit"
    return check_boxes(scaled, size, where, inverted="is it xywh? set data.box_format=xywh", outside=frame)


def _within_unit(numbers: Sequence[float]) -> bool:
    """Whether coordinates lie in the first pixel, and not all on its edges, as nearly all in fractions do."""
    return all(0 <= v <= 1 for v in numbers) and not all(v.is_integer() for v in numbers)


def _points(value: Any, size: Size, config: DataConfig, where: str) -> tuple[Point, ...]:
    if not isinstance(value, list):
        raise DataError(f"{where}: expected a list of points, got {value!r}")
    sx, sy = _scale(size, config)
    points: list[Point] = []
    for row in value:
        x, y = _numbers(row, 2, where)
        # The middle of the first pixel may well be the point of an object there.
        if config.frame == "pixel" and _within_unit((x, y)) and (x, y) != (0.5, 0.5) and max(size) > 1:
            raise DataError(f"{where}: point {list(row)!r} is in the first pixel; if these are fractions, set data.frame=unit")
        x, y = x * sx, y * sy
        if not (-1 <= x <= size[0] + 1 and -1 <= y <= size[1] + 1):
            raise DataError(f"{where}: point {list(row)!r} leaves its image of {size[0]} x {size[1]} pixels")
        points.append((min(max(x, 0.0), size[0]), min(max(y, 0.0), size[1])))
    return tuple(points)
