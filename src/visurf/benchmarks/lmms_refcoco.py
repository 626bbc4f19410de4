"""RefCOCO, RefCOCO+ and RefCOCOg as the lmms-lab hub copies have them: one row per reference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from visurf.benchmarks import Benchmark
from visurf.benchmarks.rows import RowReport, check_split, finish, numbers, require, row_id, xywh
from visurf.benchmarks.tables import picture_of, read_rows
from visurf.benchmarks.virft import placed
from visurf.types import DataError, Objects, Sample, check_boxes

SPLITS = ("val", "test", "testA", "testB")


def load(root: Path, split: str, *, expressions: Literal["all", "first"] = "all", report: RowReport | None = None) -> list[Sample]:
    """Rows from a parquet file or a hub snapshot; see `from_rows`."""
    check_split(split, SPLITS, "lmms-lab/RefCOCO")
    return from_rows(read_rows(root, split), expressions=expressions, report=report)


def from_rows(
    rows: Iterable[Mapping[str, Any] | tuple[str, Mapping[str, Any]]],
    *,
    expressions: Literal["all", "first"] = "all",
    report: RowReport | None = None,
) -> list[Sample]:
    """One sample per expression of a row: the published trial. The picture's header is read for its size.

    Args:
        rows: Dicts with question_id, image, answer (the expressions) and bbox (xywh), alone or each after its place.
        expressions: All of a row, or its first.
        report: Counts what is bad.
    """
    report = report if report is not None else RowReport()
    samples = []
    for index, (where, row) in enumerate(placed(rows)):
        with report.row(row_id(row, "question_id", index)):
            picture = picture_of(row, where)
            field = f"{where}, field 'bbox'"
            boxes = check_boxes([xywh(row.get("bbox"), field)], picture.size, field)
            texts = require(row, "answer", list, where)
            if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
                raise DataError(f"{where}, field 'answer': expected expressions, got {texts!r:.100}")
            polygon = row.get("segmentation")
            meta = {
                "ann_id": str(row.get("question_id")),
                "file_name": row.get("file_name"),
                "polygon": numbers(polygon, None, f"{where}, field 'segmentation'") if polygon else None,
            }
            samples += [
                Sample(f"{index}_{n}", (picture,), text.strip(), Objects(boxes), meta=meta)
                for n, text in enumerate(texts[: 1 if expressions == "first" else None])
            ]
    return finish(samples, "lmms-lab/RefCOCO rows")


BENCHMARK = Benchmark(
    name="lmms_refcoco",
    task="referring",
    splits=SPLITS,
    load=load,
    metrics=("box_accuracy",),
    source="https://huggingface.co/datasets/lmms-lab/RefCOCO",
    licence="annotations unlabelled; images under the Flickr licence each names",
    notes="val mixes the unc and google val sets unmarked, test is google's; only testA and testB compare with papers",
)
