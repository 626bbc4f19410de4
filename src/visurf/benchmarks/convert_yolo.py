"""YOLO's label files to the project's JSONL."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visurf.benchmarks.convert import rounded
from visurf.benchmarks.rows import RowReport, boxes_on, decode_text, read_bytes
from visurf.geometry import Frame
from visurf.plain_yaml import read_yaml
from visurf.types import Box, DataError, ImageRef

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_POSES = "these labels are poses; expected boxes or polygons"
# By how much a rounded label may leave its picture, as a share of it.
_ROUNDING = 1e-3


def from_yolo(
    images: Path,
    labels: Path,
    names: Sequence[str],
    *,
    question: str = "{category}",
    absent: int | None = 1,
    seed: int = 0,
    report: RowReport | None = None,
) -> list[dict[str, Any]]:
    """Rows "find every CATEGORY" of YOLO label files, `NAME.txt` per picture; a picture without one holds nothing.

    Args:
        images: The picture folder, searched with its subfolders.
        labels: The label folder, of the same subfolders.
        names: Class names in the order of their numbers.
        question: The question; `{category}` stands for the class.
        absent: How many classes that a picture does not hold to ask of it, drawn by seed; None for every one.
        seed: Of the draw.
        report: Counts what is bad.

    Raises:
        DataError: A folder is missing, holds no picture, or no label of any picture: it is the wrong one.
    """
    report = report if report is not None else RowReport()
    pictures = [p.relative_to(images) for p in sorted(images.rglob("*")) if p.suffix.lower() in PICTURES]
    if not pictures:
        raise DataError(f"{images}: expected pictures, found none")
    _check_labels(labels, pictures)
    identities = _identities(pictures)
    rows: list[dict[str, Any]] = []
    for relative in pictures:
        with report.row(relative.as_posix()):
            boxes = _yolo_boxes(_label(labels, relative), ImageRef(images / relative), len(names))
            missing = [number for number in range(len(names)) if not boxes[number]]
            if absent is not None and absent < len(missing):
                missing = random.Random(f"{seed}/{relative.as_posix()}").sample(missing, absent)
            asked_for = {number for number in range(len(names)) if boxes[number]}.union(missing)
            for number, name in enumerate(names):
                if number in asked_for:
                    target = {"boxes": [rounded(box) for box in boxes[number]]} if boxes[number] else []
                    asked = question.replace("{category}", name)
                    identity = f"{identities[relative]}_{number}"
                    rows.append({"id": identity, "image": relative.as_posix(), "question": asked, "target": target})
    return rows


def _label(labels: Path, relative: Path) -> Path:
    return labels / relative.with_suffix(".txt")


def _check_labels(labels: Path, pictures: Sequence[Path]) -> None:
    # A picture without a label file holds nothing, so a wrong folder would say "no object" of every picture.
    if not labels.is_dir():
        raise DataError(f"{labels}: expected the folder of label files, there is none")
    if not any(_label(labels, relative).is_file() for relative in pictures):
        raise DataError(
            f"{labels}: expected label files, such as {_label(labels, pictures[0])}, but none belongs to any of "
            f"{len(pictures)} pictures; name the folder with the same subfolders as the pictures"
        )


def _identities(pictures: Sequence[Path]) -> dict[Path, str]:
    """What rows of a picture are called: its path without the suffix, or with it where two would share a name."""
    stems = Counter(relative.with_suffix("") for relative in pictures)
    whole = set(pictures)

    def identity(relative: Path) -> str:
        stem = relative.with_suffix("")
        return (relative if stems[stem] > 1 or stem in whole else stem).as_posix()

    return {relative: identity(relative) for relative in pictures}


def _yolo_boxes(path: Path, picture: ImageRef, count: int) -> list[list[Box]]:
    """Boxes by class: lines of class, centre, width and height, or class and polygon, in shares of the picture."""
    boxes: list[list[Box]] = [[] for _ in range(count)]
    unit = Frame((1.0, 1.0), picture.size)
    lines = decode_text(read_bytes(path), path).split("\n") if path.exists() else []
    for line_number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields:
            continue
        where = f"{path}: line {line_number}"
        try:
            category, values = int(fields[0]), [float(field) for field in fields[1:]]
        except ValueError as error:
            raise DataError(f"{where}: expected a class number and coordinates, got {line.strip()!r:.80}") from error
        if not 0 <= category < count:
            raise DataError(f"{where}: expected a class below {count}, got {category}")
        if len(values) == 4:
            x, y, w, h = values
            share = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
        elif _is_pose(values):
            raise DataError(f"{where}: {_POSES}")
        elif len(values) >= 6 and len(values) % 2 == 0:
            share = (min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2]))
        else:
            raise DataError(f"{where}: expected 4 numbers or a polygon, got {len(values)} numbers")
        boxes[category] += boxes_on(picture, [unit.decode_box(share)], where)
    return boxes


def _is_pose(values: Sequence[float]) -> bool:
    """Whether shares of a picture are a box and key points of x, y and visibility (0, 1 or 2), rather than a polygon.

    A polygon that touches the picture's edges may hold such numbers too, but then no box with its visible key points around it.
    """
    if len(values) <= 4 or (len(values) - 4) % 3:
        return False
    x, y, w, h = values[:4]
    if not (w > 0 and h > 0 and max(w / 2 - x, x + w / 2 - 1, h / 2 - y, y + h / 2 - 1) <= _ROUNDING):
        return False
    points = list(zip(values[4::3], values[5::3], values[6::3], strict=True))
    if not any(v for _, _, v in points):
        # Of somebody whose key points are all unknown, these are zeros too.
        return not any(values[4:])
    return all(v == 0 or (v in (1, 2) and abs(px - x) <= w and abs(py - y) <= h) for px, py, v in points)


def read_yolo_names(path: Path) -> list[str]:
    """Class names from `data.yaml` (a list, or a map from numbers) or from a text file with one name a line.

    Raises:
        DataError: No names are in it, a class has none or one that YAML reads as another value, or the labels are poses.
    """
    text = decode_text(read_bytes(path), path)
    if path.suffix not in (".yaml", ".yml"):
        lines = [line.strip() for line in text.rstrip().split("\n")]
        if "" in lines:
            # A line's place is its class: without this one all later classes would be named wrongly.
            raise DataError(f"{path}: line {lines.index('') + 1}: expected a class name, the line is blank")
        return lines
    try:
        values = read_yaml(text) or {}
        names, keypoints = values.get("names"), values.get("kpt_shape")
    except (ValueError, AttributeError) as error:
        raise DataError(f"{path}: not valid YAML with a field 'names' ({error})") from error
    if keypoints is not None:
        # Key points behind a box can be as many numbers as a polygon has; without visibilities nothing else tells them.
        raise DataError(f"{path}, field 'kpt_shape': {_POSES}")
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{path}, field 'names': expected a list of names or a map from 0 on, got {names!r:.100}")
    for number, name in enumerate(names):
        # YAML reads a bare no, yes, on or off as a truth value and null as nothing.
        if isinstance(name, bool) or not isinstance(name, str | int | float) or not str(name).strip():
            raise DataError(f"{path}, field 'names': expected a name of class {number}, got {name!r:.100}; put names in quotes")
    return [str(name) for name in names]
