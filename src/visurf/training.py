"""A whole run: data, stages, checkpoints, evaluation and logs around the loop."""

from __future__ import annotations

import dataclasses
import json
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from visurf import checkpoint, evaluation, parallel
from visurf.alarms import Watch, read_rows, watched
from visurf.config import Config, ConfigError, LoraConfig, load_config, to_dict
from visurf.data import DataSet, load_data
from visurf.exporting import export
from visurf.interruption import Interruption
from visurf.loop import Loop, autocast
from visurf.models import VisionLanguageModel, load_model
from visurf.naming import look_up
from visurf.placement import Placement
from visurf.policy import Policy
from visurf.preparation import (
    is_sharded,
    make_optimizer,
    make_placement,
    make_scorer,
    prepare_model,
    sample_order,
)
from visurf.rollout.local import Sampling, stream
from visurf.side_tasks import before_training, side_metrics, side_scores, side_tasks
from visurf.stages import Stage, stages
from visurf.tasks import TASKS, Task
from visurf.tracking import Tracker
from visurf.types import Group, Sample

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Result:
    """What a run leaves behind: its folder, the final model's folder, the last step's metrics, the last evaluation."""

    out: Path
    model: Path
    metrics: Mapping[str, Any]
    validation: Mapping[str, float]


# What may change when a run goes on: it decides how long, how fast and how closely watched, not what is learnt.
_FREE = ("out", "threads", "trackers", "checkpoint", "evaluation", "tokens_per_microbatch", "parallel", "process_timeout", "steps")
_FREE_WITHIN = (
    ("data", "validation"),
    ("data", "workers"),
    ("model", "feature_cache_mb"),
    ("rollout", "token_budget"),
    ("rollout", "cuda_graphs"),
    ("rollout", "whole_model"),
)


def check_same_run(config: Config, out: Path, stage_count: int) -> None:
    """Refuse to go on with other settings than a run began with, which would mix two experiments in one folder.

    Raises:
        ConfigError: Names the first setting that differs.
    """
    if not (out / "config.yaml").is_file():
        return
    before, now = to_dict(load_config(out / "config.yaml")), to_dict(config)
    for values in (before, now):
        for section, name in _FREE_WITHIN:
            values[section].pop(name)
    # With several stages the steps say where one ends.
    free = _FREE if stage_count == 1 else _FREE[:-1]
    for name in (n for n in now if n not in free and now[n] != before[n]):
        raise ConfigError(
            f"{out} holds a run with {name}: {before[name]!r}, asked is {now[name]!r}; choose another out=, or go on unchanged"
        )


