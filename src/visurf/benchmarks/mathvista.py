"""MathVista testmini: 1,000 problems with pictures, as the official repository lays them out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visurf.benchmarks import Benchmark
from visurf.benchmarks.rows import RowReport, check_split, find, finish, image_path, read_json, require
from visurf.types import Answer, Choice, DataError, ImageRef, Number, Sample, Text

SPLITS = ("testmini",)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def load(root: Path, split: str = "testmini", *, report: RowReport | None = None) -> list[Sample]:
    """One sample per problem; its own fields stand in the meta for official scoring, and the official prompt as `query`.

    The target is a choice, a number, or for the two problems that ask for a list its text.

    Args:
        root: The repository's folder, or the one with `testmini.json`.
        split: testmini; the answers of test are withheld.
        report: Counts what is bad.
    """
    check_split(split, SPLITS, "MathVista")
    report = report if report is not None else RowReport()
    path = find(root, (f"data/{split}.json", f"{split}.json"), "problems")
    problems = read_json(path)
    if not isinstance(problems, dict):
        raise DataError(f"{path}: expected an object of pid to problem, got {type(problems).__name__}")
    queries: Any = next((read_json(q) for name in ("query.json", f"query_{split}.json") if (q := path.parent / name).exists()), {})
    if not isinstance(queries, dict):
        raise DataError(f"{path.parent}: expected the queries as an object of pid to text, got {type(queries).__name__}")
    folder = path.parent.parent if path.parent.name == "data" else path.parent
    samples = []
    for pid, problem in problems.items():
        with report.row(pid):
            samples.append(_sample(pid, problem, queries.get(pid), folder, f"{path}: pid {pid}"))
    return finish(samples, path)


def _sample(pid: str, problem: Mapping[str, Any], query: str | None, folder: Path, where: str) -> Sample:
    picture = ImageRef(image_path(folder, require(problem, "image", str, where), f"{where}, field 'image'"))
    meta = {
        name: problem.get(name)
        for name in ("pid", "choices", "unit", "precision", "answer", "question_type", "answer_type", "metadata")
    }
    question = require(problem, "question", str, where)
    return Sample(pid, (picture,), question, _target(problem, where), meta={**meta, "query": query})


def _target(problem: Mapping[str, Any], where: str) -> Answer:
    answer = require(problem, "answer", str, where)
    kind = require(problem, "question_type", str, where)
    if kind == "multi_choice":
        choices = require(problem, "choices", list, where)
        if answer not in choices:
            raise DataError(f"{where}, field 'answer': expected one of {choices!r:.200}, got {answer!r}")
        # Three problems repeat a choice; the first counts, as in the official scoring.
        return Choice(LETTERS[choices.index(answer)], tuple(choices))
    if kind != "free_form":
        raise DataError(f"{where}, field 'question_type': expected multi_choice or free_form, got {kind!r}")
    answer_type = require(problem, "answer_type", str, where)
    if answer_type == "list":
        return Text(answer)
    number = Number(answer)
    if answer_type not in ("integer", "float") or number.value != number.value:
        raise DataError(f"{where}, field 'answer': expected a number or a list by answer_type, got {answer!r} ({answer_type!r})")
    return number


BENCHMARK = Benchmark(
    name="mathvista",
    task="mathematics",
    splits=SPLITS,
    load=load,
    metrics=("mathvista",),
    source="https://github.com/lupantech/MathVista",
    licence="CC BY-SA 4.0; using it as a training set is prohibited",
    notes="for evaluation only; answers are compared as strings after the official normalisation",
)
