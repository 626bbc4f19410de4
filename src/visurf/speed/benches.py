"""The measurements of one model: whole steps, training alone, rollouts, peak memory."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from visurf import accounting
from visurf.attention.unread import part_left_out
from visurf.config import ConfigError
from visurf.speed.contenders import Naive, Outcome, Visurf, patch_count, token_count
from visurf.speed.measure import Series, alternate, peak_memory
from visurf.speed.report import Report
from visurf.speed.shapes import SHAPES
from visurf.speed.workloads import Workload, like_the_demo, workload_for

RIVALS = ("naive", "trl")
TRL_NOTE = (
    "trl: without Triton its head scores every position of a row, padding and prompt included, which on a CPU overstates the "
    "ratio; it does not take the tokens that cannot be sampled out of the distribution, hence the difference of the gradients"
)

MEMORY_NOTE = "memory above the weights at the peak of one forward and backward, gradients included, without optimiser state"


@dataclass(frozen=True)
class Plan:
    """What to measure, and how often.

    Attributes:
        model: A name of `visurf.speed.shapes.SHAPES`.
        against: Rivals.
        repeats: Rounds that count.
        warmup: Rounds before them.
        length: Longest completion of the large models; 0 for their default.
        tokens: Token budget of a micro-batch, for every side; 0 for 16384, and 8192 for the large models.
        limit: Seconds after which no further round of a measurement begins; 0 for no limit.
        groups: Prompts of a step; 0 for the model's own number.
        command: As it was typed, for the record.
    """

    model: str = "tiny"
    against: tuple[str, ...] = ("naive",)
    repeats: int = 5
    warmup: int = 1
    length: int = 0
    tokens: int = 0
    limit: float = 0.0
    groups: int = 0
    command: str = ""

    def __post_init__(self) -> None:
        """Refuse names that are not known.

        Raises:
            ConfigError: Says which names there are.
        """
        unknown = [name for name in self.against if name not in RIVALS]
        if unknown or not self.against:
            raise ConfigError(f"--against: expected one or more of {', '.join(RIVALS)}, got {', '.join(unknown) or 'nothing'}")
        if self.model not in SHAPES:
            raise ConfigError(f"--model: expected one of {', '.join(SHAPES)}, got {self.model!r}")

    @property
    def budget(self) -> int:
        """Tokens of a micro-batch."""
        return self.tokens or (8192 if SHAPES[self.model].large else 16384)


def default_device() -> torch.device:
    """The first CUDA device, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Bench:
    """One model and its rivals, ready to be measured."""

    def __init__(self, plan: Plan) -> None:
        """Build the model, and copies of it for the rivals.

        Raises:
            ConfigError: A rival is not installed, or the model needs another device.
        """
        self.plan = plan
        self.workload = workload_for(plan.model, plan.length, plan.groups)
        if "trl" in plan.against:
            from visurf.speed import trl_rival

            trl_rival.check_installed()
        self.visurf = Visurf(SHAPES[plan.model], self.workload, default_device(), plan.budget)
        self.device = self.visurf.device
        self.naive = Naive(self.visurf) if "naive" in plan.against else None
        self.rivals: dict[str, Any] = {"naive": self.naive} if self.naive else {}
        if "trl" in plan.against:
            self.rivals["trl"] = trl_rival.Trl(self.visurf)
        self.rounds = 0
        self.keep: Callable[[Report], Any] = lambda report: None  # given a report whenever it has further rows

    def use(self, workload: Workload) -> None:
        """Go on with another workload."""
        self.workload = workload
        self.visurf.use(workload)

    def report(self) -> Report:
        """An empty report with the workload's sizes."""
        prompts = [len(p.token_ids) for p in self.visurf.prompts(0)]
        rows = [(p, n) for p, g in zip(prompts, self.workload.groups, strict=True) for n in (*g.rollouts, g.label)]
        lengths = [n for _, n in rows]
        about = {
            "parameters": sum(p.numel() for p in self.visurf.model.network.parameters()),
            "groups": len(prompts),
            "rollouts": self.workload.members,
            "prompt_tokens": f"{min(prompts)}-{max(prompts)}",
            "completion_tokens": f"{min(lengths)}-{max(lengths)}",
            "padded_tokens": len(rows) * (max(prompts) + max(lengths)),
            "unique_tokens": sum(prompts) + sum(n - 1 for n in lengths),
            "microbatch_tokens": self.plan.budget,
        }
        return Report(self.plan.command, self.plan.model, about, self.device)

    def alternate(self, sides: Mapping[str, Callable[[int], Any]]) -> dict[str, Series]:
        """`visurf.speed.measure.alternate` with the plan's numbers; round numbers go on, so that pictures are new."""
        plan, first = self.plan, self.rounds
        self.rounds += plan.warmup + plan.repeats
        numbered = {name: (lambda number, run=run: run(first + number)) for name, run in sides.items()}
        return alternate(numbered, plan.repeats, plan.warmup, self.device, plan.limit)

    def step(self) -> Report:
        """Whole optimiser steps, training alone, and whole steps with the demo's share of skipped sequences."""
        report = self.report()
        tokens = report.about["unique_tokens"] + self.workload.sampled
        report.speedup = self._steps(report, "whole step", tokens)
        self.keep(report)
        self._training(report)
        self.keep(report)
        if len(self.workload.groups) >= 4:
            before = self.workload
            self.use(like_the_demo(before))
            self._steps(report, "whole step, rewards as in the demo", tokens)
            self.use(before)
        if "trl" in self.rivals:
            report.notes.append(TRL_NOTE)
        return report

    def _steps(self, report: Report, what: str, tokens: int) -> float:
        sides: dict[str, Callable[[int], Outcome]] = {"visurf": self.visurf.step}
        sides |= {name: rival.step for name, rival in self.rivals.items()}
        series = self.alternate(sides)
        metrics = self.visurf.metrics
        parts = {name: seconds for name, seconds in metrics.items() if name.startswith("time/")}
        ratio = report.add_times(what, series, tokens, parts=parts, skipped=metrics["train/skipped"])
        # TRL knows no smoothing: where it acts, TRL's advantages are others.
        comparable = {n: s for n, s in series.items() if n != "trl" or not metrics["train/skipped"]}
        report.notes += agreement(what, comparable, exact=not self.visurf.shape.large)
        return ratio

    def _training(self, report: Report) -> None:
        """Forward and backward of one step's groups, without encoding, sampling and optimiser."""
        prompts = self.visurf.prompts(self.rounds)
        groups = self.visurf.replayed(prompts)
        sides: dict[str, Callable[[int], Any]] = {"visurf": lambda number: self.visurf.train(prompts, groups)}
        if self.naive:
            naive = self.naive
            sides["naive"] = lambda number: naive.train(prompts, groups)
        series = self.alternate(sides)
        unique = report.about["unique_tokens"]
        adapters = bool(self.visurf.shape.lora_rank)
        read = unique - sum(len(p.token_ids) - 1 for p in prompts)
        passed = accounting.Passed(unique, read, token_count(groups), patch_count(prompts))
        flops = accounting.training_flops(self._parameters(), passed, adapters=adapters, vision_trained=not adapters)
        seconds = statistics.median(series["visurf"].wall)
        known = accounting.known_device(self._device_name())
        more = {"flops": flops, "mfu": accounting.utilisation(flops, seconds, self._device_name())}
        if known is not None:
            more["floor_seconds"] = flops / known.flops
        report.add_times("training forward + backward", series, unique, **more)
        if self.naive:
            mine, theirs = (series[name].results[0] for name in ("visurf", "naive"))
            report.notes.append(f"naive: log-probs differ by at most {float((mine - theirs).abs().max()):.1e}")

    def _parameters(self) -> accounting.Parameters:
        base = self.visurf.policy.base()
        return accounting.count_parameters(base, self.visurf.model.family.vision_module, part_left_out(base))

    def _device_name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"

    def rollout(self) -> Report:
        """Sampling alone: visurf's engine, generate with `num_return_sequences`, generate on repeated prompts."""
        report = self.report()
        prompts = self.visurf.prompts(self.rounds)
        groups = self.visurf.replayed(prompts)
        sides: dict[str, Callable[[int], Any]] = {"visurf": lambda number: self.visurf.rollout(prompts)}
        if self.naive:
            naive = self.naive
            sides["num_return_sequences"] = lambda number: naive.generate(prompts, groups, repeat=False)
            sides["generate"] = lambda number: naive.generate(prompts, groups)
        series = self.alternate(sides)
        report.speedup = report.add_times("rollout", series, self.workload.sampled)
        self.keep(report)
        first = self.alternate({"visurf": lambda number: self.visurf.rollout(prompts, only_first=True)})
        lengths = [len(p.token_ids) for p in prompts]
        report.add_times("prompts and first token", first, sum(lengths), **self._floor(prompts, None))
        decode = Series(
            [w - f for w, f in zip(series["visurf"].wall, first["visurf"].wall, strict=False)],
            [w - f for w, f in zip(series["visurf"].user, first["visurf"].user, strict=False)],
        )
        report.add_times("the tokens after it", {"visurf": decode}, self.workload.sampled, **self._floor(prompts, lengths))
        return report

    def _floor(self, prompts: Any, decoded: list[int] | None) -> dict[str, float]:
        """The least time that a known device's rates allow for the prompts, or for what is decoded after them."""
        known = accounting.known_device(self._device_name())
        if known is None:
            return {}
        base = self.visurf.policy.base()
        counts = self._parameters()
        if decoded is None:
            tokens = sum(len(p.token_ids) for p in prompts)
            passed = accounting.Passed(tokens, len(prompts), len(prompts), patch_count(prompts))
            return {"floor_seconds": accounting.forward_flops(counts, passed) / known.flops}
        text = base.config.get_text_config()
        size = base.lm_head.weight.element_size()
        head = text.hidden_size // text.num_attention_heads
        per_token = 2 * text.num_hidden_layers * text.num_key_value_heads * head * size
        lengths = [g.rollouts for g in self.workload.groups]
        moved = accounting.decode_bytes((counts.text + counts.read + counts.head) * size, per_token, decoded, lengths)
        return {"floor_seconds": moved / known.bandwidth}

    def memory(self, side: str) -> float:
        """MiB that one side's training forward and backward take at their peak, gradients included."""
        for rival in (self.visurf, *self.rivals.values()):
            # Gradients of an earlier measurement would count as held before.
            rival.policy.zero_grad(set_to_none=True)
        prompts = self.visurf.prompts(self.rounds)
        groups = self.visurf.replayed(prompts)
        if side == "trl":
            return peak_memory(self.rivals["trl"].prepared(prompts, groups), self.device)
        runner = self.visurf if side == "visurf" else self.naive
        if runner is None:
            raise ConfigError(f"there is no side {side!r} here; it is not among {', '.join(self.plan.against)}")
        return peak_memory(lambda: runner.train(prompts, groups), self.device)

    def peaks(self) -> Report:
        """`memory` of every side, in this process: on a GPU, whose allocator counts."""
        return fill_peaks(self.report(), {side: self.memory(side) for side in ("visurf", *self.rivals)})


