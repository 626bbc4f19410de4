"""From a study file to jobs: what is trained, with which settings, and measured on what. No torch."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from visurf.config import Config, ConfigError, merge, nested, to_dict
from visurf.studies.plan import SEED, Matching, Questions, Study, Tuning, configuration

Role = Literal["tuning", "pilot", "start", "run"]
FOLDERS: dict[Role, str] = {"tuning": "tuning", "pilot": "pilots", "start": "starts", "run": "runs"}

# Settings of a reward that say what a policy is led to, not how its answers are judged.
_LEADING = ("functions", "weights", "variant", "time_limit", "on_error")


@dataclass(frozen=True)
class Job:
    """One run of a study.

    Attributes:
        role: `tuning` decides settings, `pilot` measures a cost per step, `start` measures a model as it was, `run` is a result.
        name: Of its folder.
        axes: Axis -> name of its value.
        values: Its whole nested settings.
        tests: What the model is measured on afterwards.
        chosen: Dotted settings that tuning chose, or tries.
        matching: Names of the matchings that it belongs to.
        error: Why it cannot be run; empty for a job that can.
        probe: Sampled answers of every test question, see `visurf.probing`; 0 for none.
    """

    role: Role
    name: str
    axes: Mapping[str, str]
    values: Mapping[str, Any]
    tests: Mapping[str, Questions] = field(default_factory=dict)
    chosen: Mapping[str, Any] = field(default_factory=dict)
    matching: tuple[str, ...] = ()
    error: str = ""
    probe: int = 0

    @property
    def folder(self) -> str:
        """Relative to the study's folder."""
        return f"{FOLDERS[self.role]}/{self.name}"

    @property
    def config(self) -> Config:
        """Its settings, checked.

        Raises:
            ConfigError: They cannot work.
        """
        return configuration(self.values, self.folder)


def combinations(study: Study) -> list[dict[str, str]]:
    """All combinations of the axes' values that are not left out, the last axis running fastest."""
    names = {axis: study.names(axis) for axis in study.axes}
    found = (dict(zip(names, values, strict=True)) for values in itertools.product(*names.values()))
    left_out = [{axis: str(v) for axis, v in entry.items()} for entry in study.leave_out]
    return [one for one in found if not any(entry.items() <= one.items() for entry in left_out)]


def values_of(study: Study, base: Mapping[str, Any], axes: Mapping[str, str], *more: Mapping[str, Any]) -> dict[str, Any]:
    """A run's nested settings: the base, the axes in their order, then more dotted ones."""
    values = dict(base)
    for axis, name in axes.items():
        values = merge(values, study.of_axis(axis, name))
    for settings in more:
        values = merge(values, nested(settings))
    return values


def tuned_axes(study: Study) -> list[str]:
    """The axes whose every combination of values gets its own choice."""
    each = study.tuning.each if study.tuning is not None else ()
    return [axis for axis in study.axes if (axis in each if each else axis != SEED)]


def tuning_jobs(study: Study, base: Mapping[str, Any]) -> list[Job]:
    """Every choice of the grid for every combination of the tuned axes."""
    if study.tuning is None:
        return []
    tuning, found = study.tuning, []
    asked = {"validation": Questions(tuning.validation)}
    for axes in _tuned_combinations(study, tuning):
        for values in itertools.product(*tuning.grid.values()):
            tried = dict(zip(tuning.grid, values, strict=True))
            settings = values_of(study, base, axes, tuning.settings, tried, {SEED: tuning.seed, "data.validation": ""})
            name = _name([*(v for a, v in axes.items() if a != SEED), *(f"{k}={v}" for k, v in tried.items())])
            shown = {axis: v for axis, v in axes.items() if axis != SEED}
            found.append(Job("tuning", name, shown, settings, asked, tried))
    return found


