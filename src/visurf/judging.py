"""Verdicts on answers, whoever gave them: one record per sample, metrics with intervals, and what they mean. No torch."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visurf.benchmarks import Benchmark, loader_options
from visurf.benchmarks.exist_check import ExistCheck, PairSelection, read_exist_map, select_pairs
from visurf.benchmarks.rows import RowReport, read_json
from visurf.config import ConfigError
from visurf.detection_scores import annotated_ap, asked_truth, detections_of, on_asked_images, rescored
from visurf.metrics.detection import CONFIDENCE_SOURCES, ConfidenceSource
from visurf.metrics.intervals import Interval
from visurf.metrics.segmentation import Convention
from visurf.metrics.summary import Summary
from visurf.metrics.summary import summarise as with_intervals
from visurf.naming import suggestion
from visurf.tasks import TASKS
from visurf.tasks.segmentation import convention_scores
from visurf.tasks.task import Task, has_thinking
from visurf.types import Answer, Completion, DataError, Detections, Masks, Sample, Score

Record = dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation found.

    Attributes:
        benchmark: Its name.
        split: Which split.
        records: One per sample, in the data set's order, never fewer.
        summary: Metrics, fractions with 95 % bootstrap intervals, and always the rates of failed and truncated answers.
        extra: Further numbers without interval: the rest of COCO's table, APs by category, published conventions.
        notes: What one must know beside the numbers: source of confidences, existence check and its rate, rows left out.
        missing: Ids of samples without a prediction; each counts as a failure.
        unknown: Ids of predictions that belong to no sample; they count nothing.
    """

    benchmark: str
    split: str
    records: tuple[Record, ...]
    summary: Summary
    extra: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    def values(self) -> dict[str, float]:
        """Every metric without its interval."""
        return {**{name: i.value for name, i in self.summary.metrics.items()}, **self.extra}

    def to_dict(self) -> dict[str, Any]:
        """Everything but the records as JSON values; NaN becomes null."""
        summary = dataclasses.asdict(self.summary)
        plain_ = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("records", "summary")}
        found: dict[str, Any] = _without_nan({**plain_, "summary": summary})
        return found


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plain(answer: Answer | None) -> Any:
    """An answer as JSON values, in pixels of the original image; None stays None, masks are only counted."""
    if answer is None:
        return None
    if isinstance(answer, Masks):
        return {"masks": len(answer.masks)}
    return {name: value for name, value in dataclasses.asdict(answer).items() if value is not None}


def judge(sample: Sample, completion: Completion, task: Task, score: Score | None = None) -> Record:
    """The record of one read completion: what was asked, said, understood, true, and how right it is.

    Args:
        sample: What was asked.
        completion: With its answer or its error.
        task: Judges.
        score: Its reward, where one was computed.
    """
    measures = task.judge(sample, completion.answer)
    record: Record = {
        "id": sample.id,
        "question": sample.question,
        "text": completion.text,
        "answer": plain(completion.answer),
        "error": None if completion.error is None else completion.error.reason,
        "truncated": completion.truncated,
        "tokens": len(completion.token_ids),
        "target": plain(sample.target),
        "meta": {name: v for name, v in sample.meta.items() if isinstance(v, str | int | float | bool)},
        "measures": {**measures, "thinking": float(has_thinking(completion.text))},
    }
    return record if score is None else {**record, "reward": {**score.parts, "total": score.total}}


# What `summarise` tells of every task.
COMMON_METRICS = ("thinking", "parse_failed", "truncated", "reward", "samples")


