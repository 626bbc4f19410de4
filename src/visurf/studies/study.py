"""``visurf study``: tuning, matching, runs, tests, tables. No torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from visurf.alarms import read_metrics
from visurf.config import ConfigError, to_dict
from visurf.locking import locked
from visurf.studies.analysis import comparisons
from visurf.studies.checks import check_jobs
from visurf.studies.collecting import collect, score
from visurf.studies.costs import cost_per_step
from visurf.studies.grid import (
    Job,
    choose,
    judged_by,
    pilot_jobs,
    run_jobs,
    start_jobs,
    tuned_axes,
    tuning_jobs,
    unseeded,
)
from visurf.studies.matching import keep_steps, matched_steps, named, settings_of_a_step
from visurf.studies.page import write_page
from visurf.studies.plan import Study, base_values, read_study
from visurf.studies.running import Workers, is_trained, run_all
from visurf.studies.tables import cell_rows, comparison_rows, gain_table, rows, write_csv, write_parquet

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
        steps: Matching -> name of a combination without its seed -> steps.
        missing: Likewise, why there are no steps.
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
    missing: dict[str, dict[str, str]] = field(default_factory=dict)

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
    runs, pilots = run_jobs(study, base, untuned, {}), _pilots(study, base, untuned, tuned)
    check_jobs(study, [*tuned, *pilots, *runs])
    study = named(study, runs)
    for matching in study.matching:
        # Refuses explicit stages; costs are not known yet.
        matched_steps(study, matching, runs, {})
    return study, base, tuned, pilots, run_jobs(study, base, untuned, {})


def _pilots(
    study: Study, base: Mapping[str, Any], chosen: Mapping[tuple[str, ...], Mapping[str, Any] | None], tuned: Sequence[Job]
) -> list[Job]:
    """A pilot for every combination whose cost no tuning run tells."""
    found = {job.name: job for m in study.matching if m.measured for job in pilot_jobs(study, base, m, chosen)}
    known = [settings_of_a_step(job.config) for job in tuned]
    needed = [job for job in found.values() if settings_of_a_step(job.config) not in known]
    for job in needed:
        if job.config.stages:
            raise ConfigError(
                f"{job.folder}: a pilot trains {job.config.steps} steps to measure what they cost, but explicit stages bring their "
                "own; match on samples or updates"
            )
    return needed


def run_study(path: Path, out: Path, workers: Workers, say: Say, tune_only: bool = False) -> dict[str, Any] | None:
    """Run a study to its end, or go on where it stood; returns what results.json holds.

    Args:
        path: The study file.
        out: Folder of runs and results.
        workers: How many jobs at a time, where.
        say: Told what happens.
        tune_only: Stop before any test is opened; returns None.

    Raises:
        ConfigError: The file cannot work, the folder holds runs with other settings, or another study is at work in it.
    """
    study, base, tuned, _, _ = plan(path)
    with locked(out, "a study, or a training that it left behind,", "--out") as lock:
        progress = Progress(study, base, out, replace(workers, lock=lock), say, tuned=tuned)
        chosen = _tune(progress)
        if tune_only:
            return None
        progress.pilots = _pilots(study, base, chosen, tuned)
        progress.work(progress.pilots, "pilot")
        _match(progress, chosen)
        progress.runs = run_jobs(progress.study, base, chosen, progress.steps, progress.missing)
        progress.starts = start_jobs(progress.study, progress.runs)
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


def _match(progress: Progress, chosen: Mapping[tuple[str, ...], Mapping[str, Any] | None]) -> None:
    """Set the steps of every matching from measured costs."""
    jobs = run_jobs(progress.study, progress.base, chosen, {})
    # What is tuned may change what is equal.
    study = progress.study = named(progress.study, jobs)
    per_step: dict[str, dict[str, float]] = {}
    ended = [one for one in (*progress.pilots, *progress.tuned) if is_trained(progress.out / one.folder)]
    told = [(settings_of_a_step(one.config), one) for one in ended]
    for job in jobs if any(m.measured for m in study.matching) else ():
        own = settings_of_a_step(job.config)
        source = next((one for settings, one in told if settings == own), None)
        if source is not None and not job.error:
            found = cost_per_step(read_metrics(progress.out / source.folder / "train" / "metrics.jsonl"), source.config)
            per_step[unseeded(job.axes)] = found
    both = {m.name: matched_steps(study, m, jobs, per_step) for m in study.matching if m.reference}
    progress.steps = keep_steps(progress.out / "steps.json", study, jobs, {name: steps for name, (steps, _) in both.items()})
    for name, (_, missing) in both.items():
        progress.missing[name] = {one: why for one, why in missing.items() if one not in progress.steps[name]}
        for one in dict.fromkeys(unseeded(job.axes) for job in jobs):
            if one not in progress.steps[name]:
                why = progress.missing[name].get(one, f"{name}: its reference is left out of the study")
                progress.say(f"{one} is not matched: {why}")


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
        say("no parquet tables: pip install -e '.[datasets]' in a clone of visurf brings pyarrow")
    try:
        from visurf.studies.plots import draw

        draw(results, out / "plots")
    except ImportError:
        say("no plots: pip install -e '.[report]' in a clone of visurf brings matplotlib")
    (out / "page.md").write_text(write_page(results, found))
