"""VisionReasoner's hub sets (Ricky06662/*): training rows in an 840 x 840 frame, and evaluation rows with masks or boxes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from visurf.benchmarks import Benchmark
from visurf.benchmarks.masks import RunLengthMask
from visurf.benchmarks.rows import RowReport, check_split, finish, numbers, require, row_id
from visurf.benchmarks.tables import picture_of, read_rows
from visurf.benchmarks.virft import placed
from visurf.types import Answer, Box, DataError, Masks, Number, Objects, Point, Sample, check_boxes

Rows = Iterable[Mapping[str, Any] | tuple[str, Mapping[str, Any]]]


def load_train(root: Path, split: str = "train", *, report: RowReport | None = None) -> list[Sample]:
    """Training rows from a parquet file or a hub snapshot; see `training_from_rows`."""
    check_split(split, ("train",), "VisionReasoner training sets")
    return training_from_rows(read_rows(root, split), report=report)


def load_test(root: Path, split: str = "test", *, report: RowReport | None = None) -> list[Sample]:
    """Evaluation rows from a parquet file or a hub snapshot; see `evaluation_from_rows`."""
    check_split(split, ("test",), "VisionReasoner evaluation sets")
    return evaluation_from_rows(read_rows(root, split), report=report)


def training_from_rows(rows: Rows, *, report: RowReport | None = None) -> list[Sample]:
    """One sample per row.

    The pictures were squashed to 840 x 840 and the boxes are pixels of *that* picture, which is the one a model is given, so
    it is the original here; `meta["original_size"]` is the size before. A box's right and bottom are the last pixel, so
    one is added, up to the picture's edge.

    Args:
        rows: Dicts with id, problem, solution and image, alone or each after its place in the file.
        report: Counts what is bad.
    """
    report = report if report is not None else RowReport()
    samples = []
    for index, (where, row) in enumerate(placed(rows)):
        with report.row(row_id(row, "id", index)):
            picture = picture_of(row, where)
            field = f"{where}, field 'solution'"
            target = _solution(require(row, "solution", str, where), field)
            target = replace(target, boxes=check_boxes(target.boxes, picture.size, field))
            original = (require(row, "img_width", int, where), require(row, "img_height", int, where))
            question = require(row, "problem", str, where)
            meta = {"original_size": original}
            samples.append(Sample(str(require(row, "id", (str, int), where)), (picture,), question, target, meta=meta))
    return finish(samples, "VisionReasoner training rows")


def _solution(text: str, where: str) -> Objects:
    try:
        items = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({error})") from error
    # The oldest set has one object with two points, not in a list.
    items = [items] if isinstance(items, dict) else items
    if not isinstance(items, list):
        raise DataError(f"{where}: expected a list of objects, got {text!r:.100}")
    boxes: list[Box] = []
    points: list[Point] = []
    for item in items:
        if not isinstance(item, dict):
            raise DataError(f"{where}: expected objects with bbox_2d and point_2d, got {item!r:.100}")
        box, point = item.get("bbox_2d", item.get("bbox")), item.get("point_2d", item.get("points_1"))
        x1, y1, x2, y2 = numbers(box, 4, f"{where}, 'bbox_2d'")
        x, y = numbers(point, 2, f"{where}, 'point_2d'")
        boxes.append((x1, y1, x2 + 1, y2 + 1))
        points.append((x, y))
    return Objects(tuple(boxes), tuple(points))


def evaluation_from_rows(rows: Rows, *, report: RowReport | None = None) -> list[Sample]:
    """One sample per row: a box (xyxy, original pixels), a mask, or a count, whichever the row has.

    A row's mask was made by `astype(bool)`, so regions that the original ignores are object here. An empty mask is
    "no object".

    Args:
        rows: Dicts with image, text and bbox, mask or count, alone or each after its place in the file.
        report: Counts what is bad.
    """
    report = report if report is not None else RowReport()
    samples = []
    for index, (where, row) in enumerate(placed(rows)):
        with report.row(row_id(row, "ann_id", index)):
            picture = picture_of(row, where)
            target, meta = _truth(row, where)
            # Image ids are text here and numbers in COCO.
            meta |= {"image_id": str(row.get("image_id", "")), "ann_id": str(row.get("ann_id", ""))}
            samples.append(Sample(str(index), (picture,), require(row, "text", str, where), target, meta=meta))
    return finish(samples, "VisionReasoner evaluation rows")


def _truth(row: Mapping[str, Any], where: str) -> tuple[Answer, dict[str, Any]]:
    if row.get("count") is not None:
        (count,) = numbers([row["count"]], 1, f"{where}, field 'count'")
        return Number(f"{count:g}"), {}
    width, height = require(row, "img_width", int, where), require(row, "img_height", int, where)
    meta: dict[str, Any] = {}
    if row.get("mask") is not None:
        try:
            mask = np.asarray(row["mask"])
        except ValueError as error:
            raise DataError(f"{where}, field 'mask': expected rows of equal length ({error})") from error
        if mask.shape != (height, width) or mask.dtype.kind not in "biu":
            got = f"shape {mask.shape} of {mask.dtype}"
            raise DataError(f"{where}, field 'mask': expected {height} rows of {width} true or false values, got {got}")
        meta["mask"] = RunLengthMask.from_array(mask)
    if row.get("bbox") is not None:
        field = f"{where}, field 'bbox'"
        several = isinstance(row["bbox"], list) and all(isinstance(box, list) for box in row["bbox"])
        boxes = [numbers(box, 4, field) for box in (row["bbox"] if several else [row["bbox"]])]
        return Objects(check_boxes(boxes, (width, height), field)), meta
    if "mask" not in meta:
        raise DataError(f"{where}: expected a field bbox, mask or count, got {sorted(row)}")
    return (Masks((meta["mask"],)) if mask.any() else Objects()), meta


_SOURCE = "https://huggingface.co/Ricky06662"
_LICENCE = "repository Apache-2.0; the data inherits the terms of its sources"
TRAIN = Benchmark(
    name="visionreasoner_train",
    task="referring",
    splits=("train",),
    load=load_train,
    metrics=("giou", "box_iou"),
    source=f"{_SOURCE}/VisionReasoner_multi_object_7k_840",
    licence=_LICENCE,
    notes="pictures are squashed to 840 x 840 and boxes refer to that frame",
)
TEST = Benchmark(
    name="visionreasoner_test",
    task="referring",
    splits=("test",),
    load=load_test,
    metrics=("giou", "ciou", "box_accuracy"),
    source=_SOURCE,
    licence=_LICENCE,
    notes="one expression per reference (1,975 in RefCOCO testA, not 5,657); ReasonSeg copies lost their ignore regions",
)
