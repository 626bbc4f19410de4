"""From job folders to results.json: numbers of every run, per-prompt measures packed, failures with their error. No torch."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from visurf.alarms import correlations, find_alarms, read_metrics, watched
from visurf.config import load_config
from visurf.metrics.intervals import resampled_statistic
from visurf.naming import look_up
from visurf.studies.columns import pack
from visurf.studies.costs import run_costs
from visurf.studies.grid import Job
from visurf.tasks import TASKS, Task
from visurf.tasks.task import Statistic
from visurf.whole_files import read_rows

# A curve of a run is thinned to so many points.
_POINTS = 40
_WATCHED = ("rollout/tokens", "policy/entropy", "label/advantage", "label/smoothed", "parse/failed")


def collect(job: Job, out: Path, metrics: Sequence[str], resamples: int = 0) -> dict[str, Any]:
    """Everything about a job that results.json keeps, as JSON values; of one whose files cannot be read, that it failed.

    Args:
        job: What was run.
        out: The study's folder.
        metrics: Whose per-prompt measures are kept beside those of the headline of each test's task.
        resamples: Of the prompts, for metrics that are no means over them; 0 for none.
    """
    folder = out / job.folder
    found: dict[str, Any] = {
        "role": job.role,
        "name": job.name,
        "axes": dict(job.axes),
        "chosen": dict(job.chosen),
        "matching": list(job.matching),
    }
    if job.error:
        return {**found, "status": "failed", "stage": job.stage, "error": job.error}
    try:
        status = _read(folder / "status.json") or {"status": "not run"}
        return {**found, **status, **_measured(job, folder, metrics, resamples)}
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        # Whatever is wrong with the files of one run, the others keep their results.
        return {**found, "status": "failed", "stage": "results", "error": f"{folder}: {type(error).__name__}: {error}"}


def _measured(job: Job, folder: Path, metrics: Sequence[str], resamples: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if job.role != "start":
        rows = read_metrics(folder / "train" / "metrics.jsonl")
        config = load_config(folder / "run.yaml") if (folder / "run.yaml").exists() else job.config
        if rows:
            found |= {"steps": len(rows), "costs": run_costs(rows, config), "curves": curves(rows)}
            accuracy, form = watched(config)
            found["correlations"] = correlations(rows, accuracy)
            found["alarms"] = {a.kind: {"step": a.step, "message": a.message} for a in find_alarms(rows, accuracy, form)}
    tests = {name: _test(folder / "tests" / name, metrics, resamples) for name in job.tests}
    found["tests"] = {name: measured for name, measured in tests.items() if measured is not None}
    finite: dict[str, Any] = _finite(found)
    return finite


def score(job: Job, out: Path, metric: str) -> float | None:
    """The validation metric of a tuning job, or None where it failed."""
    folder = out / job.folder / "tests" / "validation"
    summary = _read(folder / "summary.json")
    if summary is None:
        return None
    name = metric or task_of(folder).headline
    if name not in summary:
        raise ValueError(f"tuning.metric: the validation set has no {name!r}; it has {', '.join(summary)}")
    value: float | None = summary[name]
    return None if value is None or math.isnan(value) else float(value)


def task_of(test: Path) -> Task:
    """The task of a measured test, by the recipe beside it."""
    return look_up(load_config(test.with_name(f"{test.name}.yaml")).task.name, TASKS, "task")


def curves(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[list[float]]]:
    """Validation and side metrics of a run by step, whole, and reward, parts and thinking at so many steps as fit."""
    found: dict[str, list[list[float]]] = {}
    every = max(1, math.ceil(len(rows) / _POINTS))
    for name in sorted({n for row in rows for n in row}):
        if name.startswith(("validation/", "side/")):
            points = [[row["step"], _round(row[name])] for row in rows if _known(row.get(name))]
        elif name.startswith("reward/") or name in _WATCHED:
            chunks = [rows[i : i + every] for i in range(0, len(rows), every)]
            means = [(c[-1]["step"], [r[name] for r in c if _known(r.get(name))]) for c in chunks]
            points = [[step, _round(math.fsum(v) / len(v))] for step, v in means if v]
        else:
            continue
        if points:
            found[name] = points
    return found


def _known(value: Any) -> bool:
    """Whether a value of a row is a number: a step that was not finite has null."""
    return isinstance(value, int | float) and math.isfinite(value)


def _test(folder: Path, metrics: Sequence[str], resamples: int = 0) -> dict[str, Any] | None:
    summary = _read(folder / "summary.json")
    if summary is None:
        return None
    records = read_rows(folder / "records.jsonl")
    task = task_of(folder)
    names = [name for name in (*metrics, task.headline) if name in task.metrics]
    digest = hashlib.blake2b("\n".join(r["id"] for r in records).encode(), digest_size=8).hexdigest()
    columns = {n: packed for n in dict.fromkeys(names) if (packed := _column(task, n, records, resamples)) is not None}
    columns["thinking"] = {"value": pack([r["measures"]["thinking"] for r in records])}
    columns["tokens"] = {"value": pack([float(r["tokens"]) for r in records])}
    rounded = {k: v if v is None else _round(v) for k, v in summary.items()}
    found = {"summary": rounded, "headline": task.headline, "prompts": digest, "columns": columns}
    probed = _read(folder / "probe.json")
    if probed is not None and "skipped" in probed:
        found["not_probed"] = probed["skipped"]
    elif probed is not None:
        found["probe"] = {**probed["summary"], "pass_at": probed["pass_at"], "rollouts": probed["rollouts"]}
        found["pass_rate"] = pack([r["right"] / probed["rollouts"] if r["applies"] else None for r in probed["prompts"]])
    return found


def _column(task: Task, name: str, records: Sequence[Mapping[str, Any]], resamples: int) -> dict[str, Any] | None:
    """The per-prompt parts of a metric; of a statistic, which has none, its values on resampled prompts, the same for every run."""
    metric = task.metrics[name]
    if metric.statistic is not None:
        return _resampled(metric.statistic, records, resamples) if resamples and records else None
    if not metric.applies(records):
        return None
    above = [r["measures"].get(metric.measure) for r in records]
    if metric.at_least is not None:
        above = [None if v is None else float(v >= metric.at_least) for v in above]
    found = {"value": pack(above)}
    if metric.denominator:
        found["per"] = pack([None if v is None else r["measures"][metric.denominator] for v, r in zip(above, records, strict=True)])
    return found


def _resampled(statistic: Statistic, records: Sequence[Mapping[str, Any]], resamples: int) -> dict[str, Any] | None:
    try:
        count, value = statistic(records)
    except ImportError:
        # AP needs pycocotools; without it there is the number, but no interval.
        return None
    drawn = resampled_statistic(value, count, resamples=resamples)
    return {"drawn": pack([v if math.isfinite(v) else None for v in drawn.tolist()]), "units": count}


def _read(path: Path) -> dict[str, Any] | None:
    found: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return found


def _round(value: float) -> float:
    return float(f"{value:.6g}")


def _finite(value: Any) -> Any:
    """JSON has no NaN: null."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
