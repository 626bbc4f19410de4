"""COCO, YOLO and CSV annotations to the project's JSONL: id, image, question, target.

Boxes are written as xyxy in pixels of the original image, "no object" as the empty list. Image paths are relative to the
image folder.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from visurf.benchmarks.coco_layout import detection_samples, read_coco
from visurf.benchmarks.lvis import category_ids, lvis_image_path
from visurf.benchmarks.rows import RowReport, boxes_on, decode_text, image_path, read_bytes
from visurf.geometry import Frame
from visurf.plain_yaml import read_yaml
from visurf.types import Box, Choice, DataError, Detections, ImageRef, Number, Objects, Point, Points, Sample, Text

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")


def to_row(sample: Sample, images: Path) -> dict[str, Any]:
    """A sample as a row of the project's JSONL.

    Raises:
        DataError: Its pictures are not files below `images`, or its target is masks (give them boxes first).
    """
    names = []
    for picture in sample.images:
        if not isinstance(picture.source, str | Path) or not Path(picture.source).is_relative_to(images):
            raise DataError(f"sample {sample.id}: expected pictures below {images}, got {picture.name}")
        names.append(Path(picture.source).relative_to(images).as_posix())
    image: str | list[str] = names[0] if len(names) == 1 else names
    return {"id": sample.id, "image": image, "question": sample.question, "target": _target(sample)}


def _target(sample: Sample) -> dict[str, Any] | list[Any]:
    target = sample.target
    if isinstance(target, Objects | Detections):
        if not target.boxes:
            return []
        points = target.points if isinstance(target, Objects) else None
        boxes = {"boxes": [_rounded(box) for box in target.boxes]}
        return boxes if points is None else {**boxes, "points": [_rounded(point) for point in points]}
    if isinstance(target, Points):
        return {"points": [_rounded(point) for point in target.points]}
    if isinstance(target, Number):
        return {"number": int(target.value) if target.value.is_integer() else target.value}
    if isinstance(target, Text):
        return {"class" if "class_name" in sample.meta else "text": target.text}
    if isinstance(target, Choice):
        return {"text": target.letter}
    raise DataError(f"sample {sample.id}: a {type(target).__name__} target cannot be written as JSONL")


def _rounded(values: Sequence[float]) -> list[float]:
    # x + width in binary leaves tails such as 207.95000000000002.
    return [round(value, 4) for value in values]


def write_jsonl(rows: Iterable[Mapping[str, Any]], out: Path) -> int:
    """Write rows and return how many; the file appears whole or not at all."""
    partial = out.with_name(f"{out.name}.partial")
    count = 0
    with partial.open("w", encoding="utf-8", newline="\n") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    partial.replace(out)
    return count


def from_coco(
    annotations: Path,
    images: Path,
    *,
    question: str = "{category}",
    classes: Sequence[str] | None = None,
    absent: int | None = 1,
    seed: int = 0,
    report: RowReport | None = None,
) -> list[dict[str, Any]]:
    """Rows "find every CATEGORY" of a file in COCO's or LVIS's layout.

    Args:
        annotations: The JSON file.
        images: The folder its `file_name`s (or, without them, the ends of its `coco_url`s) refer to.
        question: The question; `{category}` stands for the category.
        classes: Category names; None for all.
        absent: How many categories that are not in an image to ask of it, drawn by seed; None for every one.
        seed: Of the draw.
        report: Counts what is bad or left out.
    """

    def path_of(image: Mapping[str, Any], where: str) -> Path:
        if "file_name" not in image and "coco_url" in image:
            return lvis_image_path(images, image, where)
        return image_path(images, image.get("file_name"), f"{where}, field 'file_name'")

    file = read_coco(annotations)
    federated = any("neg_category_ids" in image for image in file.images.values())
    samples = detection_samples(
        file,
        path_of,
        classes=classes,
        absent=absent,
        candidates=(lambda image: category_ids(image, "neg_category_ids", annotations)) if federated else (lambda image: None),
        seed=seed,
        report=report,
    )
    return [{**to_row(s, images), "question": question.replace("{category}", s.question)} for s in samples]


def from_yolo(
    images: Path,
    labels: Path,
    names: Sequence[str],
    *,
    question: str = "{category}",
    absent: bool = True,
    report: RowReport | None = None,
) -> list[dict[str, Any]]:
    """Rows "find every CATEGORY" of YOLO label files, `NAME.txt` per picture; a picture without one holds nothing.

    Args:
        images: The picture folder, searched with its subfolders.
        labels: The label folder, of the same subfolders.
        names: Class names in the order of their numbers.
        question: The question; `{category}` stands for the class.
        absent: Ask each picture for the classes it does not hold, too.
        report: Counts what is bad.
    """
    report = report if report is not None else RowReport()
    pictures = sorted(p for p in images.rglob("*") if p.suffix.lower() in PICTURES)
    if not pictures:
        raise DataError(f"{images}: expected pictures, found none")
    rows: list[dict[str, Any]] = []
    for path in pictures:
        relative = path.relative_to(images)
        with report.row(relative.as_posix()):
            boxes = _yolo_boxes(labels / relative.with_suffix(".txt"), ImageRef(path), len(names))
            for number, name in enumerate(names):
                if boxes[number] or absent:
                    target = {"boxes": [_rounded(box) for box in boxes[number]]} if boxes[number] else []
                    asked = question.replace("{category}", name)
                    identity = f"{relative.with_suffix('').as_posix()}_{number}"
                    rows.append({"id": identity, "image": relative.as_posix(), "question": asked, "target": target})
    return rows


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
        elif len(values) >= 6 and len(values) % 2 == 0:
            share = (min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2]))
        else:
            raise DataError(f"{where}: expected 4 numbers or a polygon, got {len(values)} numbers")
        boxes[category] += boxes_on(picture, [unit.decode_box(share)], where)
    return boxes


def read_yolo_names(path: Path) -> list[str]:
    """Class names from `data.yaml` (a list, or a map from numbers) or from a text file with one name a line.

    Raises:
        DataError: No names are in it.
    """
    text = decode_text(read_bytes(path), path)
    if path.suffix not in (".yaml", ".yml"):
        return [line.strip() for line in text.split("\n") if line.strip()]
    try:
        names = (read_yaml(text) or {}).get("names")
    except (ValueError, AttributeError) as error:
        raise DataError(f"{path}: not valid YAML with a field 'names' ({error})") from error
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{path}, field 'names': expected a list of names or a map from 0 on, got {names!r:.100}")
    return [str(name) for name in names]


def from_csv(
    path: Path,
    images: Path,
    *,
    box_format: Literal["xyxy", "xywh"] = "xyxy",
    report: RowReport | None = None,
) -> list[dict[str, Any]]:
    """Rows of a CSV file with a header: `image`, `question`, and what is true of them.

    Columns for the truth: `x1,y1,x2,y2` (with `box_format="xywh"`: x, y, width, height in the same columns), `x,y` for a
    point, `class`, `number` or `text`. Lines with the same image and question (or the same `id`) are one row with several
    objects; a line whose coordinates are empty says "no object".

    Args:
        path: The CSV file; comma, semicolon or tab separated.
        images: The image folder, to check the boxes against.
        box_format: What the four box columns mean.
        report: Counts what is bad; a bad line takes its whole row with it.
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
    columns = [name.strip() for name in reader.fieldnames or []]
    if missing := {"image", "question"} - set(columns):
        raise DataError(f"{path}: line 1: expected columns image and question, got {columns}; missing {sorted(missing)}")
    reader.fieldnames = columns
    for line in reader:
        if None in line or None in line.values():
            raise DataError(f"{path}: line {reader.line_num}: expected {len(columns)} fields as in the header")
        yield reader.line_num, {name: value.strip() for name, value in line.items()}