class Run:
    """A run folder being filled."""

    def __init__(self, config: Config, report: Report | None = None) -> None:
        """Read the data, refuse what cannot work, and find out where to go on."""
        if config.threads:
            torch.set_num_threads(config.threads)
        self.rank, _ = parallel.start(config.process_timeout)
        self.config = config
        self.report = report if report is not None and self.rank == 0 else lambda event: None
        self.interruption = Interruption()
        self.last: dict[str, Any] = {}
        self.scores: dict[str, float] = {}
        with parallel.agreed():
            self._open(config)
        self._check_alike()

    def _open(self, config: Config) -> None:
        """Look up what the configuration names, read the data, find the last checkpoint."""
        self.task: Task = look_up(config.task.name, TASKS, "task")
        self.stages = stages(config)
        if config.rollout.top_p < 1:
            warnings.warn(
                "rollout.top_p below 1: log-probs are not those of the sampled distribution; ratios are biased", stacklevel=2
            )
        self.out = Path(config.out)
        if not config.data.train:
            raise ConfigError("data.train is not set; name a JSONL file")
        self.train_data = load_data(config.data.train, config.data, self.task)
        empty = DataSet(())
        self.validation = load_data(config.data.validation, config.data, self.task) if config.data.validation else empty
        self.side = side_tasks(config)
        found = checkpoint.latest(self.out)
        if found is not None and config.checkpoint.resume == "never":
            raise ConfigError(f"{self.out} holds a run already; choose another out=, or checkpoint.resume=auto to go on")
        if found is not None:
            check_same_run(config, self.out, len(self.stages))
        self.resumed = found
        self.progress, self.state = checkpoint.read(found) if found else (checkpoint.Progress(), {})

        self.side_before = before_training(self.out / "metrics.jsonl") if found else {}
        self.watch = Watch(*watched(config))
        if found:
            self.watch.remember(read_rows(self.out / "metrics.jsonl", self.progress.metrics_bytes))

    def _check_alike(self) -> None:
        """Refuse processes that do not see the same run.

        Raises:
            ConfigError: They differ in configuration, data or checkpoint.
        """
        samples = (len(self.train_data.samples), len(self.validation.samples))
        for what, value in {"settings": repr(self.config), "data": samples, "checkpoints": self.progress}.items():
            seen = parallel.gather([value])
            other = next((number for number, found in enumerate(seen) if found != seen[0]), None)
            if other is not None:
                raise ConfigError(f"processes 0 and {other} see different {what}; all need the same recipe, data and out= folder")

    def run(self) -> Result:
        """Train all stages to the end, or go on where the last checkpoint stands."""
        self.out.mkdir(parents=True, exist_ok=True)
        if self.rank == 0:
            (self.out / "config.yaml").write_text(yaml.safe_dump(to_dict(self.config), sort_keys=False))
        positions = (self.progress.metrics_bytes, self.progress.rollouts_bytes)
        tracker = Tracker(self.out, self.config.trackers, to_dict(self.config), positions) if self.rank == 0 else None
        self.report({"event": "start", "data": self.train_data, "resumed": self.progress.step, "steps": self.stages[-1].end})
        placement: Placement | None = None
        try:
            with self.interruption:
                for index, stage in enumerate(self.stages):
                    if self.progress.step < stage.end:
                        model, network, placement = self._stage(index, stage, tracker)
            if not self.last:
                model, network = self._load(len(self.stages) - 1, self.resumed)
            self._finish(model, network, placement)
        finally:
            if tracker is not None:
                tracker.close()
        return Result(self.out, self.out / "model", self.last, self.scores)

    def _load(self, index: int, resumed: Path | None) -> tuple[VisionLanguageModel, nn.Module]:
        """The model at a stage's start, or at a checkpoint within it."""
        stage = self.stages[index]
        source = self.config.model.path if index == 0 else str(self.out / "stages" / str(index))
        if resumed is None:
            return prepare_model(stage.config, source)
        if not stage.config.model.lora.rank:
            return prepare_model(stage.config, source, resumed / "model")
        model, network = prepare_model(stage.config, source)
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        set_peft_model_state_dict(network, load_file(resumed / "model" / "adapter_model.safetensors"))  # type: ignore[arg-type]
        return model, network

    def _stage(self, index: int, stage: Stage, tracker: Tracker | None) -> tuple[VisionLanguageModel, nn.Module, Placement]:
        config = stage.config
        inside = self.resumed if self.progress.step > stage.first else None
        torch.manual_seed(config.seed + index)
        model, network = self._load(index, inside)
        policy = Policy(network, temperature=config.rollout.temperature, banned=model.banned_ids).to(model.device)
        policy.train()
        placement = make_placement(config, policy, model)
        optimizer, schedule = make_optimizer(config, policy, stage.end - stage.first)
        if inside is not None:
            checkpoint.restore_optimizer(inside, self.state["optimizer"], policy, optimizer)
            schedule.load_state_dict(self.state["schedule"])
        reference = self._reference(index, stage, model)
        if reference is not None:
            placement.place(reference)
        loop = Loop(config, stage.paradigm, model, policy, make_scorer(config, self.task), reference, stage.first, placement)
        if self.side and self.progress.step == 0:
            self.side_before = side_scores(self.side, config, loop)
        began = time.monotonic() - self.progress.seconds
        for number in range(self.progress.step, stage.end):
            samples = self._samples(number)
            model.read_ahead([*samples, *(self._samples(number + 1) if number + 1 < stage.end else ())])
            # Dropout depends on seed, step and process alone.
            torch.manual_seed(int(stream(config.seed, "step", number, self.rank).integers(2**62)))
            try:
                metrics = loop.step(samples, number, optimizer, schedule)
            except (Exception, KeyboardInterrupt) as error:
                # Rewards come before the update; unless it began, the last step's state is whole: keep it.
                known_to_all = not (parallel.several() and isinstance(error, KeyboardInterrupt))
                if not loop.updating and known_to_all and self.progress.step > 0:
                    self._save(network, loop, optimizer, schedule, tracker)
                raise
            metrics["train/lr"] = float(schedule.get_last_lr()[0])
            self.progress.step, self.progress.stage = number + 1, index
            self.progress.seconds = time.monotonic() - began
            self._after_step(stage, loop, metrics, tracker)
            every = config.checkpoint.every
            if self.progress.step == stage.end and index + 1 < len(self.stages):
                # Before the checkpoint that says this stage is over: the next one starts from here.
                self._export(model, network, placement, self.out / "stages" / str(index + 1))
            stop = any(parallel.gather([self.interruption.asked]))
            if stop or (every and self.progress.step % every == 0) or self.progress.step == stage.end:
                self._save(network, loop, optimizer, schedule, tracker)
            if stop and self.progress.step < self.stages[-1].end:
                raise KeyboardInterrupt
        return model, network, placement

    def _samples(self, number: int) -> list[Sample]:
        """This process's share of a step's samples."""
        each = self.config.prompts_per_step
        order = sample_order(len(self.train_data.samples), self.config.seed, number * each, each)
        return [self.train_data.samples[i] for i in parallel.share(order)]

    def _reference(self, index: int, stage: Stage, model: VisionLanguageModel) -> Policy | None:
        """The model at the stage's start, for the KL term; with adapters that is the network without them."""
        if not stage.config.objective.kl or stage.config.model.lora.rank:
            return None
        source = self.config.model.path if index == 0 else str(self.out / "stages" / str(index))
        frozen = load_model(
            source,
            dtype=next(model.network.parameters()).dtype,
            device="cpu" if is_sharded(stage.config) else model.device,
            min_pixels=stage.config.model.min_pixels,
            max_pixels=stage.config.model.max_pixels,
            family=stage.config.model.family,
            kernel=stage.config.model.attention,
        )
        frozen.network.requires_grad_(False)
        return Policy(frozen.network, temperature=stage.config.rollout.temperature, banned=model.banned_ids).to(frozen.device)

    def _after_step(self, stage: Stage, loop: Loop, metrics: dict[str, Any], tracker: Tracker | None) -> None:
        step, settings = self.progress.step, stage.config.evaluation
        due = settings.every and (step % settings.every == 0 or step == self.stages[-1].end)
        if due and self.validation.samples:
            self.scores = self.evaluate(loop, self.validation.samples[: settings.limit or None])
            metrics |= {f"validation/{name}": value for name, value in self.scores.items()}
            score = self.scores.get(settings.metric or self.task.headline, math.nan)
            if not math.isnan(score) and (self.progress.best is None or score > self.progress.best):
                self.progress.best, self.progress.best_step = score, step
        metrics |= self._watched(step, loop, metrics, bool(due) or step == self.stages[-1].end)
        self.last = metrics
        shown = parallel.rejoin([_row(step, group) for group in loop.groups[:2]])
        if tracker is not None:
            tracker.log(step, {"stage": self.progress.stage, "paradigm": stage.paradigm.name, **metrics})
            tracker.rollouts(shown[:2])
        self.report({"event": "step", "step": step, "steps": self.stages[-1].end, "metrics": metrics, "stage": stage})

    def _watched(self, step: int, loop: Loop, metrics: Mapping[str, Any], due: bool) -> dict[str, float]:
        """Side tasks where they are due, those before training with the first step, and alarms."""
        found = {f"side/{name}/before": score for name, score in self.side_before.items()} if step == 1 else {}
        if due and self.side:
            found |= side_metrics(side_scores(self.side, self.config, loop), self.side_before)
        for alarm in self.watch.see(step, metrics) if self.config.evaluation.alarms else ():
            found[f"alarm/{alarm.kind}"] = 1.0
            self.report({"event": "alarm", "step": step, "kind": alarm.kind, "message": alarm.message})
        return found

    def evaluate(self, loop: Loop, samples: Sequence[Sample]) -> dict[str, float]:
        """Greedy evaluation of the current policy; every process answers its share, all get the same numbers."""
        settings = self.config.rollout
        sampling = Sampling(settings.max_tokens, token_budget=settings.token_budget, cuda_graphs=settings.cuda_graphs)
        with parallel.agreed(), autocast(self.config, loop.model.device), loop.placement.sampling():
            mine = parallel.share(samples)
            found = list(evaluation.records(loop.model, loop.policy, mine, loop.scorer, self.config.task.prompt, sampling))
        return evaluation.summarise(self.task, parallel.rejoin(list[Mapping[str, Any]](found)))

    def _save(self, network: Any, loop: Loop, optimizer: torch.optim.Optimizer, schedule: Any, tracker: Tracker | None) -> None:
        if tracker is not None:
            self.progress.metrics_bytes, self.progress.rollouts_bytes = tracker.positions
        weights = loop.placement.weights(network)
        state = checkpoint.optimizer_state(loop.policy, optimizer)
        shards = None if weights is None else state.pop("state")
        whole = {"optimizer": state, "schedule": schedule.state_dict()}
        checkpoint.save(self.out, self.progress, network, whole, self.config.checkpoint.keep, weights=weights, shards=shards)

    def _export(self, model: VisionLanguageModel, network: Any, placement: Placement | None, folder: Path) -> None:
        weights = None if placement is None else placement.weights(network)
        with parallel.agreed():
            if self.rank == 0:
                export(model, network, folder, weights)

    def _finish(self, model: VisionLanguageModel, network: Any, placement: Placement | None) -> None:
        self._export(model, network, placement, self.out / "model")
        if hasattr(network, "peft_config"):
            weights = None if placement is None else placement.weights(network)
            if self.rank == 0:
                network.save_pretrained(self.out / "adapter", state_dict=weights)
        if self.rank == 0:
            summary = {"steps": self.progress.step, "seconds": self.progress.seconds, "validation": self.scores}
            (self.out / "summary.json").write_text(json.dumps(summary, indent=1))
        self.report({"event": "end", "out": self.out})


