"""Visual-RFT's training sets on the hub (laolao77/ViRFT_*): columns image, problem, solution."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from visurf.benchmarks import Benchmark
from visurf.benchmarks.rows import RowReport, check_split, finish, numbers, require
from visurf.benchmarks.tables import picture_of, read_rows
from visurf.geometry import Frame
from visurf.types import Box, DataError, Detections, Sample, Text, check_boxes

SPLITS = ("train",)
_CATEGORY = re.compile(r"category '([^']+)'")
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_SUBJECT = re.compile(r"containing an? ([a-z]+)\. Please identify the ([a-z]+) of")


def load_detection(root: Path, split: str = "train", *, report: RowReport | None = None) -> list[Sample]:
    """Detection rows from a parquet file or a hub snapshot; see `detection_from_rows`."""
    check_split(split, SPLITS, "ViRFT")
    return detection_from_rows(read_rows(root, split), report=report)


def load_classification(root: Path, split: str = "train", *, report: RowReport | None = None) -> list[Sample]:
    """Classification rows from a parquet file or a hub snapshot; see `classification_from_rows`."""
    check_split(split, SPLITS, "ViRFT")
    return classification_from_rows(read_rows(root, split), report=report)


def detection_from_rows(
    rows: Iterable[Mapping[str, Any] | tuple[str, Mapping[str, Any]]], *, report: RowReport | None = None
) -> list[Sample]:
    """One sample per row. Solutions are Python literals in a frame of 0-1000; the target is in pixels of the picture.

    The picture's header is read for its size.

    Args:
        rows: Dicts with image, problem and solution, alone or each after its place in the file.
        report: Counts what is bad.
    """
    report = report if report is not None else RowReport()
    samples = []
    for index, (where, row) in enumerate(placed(rows)):
        with report.row(index):
            found = _CATEGORY.search(require(row, "problem", str, where))
            if found is None:
                raise DataError(f"{where}, field 'problem': expected \"category 'NAME'\", got {row['problem']!r:.120}")
            picture = picture_of(row, where)
            target = _detections(_answer(row, where), Frame((1000, 1000), picture.size), f"{where}, field 'solution'")
            meta = {"category": found.group(1), "problem": row["problem"]}
            samples.append(Sample(str(row.get("id", index)), (picture,), found.group(1), target, meta=meta))
    return finish(samples, "ViRFT rows")


def classification_from_rows(
    rows: Iterable[Mapping[str, Any] | tuple[str, Mapping[str, Any]]], *, report: RowReport | None = None
) -> list[Sample]:
    """One sample per row; an empty class name is an error, since the published match takes it for every class."""
    report = report if report is not None else RowReport()
    samples = []
    for index, (where, row) in enumerate(placed(rows)):
        with report.row(index):
            problem = require(row, "problem", str, where)
            name = _answer(row, where)
            if not name:
                raise DataError(f"{where}, field 'solution': expected a class name, got an empty answer")
            found = _SUBJECT.search(problem)
            noun, slot = found.groups() if found else ("object", "class")
            meta = {"class_name": name, "noun": noun, "slot": slot, "problem": problem}
            question = f"What {slot} is the {noun} in the image?"
            samples.append(Sample(str(row.get("id", index)), (picture_of(row, where),), question, Text(name), meta=meta))
    return finish(samples, "ViRFT rows")


def placed(
    rows: Iterable[Mapping[str, Any] | tuple[str, Mapping[str, Any]]],
) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Rows with their place, for messages: as given, or their number."""
    for index, row in enumerate(rows):
        yield row if isinstance(row, tuple) else (f"row {index}", row)


def _answer(row: Mapping[str, Any], where: str) -> str:
    found = _ANSWER.search(require(row, "solution", str, where))
    if found is None:
        raise DataError(f"{where}, field 'solution': expected <answer>...</answer>, got {row['solution']!r:.120}")
    return found.group(1).strip()


def _detections(answer: str, frame: Frame, where: str) -> Detections:
    if answer.rstrip(".").lower() in ("no objects", "no object"):
        return Detections()
    if len(answer) > 1_000_000:
        raise DataError(f"{where}: expected a list of boxes, got {len(answer)} characters")
    try:
        # Single quotes: a Python literal, which literal_eval reads without running anything.
        items = ast.literal_eval(answer)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError) as error:
        raise DataError(f"{where}: expected a list of boxes or 'No Objects', got {answer!r:.120}") from error
    if not isinstance(items, list):
        raise DataError(f"{where}: expected a list of boxes, got {answer!r:.120}")
    boxes: list[Box] = []
    confidences = []
    for item in items:
        position = numbers(item.get("Position") if isinstance(item, dict) else None, 4, f"{where}, 'Position'")
        (confidence,) = numbers([item.get("Confidence", 1)], 1, f"{where}, 'Confidence'")
        if not 0 <= confidence <= 1:
            raise DataError(f"{where}, 'Confidence': expected 0 to 1, got {confidence}")
        check_boxes([position], (1000, 1000), f"{where}, 'Position'")
        boxes.append(frame.decode_box([min(max(v, 0.0), 1000.0) for v in position]))
        confidences.append(confidence)
    return Detections(tuple(boxes), tuple(confidences))


_SOURCE = "https://huggingface.co/laolao77 (ViRFT_*)"
_LICENCE = "cards Apache-2.0; the repository says CC BY-NC 4.0 for its data"
DETECTION = Benchmark(
    name="virft_detection",
    task="detection",
    splits=SPLITS,
    load=load_detection,
    metrics=("ap",),
    source=_SOURCE,
    licence=_LICENCE,
    notes="boxes are integers of 0-1000, converted to pixels; pictures are RGBA, read as RGB",
)
CLASSIFICATION = Benchmark(
    name="virft_classification",
    task="classification",
    splits=SPLITS,
    load=load_classification,
    metrics=("accuracy",),
    source=_SOURCE,
    licence=_LICENCE,
    notes="the published match is by substring in either direction, which overcounts",
)
