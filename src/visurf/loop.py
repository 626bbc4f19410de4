"""Algorithm 1: sample, add the label, control the rewards, compute one advantage, take one clipped step.

Source: ViSurf, arXiv 2510.10606, Algorithm 1. Every paradigm runs through `Loop.step`; what differs is a value, see
`visurf.paradigms`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Literal, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from visurf import agreement, parallel
from visurf.advantages import spread
from visurf.budgets import Budget, explained
from visurf.config import Config
from visurf.control import acting
from visurf.costs import Meter
from visurf.diagnostics import Diagnostics
from visurf.groups import compared_rewards, form_group, reached, with_advantages
from visurf.hinting import in_rounds
from visurf.mixing import Moment
from visurf.models.family import Prompt, VisionLanguageModel
from visurf.nonfinite import Findings
from visurf.objective import kl_estimate, supervised_loss, token_terms, weighted_loss
from visurf.packing import Bundle, PackedRow, Scored, build_row, plan
from visurf.paradigms import Paradigm
from visurf.placement import Placement
from visurf.policy import Policy
from visurf.prompting import Encoded, Prompting
from visurf.replicas import Replicas
from visurf.rollout.local import Rollout, Sampling, sample, stream
from visurf.rollout.remote import Remote
from visurf.scoring import Scorer, label_completion
from visurf.types import Completion, Group, Sample
from visurf.weighing import Weighing

T = TypeVar("T")


@dataclass
class Batch:
    """The sequences of one optimiser batch on this process, in the order of groups and members.

    Attributes:
        prompts: One per group.
        groups: With advantages.
        lengths: (S,) tokens of each sequence.
        old: Log-probs of each sequence under the policy that sampled; None where that is the current policy.
        reference: Log-probs of each sequence under the reference; None without a KL term.
        entropies: Entropy at each token of the supervised sequences, where the paradigm needs it.
        sampled: Log-probs of each sequence by the servers that sampled it; None where the policy samples in process.
    """

    prompts: Sequence[Prompt]
    groups: Sequence[Group]
    lengths: Tensor
    old: list[Tensor] | None = None
    reference: list[Tensor] | None = None
    entropies: list[Tensor] | None = None
    sampled: list[Tensor] | None = None


class Loop:
    """The training step of one stage."""

    def __init__(  # noqa: PLR0913 - the last four have defaults
        self,
        config: Config,
        paradigm: Paradigm,
        model: VisionLanguageModel,
        policy: Policy,
        scorer: Scorer,
        reference: Policy | None = None,
        first: int = 0,
        placement: Placement | None = None,
        remote: Remote | None = None,
    ) -> None:
        """Take what a stage needs.

        `reference` is the policy at the stage's start, None where that is without adapters; `first` the stage's first step;
        `placement` says how both lie on the processes, None for whole on each; `remote` samples, None for in process.
        """
        self.config, self.paradigm, self.model, self.policy, self.scorer = config, paradigm, model, policy, scorer
        self.reference, self.first, self.placement = reference, first, placement or Replicas(policy)
        self.remote = remote if paradigm.rollouts else None
        self.objective = config.objective
        self.controls = acting(config.controls, paradigm.controls)
        self.mixing = {**paradigm.mixing, **config.mixing}
        self.groups: Sequence[Group] = ()
        self.meter = Meter.of(model, policy.network)
        self.budget = Budget("tokens_per_microbatch", config.tokens_per_microbatch)
        self.rollout_budget = Budget("rollout.token_budget", config.rollout.token_budget)
        self.findings = Findings()
        self.prompting = Prompting(
            model,
            lambda sample: scorer.task.prompt(sample, config.task.prompt),
            lambda prompt: self.labels([prompt])[0],
            config.data.on_bad_sample,
            config.rollout.max_tokens if paradigm.rollouts else 0,
        )
        self.encoded = Encoded()  # of the step in hand
        self.ahead: dict[int, Encoded] = {}  # of the next step, where its rollouts are being drawn already
        self._divisible = 0  # tokens of the packed row in hand, 0 where it holds a single sequence
        self._changed = False  # whether this step has changed weights
        # While true, weights and step number do not belong together, or a failure of one process is unknown to the others.
        self.updating = False

    def step(
        self, samples: Sequence[Sample], number: int, optimizer: Optimizer, schedule: LRScheduler, upcoming: Sequence[Sample] = ()
    ) -> dict[str, float]:
        """One iteration of Algorithm 1 on this process's samples; returns the metrics of all processes.

        `upcoming` are this process's samples of the next step, whose rollouts may be drawn while this one is trained.
        """
        seen, self._changed = Diagnostics(self.model.device), False
        with parallel.agreed(), seen.timed("encode"), autocast(self.config, self.model.device):
            self.encoded = self.ahead.pop(number) if number in self.ahead else self.prompting.encode(samples)
            prompts, labels = self.encoded.prompts, self.encoded.labels  # x, and y aligned
        if self.remote is not None:
            with seen.timed("push"):
                self.remote.prepare()
        moment = Moment(number - self.first, self.config.steps, self.mixing)
        with parallel.agreed():
            with seen.timed("rollout"):
                sampled = self.sample(prompts, labels, number, moment)  # o_1 ... o_G from the old policy
                if self.remote is not None and self.remote.overlap and upcoming:
                    with autocast(self.config, self.model.device):
                        self.ahead[number + 1] = self.prompting.encode(upcoming)
                    self.remote.begin(self.ahead[number + 1].prompts, number + 1)
            with seen.timed("reward"):
                rollouts = [[self.scorer.read(o, p.sample, p.frame) for o in g] for g, p in zip(sampled, prompts, strict=True)]
                groups = [
                    form_group(p.sample, o, None if self.paradigm.label == "hint" else y, self.scorer, self.controls)
                    for p, o, y in zip(prompts, rollouts, labels, strict=True)
                ]  # r; eliminate, smooth
        self.updating = parallel.several()
        with seen.timed("reward"):
            self.groups = self.advantages(groups, moment)  # A, Eq. 6 and 7
        with seen.timed("train"):
            batch = self.fitted(lambda: self.batch(prompts, self.groups))
            self.findings = Findings()
            self.findings.look_at_rollouts(self.groups)
            for _ in range(self.config.inner_steps):
                loss, carried = self.update(batch, optimizer, schedule, seen)  # Eq. 8
            self.updating = False
        counted = self.meter.take(seen.seconds["train"])
        metrics = seen.report(self.groups, [len(p.token_ids) for p in prompts], loss, carried) | counted
        metrics |= self.model.kept() | self.incidents()
        if self.remote is not None:
            metrics = agreement.watched(metrics | self.remote.report(), self.config.rollout.servers.alarm)
        return metrics

    def incidents(self) -> dict[str, float]:
        """What went wrong in a step and was lived with, over all processes."""
        self.rollout_budget.agree()
        bad = parallel.total([len(self.encoded.skipped)])[0]
        found = {"train/step_skipped": float(self.findings.skipped), "data/skipped": bad}
        return found | self.budget.report() | self.rollout_budget.report()

    def fitted(self, attempt: Callable[[], T]) -> T:
        """Something that runs packed rows, in smaller ones where memory runs out."""
        if not self.placement.repeats:
            with explained("a packed row does not fit", f"Lower tokens_per_microbatch, it is {self.budget.tokens}"):
                return attempt()
        remedy = (
            "Lower rollout.max_tokens or model.max_pixels, set model.gradient_checkpointing: true, train adapters "
            "(model.lora.rank) or share the model out (parallel: fsdp2)"
        )
        smallest = "a prompt with a single completion"
        try:
            return self.budget.fitted(attempt, lambda: self._divisible, smallest, remedy, together=True)
        except Exception:
            # All processes know of it.
            self.updating = self._changed
            raise

    def sample(
        self, prompts: Sequence[Prompt], labels: Sequence[Completion | None], number: int, moment: Moment
    ) -> list[list[Completion]]:
        """G completions of every prompt by the current policy, hinted at as the paradigm asks; none where it samples nothing."""
        size, hints = self.config.rollout.group_size, self.paradigm.hints
        if not self.paradigm.rollouts:
            return [[] for _ in prompts]
        with nullcontext() if self.remote else self.placement.sampling():
            if hints is None:
                return [[self.complete(rollout) for rollout in group] for group in self.draw(prompts, number, 0, size)]
            hinting = [label for label in labels if label is not None]
            streams = [stream(self.config.seed, number, prompt.sample.id, "hint") for prompt in prompts]
            return in_rounds(self, hints, size, prompts, hinting, streams, number, moment)

    def draw(self, prompts: Sequence[Prompt], number: int, first: int, members: int) -> list[list[Rollout]]:
        """Rollouts `first` to `first + members` of every prompt in step `number`."""
        if self.remote is not None:
            return self.remote.draw(prompts, number, first, members)
        settings = self.config.rollout
        needs = [len(p.token_ids) + members * settings.max_tokens for p in prompts]

        def attempt() -> list[list[Rollout]]:
            # A repeated attempt draws from the same streams, from their beginning.
            sampling = Sampling(
                settings.max_tokens,
                top_p=settings.top_p,
                token_budget=self.rollout_budget.tokens,
                cuda_graphs=settings.cuda_graphs,
            )
            streams = [[stream(self.config.seed, number, p.sample.id, first + j) for j in range(members)] for p in prompts]
            with autocast(self.config, self.model.device):
                return sample(self.policy, self.model.family, prompts, members, sampling, self.model.eos_ids, streams)

        self.policy.eval()
        try:
            sampled = self.rollout_budget.fitted(
                attempt,
                lambda: min(sum(needs), self.rollout_budget.tokens) if self.rollout_budget.tokens > min(needs) else 0,
                "one prompt with its rollouts",
                "Lower rollout.max_tokens, rollout.group_size or model.max_pixels",
                together=False,
            )
        finally:
            self.policy.train()
        self.meter.sample(prompts, sampled, shared=not self.model.family.unshared)
        return sampled

    def complete(self, rollout: Rollout, hint: Sequence[int] = ()) -> Completion:
        """What was sampled, with the hint before it, as a completion that is not yet read."""
        ids = (*hint, *rollout.token_ids)
        text = self.model.decode(ids)
        return Completion(text, ids, None, None, truncated=rollout.truncated, logprobs=rollout.logprobs, hint=len(hint))

    def solved(self, prompt: Prompt, label: Completion, completion: Completion) -> bool:
        """Whether a completion is right, measured by the label."""
        read = self.scorer.read(completion, prompt.sample, prompt.frame)
        score, best = self.scorer.score(read, prompt.sample), self.scorer.score_label(label, prompt.sample, self.controls)
        return reached(self.scorer, [score], best)[0] >= self.mixing["success"]

    def labels(self, prompts: Sequence[Prompt]) -> list[Completion | None]:
        """The label of every prompt, rendered as the policy writes (align) and read back by the parser of rollouts."""
        if not self.paradigm.label:
            return [None for _ in prompts]
        found: list[Completion | None] = []
        for prompt in prompts:
            label = label_completion(self.scorer.task, prompt.sample, prompt.frame, self.controls)
            label = self.scorer.read(label, prompt.sample, prompt.frame)
            found.append(replace(label, token_ids=self.model.encode_completion(label.text, f"label of {prompt.sample.id}")))
        return found

    def batch(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> Batch:
        """Flatten groups; compute old and reference log-probs where the objective needs them."""
        lengths = torch.tensor([len(c.token_ids) for g in groups for c in g.completions], dtype=torch.long)
        batch = Batch(prompts, groups, lengths)
        stale = self.remote is not None and self.remote.staleness > 0
        batch.sampled = None if self.remote is None else agreement.sampled_logprobs(groups)
        # A batch that feeds one step has ratio 1 by definition; without rollouts there is no ratio.
        if (self.config.inner_steps > 1 or stale) and self.paradigm.rollouts:
            batch.old = self.logprobs(self.policy, batch)
        if self.paradigm.entropies:
            batch.entropies = self.logprobs(self.policy, batch, entropy=True)
        if self.objective.kl and self.reference is not None:
            batch.reference = self.logprobs(self.reference, batch)
        elif self.objective.kl:
            with self.policy.without_adapters():
                batch.reference = self.logprobs(self.policy, batch)
        return batch

    @torch.no_grad()
    def logprobs(self, policy: Policy, batch: Batch, *, entropy: bool = False) -> list[Tensor]:
        """Log-probs of every sequence, in order, without gradient; or the entropies at the tokens of supervised ones."""
        found = [torch.zeros(n, device=self.model.device) for n in batch.lengths.tolist()]
        training = policy.training
        policy.eval()  # adapters' dropout would disturb the ratio
        planned = self.planned(batch, only="supervised" if entropy else "all")
        with self.placement.passes(policy, len(planned)):
            for bundles in planned:
                row = self.row(bundles)
                self.meter.score(bundles)
                with autocast(self.config, self.model.device):
                    values = policy(row, entropy=entropy)
                for number, part in zip(row.numbers, values.split(batch.lengths[row.numbers].tolist()), strict=True):
                    found[number] = part
        policy.train(training)
        return found

    def planned(self, batch: Batch, only: Literal["trained", "supervised", "all"] = "trained") -> list[list[Bundle]]:
        """What goes into each packed row: the sequences that carry a gradient, those that are supervised, or all."""
        bundles, number = [], 0
        for prompt, group in zip(batch.prompts, batch.groups, strict=True):
            chosen = []
            for i, completion in enumerate(group.completions):
                # Without a KL term a sequence of zero coefficients has no gradient; it still counts in the scale.
                supervised = bool(group.supervision) and group.supervision[i] != 0
                trained = supervised or bool(self.objective.kl) or group.advantages[i] != 0
                if completion.token_ids and (only == "all" or (supervised if only == "supervised" else trained)):
                    chosen.append(Scored(completion.token_ids, number))
                number += 1
            if chosen:
                bundles.append(Bundle(prompt, tuple(chosen)))
        return plan(bundles, self.budget.tokens, shared=not self.model.family.unshared)

    def row(self, bundles: Sequence[Bundle]) -> PackedRow:
        """A packed row on the device."""
        self._divisible = sum(b.tokens for b in bundles) if sum(len(b.sequences) for b in bundles) > 1 else 0
        return build_row(self.placement.complete(bundles), self.model.family, self.model.device)

    def advantages(self, groups: Sequence[Group], moment: Moment) -> list[Group]:
        """Groups with the coefficients of their sequences; a deviation of the whole batch is one over all processes."""
        settings, std = self.config.advantage, None
        if settings.scale == "batch":
            std = spread(parallel.gather([r for g in groups for r in compared_rewards(g, self.paradigm)]), settings.ddof)
        return with_advantages(groups, self.paradigm, **asdict(settings), batch_std=std, moment=moment)

    def update(self, batch: Batch, optimizer: Optimizer, schedule: LRScheduler, seen: Diagnostics) -> tuple[float, int]:
        """One optimiser step on the clipped objective (Eq. 8); none where something is not finite, but the schedule goes on.

        Returns:
            This process's share of the loss, and how many sequences went into rows.
        """
        weighing = Weighing.of(batch.groups, self.paradigm, self.mixing, self.objective, self.config.rollout.max_tokens)
        total, carried = self.fitted(lambda: self.gradient(batch, weighing, seen))
        norm = self.placement.clip(self.config.optimizer.max_grad_norm)
        seen.add("policy/grad_norm", norm.detach().view(1))
        self.findings.look_at_gradient(norm)
        if self.findings.anywhere():
            optimizer._opt_called = True  # type: ignore[attr-defined]  # or the schedule would warn that it runs ahead
        else:
            self.updating = self._changed = True
            with explained("the optimiser's states do not fit", "Train adapters (model.lora.rank), or set parallel: fsdp2"):
                optimizer.step()
        schedule.step()
        if self.remote is not None:
            self.remote.updated()
        return total, carried

    def gradient(self, batch: Batch, weighing: Weighing, seen: Diagnostics) -> tuple[float, int]:
        """The gradient of the clipped objective, summed over packed rows under one global scale; returns what `update` does."""
        planned, before = self.planned(batch), seen.mark()
        self.placement.begin(len(planned))
        total, carried = 0.0, 0
        try:
            for bundles in planned:
                total, carried = (
                    total + self.backward(batch, bundles, weighing, seen),
                    carried + sum(len(b.sequences) for b in bundles),
                )
        except Exception:
            seen.rewind(before)
            self.placement.abandon()
            raise
        self.placement.finish()
        for bundles in planned:
            self.meter.train(bundles)
        return total, carried

    def backward(self, batch: Batch, bundles: Sequence[Bundle], weighing: Weighing, seen: Diagnostics) -> float:
        """One packed row forward and backward; returns its share of the loss."""
        objective, row = self.objective, self.row(bundles)
        part = weighing.row(row.numbers, self.model.device)
        with autocast(self.config, self.model.device):
            logprobs = self.policy(row)
        old = None if batch.old is None else torch.cat([batch.old[n] for n in row.numbers])
        members, label, kl, shaping = len(batch.lengths), part.foreign, None, weighing.shaping
        terms = token_terms(
            logprobs, old, part.advantages, objective, member=row.member, members=members, foreign=label, shaping=shaping
        )
        if batch.sampled is not None:
            sampled = torch.cat([batch.sampled[n] for n in row.numbers]).to(self.model.device)
            factor = agreement.compare(logprobs if old is None else old, sampled, self.config.rollout.correction, seen)
            terms = terms if factor is None else replace(terms, loss=terms.loss * factor)
        if batch.reference is not None:
            kl = kl_estimate(logprobs, torch.cat([batch.reference[n] for n in row.numbers]), objective.kl_kind)
            seen.add("policy/kl", kl.detach()[~label])
            kl = kl if objective.kl_on_label else kl.masked_fill(label, 0)
        loss = weighted_loss(terms, part.weights, kl, kl_coefficient=objective.kl)
        entropies = None if batch.entropies is None else torch.cat([batch.entropies[n] for n in row.numbers])
        loss = loss + supervised_loss(logprobs, part.taught(logprobs, row.member, entropies))
        self.placement.backward(loss)
        self.findings.look_at_row(loss, logprobs, row.member)
        seen.unique += sum(b.tokens for b in bundles)
        for source, where in (("policy", ~label), ("label", label)):
            seen.add(f"{source}/clip_frac", terms.clipped[where])
            seen.add(f"{source}/approx_kl", terms.kl[where])
        seen.add("label/nll", -logprobs.detach()[label])
        return loss.item()


def autocast(config: Config, device: torch.device) -> torch.autocast:
    """Mixed precision where the configuration and the device have it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=is_mixed(config, device))


def is_mixed(config: Config, device: torch.device) -> bool:
    """Whether arithmetic is bfloat16 over parameters of another precision."""
    wanted = config.model.autocast
    return wanted == "on" or (wanted == "auto" and device.type == "cuda")
