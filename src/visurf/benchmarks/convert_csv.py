"""A CSV table to the project's JSONL."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from visurf.benchmarks.convert import rounded
from visurf.benchmarks.rows import RowReport, boxes_on, decode_text, image_path, read_bytes
from visurf.naming import suggestion
from visurf.types import DataError, ImageRef, Point

BOX = ("x1", "y1", "x2", "y2")
POINT = ("x", "y")
WORDS = ("class", "number", "text")
COLUMNS = ("id", "image", "question", *BOX, *POINT, *WORDS)
# Pascal VOC's names of the same corners.
ALIASES = dict(zip(("xmin", "ymin", "xmax", "ymax"), BOX, strict=True))


def from_csv(
    path: Path,
    images: Path,
    *,
    box_format: Literal["xyxy", "xywh"] = "xyxy",
    report: RowReport | None = None,
) -> list[dict[str, Any]]:
    """Rows of a CSV file with a header: `image`, `question`, and what is true of them.

    Columns for the truth, in any case: `x1,y1,x2,y2` or `xmin,ymin,xmax,ymax` (with `box_format="xywh"`: x, y, width, height
    in the same columns), `x,y` for a point, `class`, `number` or `text`. Lines with the same image and question (or the same
    `id`) are one row with several objects; a line whose coordinates are empty says "no object".

    Args:
        path: The CSV file; comma, semicolon or tab separated.
        images: The image folder, to check the boxes against.
        box_format: What the four box columns mean.
        report: Counts what is bad; a bad line takes its whole row with it.

    Raises:
        DataError: An unknown column, no column for the truth, or a bad line that the report does not skip.
    """
    report = report if report is not None else RowReport()
    groups: dict[str, list[tuple[int, dict[str, str]]]] = {}
    for number, line in _csv_lines(path):
        groups.setdefault(line.get("id") or f"{line['image']}\n{line['question']}", []).append((number, line))
    rows = []
    for index, (key, lines) in enumerate(groups.items()):
        identity = lines[0][1].get("id") or str(index)
        with report.row(identity):
            if len({(line["image"], line["question"]) for _, line in lines}) > 1:
                raise DataError(f"{path}: line {lines[1][0]}, field 'id': {key!r} is used for two images or questions")
            rows.append({"id": identity, **_csv_row(lines, path, images, box_format)})
    return rows


def _csv_lines(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    text = decode_text(read_bytes(path), path)
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        yield from _named_lines(reader, path)
    except csv.Error as error:
        raise DataError(f"{path}: behind line {reader.line_num}: not a CSV table ({error})") from error


def _named_lines(reader: csv.DictReader[str], path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    columns = [name.strip().lower() for name in reader.fieldnames or []]
    columns = [ALIASES.get(name, name) for name in columns]
    _check_columns(columns, f"{path}: line 1")
    reader.fieldnames = columns
    for line in reader:
        if None in line or None in line.values():
            raise DataError(f"{path}: line {reader.line_num}: expected {len(columns)} fields as in the header")
        yield reader.line_num, {name: value.strip() for name, value in line.items()}


def _check_columns(columns: Sequence[str], where: str) -> None:
    # A column that is passed over may be the truth: its rows would all say "no object".
    if missing := {"image", "question"} - set(columns):
        raise DataError(f"{where}: expected columns image and question, got {list(columns)}; missing {sorted(missing)}")
    for name in columns:
        if name not in COLUMNS:
            raise DataError(f"{where}: unknown column {name!r}{suggestion(name, [*COLUMNS, *ALIASES])}")
        if columns.count(name) > 1:
            raise DataError(f"{where}: column {name!r} stands twice")
    for group in (BOX, POINT):
        if 0 < (held := len(set(group) & set(columns))) < len(group):
            raise DataError(f"{where}: expected all of the columns {', '.join(group)}, got {held} of them")
    if not set(columns) & {*BOX, *POINT, *WORDS}:
        raise DataError(f"{where}: no column says what is true; give x1,y1,x2,y2 or x,y or one of {', '.join(WORDS)}")


def _csv_row(lines: list[tuple[int, dict[str, str]]], path: Path, images: Path, box_format: str) -> dict[str, Any]:
    first_number, first = lines[0]
    where = f"{path}: line {first_number}"
    picture = ImageRef(image_path(images, first["image"], f"{where}, field 'image'"))
    row: dict[str, Any] = {"image": first["image"].replace("\\", "/"), "question": first["question"]}
    words = [(number, name) for number, line in lines for name in WORDS if line.get(name)]
    if words:
        number, name = words[0]
        if len(words) > 1 and words[1][0] == number:
            raise DataError(f"{path}: line {number}: {name} and {words[1][1]} exclude each other; fill one of them")
        if len(lines) > 1:
            raise DataError(f"{path}: line {lines[1][0]}: a second line for a row with a {name}")
        if filled := [column for column in (*BOX, *POINT) if first.get(column)]:
            raise DataError(f"{where}: {name} and {filled[0]} exclude each other; a row has a {name} or coordinates")
        return {**row, "target": {name: _number(first, where) if name == "number" else first[name]}}
    if not set(first) & {*BOX, *POINT}:
        held = " or ".join(name for name in WORDS if name in first)
        raise DataError(f"{where}: expected a {held}, but it is empty")
    inverted = "is it xywh? give --box-format xywh" if box_format == "xyxy" else ""
    boxes: list[list[float]] = []
    points: list[Point] = []
    for number, line in lines:
        place = f"{path}: line {number}"
        corners = _csv_numbers(line, BOX, place)
        if corners is not None:
            if box_format == "xywh":
                corners = (corners[0], corners[1], corners[0] + corners[2], corners[1] + corners[3])
            boxes += [rounded(box) for box in boxes_on(picture, [corners], place, inverted=inverted)]
        point = _csv_numbers(line, POINT, place)
        if point is not None:
            points.append((point[0], point[1]))
    if boxes and points and len(boxes) != len(points):
        raise DataError(f"{where}: {len(boxes)} boxes but {len(points)} points; give a point with every box or with none")
    target = ({"boxes": boxes} if boxes else {}) | ({"points": [rounded(p) for p in points]} if points else {})
    return {**row, "target": target or []}


def _number(line: Mapping[str, str], where: str) -> int | float:
    (value,) = _csv_numbers(line, ("number",), where) or (math.nan,)
    return int(value) if value.is_integer() else value


def _csv_numbers(line: Mapping[str, str], names: Sequence[str], where: str) -> tuple[float, ...] | None:
    """The numbers of some columns; None when all are missing or empty."""
    texts = [line.get(name, "") for name in names]
    if not any(texts):
        return None
    try:
        values = tuple(float(text) for text in texts)
    except ValueError as error:
        raise DataError(f"{where}, fields {', '.join(names)}: expected numbers, got {texts}") from error
    if not all(map(math.isfinite, values)):
        raise DataError(f"{where}, fields {', '.join(names)}: expected finite numbers, got {texts}")
    return values
