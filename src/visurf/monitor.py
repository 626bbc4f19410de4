"""What a run measures beside its steps: validation, side tasks, alarms."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from visurf import evaluation, parallel
from visurf.alarms import Watch, watched
from visurf.checkpoint import Progress
from visurf.config import Config
from visurf.loop import Loop
from visurf.precision import autocast
from visurf.rollout.local import Sampling
from visurf.side_tasks import before_of, side_metrics, side_scores, side_tasks
from visurf.stages import Stage
from visurf.tasks import Task
from visurf.types import Sample

PREFIX = "validation/"
BEFORE = "before/"
Report = Callable[[dict[str, Any]], None]


class Monitor:
    """Measures the policy after the steps for which that is due.

    Attributes:
        scores: Of the last validation.
        start: Of a validation before the first step; empty where none was made.
        before: Of side tasks, before the first step.
    """

    def __init__(self, config: Config, task: Task, samples: Sequence[Sample], end: int, report: Report) -> None:
        """Read the side tasks; validation is of `samples`, and `end` is the run's last step."""
        self.config, self.task, self.end, self.report = config, task, end, report
        self.samples = samples[: config.evaluation.limit or None]
        self.side = side_tasks(config)
        self.watch = Watch(*watched(config))
        self.scores: dict[str, float] = {}
        self.start: dict[str, float] = {}
        self.before: dict[str, float] = {}

    def go_on(self, rows: Sequence[Mapping[str, Any]], unmeasured: Mapping[str, Any] | None) -> None:
        """Take up what was measured until a checkpoint.

        Args:
            rows: Of metrics.jsonl.
            unmeasured: Metrics of the step after them, whose evaluation failed.
        """
        first = rows[0] if rows else unmeasured or {}
        self.before, self.start = before_of(first), _scores(first, BEFORE)
        self.watch.remember(rows)
        for row in rows:
            self.scores = _scores(row, PREFIX) or self.scores

    def begin(self, stage: Stage, loop: Loop) -> None:
        """Validate and ask the side tasks before the first step."""
        settings = stage.config.evaluation
        if self.samples and settings.every and settings.before:
            self.start = self.evaluate(loop)
            self.report({"event": "before", "metrics": {f"{PREFIX}{name}": value for name, value in self.start.items()}})
        if self.side:
            self.before = side_scores(self.side, self.config, loop)

    def first(self) -> dict[str, float]:
        """What the metrics of the first step tell of the time before."""
        side = {f"side/{name}/before": score for name, score in self.before.items()}
        return side | {f"{BEFORE}{name}": value for name, value in self.start.items()}

    def measure(self, stage: Stage, loop: Loop, metrics: Mapping[str, Any], progress: Progress) -> dict[str, float]:
        """Validation and side tasks where they are due, and alarms; notes the best step."""
        found = self._validation(stage, loop, progress)
        step, every = progress.step, stage.config.evaluation.every
        if self.side and (self._due(step, every) or step == self.end):
            found |= side_metrics(side_scores(self.side, self.config, loop), self.before)
        for alarm in self.watch.see(step, {**metrics, **found}) if self.config.evaluation.alarms else ():
            found[f"alarm/{alarm.kind}"] = 1.0
            self.report({"event": "alarm", "step": step, "kind": alarm.kind, "message": alarm.message})
        return found

    def _due(self, step: int, every: int) -> bool:
        return bool(every) and (step % every == 0 or step == self.end)

    def _validation(self, stage: Stage, loop: Loop, progress: Progress) -> dict[str, float]:
        settings = stage.config.evaluation
        if not self.samples or not self._due(progress.step, settings.every):
            return {}
        self.scores = self.evaluate(loop)
        score = self.scores.get(settings.metric or self.task.headline, math.nan)
        if not math.isnan(score) and (progress.best is None or score > progress.best):
            progress.best, progress.best_step = score, progress.step
        return {f"{PREFIX}{name}": value for name, value in self.scores.items()}

    def evaluate(self, loop: Loop) -> dict[str, float]:
        """Greedy answers of the current policy; every process gives its share, all get the same numbers."""
        settings, tokens, on_bad = self.config.rollout, loop.rollout_budget.tokens, self.config.data.on_bad_sample
        sampling = Sampling(settings.max_tokens, token_budget=tokens, cuda_graphs=loop.cuda_graphs)
        with parallel.agreed(), autocast(self.config, loop.placement.device), loop.placement.sampling():
            mine, prompt = parallel.share(self.samples), self.config.task.prompt
            found = list(evaluation.records(loop.model, loop.policy, mine, loop.scorer, prompt, sampling, on_bad=on_bad))
        everybody = parallel.rejoin(list[Mapping[str, Any]](found))
        if parallel.rank() == 0:
            evaluation.write_records(Path(self.config.out, "validation.jsonl"), everybody)
        return evaluation.summarise(self.task, everybody)


def _scores(row: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """The scores of a row of metrics.jsonl, where NaN is null."""
    found = {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}
    return {name: math.nan if value is None else float(value) for name, value in found.items()}
