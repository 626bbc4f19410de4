"""A whole run: data, stages, checkpoints, evaluation and logs around the loop."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from visurf import accounting, checkpoint, parallel
from visurf.alarms import read_metrics
from visurf.config import Config, ConfigError, to_dict
from visurf.config.limits import check_processes
from visurf.continuing import check_same_run, in_first_order, remember_order
from visurf.data import DataSet, load_data
from visurf.devices import warn_of_processor
from visurf.exporting import export
from visurf.interruption import Interruption
from visurf.judging import check_metric
from visurf.locking import locked
from visurf.loop import Loop
from visurf.models import VisionLanguageModel, load_model
from visurf.models.quantization import dtype_of
from visurf.monitor import Monitor, Report
from visurf.naming import look_up
from visurf.nonfinite import NonFiniteError, diagnosis, incident_rows
from visurf.placement import Placement
from visurf.policy import Policy
from visurf.preparation import (
    is_sharded,
    load_stage,
    make_optimizer,
    make_placement,
    make_scorer,
    sample_order,
    start_of,
)
from visurf.provenance import note_invocation
from visurf.recording import Recorder
from visurf.rollout.local import stream
from visurf.rollout.remote import connect
from visurf.stages import Stage, stages
from visurf.tasks import TASKS, Task
from visurf.tracking import Tracker
from visurf.types import Sample
from visurf.validation import evaluate as evaluate
from visurf.whole_files import finite_or_null, write_rows, write_whole


@dataclass(frozen=True)
class Result:
    """What a run leaves behind.

    Attributes:
        out: Its folder.
        model: The final model's folder.
        metrics: Of the last step.
        validation: Scores of the last evaluation.
        before: Scores of the evaluation before the first step; empty where there was none.
    """

    out: Path
    model: Path
    metrics: Mapping[str, Any]
    validation: Mapping[str, float]
    before: Mapping[str, float]


@dataclass(frozen=True)
class _Underway:
    """A stage that is being trained, and where its lines go."""

    index: int
    stage: Stage
    network: Any
    loop: Loop
    optimizer: torch.optim.Optimizer
    schedule: Any
    tracker: Tracker | None


class Run:
    """A run folder being filled; whoever makes it holds the folder's lock."""

    def __init__(self, config: Config, report: Report | None = None) -> None:
        """Read the data, refuse what cannot work, and find out where to go on."""
        if config.threads:
            torch.set_num_threads(config.threads)
        self.rank, self.processes = parallel.start(config.process_timeout)
        self.config = config
        self.report = report if report is not None and self.rank == 0 else lambda event: None
        self.interruption = Interruption()
        self.last: dict[str, Any] = {}
        self.resumed, damaged = checkpoint.newest_intact(Path(config.out))
        for problem in damaged:
            warnings.warn(f"{problem}; going on from {self.resumed}", stacklevel=2)
        with parallel.agreed():
            self._open(config)
        self._check_alike()

    def _open(self, config: Config) -> None:
        """Look up what the configuration names, read the data, find the last checkpoint."""
        check_processes(config, self.processes)
        self.task: Task = look_up(config.task.name, TASKS, "task")
        check_metric(self.task, config.evaluation.metric)
        self.stages = stages(config)
        for stage in self.stages:
            if stage.config.rollout.overlap and stage.paradigm.hints is not None:
                raise ConfigError(f"rollout.overlap: {stage.paradigm.name!r} samples in rounds, one after the other; switch it off")
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
        self.monitor = Monitor(config, self.task, self.validation.samples, self.stages[-1].end, self.report)
        found, metrics = self.resumed, self.out / "metrics.jsonl"
        if config.checkpoint.resume == "never" and (found is not None or (metrics.is_file() and metrics.stat().st_size)):
            raise ConfigError(f"{self.out} holds a run already; choose another out=, or checkpoint.resume=auto to go on")
        if found is not None:
            check_same_run(config, self.out, len(self.stages))
        skip = config.data.on_bad_sample == "skip"
        self.samples = in_first_order(self.out, self.train_data.samples, begun=found is not None, may_miss=skip)
        self.progress, self.state = checkpoint.read(found) if found else (checkpoint.Progress(), {})
        self.saved = self.progress.step if found else -1

        if found:
            rows = read_metrics(metrics, self.progress.metrics_bytes)
            self.monitor.go_on(rows, self.progress.unmeasured)
            # What the run returns where nothing is left to train.
            self.last = {name: v for name, v in rows[-1].items() if name not in ("step", "stage", "paradigm")} if rows else {}

    def _check_alike(self) -> None:
        """Refuse processes that do not see the same run.

        Raises:
            ConfigError: They differ in configuration, data or checkpoint.
        """
        samples = (len(self.samples), len(self.validation.samples))
        for what, value in {"settings": repr(self.config), "data": samples, "checkpoints": self.progress}.items():
            seen = parallel.gather([value])
            other = next((number for number, found in enumerate(seen) if found != seen[0]), None)
            if other is not None:
                raise ConfigError(f"processes 0 and {other} see different {what}; all need the same recipe, data and out= folder")

    def run(self) -> Result:
        """Train all stages to the end, or go on where the last checkpoint stands."""
        self.out.mkdir(parents=True, exist_ok=True)
        if self.rank == 0:
            write_whole(self.out / "config.yaml", yaml.safe_dump(to_dict(self.config), sort_keys=False))
            if self.resumed is None:
                remember_order(self.out, self.train_data.samples)
            if self.progress.step < self.stages[-1].end:
                note_invocation(self.out, step=self.progress.step, processes=self.processes, device=str(parallel.device()))
        positions = (self.progress.metrics_bytes, self.progress.rollouts_bytes)
        tracker = Tracker(self.out, self.config.trackers, to_dict(self.config), positions) if self.rank == 0 else None
        self.recorder = Recorder(self.out, self.config.recording, self.stages[-1].end, self.progress.rollouts_bytes)
        self.report({"event": "start", "data": self.train_data, "resumed": self.progress.step, "steps": self.stages[-1].end})
        placement: Placement | None = None
        try:
            with self.interruption:
                for index, stage in enumerate(self.stages):
                    measure = self.progress.unmeasured is not None and self.progress.step == stage.end
                    if self.progress.step < stage.end or measure:
                        model, network, placement = self._stage(index, stage, tracker)
            if placement is None:
                model, network = self._load(len(self.stages) - 1, self.resumed)
            self._finish(model, network, placement)
        finally:
            if tracker is not None:
                tracker.close()
        return Result(self.out, self.out / "model", self.last, self.monitor.scores, self.monitor.start)

    def _load(self, index: int, resumed: Path | None) -> tuple[VisionLanguageModel, nn.Module]:
        """The model at a stage's start, or at a checkpoint within it."""
        stage = self.stages[index]
        return load_stage(stage.config, start_of(self.config, self.out, index), resumed)

    def _stage(self, index: int, stage: Stage, tracker: Tracker | None) -> tuple[VisionLanguageModel, nn.Module, Placement]:
        config = stage.config
        inside = self.resumed if self.progress.step > stage.first else None
        torch.manual_seed(config.seed + index)
        model, network = self._load(index, inside)
        warn_of_processor(network)
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
        scorer, remote = make_scorer(config, self.task), connect(config, model, network, placement)
        loop = Loop(config, stage.paradigm, model, policy, scorer, reference, stage.first, placement, remote)
        loop.learner.budget.halvings, loop.rollout_budget.halvings = self.progress.halvings
        try:
            self._steps(_Underway(index, stage, network, loop, optimizer, schedule, tracker))
        finally:
            if remote is not None:
                remote.close()
        return model, network, placement

    def _steps(self, at: _Underway) -> None:
        """A stage's steps from where the run stands, with what comes after each."""
        stage, loop, index, config = at.stage, at.loop, at.index, at.stage.config
        if self.progress.step == 0:
            self.monitor.begin(stage, loop)
        began = time.monotonic() - self.progress.seconds
        if self.progress.unmeasured is not None:
            self._measure(at, dict(self.progress.unmeasured))
            self.saved = -1  # the checkpoint says that this is still to be done
            self._save(at)
        for number in range(self.progress.step, stage.end):
            samples = self._samples(number)
            upcoming = self._samples(number + 1) if number + 1 < stage.end else []
            loop.model.read_ahead([*samples, *upcoming])
            # Dropout depends on seed, step and process alone.
            torch.manual_seed(int(stream(config.seed, "step", number, self.rank).integers(2**62)))
            try:
                metrics = loop.step(samples, number, at.optimizer, at.schedule, upcoming)
            except (Exception, KeyboardInterrupt) as error:
                # Rewards come before the update; unless it began, the last step's state is whole: keep it.
                if not loop.learner.updating and _known_to_all(error) and self.progress.step > 0:
                    self._rescue(at)
                raise
            metrics["train/lr"] = float(at.schedule.get_last_lr()[0])
            if number == 0:
                metrics |= self.monitor.first()
            self.progress.step, self.progress.stage = number + 1, index
            self.progress.seconds = time.monotonic() - began
            if self.progress.step == stage.end and index + 1 < len(self.stages):
                # Before any checkpoint that says this stage is over: the next one starts from here.
                self._export(loop.model, at.network, loop.placement, self.out / "stages" / str(index + 1))
            loop.learner.updating = False
            reason = self._incidents(loop, metrics, at.network)
            self._show(at)
            self._measure(at, metrics)
            every = config.checkpoint.every
            stop = any(parallel.gather([self.interruption.asked])) or bool(reason)
            step = self.progress.step
            if stop or (every and step in (self.progress.best_step, step - step % every)) or step == stage.end:
                self._save(at)
            if reason:
                raise NonFiniteError(reason)
            if stop and self.progress.step < self.stages[-1].end:
                raise KeyboardInterrupt

    def _measure(self, at: _Underway, metrics: dict[str, Any]) -> None:
        """Evaluate where that is due, and write the step's line; where it fails it is made up for when the run goes on."""
        self.progress.unmeasured = None
        try:
            measured = self.monitor.measure(at.stage, at.loop, metrics, self.progress)
        except (Exception, KeyboardInterrupt) as error:
            if _known_to_all(error):
                self.progress.unmeasured = finite_or_null(metrics)
                self._rescue(at)
            raise
        self._log(at, metrics | measured)

    def _samples(self, number: int) -> list[Sample]:
        """This process's share of a step's samples."""
        each = self.config.prompts_per_step
        order = sample_order(len(self.samples), self.config.seed, number * each, each)
        # Data with fewer samples than a step has, and the seam of two epochs, bring one twice.
        places = [(i, order[:place].count(i)) for place, i in enumerate(order)]
        found = ((self.samples[i], again) for i, again in parallel.share(places))
        return [replace(sample, occurrence=again) if again else sample for sample, again in found if sample is not None]

    def _reference(self, index: int, stage: Stage, model: VisionLanguageModel) -> Policy | None:
        """The model at the stage's start, for the KL term; with adapters that is the network without them."""
        if not stage.config.objective.kl or stage.config.model.lora.rank:
            return None
        frozen = load_model(
            start_of(self.config, self.out, index),
            dtype=dtype_of(model.network),
            device="cpu" if is_sharded(stage.config) else model.device,
            min_pixels=stage.config.model.min_pixels,
            max_pixels=stage.config.model.max_pixels,
            family=stage.config.model.family,
            kernel=stage.config.model.attention,
        )
        frozen.network.requires_grad_(False)
        return Policy(frozen.network, temperature=stage.config.rollout.temperature, banned=model.banned_ids).to(frozen.device)

    def _incidents(self, loop: Loop, metrics: Mapping[str, float], network: nn.Module) -> str:
        """Keep what a skipped step and skipped samples were; returns the diagnosis where too many steps in a row were skipped."""
        step, folder = self.progress.step, self.out / "incidents"
        if metrics["data/skipped"]:
            rows = parallel.gather([{"step": step, "id": name, "problem": problem} for name, problem in loop.encoded.skipped])
            self._keep(folder / f"step-{step:06d}-skipped.jsonl", rows)
        if not loop.learner.findings.skipped:
            self.progress.skipped = 0
            return ""
        self.progress.skipped += 1
        kinds, rows = incident_rows(step, loop.learner.findings, loop.groups, loop.scorer, loop.controls)
        self._keep(folder / f"step-{step:06d}-nonfinite.jsonl", rows)
        warnings.warn(f"step {step} was skipped: its {' and '.join(kinds)} not finite; see {folder}", stacklevel=2)
        if self.progress.skipped < self.config.optimizer.max_skipped:
            return ""
        return diagnosis(kinds, rows, self.progress.skipped, network, metrics["train/lr"], str(folder))

    def _keep(self, path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        with parallel.agreed():
            if self.rank == 0:
                write_rows(path, rows)

    def _show(self, at: _Underway) -> None:
        loop = at.loop
        shown = self.recorder.rows(self.progress.step, loop.groups, loop.scorer, loop.controls)
        with parallel.agreed():
            if at.tracker is not None:
                at.tracker.rollouts(shown)

    def _log(self, at: _Underway, metrics: dict[str, Any]) -> None:
        step, self.last = self.progress.step, metrics
        with parallel.agreed():
            if at.tracker is not None:
                at.tracker.log(step, {"stage": self.progress.stage, "paradigm": at.stage.paradigm.name, **metrics})
        self.report({"event": "step", "step": step, "steps": self.stages[-1].end, "metrics": metrics, "stage": at.stage})

    def _save(self, at: _Underway) -> None:
        if self.progress.step == self.saved:
            return
        loop, network = at.loop, at.network
        if at.tracker is not None:
            at.tracker.to_disk()
            self.progress.metrics_bytes, self.progress.rollouts_bytes = at.tracker.positions
        self.progress.halvings = loop.learner.budget.halvings, loop.rollout_budget.halvings
        weights = loop.placement.weights(network)
        state = checkpoint.optimizer_state(loop.policy, at.optimizer)
        shards = None if weights is None else state.pop("state")
        whole = {"optimizer": state, "schedule": at.schedule.state_dict()}
        checkpoint.save(self.out, self.progress, network, whole, self.config.checkpoint.keep, weights=weights, shards=shards)
        self.saved = self.progress.step

    def _rescue(self, at: _Underway) -> None:
        """Save the last step's state while an error is on its way, which stays the one that is raised."""
        try:
            self._save(at)
        except Exception as problem:  # noqa: BLE001 - said beside the error that is raised
            warnings.warn(f"the last step's state could not be saved: {problem}", stacklevel=2)

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
            cost = {"processes": parallel.number(), **accounting.totals(read_metrics(self.out / "metrics.jsonl"))}
            scores = finite_or_null(self.monitor.scores)
            summary = {"steps": self.progress.step, "seconds": self.progress.seconds, "validation": scores, "cost": cost}
            summary |= {"before": finite_or_null(self.monitor.start)} if self.monitor.start else {}
            write_whole(self.out / "summary.json", json.dumps(summary, indent=1))
        self.report({"event": "end", "out": self.out})


def _known_to_all(error: BaseException) -> bool:
    """Whether the other processes know of an error too, and can be met in a checkpoint."""
    return not (parallel.several() and isinstance(error, KeyboardInterrupt))


def train(config: Config, report: Report | None = None) -> Result:
    """Post-train a model as a configuration says; goes on from the last checkpoint where there is one.

    Args:
        config: The whole run.
        report: Called with an event (a dict) at the start, after every step and at the end.

    Raises:
        ConfigError: The configuration cannot work, or another run is at work in its folder.
        DataError: A bad sample; the same holds.
        RewardError: A reward failed; the state of the last step is saved before.
        NonFiniteError: Too many steps in a row had to be skipped; the same holds.
        MemoryShortage: The smallest piece of a step does not fit; the same holds, unless the weights were being changed.
        CheckpointError: A checkpoint could not be written, or none is intact.
    """
    rank, _ = parallel.start(config.process_timeout)
    out = Path(config.out)
    with ExitStack() as held:
        with parallel.agreed():
            if out.exists() and not out.is_dir():
                raise ConfigError(f"out={out}: a file is there; name a folder, which is made if need be")
            if rank == 0:
                held.enter_context(locked(out, "another run", "out="))
        # What stands in the folder is read when nobody else can change it any more.
        return Run(config, report).run()