def _row(step: int, group: Group) -> dict[str, Any]:
    """A group as one line of rollouts.jsonl."""
    supervision = group.supervision or (0.0,) * len(group.completions)
    members = [
        {
            "source": c.source,
            "text": c.text,
            "answer": evaluation.plain(c.answer),
            "error": None if c.error is None else c.error.reason,
            "truncated": c.truncated,
            "parts": dict(s.parts),
            "total": s.total,
            "reward": r,
            "advantage": a,
            "supervision": t,
            "hint": c.hint,
        }
        for c, s, r, a, t in zip(group.completions, group.scores, group.rewards, group.advantages, supervision, strict=True)
    ]
    sample = group.sample
    images = [i.name for i in sample.images]
    about = {"step": step, "id": sample.id, "question": sample.question, "images": images, "size": sample.size}
    return {**about, "target": evaluation.plain(sample.target), "smoothed": group.smoothed, "members": members}


def train(config: Config, report: Report | None = None) -> Result:
    """Post-train a model as a configuration says; goes on from the last checkpoint where there is one.

    Args:
        config: The whole run.
        report: Called with an event (a dict) at the start, after every step and at the end.

    Raises:
        ConfigError: The configuration cannot work.
        DataError: A bad sample.
        RewardError: A reward failed; the state of the last step is saved before.
    """
    return Run(config, report).run()


