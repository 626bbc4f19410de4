"""The settings under which a command asks a model: of a run's folder they are the run's own, unless a recipe is named."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visurf.config import Config

# What a recipe says for its own task: another has prompts and parts of its reward of its own.
_OF_ONE_TASK = (("task", "prompt"), ("reward", "weights"), ("reward", "functions"), ("reward", "segmenter"))


def asked_config(options: argparse.Namespace, values: Mapping[str, Any]) -> Config:
    """The recipe, then the model and what the command itself sets, then ``key=value``; see `asked_of_task`.

    What is left out of a run's own recipe is said on standard error.
    """
    config, left_out = asked_of_task(options, values)
    if left_out:
        print(left_out, file=sys.stderr)
    return config


def asked_of_task(options: argparse.Namespace, values: Mapping[str, Any], task: str = "") -> tuple[Config, str]:
    """The same for a task that the settings do not say, and what was left out.

    Without a recipe the settings are those of a run's own, where the model is a run's folder; where the run's task is not `_alike`,
    only those that are not about its task.

    Args:
        options: With `model`, `recipe` (None for none, or that of the run whose folder the model is) and `override`.
        values: Nested settings of the command.
        task: The task; empty for that of the settings.

    Returns:
        The settings, and in words what was left out of a run's; empty where nothing was.

    Raises:
        ConfigError: A setting cannot be used.
        ValueError: There is no such folder, or no model in it.
    """
    from visurf.config import Config, build, load_config, merge, parse_overrides, to_dict
    from visurf.sources import model_of, run_of

    changes = merge(merge({"model": {"path": model_of(options.model)}}, values), parse_overrides(options.override))
    run = run_of(options.model)
    if run is None or options.recipe is not None:
        return load_config(options.recipe, changes), ""
    trained = load_config(run / "config.yaml")
    config = load_config(run / "config.yaml", changes)
    task = task or config.task.name
    if _alike(task, trained.task.name):
        return config, ""
    own = to_dict(trained)
    left_out = [f"{section}.{name}" for section, name in _OF_ONE_TASK if own[section].pop(name)]
    told = f"left out of the run's own recipe, which is for task {trained.task.name!r}, not {task!r}: {', '.join(left_out)}"
    return build(Config, merge(own, changes)), told if left_out else ""


def _alike(first: str, second: str) -> bool:
    """Whether two tasks are asked, answered and paid in one way, as those are that came of `referring`."""
    from visurf.tasks import TASKS

    one, other = TASKS.get(first), TASKS.get(second)
    if one is None or other is None:
        return first == second
    return (one.prompts, one.parse, one.parts) == (other.prompts, other.parse, other.parts)
