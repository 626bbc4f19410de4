"""``visurf study``: tuning, matching, runs, tests, tables. No torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from visurf.alarms import read_metrics
from visurf.config import ConfigError, to_dict
from visurf.naming import look_up
from visurf.stages import stages
from visurf.studies.analysis import comparisons
from visurf.studies.collecting import collect, score
from visurf.studies.costs import cost_per_step
from visurf.studies.grid import (
    Job,
    choose,
    judged_by,
    matched_steps,
    pilot_jobs,
    run_jobs,
    start_jobs,
    tuned_axes,
    tuning_jobs,
    unseeded,
)
from visurf.studies.page import write_page
from visurf.studies.plan import Matching, Study, base_values, read_study
from visurf.studies.running import Workers, is_trained, run_all
from visurf.studies.tables import cell_rows, comparison_rows, gain_table, rows, write_csv, write_parquet
from visurf.tasks import TASKS

Say = Callable[[str], None]


@dataclass
class Progress:
    """A study being run.

    Attributes:
        study: Its file.
        base: Nested settings of every run.
        out: Its folder.
        workers: Where jobs run.
        say: Told what happens.
        tuned: Tuning jobs.
        scores: Their scores, in order.
        pilots: Short runs for costs.
        runs: The runs that give results.
        starts: The models they begin with.
    """

    study: Study
    base: Mapping[str, Any]
    out: Path
    workers: Workers
    say: Say
    tuned: Sequence[Job] = ()
    scores: Sequence[float | None] = ()
    pilots: Sequence[Job] = ()
    runs: Sequence[Job] = ()
    starts: Sequence[Job] = ()
    steps: dict[str, dict[str, int]] = field(default_factory=dict)

    def work(self, jobs: Sequence[Job], what: str) -> None:
        """Run jobs, saying how far they are."""
        ended = 0

        def report(job: Job, event: str) -> None:
            nonlocal ended
            ended += event != "started"
            self.say(f"{what} {ended}/{len(jobs)}: {job.name} {event}")

        run_all(jobs, self.out, self.workers, report)


def plan(path: Path) -> tuple[Study, dict[str, Any], list[Job], list[Job], list[Job]]:
    """A study file's jobs before anything is measured: the study, its base, tuning, pilots, and runs with their own steps.

    Raises:
        ConfigError: The file, or the settings of any run, cannot work.
    """
    study = read_study(path)
    base = base_values(study, path.parent)
    tuned = tuning_jobs(study, base)
    untuned = {tuple(job.axes.get(a, "") for a in tuned_axes(study)): job.chosen for job in reversed(tuned)}
    runs = run_jobs(study, base, untuned, {})
    pilots = {job.name: job for m in _measured(study) if not tuned for job in pilot_jobs(study, base, m)}
    for job in (*tuned, *pilots.values(), *runs):
        try:
            stages(job.config)
            look_up(job.config.task.name, TASKS, "task")
        except ValueError as error:
            raise ConfigError(f"{job.folder}: {error}") from error
    return study, base, tuned, list(pilots.values()), runs


def run_study(path: Path, out: Path, workers: Workers, say: Say, tune_only: bool = False) -> dict[str, Any] | None:
    """Run a study to its end, or go on where it stood; returns what results.json holds.

    Args:
        path: The study file.
        out: Folder of runs and results.
        workers: How many jobs at a time, where.
        say: Told what happens.
        tune_only: Stop before any test is opened; returns None.

    Raises:
        ConfigError: The file cannot work, or the folder holds runs with other settings.
    """
    study, base, tuned, pilots, _ = plan(path)
    out.mkdir(parents=True, exist_ok=True)
    progress = Progress(study, base, out, workers, say, tuned=tuned, pilots=pilots)
    chosen = _tune(progress)
    if tune_only:
        return None
    progress.work(pilots, "pilot")
    _match(progress, chosen)
    progress.runs = run_jobs(study, base, chosen, progress.steps)
    progress.starts = start_jobs(study, progress.runs)
    progress.work([*progress.starts, *progress.runs], "run")
    results = results_of(progress, path, chosen)
    write_results(results, out, say)
    return results


def _tune(progress: Progress) -> dict[tuple[str, ...], dict[str, Any] | None]:
    if progress.study.tuning is None:
        return {}
    progress.work(progress.tuned, "tuning")
    progress.scores = [score(job, progress.out, progress.study.tuning.metric) for job in progress.tuned]
    chosen = choose(progress.study, list(zip(progress.tuned, progress.scores, strict=True)))
    lines = [(dict(zip(tuned_axes(progress.study), key, strict=True)), best) for key, best in chosen.items()]
    (progress.out / "tuning.json").write_text(json.dumps([{"axes": axes, "chosen": best} for axes, best in lines], indent=1))
    for axes, best in lines:
        progress.say(f"chosen for {', '.join(axes.values()) or 'all'}: {best}")
    return chosen


def _measured(study: Study) -> list[Matching]:
    return [m for m in study.matching if m.reference and m.unit in ("tokens", "flops", "seconds")]


def _match(progress: Progress, chosen: Mapping[tuple[str, ...], Mapping[str, Any] | None]) -> None:
    """Set the steps of every matching from measured costs."""
    jobs = run_jobs(progress.study, progress.base, chosen, {})
    per_step: dict[str, dict[str, float]] = {}
    for job in jobs:
        source = _cost_source(progress, job)
        if source is not None:
            found = cost_per_step(read_metrics(progress.out / source.folder / "train" / "metrics.jsonl"), source.config)
            per_step[unseeded(job.axes)] = found
    for matching in progress.study.matching:
        steps, missing = matched_steps(progress.study, matching, jobs, per_step)
        progress.steps[matching.name] = steps
        for name, why in missing.items():
            progress.say(f"{name} keeps its steps: {why}")
    # Costs of a shared machine change from day to day; a study that goes on keeps the steps it began with.
    path = progress.out / "steps.json"
    if path.exists():
        progress.steps = json.loads(path.read_text())
    elif all(is_trained(progress.out / job.folder) for job in progress.pilots):
        path.write_text(json.dumps(progress.steps, indent=1))


def _cost_source(progress: Progress, job: Job) -> Job | None:
    """The tuning run that a job's settings were chosen by, or its pilot."""
    for one in progress.pilots:
        if one.axes.items() <= job.axes.items():
            return one
    own = tuned_axes(progress.study)
    for one in progress.tuned:
        if one.chosen == job.chosen and all(one.axes.get(axis) == job.axes[axis] for axis in own if axis in one.axes):
            return one
    return None


