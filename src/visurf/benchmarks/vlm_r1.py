"""VLM-R1's files: JSONL conversations with one or several pictures, and its lists of referring expressions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visurf.benchmarks import Benchmark
from visurf.benchmarks.rows import RowReport, boxes_on, finish, image_path, numbers, read_jsonl, require, row_id
from visurf.types import Answer, DataError, ImageRef, Objects, Sample, Text


def load(root: Path, split: str = "", *, images: Path | None = None, report: RowReport | None = None) -> list[Sample]:
    """One sample per row: a text answer for conversations, a box (xyxy pixels of the original) for `solution` rows.

    Args:
        root: The file, or its folder.
        split: With a folder, the file's name without `.jsonl` or `.json`.
        images: What image paths are relative to; the file's folder by default.
        report: Counts what is bad.
    """
    report = report if report is not None else RowReport()
    path = root
    if not root.is_file():
        path = next((p for ending in (".jsonl", ".json") if (p := root / f"{split}{ending}").exists()), root / f"{split}.jsonl")
    folder = images or path.parent
    samples = []
    for line, row in read_jsonl(path):
        where = f"{path}: line {line}"
        with report.row(row_id(row, "id", line)):
            samples.append(_sample(row, line, folder, where))
    return finish(samples, path)


def _sample(row: Mapping[str, Any], line: int, folder: Path, where: str) -> Sample:
    value = require(row, "image", (str, list), where)
    names = value if isinstance(value, list) else [value]
    pictures = tuple(ImageRef(image_path(folder, name, f"{where}, field 'image'")) for name in names)
    if not pictures:
        raise DataError(f"{where}, field 'image': expected at least one path, got an empty list")
    identity = str(row.get("id", line))
    if "solution" in row:
        field = f"{where}, field 'solution'"
        target: Answer = Objects(boxes_on(pictures[0], [numbers(row["solution"], 4, field)], field))
        question = str(row.get("normal_caption") or require(row, "problem", str, where))
        return Sample(identity, pictures, question, target, meta={"dataset": row.get("dataset")})
    turns = require(row, "conversations", list, where)
    said = [
        (require(t, "from", str, f"{where}, turn {n}"), require(t, "value", str, f"{where}, turn {n}")) for n, t in enumerate(turns)
    ]
    if [speaker for speaker, _ in said] != ["human", "gpt"]:
        raise DataError(f"{where}, field 'conversations': expected human, then gpt, got {[speaker for speaker, _ in said]}")
    # The pictures come first whether or not the text marks a place for them.
    return Sample(identity, pictures, said[0][1].replace("<image>", "").strip(), Text(said[1][1].strip()))


BENCHMARK = Benchmark(
    name="vlm_r1",
    task="question_answering",
    splits=("any",),
    load=load,
    metrics=("accuracy",),
    source="https://github.com/om-ai-lab/VLM-R1",
    licence="repository Apache-2.0",
    notes="a row may have several pictures; the split is the name of a file",
)
