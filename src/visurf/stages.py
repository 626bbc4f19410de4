"""The stages of a run: a paradigm each, with steps and settings of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from visurf.config import Config, ConfigError, StageConfig, build, merge, nested, to_dict
from visurf.naming import look_up, suggestion
from visurf.paradigms import PARADIGMS, Paradigm

# What a stage may have of its own; everything else belongs to the run.
STAGE_KEYS = (
    "advantage",
    "controls",
    "inner_steps",
    "mixing",
    "objective",
    "optimizer",
    "reward",
    "rollout",
    "tokens_per_microbatch",
)


@dataclass(frozen=True)
class Stage:
    """One stage: its paradigm, the global steps [first, end), and its own configuration with all of its hyperparameters."""

    paradigm: Paradigm
    first: int
    end: int
    config: Config


def stages(config: Config) -> list[Stage]:
    """The stages of a run.

    Raises:
        ConfigError: A stage names a paradigm of several stages, the steps do not fit, or no stage has a hyperparameter.
    """
    chosen = look_up(config.paradigm, PARADIGMS, "paradigm")
    listed = config.stages
    if not listed and chosen.stages:
        share, left = divmod(config.steps, len(chosen.stages))
        listed = tuple(StageConfig(name, share + (i < left)) for i, name in enumerate(chosen.stages))
    if not listed:
        return _with_hyperparameters([Stage(chosen, 0, config.steps, config)], config)
    found: list[Stage] = []
    first = 0
    for index, item in enumerate(listed):
        paradigm = look_up(item.paradigm, PARADIGMS, "paradigm")
        if paradigm.stages or item.steps <= 0:
            raise ConfigError(f"stages[{index}]: expected a paradigm of one stage and steps > 0, got {item}")
        refused = [key for key in item.override if key.split(".")[0] not in STAGE_KEYS]
        if refused:
            raise ConfigError(f"stages[{index}].override: {refused[0]!r} holds for the whole run; a stage may set {STAGE_KEYS}")
        values = merge(to_dict(config), nested(item.override))
        own = build(Config, values | {"paradigm": item.paradigm, "stages": [], "steps": item.steps})
        _check_hyperparameters(own.mixing.keys() - config.mixing.keys(), [paradigm])
        found.append(Stage(paradigm, first, first + item.steps, own))
        first += item.steps
    return _with_hyperparameters(found, config)


def _with_hyperparameters(found: list[Stage], config: Config) -> list[Stage]:
    """Every stage with the hyperparameters of its paradigm, set or default; one that no stage has is an error."""
    _check_hyperparameters(config.mixing, [stage.paradigm for stage in found])
    done = []
    for stage in found:
        _check_group(stage)
        known = stage.paradigm.mixing
        mixing = {**known, **{name: value for name, value in stage.config.mixing.items() if name in known}}
        done.append(replace(stage, config=replace(stage.config, mixing=mixing)))
    return done


def _check_group(stage: Stage) -> None:
    """Refuse a group of one, whose only advantage is 0, where nothing else teaches."""
    paradigm, size = stage.paradigm, stage.config.rollout.group_size
    if paradigm.rollouts and paradigm.label is None and paradigm.blend is None and size < 2:
        raise ConfigError(
            f"rollout.group_size: {paradigm.name!r} compares rollouts with each other and learns nothing from a group of {size}; "
            "set 2 or more (8 is usual), or paradigm=visurf, where the label stands in the group"
        )


def _check_hyperparameters(names: Iterable[str], paradigms: Sequence[Paradigm]) -> None:
    known = {name: None for paradigm in paradigms for name in paradigm.mixing}
    for name in names:
        if name not in known:
            whose = ", ".join(dict.fromkeys(paradigm.name for paradigm in paradigms))
            has = suggestion(name, known) if known else "; it has none"
            raise ConfigError(f"mixing.{name}: no hyperparameter of {whose}{has}")