def _csv_row(lines: list[tuple[int, dict[str, str]]], path: Path, images: Path, box_format: str) -> dict[str, Any]:
    first_number, first = lines[0]
    where = f"{path}: line {first_number}"
    picture = ImageRef(image_path(images, first["image"], f"{where}, field 'image'"))
    row: dict[str, Any] = {"image": first["image"].replace("\\", "/"), "question": first["question"]}
    for name in ("class", "number", "text"):
        if first.get(name):
            if len(lines) > 1:
                raise DataError(f"{path}: line {lines[1][0]}: a second line for a row with a {name}")
            if name == "number":
                (value,) = _csv_numbers(first, ("number",), where) or ()
                return {**row, "target": {"number": int(value) if value.is_integer() else value}}
            return {**row, "target": {name: first[name]}}
    boxes: list[list[float]] = []
    points: list[Point] = []
    for number, line in lines:
        place = f"{path}: line {number}"
        corners = _csv_numbers(line, ("x1", "y1", "x2", "y2"), place)
        if corners is not None:
            if box_format == "xywh":
                corners = (corners[0], corners[1], corners[0] + corners[2], corners[1] + corners[3])
            boxes += [_rounded(box) for box in boxes_on(picture, [corners], place)]
        point = _csv_numbers(line, ("x", "y"), place)
        if point is not None:
            points.append((point[0], point[1]))
    if boxes and points and len(boxes) != len(points):
        raise DataError(f"{where}: {len(boxes)} boxes but {len(points)} points; give a point with every box or with none")
    target = ({"boxes": boxes} if boxes else {}) | ({"points": [_rounded(p) for p in points]} if points else {})
    return {**row, "target": target or []}


def _csv_numbers(line: Mapping[str, str], names: Sequence[str], where: str) -> tuple[float, ...] | None:
    """The numbers of some columns; None when all are missing or empty."""
    texts = [line.get(name, "") for name in names]
    if not any(texts):
        return None
    try:
        return tuple(float(text) for text in texts)
    except ValueError as error:
        raise DataError(f"{where}, fields {', '.join(names)}: expected numbers, got {texts}") from error
