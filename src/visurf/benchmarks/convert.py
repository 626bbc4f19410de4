"""Samples and COCO annotations to the project's JSONL: id, image, question, target.

YOLO and CSV are in `visurf.benchmarks.convert_yolo` and `visurf.benchmarks.convert_csv`.

Boxes are written as xyxy in pixels of the original image, "no object" as the empty list. Image paths are relative to the
image folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from visurf.benchmarks.coco_layout import detection_samples, read_coco
from visurf.benchmarks.lvis import category_ids, lvis_image_path
from visurf.benchmarks.rows import RowReport, image_path
from visurf.types import Choice, DataError, Detections, Number, Objects, Points, Sample, Text


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
        boxes = {"boxes": [rounded(box) for box in target.boxes]}
        return boxes if points is None else {**boxes, "points": [rounded(point) for point in points]}
    if isinstance(target, Points):
        return {"points": [rounded(point) for point in target.points]}
    if isinstance(target, Number):
        return {"number": int(target.value) if target.value.is_integer() else target.value}
    if isinstance(target, Text):
        return {"class" if "class_name" in sample.meta else "text": target.text}
    if isinstance(target, Choice):
        return {"text": target.letter}
    raise DataError(f"sample {sample.id}: a {type(target).__name__} target cannot be written as JSONL")


def rounded(values: Sequence[float]) -> list[float]:
    """Numbers to 4 decimals: x + width in binary leaves tails such as 207.95000000000002."""
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
