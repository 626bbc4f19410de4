"""What a study file says; docs/studies.md is its reference. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from visurf.config import Config, ConfigError, build, load_config, merge, nested, read_recipe
from visurf.naming import suggestion
from visurf.plain_yaml import read_yaml

SEED = "seed"


@dataclass(frozen=True)
class Questions:
    """A set of questions, and how they are asked.

    Attributes:
        data: What `data.train` could name: a JSONL file, ``world:...`` or ``benchmark:...``.
        settings: Dotted settings that hold here only, such as ``{task.name: counting, rollout.max_tokens: 8}``.
    """

    data: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Tuning:
    """How settings are chosen, with the same budget everywhere, before any test is opened.

    Attributes:
        grid: Dotted setting -> values; all combinations are run.
        validation: The questions that decide; a source, as in `Questions.data`.
        metric: Of the validation set; empty for the task's headline metric.
        best: Whether its highest or its lowest value wins; of equal ones the first in the grid.
        seed: Of the tuning runs.
        each: Axes whose every value gets its own choice; empty for all but the seed.
        at: Axis -> value of the tuning runs for axes that are not in `each`; the first value otherwise.
        settings: Dotted settings of the tuning runs only, such as fewer steps.
    """

    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    validation: str = ""
    metric: str = ""
    best: Literal["highest", "lowest"] = "highest"
    seed: int = 100
    each: tuple[str, ...] = ()
    at: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Matching:
    """What is held equal between runs; every other cost is reported.

    Attributes:
        unit: `samples` (prompts), `updates` (optimiser steps), `tokens` (trained and sampled), `flops` or `seconds`.
        reference: Axis -> value, such as ``{paradigm: visurf}``: the steps of every other run are set so that it costs what the
            run with this value, and else the same values, costs. Empty leaves the steps as the settings have them; where they are
            not equal in the unit, tables say "as set".
        round: Steps become a multiple of this, at least one.
        pilot: Steps of the run on which a cost per step is measured where no tuning run had the same settings.
    """

    unit: Literal["samples", "updates", "tokens", "flops", "seconds"] = "updates"
    reference: Mapping[str, Any] = field(default_factory=dict)
    round: int = 1
    pilot: int = 20

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"equal {self.unit}"

    @property
    def measured(self) -> bool:
        """Whether its steps come from measured costs."""
        return bool(self.reference) and self.unit in ("tokens", "flops", "seconds")


@dataclass(frozen=True)
class AsSet(Matching):
    """A matching without a reference whose runs are not equal in its unit: their steps are those of their settings."""

    @property
    def name(self) -> str:
        """What tables call it."""
        return "as set"


@dataclass(frozen=True)
class Compare:
    """Which runs are tested against each other, seed by seed and prompt by prompt.

    Attributes:
        axis: Values of this axis, everything else equal.
        against: Only pairs with this value; empty for all pairs.
    """

    axis: str = "paradigm"
    against: str = ""


@dataclass(frozen=True)
class Study:
    """A study file.

    Attributes:
        about: The question, in words.
        base: Recipe that every run begins with: a path relative to the study file, or the name of a shipped one.
        settings: Dotted settings over it, for every run.
        axes: What is varied; runs are all combinations. A list holds values of the setting that the axis is called after; keys and
            values are names, each with its dotted settings, or with one value of that setting.
        leave_out: Combinations that are not run, each as axis -> name.
        tuning: How settings are chosen; None for none.
        tests: Name -> held-out questions, a source or a `Questions`. Opened only after tuning.
        side: Name -> side questions, as in `evaluation.side`; asked before, during (every `evaluation.every` steps) and after
            training.
        matching: What is held equal; one table for each.
        metrics: What tables show and tests compare; the headline metric of the test's task where it is empty, or the test has none.
        compare: Which runs are tested against each other.
        probe: Rollouts of each starting checkpoint on every question of every test, for gains by difficulty; 0 for none.
        resamples: Of the prompts, for metrics that are no means over them (ROC-AUC, AP).
    """

    about: str = ""
    base: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    axes: Mapping[str, Any] = field(default_factory=dict)
    leave_out: tuple[Mapping[str, Any], ...] = ()
    tuning: Tuning | None = None
    tests: Mapping[str, Any] = field(default_factory=dict)
    side: Mapping[str, Any] = field(default_factory=dict)
    matching: tuple[Matching, ...] = (Matching(),)
    metrics: tuple[str, ...] = ()
    compare: Compare = Compare()
    probe: int = 0
    resamples: int = 1000

    def __post_init__(self) -> None:
        """Refuse what cannot be run.

        Raises:
            ConfigError: Names the key, what it must be and what came.
        """
        self._check_names()
        if len({m.name for m in self.matching}) < len(self.matching) or not self.matching:
            raise ConfigError("matching: expected one entry for each unit at most, and one at least")
        for where, chosen in self._named_values():
            for axis, value in chosen.items():
                if str(value) not in self.names(axis, where):
                    raise ConfigError(f"{where}: axis {axis!r} has no value {value!r}{suggestion(str(value), self.names(axis))}")
        if self.tuning is not None:
            self._check_tuning(self.tuning)
        if self.compare.axis not in self.axes and self.compare != Compare():
            raise ConfigError(f"compare.axis: no axis {self.compare.axis!r}{suggestion(self.compare.axis, dict(self.axes))}")
        for number in (*(m.round for m in self.matching), *(m.pilot for m in self.matching), self.resamples):
            if number < 1:
                raise ConfigError(f"matching.round, matching.pilot and resamples: expected 1 or more, got {number}")

    def _check_names(self) -> None:
        if not self.axes:
            raise ConfigError("axes: expected at least one, such as paradigm: [sft, rlvr, visurf]")
        for name, values in self.axes.items():
            if not isinstance(values, list | tuple | Mapping) or not values:
                raise ConfigError(f"axes.{name}: expected a list of values, or names with settings, got {values!r}")
            if len({str(v) for v in values}) < len(values):
                raise ConfigError(f"axes.{name}: a value occurs twice in {values!r}")
        if not self.tests:
            raise ConfigError("tests: expected at least one, such as held_out: world:shifted?count=500&seed=9001")
        for name in (*self.tests, *self.side):
            if not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or name.startswith("."):
                raise ConfigError(f"tests and side: expected names of letters, digits, '_', '-' and '.', got {name!r}")

    def names(self, axis: str, where: str = "") -> list[str]:
        """The values of an axis as tables and folders call them."""
        if axis not in self.axes:
            raise ConfigError(f"{where}: no axis {axis!r}{suggestion(axis, dict(self.axes))}")
        return [str(v) for v in self.axes[axis]]

    def of_axis(self, axis: str, name: str) -> dict[str, Any]:
        """The nested settings of an axis's value."""
        values = self.axes[axis]
        if not isinstance(values, Mapping):
            return nested({axis: next(v for v in values if str(v) == name)})
        found = next(v for k, v in values.items() if str(k) == name)
        return nested(found) if isinstance(found, Mapping) else nested({axis: found})

    @property
    def questions(self) -> dict[str, Questions]:
        """The tests."""
        return {name: read_questions(value, f"tests.{name}") for name, value in self.tests.items()}

    def _named_values(self) -> list[tuple[str, Mapping[str, Any]]]:
        found = [(f"leave_out[{i}]", chosen) for i, chosen in enumerate(self.leave_out)]
        found += [(f"matching[{i}].reference", m.reference) for i, m in enumerate(self.matching)]
        if self.compare.against:
            found.append(("compare.against", {self.compare.axis: self.compare.against}))
        return found + ([("tuning.at", self.tuning.at)] if self.tuning is not None else [])

    def _check_tuning(self, tuning: Tuning) -> None:
        if not tuning.grid or not tuning.validation:
            raise ConfigError("tuning: expected a grid, such as optimizer.lr: [1e-5, 1e-4], and a validation set")
        for axis in tuning.each:
            self.names(axis, "tuning.each")
        for name, asked in self.questions.items():
            if asked.data == tuning.validation:
                raise ConfigError(f"tests.{name}: {asked.data!r} is the validation set that tuning looks at")


