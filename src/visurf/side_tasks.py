"""What a model knew before: side tasks, asked before, during and after training, to see what it forgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from visurf import evaluation, parallel
from visurf.config import Config, ConfigError, build
from visurf.data import load_data
from visurf.loop import Loop
from visurf.naming import look_up
from visurf.precision import autocast
from visurf.rollout.local import Sampling
from visurf.scoring import Scorer
from visurf.tasks import TASKS, RewardSettings
from visurf.types import Sample


@dataclass(frozen=True)
class SideConfig:
    """One entry of `evaluation.side`: data, and where they differ from the run's, task, prompt and number of samples."""

    data: str = ""
    task: str = ""
    prompt: str = ""
    limit: int = 0


@dataclass(frozen=True)
class SideTask:
    """Questions beside those that are trained on.

    Attributes:
        name: What metrics call it: ``side/NAME``, its task's headline metric.
        samples: What is asked.
        scorer: Reads and judges the answers.
        prompt: How it is asked.
    """

    name: str
    samples: Sequence[Sample]
    scorer: Scorer
    prompt: str


def side_tasks(config: Config) -> list[SideTask]:
    """Read the side tasks of a run.

    Raises:
        ConfigError: An entry without data, or with a key that none has.
        DataError: Data that cannot be read.
    """
    found = []
    for name, given in config.evaluation.side.items():
        entry = SideConfig(given) if isinstance(given, str) else build(SideConfig, given, f"evaluation.side.{name}")
        if not entry.data:
            raise ConfigError(f"evaluation.side.{name}: expected a source of data, or {{data: ..., task: ...}}, got {given!r}")
        task = look_up(entry.task or config.task.name, TASKS, "task")
        prompt = entry.prompt if entry.task or entry.prompt else config.task.prompt
        samples = load_data(entry.data, config.data, task).samples[: entry.limit or config.evaluation.limit or None]
        # The run's own rewards do not belong to another task; only its metrics count here.
        scorer = Scorer(task, task.parts(RewardSettings(frame=config.reward.frame)))
        found.append(SideTask(name, samples, scorer, prompt))
    return found


def side_scores(tasks: Sequence[SideTask], config: Config, loop: Loop) -> dict[str, float]:
    """Name -> headline metric of the current policy, answering greedily; all processes get the same numbers."""
    settings, found = config.rollout, {}
    sampling = Sampling(settings.max_tokens, token_budget=loop.rollout_budget.tokens, cuda_graphs=loop.cuda_graphs)
    for side in tasks:
        with parallel.agreed(), autocast(config, loop.placement.device), loop.placement.sampling():
            asked, on_bad = parallel.share(side.samples), config.data.on_bad_sample
            mine = list(evaluation.records(loop.model, loop.policy, asked, side.scorer, side.prompt, sampling, on_bad=on_bad))
        everyone = parallel.rejoin(list[Mapping[str, Any]](mine))
        found[side.name] = side.scorer.task.values(everyone)[side.scorer.task.headline]
    return found


def before_of(row: Mapping[str, Any]) -> dict[str, float]:
    """The scores before the first step that the first step's metrics tell."""
    ending = "/before"
    return {n.removeprefix("side/").removesuffix(ending): v for n, v in row.items() if n.startswith("side/") and n.endswith(ending)}


def side_metrics(scores: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """Scores as metrics, with the drop since before training.

    >>> side_metrics({"colours": 0.75}, {"colours": 1.0})
    {'side/colours': 0.75, 'side/colours/drop': 0.25}
    """
    found = {}
    for name, score in scores.items():
        found[f"side/{name}"] = score
        if name in before:
            found[f"side/{name}/drop"] = before[name] - score
    return found