def summarise(task: Task, found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The task's metrics, the share that reasons, parse-failure and truncation rates, mean reward, number of samples."""
    if not found:
        raise ValueError("no records to summarise")
    count = len(found)
    rewards = [r["reward"]["total"] for r in found if "reward" in r]
    return {
        **task.values(found),
        "thinking": sum(r["measures"]["thinking"] for r in found) / count,
        "parse_failed": sum(r["error"] is not None for r in found) / count,
        "truncated": sum(r["truncated"] for r in found) / count,
        **({"reward": sum(rewards) / len(rewards)} if rewards else {}),
        "samples": float(count),
    }


def check_metric(task: Task, name: str, where: str = "evaluation.metric") -> None:
    """Refuse a metric, asked for under the key `where`, that `summarise` never gives; an empty name stands for the task's headline.

    Raises:
        ConfigError: Suggests the nearest.
    """
    known = [*task.metrics, *COMMON_METRICS]
    if name and name not in known:
        raise ConfigError(f"{where}: task {task.name!r} has no {name!r}{suggestion(name, known)}")


def summary(task: Task, found: Sequence[Record], *, skip: Sequence[str] = (), resamples: int = 1000, seed: int = 0) -> Summary:
    """As `summarise`, with 95 % bootstrap intervals.

    Args:
        task: Brings the metrics.
        found: One record per sample.
        skip: Metrics that are computed elsewhere.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Raises:
        ValueError: No records.
    """
    if not found:
        raise ValueError("no records to summarise")
    columns: dict[str, list[float | None]] = {"thinking": [r["measures"]["thinking"] for r in found]}
    if all("reward" in r for r in found):
        columns["reward"] = [r["reward"]["total"] for r in found]
    errors, truncated = [r["error"] for r in found], [r["truncated"] for r in found]
    rates = with_intervals(columns, parse_errors=errors, truncated=truncated, resamples=resamples, seed=seed)
    metrics = {
        name: metric.interval(found, resamples=resamples, seed=seed)
        for name, metric in task.metrics.items()
        if name not in skip and metric.applies(found)
    }
    return dataclasses.replace(rates, metrics={**metrics, **rates.metrics})


def write_records(path: Path, found: Sequence[Mapping[str, Any]]) -> None:
    """One JSON object per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Half a surrogate pair has no UTF-8; its backslash form is also how JSON writes it.
    with path.open("w", encoding="utf-8", errors="backslashreplace") as out:
        for record in found:
            out.write(json.dumps(record, ensure_ascii=False) + "\n")


def task_for(benchmark: Benchmark, samples: Sequence[Sample], name: str = "") -> Task:
    """The task of a benchmark's samples, or the named one where rows of a set belong to another.

    Raises:
        DataError: Unknown task, or a sample's target is of another kind.
    """
    task = TASKS.get(name or benchmark.task)
    if task is None:
        raise DataError(f"benchmark {benchmark.name}: unknown task {name or benchmark.task!r}; known: {sorted(TASKS)}")
    for sample in samples:
        if not isinstance(sample.target, task.targets):
            kind = type(sample.target).__name__
            raise DataError(f"sample {sample.id!r}: task {task.name!r} needs {task.target_names}, got {kind}; name another task")
    return task


def load_samples(
    benchmark: Benchmark, path: Path, split: str, options: Mapping[str, Any] | None = None
) -> tuple[list[Sample], dict[str, str]]:
    """A benchmark's samples, and what was left out of them in words.

    Args:
        benchmark: What to load.
        path: Where it lies.
        split: Which part of it.
        options: Of its loader, see `visurf.benchmarks.loader_options`.

    Raises:
        DataError: A file or row is wrong, there is no such class list, or the loader does not take an option.
    """
    report = RowReport()
    try:
        samples = benchmark.load(path, split, report=report, **loader_options(options or {}))
    except TypeError as error:
        if not options:
            raise
        raise DataError(f"the loader of {benchmark.name!r} does not take one of {sorted(options)} ({error})") from error
    left_out = report.summary()
    return samples, {"rows": left_out} if left_out else {}


def choose_pairs(samples: Sequence[Sample], rule: str, **ask: Any) -> PairSelection:
    """Which (image, category) pairs are asked.

    Args:
        samples: Detection samples.
        rule: ``none``, ``oracle``, ``model`` or ``map FILE``.
        ask: For ``model``: the function that asks it, as `ask`.

    Raises:
        DataError: Unknown rule, or the map cannot be read or lacks an image.
    """
    kind, _, place = rule.partition(" ")
    if place and kind != "map":
        raise DataError(f"exist_check: only map takes a file, got {rule!r}")
    check: ExistCheck = kind  # type: ignore[assignment]
    return select_pairs(samples, check, claims=read_exist_map(Path(place.strip())) if kind == "map" else None, **ask)


def unasked(sample: Sample, task: Task) -> Record:
    """The record of a pair that the existence check left out: no detections."""
    return {**judge(sample, Completion("", (), Detections(), None), task), "asked": False}


def conclude(  # noqa: PLR0913 - what the two public evaluations were given, and what they found
    benchmark: Benchmark,
    path: Path,
    split: str,
    task: Task,
    found: Sequence[Record],
    *,
    samples: Sequence[Sample] = (),
    detections: Sequence[Mapping[str, Any]] | None = None,
    confidence: ConfidenceSource = "model",
    convention: Convention | None = None,
    notes: Mapping[str, str] | None = None,
    missing: Sequence[str] = (),
    unknown: Sequence[str] = (),
    resamples: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Records to metrics: the one path for models and for what other programs produced.

    Args:
        benchmark: Where the samples come from.
        path: The data set.
        split: Its split.
        task: The samples' task.
        found: One record per sample.
        samples: Those of the records, for `rescored`.
        detections: COCO results on the annotation file, with their scores; None takes them from the records.
        confidence: Where the scores of detections come from.
        convention: Adds the numbers of a published mask evaluation as ``CONVENTION/NAME``; percent where that has percent.
        notes: What else stands beside the numbers.
        missing: See `Evaluation`.
        unknown: See `Evaluation`.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Raises:
        DataError: A detection is on an unknown image.
        ValueError: A convention is asked for where no true masks are known.
    """
    extra: dict[str, float] = {}
    about = dict(notes or {})
    exact: dict[str, Interval] = {}
    scored = rescored(found, samples, confidence) if task.name == "detection" and detections is None else found
    if task.name == "detection":
        about["confidence"] = CONFIDENCE_SOURCES[confidence]
        if benchmark.annotations is not None:
            truth = asked_truth(read_json(benchmark.annotations(path, split)), found)
            given = detections_of(scored) if detections is None else on_asked_images(truth, detections)
            exact, extra = annotated_ap(
                truth, given, confidence=confidence, federated=benchmark.federated, resamples=resamples, seed=seed
            )
        else:
            about["truth"] = "built from the samples: no crowd regions, areas are those of boxes"
    if convention is not None:
        extra |= {f"{convention}/{name}": value for name, value in convention_scores(found, convention).items()}
    skip = ("ap", "ap50", "ap75") if exact else ()
    rates = summary(task, scored, skip=skip, resamples=resamples, seed=seed)
    rates = dataclasses.replace(rates, metrics={**exact, **rates.metrics})
    return Evaluation(benchmark.name, split, tuple(found), rates, extra, about, tuple(missing), tuple(unknown))
