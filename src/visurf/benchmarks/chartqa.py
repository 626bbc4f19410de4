"""ChartQA: `{train,val,test}/{split}_{human,augmented}.json` and `{split}/png/`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from visurf.benchmarks import Benchmark
from visurf.benchmarks.rows import RowReport, check_split, find, finish, image_path, read_json_list, require
from visurf.types import ImageRef, Sample, Text

SPLITS = ("train", "val", "test")


def load(
    root: Path,
    split: str,
    *,
    parts: tuple[Literal["human", "augmented"], ...] = ("human", "augmented"),
    report: RowReport | None = None,
) -> list[Sample]:
    """One sample per question. Answers stay text, since "2,014" and "14%" matter to relaxed accuracy.

    Args:
        root: Holds the split folders, directly or in `ChartQA Dataset/`.
        split: train, val or test.
        parts: Which halves; the published number is the mean of both halves' accuracies.
        report: Counts what is bad.
    """
    check_split(split, SPLITS, "ChartQA")
    report = report if report is not None else RowReport()
    folder = find(root, (split, f"ChartQA Dataset/{split}"), f"split {split}")
    samples = []
    for part in parts:
        path = folder / f"{split}_{part}.json"
        for index, row in enumerate(read_json_list(path)):
            where = f"{path}: row {index}"
            with report.row(f"{part}_{index}"):
                picture = ImageRef(image_path(folder / "png", require(row, "imgname", str, where), f"{where}, field 'imgname'"))
                # A few answers were written as numbers.
                answer = str(require(row, "label", (str, int, float), where)).strip()
                question = require(row, "query", str, where).strip()
                samples.append(
                    Sample(f"{part}_{index}", (picture,), question, Text(answer), meta={"part": part, "scoring": "relaxed"})
                )
    return finish(samples, folder)


BENCHMARK = Benchmark(
    name="chartqa",
    task="question_answering",
    splits=SPLITS,
    load=load,
    metrics=("relaxed_accuracy",),
    source="https://github.com/vis-nlp/ChartQA",
    licence="GPL-3.0",
    notes="report human and augmented halves beside their mean",
)