def _tuned_combinations(study: Study, tuning: Tuning) -> list[dict[str, str]]:
    """One combination of all axes for each of the tuned ones: the others as `at` says, else the first that is run at all."""
    own, found = tuned_axes(study), dict[tuple[str, ...], dict[str, str]]()
    at = {axis: str(v) for axis, v in tuning.at.items() if axis not in own}
    for preferred in (True, False):
        for one in combinations(study):
            if not preferred or at.items() <= one.items():
                found.setdefault(tuple(one[axis] for axis in own), one)
    return list(found.values())


def choose(study: Study, scored: Sequence[tuple[Job, float | None]]) -> dict[tuple[str, ...], dict[str, Any] | None]:
    """For every combination of the tuned axes the settings with the best score; None where no run has one.

    Args:
        study: Whether the highest or the lowest wins.
        scored: Tuning jobs with their score on the validation set, None for those that failed.
    """
    assert study.tuning is not None
    sign = 1 if study.tuning.best == "highest" else -1
    found: dict[tuple[str, ...], tuple[float, Mapping[str, Any]] | None] = {}
    for job, score in scored:
        key = tuple(job.axes.get(axis, "") for axis in tuned_axes(study))
        best = found.setdefault(key, None)
        if score is not None and score == score and (best is None or sign * score > sign * best[0]):
            found[key] = (score, job.chosen)
    return {key: None if best is None else dict(best[1]) for key, best in found.items()}


def run_jobs(
    study: Study,
    base: Mapping[str, Any],
    chosen: Mapping[tuple[str, ...], Mapping[str, Any] | None],
    steps: Mapping[str, Mapping[str, int]],
) -> list[Job]:
    """The runs that give results; one that serves several matchings is one run.

    Args:
        study: The study.
        base: Settings of every run.
        chosen: From `choose`; empty without tuning.
        steps: Matching -> name of a run's combination (`combination_name`) -> steps; what is not in it keeps its own.
    """
    found: dict[str, Job] = {}
    for matching in study.matching:
        for axes in combinations(study):
            tuned = chosen.get(tuple(axes[axis] for axis in tuned_axes(study)), None if chosen else {})
            values = values_of(study, base, axes, tuned or {}, {"data.validation": ""} if not _watches(base) else {})
            own = configuration(values, combination_name(axes)).steps
            wanted = steps.get(matching.name, {}).get(combination_name(axes), own)
            name = combination_name(axes) if wanted == own else f"{combination_name(axes)}-steps{wanted}"
            before = found.get(name)
            if before is not None:
                found[name] = replace(before, matching=(*before.matching, matching.name))
                continue
            values = merge(values, {"steps": wanted})
            error = "" if tuned is not None else "no tuning run of this combination succeeded"
            found[name] = Job("run", name, axes, values, study.questions, tuned or {}, (matching.name,), error)
    return list(found.values())


def _watches(base: Mapping[str, Any]) -> bool:
    """Whether runs evaluate while they train."""
    return bool(dict(base.get("evaluation") or {}).get("every"))


def pilot_jobs(study: Study, base: Mapping[str, Any], matching: Matching) -> list[Job]:
    """Short runs, one for every combination of all axes but the seed, on which a cost per step is measured."""
    found: dict[str, Job] = {}
    for axes in combinations(study):
        own = {axis: v for axis, v in axes.items() if axis != SEED}
        settings = {"steps": matching.pilot, "evaluation.every": 0, "data.validation": ""}
        values = values_of(study, base, axes, settings)
        found.setdefault(_name(own.values()), Job("pilot", _name(own.values()), own, values))
    return list(found.values())


def start_jobs(study: Study, runs: Iterable[Job]) -> list[Job]:
    """The models that runs start from, each measured once under the settings in which answers are judged."""
    groups: dict[str, list[Job]] = {}
    for job in runs:
        if not job.error:
            groups.setdefault(judged_by(job.config, study), []).append(job)
    found: list[Job] = []
    for members in groups.values():
        first = members[0]
        # An axis belongs to the model as it was if it tells the models apart.
        shared = {
            axis: value
            for axis, value in first.axes.items()
            if axis != SEED and all(j.axes[axis] == value for j in members) and len(groups) > 1
        }
        # A model as it was is not led by rewards: its metrics do not need those of a run.
        values = {**first.values, "reward": {k: v for k, v in _reward(first.values).items() if k not in _LEADING}}
        name, taken = _name(shared.values()) or "start", {job.name for job in found}
        # Groups may share no axis value that tells them apart.
        names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        name = next(one for one in names if one not in taken)
        found.append(Job("start", name, shared, values, first.tests, probe=study.probe))
    return found