def evaluate(config: Config, out: Path | None = None, progress: Callable[[int, int], None] | None = None) -> dict[str, float]:
    """Measure `model.path` on `data.validation` with the parser and geometry of training.

    Args:
        config: Model, data, task, prompt and reward settings; `evaluation.limit` 0 takes all samples.
        out: Folder for records.jsonl and summary.json, or None.
        progress: Called with (done, total) after every sample.

    Raises:
        ConfigError: `data.validation` is not set.
    """
    if not config.data.validation:
        raise ConfigError("data.validation is not set; name a JSONL file")
    if config.threads:
        torch.set_num_threads(config.threads)
    task = look_up(config.task.name, TASKS, "task")
    data = load_data(config.data.validation, config.data, task)
    if data.skipped:
        warnings.warn(f"{len(data.skipped)} bad rows skipped, the first: {data.skipped[0][1]}", stacklevel=2)
    samples = data.samples[: config.evaluation.limit or None]
    frozen = dataclasses.replace(config, model=dataclasses.replace(config.model, lora=LoraConfig()))
    model, network = prepare_model(frozen, config.model.path)
    network.requires_grad_(False)
    policy = Policy(network, temperature=config.rollout.temperature, banned=model.banned_ids).to(model.device)
    settings = config.rollout
    sampling = Sampling(settings.max_tokens, token_budget=settings.token_budget, cuda_graphs=settings.cuda_graphs)
    scorer = make_scorer(config, task)
    with autocast(config, model.device):
        answers = evaluation.records(model, policy, samples, scorer, config.task.prompt, sampling)
        found = evaluation.collect(answers, len(samples), progress)
    summary = evaluation.summarise(task, found)
    if out is not None:
        evaluation.write_records(out / "records.jsonl", found)
        (out / "summary.json").write_text(json.dumps(summary, indent=1))
    return summary
