"""DocVQA (single page): `{train,val}_v1.0[_withQT].json` and the folder of page images."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from visurf.benchmarks import Benchmark
from visurf.benchmarks.rows import RowReport, check_split, find, finish, image_folder, image_path, read_json, require
from visurf.types import DataError, ImageRef, Sample, Text

SPLITS = ("train", "val")


def load(root: Path, split: str, *, report: RowReport | None = None) -> list[Sample]:
    """One sample per question; the target is the first accepted answer, `meta["answers"]` holds them all.

    Args:
        root: Holds the JSON, directly or in `spdocvqa_qas/`, and the pages in `documents/` or `spdocvqa_images/`.
        split: train or val; the answers of test are withheld.
        report: Counts what is bad.
    """
    check_split(split, SPLITS, "DocVQA")
    report = report if report is not None else RowReport()
    names = [f"{split}_v1.0{suffix}.json" for suffix in ("_withQT", "")]
    path = find(root, [f"{folder}{name}" for folder in ("", "spdocvqa_qas/", f"{split}/") for name in names], "questions")
    pages = image_folder(root, ("documents", "spdocvqa_images", f"{split}/documents"))
    samples = []
    for index, row in enumerate(require(read_json(path), "data", list, str(path))):
        where = f"{path}: data row {index}"
        with report.row(index):
            # The releases name the folder differently, so only the file's name counts; the path is checked first.
            name = require(row, "image", str, where)
            image_path(pages, name, f"{where}, field 'image'")
            picture = ImageRef(pages / PurePosixPath(name.replace("\\", "/")).name)
            answers = require(row, "answers", list, where)
            if not answers or not all(isinstance(answer, str) for answer in answers):
                raise DataError(f"{where}, field 'answers': expected at least one text, got {answers!r:.100}")
            identity = str(require(row, "questionId", int, where))
            question = require(row, "question", str, where).strip()
            meta = {"scoring": "anls", "answers": tuple(answers), "question_types": row.get("question_types")}
            samples.append(Sample(identity, (picture,), question, Text(answers[0]), meta=meta))
    return finish(samples, path)


BENCHMARK = Benchmark(
    name="docvqa",
    task="question_answering",
    splits=SPLITS,
    load=load,
    metrics=("anls",),
    source="https://rrc.cvc.uab.es/?ch=17&com=downloads",
    licence="terms of the challenge's site (research)",
    notes="an answer counts against the best of all accepted answers",
)