def fill_peaks(report: Report, peaks: Mapping[str, float]) -> Report:
    """A report's rows from the peaks of all sides, visurf's among them."""
    for side, mib in peaks.items():
        row = {"what": "peak training memory", "side": side, "mib": mib}
        if side != "visurf":
            row["ratio"] = report.speedup = mib / peaks["visurf"]
        report.rows.append(row)
    report.notes.append(MEMORY_NOTE)
    return report


def agreement(what: str, series: Mapping[str, Series], *, exact: bool) -> list[str]:
    """How far the rivals' losses and gradient norms lie from visurf's, over all rounds.

    Args:
        what: Which rounds.
        series: From `visurf.speed.measure.alternate`, with `Outcome` results.
        exact: Whether a loss that differs by more than 1e-4 is an error; bfloat16 is only reported.

    Raises:
        RuntimeError: The sides did not do the same work.
    """
    notes = []
    for name, found in series.items():
        if name == "visurf":
            continue
        pairs = list(zip(found.results, series["visurf"].results, strict=True))
        loss = max(abs(r.loss - m.loss) for r, m in pairs)
        norm = max(abs(r.grad_norm / m.grad_norm - 1) for r, m in pairs)
        text = (
            f"{what}, {name}: loss differs by at most {loss:.1e}, the gradient's norm by {norm:.1e} relative, in {len(pairs)} steps"
        )
        if exact and not loss <= 1e-4:
            raise RuntimeError(f"{text}; more than 1e-4 means that the sides did not do the same work")
        notes.append(text)
    return notes


def measure_step(plan: Plan) -> Report:
    """`Bench.step` of a fresh bench."""
    return Bench(plan).step()


def measure_rollout(plan: Plan) -> Report:
    """`Bench.rollout` of a fresh bench; the rival is always transformers' generate."""
    report = Bench(dataclasses.replace(plan, against=("naive",))).rollout()
    if "trl" in plan.against:
        report.notes.append("trl samples by transformers' generate on repeated prompts: it is the row generate")
    return report
