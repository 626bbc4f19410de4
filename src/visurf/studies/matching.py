"""What runs cost by their settings, how many steps make them cost the same, and what a table may then be called. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from visurf.config import Config, ConfigError, to_dict
from visurf.studies.costs import updates
from visurf.studies.grid import Job, combination_name, own_steps, unseeded
from visurf.studies.plan import AsSet, Matching, Study
from visurf.whole_files import write_whole

# What the cost of a step does not depend on. Evaluations are not counted in it.
_FREE_OF_COST = ("steps", "seed", "out", "threads", "trackers", "process_timeout", "evaluation", "checkpoint")


def settings_of_a_step(config: Config) -> dict[str, Any]:
    """All settings that the cost of a step may depend on; where two runs have the same, one tells what the other costs."""
    values = {name: value for name, value in to_dict(config).items() if name not in _FREE_OF_COST}
    return {**values, "data": {name: value for name, value in values["data"].items() if name != "validation"}}


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
        Name of a combination without its seed -> steps, and the same -> why none could be found. A combination whose reference is
        left out of the study is in neither.

    Raises:
        ConfigError: A run has explicit stages, whose steps cannot be scaled.
    """
    found: dict[str, int] = {}
    missing: dict[str, str] = {}
    if not matching.reference:
        return found, missing
    wanted = {axis: str(v) for axis, v in matching.reference.items()}
    kinds: dict[str, Job] = {}
    for job in jobs:
        kinds.setdefault(unseeded(job.axes), job)
    for name, job in kinds.items():
        reference = kinds.get(unseeded({**job.axes, **wanted}))
        if reference is None:
            continue
        if reference is job:
            found[name] = own_steps(job.config)
            continue
        if job.config.stages and matching.measured:
            raise _scaled(job, matching)
        costs = [_cost(one, matching, per_step) for one in (reference, job)]
        if not costs[0] or not costs[1]:
            missing[name] = f"{matching.name}: no measured cost of {'the reference' if not costs[0] else 'a step'}"
            continue
        steps = own_steps(reference.config) * costs[0] / costs[1]
        found[name] = max(matching.round, round(steps / matching.round) * matching.round)
        if job.config.stages and found[name] != own_steps(job.config):
            raise _scaled(job, matching)
    return found, missing


def _scaled(job: Job, matching: Matching) -> ConfigError:
    return ConfigError(
        f"{job.folder}: matching on {matching.unit} sets steps, but explicit stages bring their own; leave the matching out, or "
        "name a paradigm of several stages, which shares its steps"
    )


def _cost(job: Job, matching: Matching, per_step: Mapping[str, Mapping[str, float]]) -> float | None:
    if matching.unit == "samples":
        return float(job.config.prompts_per_step)
    if matching.unit == "updates":
        return updates(job.config) / own_steps(job.config)
    return per_step.get(unseeded(job.axes), {}).get(matching.unit)


def keep_steps(path: Path, study: Study, jobs: Sequence[Job], found: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """Steps from measured costs, those that a file holds first; writes them all to the file.

    Costs of a shared machine change from day to day: a study that goes on keeps the steps it began with, also for seeds and
    combinations that come later.

    Args:
        path: The file: name of a matching -> name of a combination without its seed -> steps; and how each was matched.
        study: The study.
        jobs: The runs with their own steps.
        found: Those computed now, of all matchings.

    Returns:
        As `found`, with what the file holds.

    Raises:
        ConfigError: The file's steps were matched in another way, or to a reference with other steps.
    """
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    ways = dict(stored.pop("matching", {}))
    merged = {name: dict(steps) for name, steps in found.items()}
    for matching in (m for m in study.matching if m.measured):
        way = {"reference": {axis: str(v) for axis, v in matching.reference.items()}, "round": matching.round}
        if ways.setdefault(matching.name, way) != way:
            raise _outdated(path, f"steps of {matching.name} by {ways[matching.name]}", f"{way}")
        before = stored.get(matching.name, {})
        for job in reversed(jobs):
            # Files of before named combinations with their seed.
            for name in (combination_name(job.axes), unseeded(job.axes)):
                if name in before:
                    if _is_reference(matching, job) and before[name] != own_steps(job.config):
                        held = f"steps of {matching.name} to a reference of {before[name]} ({name})"
                        raise _outdated(path, held, f"{own_steps(job.config)}")
                    merged[matching.name][unseeded(job.axes)] = before[name]
        stored[matching.name] = {**before, **merged[matching.name]}
    if ways:
        write_whole(path, json.dumps({**stored, "matching": ways}, indent=1))
    return merged


def _is_reference(matching: Matching, job: Job) -> bool:
    wanted = {axis: str(v) for axis, v in matching.reference.items()}
    return wanted.items() <= job.axes.items()


def _outdated(path: Path, held: str, asked: str) -> ConfigError:
    return ConfigError(f"{path} holds {held}, the study asks for {asked}; choose another --out, or delete the file")


def named(study: Study, jobs: Sequence[Job]) -> Study:
    """The study with its matchings called by what is true of them.

    Without a reference runs have the steps that their settings say: they are equal in samples or updates if those are.

    Args:
        study: The study.
        jobs: The runs with their own steps.
    """
    found: dict[str, Matching] = {}
    for matching in study.matching:
        plain = Matching(matching.unit, matching.reference, matching.round, matching.pilot)
        one = plain if plain.reference or _equal(plain, jobs) else AsSet(plain.unit, {}, plain.round, plain.pilot)
        found.setdefault(one.name, one)
    return replace(study, matching=tuple(found.values()))


def _equal(matching: Matching, jobs: Sequence[Job]) -> bool:
    if matching.unit not in ("samples", "updates"):
        return False
    configs = [job.config for job in jobs]
    return len({updates(c) if matching.unit == "updates" else own_steps(c) * c.prompts_per_step for c in configs}) <= 1
