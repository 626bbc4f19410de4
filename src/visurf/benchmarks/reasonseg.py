"""ReasonSeg as LISA distributes it: `{train,val,test}/NAME.jpg` with a labelme-like `NAME.json` beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from visurf.benchmarks import Benchmark
from visurf.benchmarks.masks import IGNORED, PaintedMask
from visurf.benchmarks.rows import RowReport, check_split, find, finish, numbers, read_json, require
from visurf.types import DataError, ImageRef, Masks, Point, Sample

SPLITS = ("train", "val", "test")


def load(
    root: Path,
    split: str,
    *,
    texts: Literal["all", "first"] | None = None,
    report: RowReport | None = None,
) -> list[Sample]:
    """One sample per text; the target is one mask, painted on demand with regions to ignore as 255.

    Args:
        root: Holds the split folders, directly or in `ReasonSeg/` or `reason_seg/ReasonSeg/`.
        split: train, val or test.
        texts: All paraphrases of a picture or its first one; by default all in train and the first in val and test.
        report: Counts what is bad or left out.
    """
    check_split(split, SPLITS, "ReasonSeg")
    report = report if report is not None else RowReport()
    folder = find(root, [f"{place}{split}" for place in ("", "ReasonSeg/", "reason_seg/ReasonSeg/")], f"split {split}")
    first_only = (texts or ("all" if split == "train" else "first")) == "first"
    samples: list[Sample] = []
    for path in sorted(folder.glob("*.jpg")):
        with report.row(path.stem):
            samples += _picture(path, first_only=first_only)
    return finish(samples, folder)


def _picture(path: Path, *, first_only: bool) -> list[Sample]:
    annotation = path.with_suffix(".json")
    # Some files were written on Windows.
    data = read_json(annotation, encodings=("utf-8-sig", "cp1252"))
    queries = require(data, "text", list, str(annotation))
    if not queries or not all(isinstance(query, str) and query.strip() for query in queries):
        raise DataError(f"{annotation}, field 'text': expected a list of texts, got {queries!r:.100}")
    picture = ImageRef(path)
    mask = PaintedMask(_shapes(data, annotation), picture)
    meta = {
        "image_id": path.stem,
        "is_sentence": require(data, "is_sentence", bool, str(annotation)),
        "mask": mask,
        "ignores": any(value == IGNORED for value, _ in mask.shapes),
    }
    return [
        Sample(f"{path.stem}_{index}", (picture,), query.strip(), Masks((mask,)), meta=meta)
        for index, query in enumerate(queries[: 1 if first_only else None])
    ]


def _shapes(data: Any, path: Path) -> tuple[tuple[int, tuple[Point, ...]], ...]:
    shapes = []
    for index, shape in enumerate(require(data, "shapes", list, str(path))):
        where = f"{path}: shape {index}"
        label = require(shape, "label", str, where).lower()
        if label == "flag":
            continue
        vertices = tuple(numbers(point, 2, f"{where}, field 'points'") for point in require(shape, "points", list, where))
        if not vertices:
            raise DataError(f"{where}, field 'points': expected vertices, got none")
        shapes.append((IGNORED if "ignore" in label else 1, tuple((x, y) for x, y in vertices)))
    return tuple(shapes)


BENCHMARK = Benchmark(
    name="reasonseg",
    task="reasoning_segmentation",
    splits=SPLITS,
    load=load,
    metrics=("giou", "ciou", "box_iou"),
    source="https://github.com/dvlab-research/LISA",
    licence="repository Apache-2.0; the data carries no terms of its own (research)",
    notes="hub copies turn regions to ignore into target, so their scores differ by construction",
)