def read_questions(value: Any, where: str) -> Questions:
    """A source, or data and settings.

    Raises:
        ConfigError: It is neither, or names no data.
    """
    found = Questions(value) if isinstance(value, str) else build(Questions, value, where)
    if not found.data:
        raise ConfigError(f"{where}: expected a source of data, or data and settings, got {value!r}")
    return found


def read_study(path: Path) -> Study:
    """Read and check a study file, and that its recipe can be built.

    Raises:
        ConfigError: Not YAML, an unknown key, a value of the wrong kind.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such study file; docs/studies.md says how to write one")
    try:
        values = read_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: not valid YAML ({error})") from error
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path}: expected keys and values, got {type(values).__name__}")
    study = build(Study, {k: v for k, v in values.items() if v is not None})
    load_config(None, base_values(study, path.parent))
    return study


def base_values(study: Study, folder: Path) -> dict[str, Any]:
    """The nested settings that every run begins with.

    Args:
        study: Its recipe and settings.
        folder: The study file's, which a recipe's path is relative to.
    """
    beside = folder / study.base
    recipe = read_recipe(beside if beside.is_file() else study.base) if study.base else {}
    side = {"evaluation": {"side": dict(study.side)}}
    return merge(merge(recipe, nested(study.settings)), side if study.side else {})


def configuration(values: Mapping[str, Any], what: str) -> Config:
    """A run's configuration.

    Raises:
        ConfigError: As `load_config`, with the run's name before it.
    """
    try:
        return load_config(None, values)
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}") from error