def results_of(progress: Progress, path: Path, chosen: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """What results.json holds: every run of a study as far as it has come."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in ("visurf", "torch", "transformers"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    study = {**to_dict(progress.study), "matching": [{**asdict(m), "name": m.name} for m in progress.study.matching]}
    tuned = [collect(job, progress.out, ()) | {"score": s} for job, s in zip(progress.tuned, progress.scores, strict=True)]
    for run in tuned:
        # Per-prompt measures of the validation set serve no comparison.
        run["tests"] = {name: {**test, "columns": {}} for name, test in run.get("tests", {}).items()}
        run.pop("curves", None)
    jobs = (*progress.pilots, *progress.starts, *progress.runs)
    others = [collect(job, progress.out, progress.study.metrics, progress.study.resamples) for job in jobs]
    began = {judged_by(job.config, progress.study): job.name for job in progress.starts}
    for job, run in zip(jobs, others, strict=True):
        if job.role == "run" and not job.error and (start := began.get(judged_by(job.config, progress.study))):
            run["start"] = start
    return {
        "name": path.stem,
        "command": f"visurf study {path} --out {progress.out}",
        "versions": versions,
        "study": study,
        "choices": [
            {"axes": dict(zip(tuned_axes(progress.study), key, strict=True)), "chosen": best} for key, best in chosen.items()
        ],
        "runs": [*tuned, *others],
    }


def write_results(results: Mapping[str, Any], out: Path, say: Say) -> None:
    """results.json, tables, page and plots; from results alone, without run folders."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    found = comparisons(results)
    tables = {
        "table": rows(results),
        "cells": cell_rows(results),
        "comparisons": comparison_rows(found),
        "gains": gain_table(results),
    }
    tables = {name: table for name, table in tables.items() if table}
    for name, table in tables.items():
        write_csv(out / f"{name}.csv", table)
    try:
        for name, table in tables.items():
            write_parquet(out / f"{name}.parquet", table)
    except ImportError:
        say("no parquet tables: pip install 'visurf[datasets]' brings pyarrow")
    try:
        from visurf.studies.plots import draw

        draw(results, out / "plots")
    except ImportError:
        say("no plots: pip install 'visurf[report]' brings matplotlib")
    (out / "page.md").write_text(write_page(results, found))