def _reward(values: Mapping[str, Any]) -> Mapping[str, Any]:
    return dict(values.get("reward") or {})


def judged_by(config: Config, study: Study) -> str:
    """What a model and the settings in which it is judged are: equal for runs that have one start, and for that start."""
    values = to_dict(config)
    values["model"] = {k: v for k, v in values["model"].items() if k not in ("lora", "gradient_checkpointing", "freeze_vision")}
    values["reward"] = {k: v for k, v in values["reward"].items() if k not in _LEADING}
    kept = {name: values[name] for name in ("model", "task", "reward")} | {"max_tokens": config.rollout.max_tokens}
    return repr((kept, config.data.root, sorted(study.tests)))


def combination_name(axes: Mapping[str, str]) -> str:
    """What the folder of a combination is called."""
    return _name(f"{SEED}{v}" if axis == SEED else v for axis, v in axes.items())


def _name(parts: Iterable[str]) -> str:
    """Parts as the name of a folder; what a file system may not like becomes ``_`` and a digest tells apart what it was."""
    plain = "-".join(parts)
    safe = re.sub(r"[^A-Za-z0-9_.=+-]", "_", plain).strip(".")[:150]
    return safe if safe == plain else f"{safe}-{hashlib.blake2b(plain.encode(), digest_size=3).hexdigest()}"


def matched_steps(
    study: Study, matching: Matching, jobs: Sequence[Job], per_step: Mapping[str, Mapping[str, float]]
) -> tuple[dict[str, int], dict[str, str]]:
    """The steps with which every combination costs what its reference does.

    Args:
        study: The study.
        matching: With its unit, reference and rounding.
        jobs: The runs with their own steps.
        per_step: Name of a combination without its seed -> unit -> cost of a step.

    Returns:
        Name of a run's combination -> steps, and the same -> why none could be found.

    Raises:
        ConfigError: A run has explicit stages, whose steps cannot be scaled.
    """
    found: dict[str, int] = {}
    missing: dict[str, str] = {}
    if not matching.reference:
        return found, missing
    wanted = {axis: str(v) for axis, v in matching.reference.items()}
    by_axes = {tuple(job.axes.values()): job for job in jobs}
    for job in jobs:
        reference = by_axes.get(tuple({**job.axes, **wanted}.values()))
        costs = [None if one is None else _cost(one, matching, per_step) for one in (reference, job)]
        if reference is None or costs[0] is None or not costs[1]:
            missing[combination_name(job.axes)] = (
                f"{matching.name}: no measured cost of {'the reference' if not costs[0] else 'a step'}"
            )
            continue
        steps = reference.config.steps * costs[0] / costs[1]
        found[combination_name(job.axes)] = max(matching.round, round(steps / matching.round) * matching.round)
        if job is reference:
            found[combination_name(job.axes)] = job.config.steps
        elif job.config.stages and found[combination_name(job.axes)] != job.config.steps:
            raise ConfigError(f"{job.name}: matching on {matching.unit} sets steps, but explicit stages bring their own")
    return found, missing


def _cost(job: Job, matching: Matching, per_step: Mapping[str, Mapping[str, float]]) -> float | None:
    if matching.unit == "samples":
        return float(job.config.prompts_per_step)
    if matching.unit == "updates":
        return float(job.config.inner_steps)
    return per_step.get(unseeded(job.axes), {}).get(matching.unit)


def unseeded(axes: Mapping[str, str]) -> str:
    """The name of a combination without its seed."""
    return _name(v for axis, v in axes.items() if axis != SEED)
