"""Packed rows under the policy: the gradient of the clipped objective, log-probs, and the optimiser's step.

What a step trains on is decided elsewhere (`visurf.loop`); here it is computed, in pieces that fit into memory, under one global
scale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from visurf import agreement
from visurf.budgets import Budget, explained
from visurf.config import Config
from visurf.costs import Meter
from visurf.diagnostics import Diagnostics
from visurf.models.family import Prompt, VisionLanguageModel
from visurf.nonfinite import Findings
from visurf.objective import kl_estimate, supervised_loss, token_terms, weighted_loss
from visurf.packing import Bundle, PackedRow, Scored, build_row, plan
from visurf.paradigms import Paradigm
from visurf.placement import Placement
from visurf.policy import Policy
from visurf.precision import autocast
from visurf.types import Group
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


class Learner:
    """Trains the policy of one stage.

    Attributes:
        budget: Tokens of a packed row, fewer where memory ran out.
        findings: What of the step in hand is not finite.
        changed: Whether the step in hand has changed weights.
        begun: Whether it has changed weights or schedule.
        updating: While true, weights, schedule and step number do not belong together, or a failure of one process is unknown to
            the others; from the update until whoever counts the steps has counted this one.
    """

    def __init__(
        self,
        config: Config,
        paradigm: Paradigm,
        model: VisionLanguageModel,
        policy: Policy,
        reference: Policy | None,
        placement: Placement,
        mixing: Mapping[str, float],
    ) -> None:
        """Take what `visurf.loop.Loop` takes, and the hyperparameters of mixing."""
        self.config, self.paradigm, self.model, self.policy = config, paradigm, model, policy
        self.reference, self.placement, self.mixing, self.objective = reference, placement, mixing, config.objective
        self.meter = Meter.of(model, policy.network, placement.device)
        self.budget = Budget("tokens_per_microbatch", config.tokens_per_microbatch)
        self.findings = Findings()
        self.changed = self.begun = self.updating = False
        self._divisible = 0  # tokens of the packed row in hand, 0 where it holds a single sequence

    def batch(self, prompts: Sequence[Prompt], groups: Sequence[Group], *, served: bool = False, stale: bool = False) -> Batch:
        """Flatten groups; compute old and reference log-probs where the objective needs them.

        Args:
            prompts: One per group.
            groups: With advantages.
            served: Servers sampled, whose log-probs are compared with the network's.
            stale: The weights that sampled are older than those to be trained.
        """
        lengths = torch.tensor([len(c.token_ids) for g in groups for c in g.completions], dtype=torch.long)
        batch = Batch(prompts, groups, lengths)
        batch.sampled = agreement.sampled_logprobs(groups) if served else None
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
            self.updating = self.begun = self.changed = True
            with explained("the optimiser's states do not fit", "Train adapters (model.lora.rank), or set parallel: fsdp2"):
                optimizer.step()
        self.updating = self.begun = True
        schedule.step()
        return total, carried

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
            self.updating = self.begun
            raise

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
        part = weighing.row(row.numbers, self.placement.device)
        with autocast(self.config, self.placement.device):
            logprobs = self.policy(row)
        old = None if batch.old is None else torch.cat([batch.old[n] for n in row.numbers])
        members, label, kl, shaping = len(batch.lengths), part.foreign, None, weighing.shaping
        terms = token_terms(
            logprobs, old, part.advantages, objective, member=row.member, members=members, foreign=label, shaping=shaping
        )
        if batch.sampled is not None:
            sampled = torch.cat([batch.sampled[n] for n in row.numbers]).to(self.placement.device)
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

    @torch.no_grad()
    def logprobs(self, policy: Policy, batch: Batch, *, entropy: bool = False) -> list[Tensor]:
        """Log-probs of every sequence, in order, without gradient; or the entropies at the tokens of supervised ones."""
        found = [torch.zeros(n, device=self.placement.device) for n in batch.lengths.tolist()]
        training = policy.training
        policy.eval()  # adapters' dropout would disturb the ratio
        planned = self.planned(batch, only="supervised" if entropy else "all")
        try:
            with self.placement.passes(policy, len(planned)):
                for bundles in planned:
                    row = self.row(bundles)
                    self.meter.score(bundles)
                    with autocast(self.config, self.placement.device):
                        values = policy(row, entropy=entropy)
                    for number, part in zip(row.numbers, values.split(batch.lengths[row.numbers].tolist()), strict=True):
                        found[number] = part
        finally:
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
        return build_row(self.placement.complete(bundles), self.model.family, self.placement.device)
