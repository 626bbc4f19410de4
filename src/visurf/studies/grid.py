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

NOT_TUNED = "no tuning run of this combination succeeded"

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
    def stage(self) -> str:
        """Where a job that cannot be run was given up."""
        return ("tuning" if self.error == NOT_TUNED else "matching") if self.error else ""

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
    _tell_apart(found)
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
    missing: Mapping[str, Mapping[str, str]] | None = None,
) -> list[Job]:
    """The runs that give results; one that serves several matchings is one run.

    A matching that has a reference holds only runs whose steps are known, once any are: the others are in it as jobs that cannot
    be run, or not at all where their reference is left out.

    Args:
        study: The study.
        base: Settings of every run.
        chosen: From `choose`; empty without tuning.
        steps: Matching -> name of a combination without its seed (`unseeded`) -> steps. Runs of a matching that is not in it keep
            their own.
        missing: Likewise, why there are no steps.

    Raises:
        ConfigError: Two combinations would have the same folder.
    """
    found: dict[str, Job] = {}
    _check_names(study)
    for matching in study.matching:
        for axes in combinations(study):
            tuned = chosen.get(tuple(axes[axis] for axis in tuned_axes(study)), None if chosen else {})
            values = values_of(study, base, axes, tuned or {}, {"data.validation": ""} if not _watches(base) else {})
            name = combination_name(axes)
            config = configuration(values, name)
            own = wanted = own_steps(config)
            error = "" if tuned is not None else NOT_TUNED
            if matching.reference and matching.name in steps:
                known, why = steps[matching.name], (missing or {}).get(matching.name, {}).get(unseeded(axes), "")
                if not why and unseeded(axes) not in known:
                    continue
                wanted = known.get(unseeded(axes), own)
                if why and not error:
                    name, error = f"{name}-{matching.name.replace(' ', '-')}", why
            name = name if wanted == own else f"{name}-steps{wanted}"
            before = found.get(name)
            if before is not None:
                _tell_apart([before, replace(before, axes=axes)])
                found[name] = replace(before, matching=(*before.matching, matching.name))
                continue
            # Explicit stages bring their own steps, beside which `steps` says nothing.
            values = merge(values, {"steps": config.steps if wanted == own else wanted})
            found[name] = Job("run", name, axes, values, study.questions, tuned or {}, (matching.name,), error)
    return list(found.values())


def _watches(base: Mapping[str, Any]) -> bool:
    """Whether runs evaluate while they train."""
    return bool(dict(base.get("evaluation") or {}).get("every"))


def pilot_jobs(
    study: Study, base: Mapping[str, Any], matching: Matching, chosen: Mapping[tuple[str, ...], Mapping[str, Any] | None]
) -> list[Job]:
    """Short runs, one for every combination of all axes but the seed, on which a cost per step is measured.

    Args:
        study: The study.
        base: Settings of every run.
        matching: With the steps of a pilot.
        chosen: From `choose`; empty without tuning. A combination without a choice has no pilot.
    """
    found: dict[str, Job] = {}
    for axes in combinations(study):
        own = {axis: v for axis, v in axes.items() if axis != SEED}
        tuned = chosen.get(tuple(axes[axis] for axis in tuned_axes(study)), None if chosen else {})
        if tuned is None:
            continue
        settings = {"steps": matching.pilot, "evaluation.every": 0, "data.validation": ""}
        values = values_of(study, base, axes, tuned, settings)
        found.setdefault(unseeded(axes), Job("pilot", unseeded(axes), own, values, chosen=tuned))
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


def own_steps(config: Config) -> int:
    """The steps of a run: those of its explicit stages, where it has any, else its own."""
    return sum(stage.steps for stage in config.stages) or config.steps


def _check_names(study: Study) -> None:
    for name_of in (combination_name, unseeded):
        seen: dict[str, Job] = {}
        for axes in combinations(study):
            told = {a: v for a, v in axes.items() if a != SEED or name_of is combination_name}
            one = Job("run", name_of(axes), told, {})
            _tell_apart([seen.setdefault(one.name, one), one])


def _tell_apart(jobs: Iterable[Job]) -> None:
    """Refuse different jobs that would have the same folder."""
    seen: dict[str, Job] = {}
    for job in jobs:
        before = seen.setdefault(job.folder, job)
        if (before.axes, before.chosen) != (job.axes, job.chosen):
            both = [", ".join(f"{axis}: {v}" for axis, v in {**one.axes, **one.chosen}.items()) for one in (before, job)]
            raise ConfigError(f"axes: {both[0]} and {both[1]} would both be called {job.name!r}; rename one of these values")


def combination_name(axes: Mapping[str, str]) -> str:
    """What the folder of a combination is called."""
    return _name(f"{SEED}{v}" if axis == SEED else v for axis, v in axes.items())


def _name(parts: Iterable[str]) -> str:
    """Parts as the name of a folder; what a file system may not like becomes ``_`` and a digest tells apart what it was."""
    plain = "-".join(parts)
    safe = re.sub(r"[^A-Za-z0-9_.=+-]", "_", plain).strip(".")[:150]
    return safe if safe == plain else f"{safe}-{hashlib.blake2b(plain.encode(), digest_size=3).hexdigest()}"


def unseeded(axes: Mapping[str, str]) -> str:
    """The name of a combination without its seed."""
    return _name(v for axis, v in axes.items() if axis != SEED)
