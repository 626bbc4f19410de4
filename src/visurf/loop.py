"""Algorithm 1: sample, add the label, control the rewards, compute one advantage, take one clipped step.

Source: ViSurf, arXiv 2510.10606, Algorithm 1. Every paradigm runs through `Loop.step`; what differs is a value, see
`visurf.paradigms`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from visurf import parallel
from visurf.advantages import spread
from visurf.config import Config
from visurf.diagnostics import Diagnostics
from visurf.groups import form_group, with_advantages
from visurf.models.family import Prompt, VisionLanguageModel
from visurf.objective import kl_estimate, token_terms, token_weights, weighted_loss
from visurf.packing import Bundle, PackedRow, Scored, build_row, plan
from visurf.paradigms import Paradigm
from visurf.policy import Policy
from visurf.rollout.local import Sampling, sample, stream
from visurf.scoring import Scorer, label_completion
from visurf.types import Completion, Group, Sample


@dataclass
class Batch:
    """The sequences of one optimiser batch on this process, in the order of groups and members.

    Attributes:
        prompts: One per group.
        groups: With advantages.
        lengths: (S,) tokens of each sequence.
        old: Log-probs of each sequence under the policy that sampled; None where that is the current policy.
        reference: Log-probs of each sequence under the reference; None without a KL term.
    """

    prompts: Sequence[Prompt]
    groups: Sequence[Group]
    lengths: Tensor
    old: list[Tensor] | None = None
    reference: list[Tensor] | None = None


class Loop:
    """The training step of one stage."""

    def __init__(
        self,
        config: Config,
        paradigm: Paradigm,
        model: VisionLanguageModel,
        policy: Policy,
        scorer: Scorer,
        reference: Policy | None = None,
    ) -> None:
        """Take what a stage needs; `reference` is the policy at the stage's start, None where that is without adapters."""
        self.config, self.paradigm, self.model, self.policy, self.scorer = config, paradigm, model, policy, scorer
        self.reference = reference
        self.objective = config.objective
        self.groups: Sequence[Group] = ()
        self.updating = False  # while true, weights and step number do not belong together

    def step(self, samples: Sequence[Sample], number: int, optimizer: Optimizer, schedule: LRScheduler) -> dict[str, float]:
        """One iteration of Algorithm 1 on this process's samples; returns the metrics of all processes."""
        seen = Diagnostics(self.model.device)
        with seen.timed("encode"):
            prompts = [self.model.encode_prompt(s, self.scorer.task.prompt(s, self.config.task.prompt)) for s in samples]
        with seen.timed("rollout"):
            sampled = self.sample(prompts, number)  # o_1 ... o_G from the old policy
        with seen.timed("reward"):
            labels = self.labels(prompts)  # y, aligned
            rollouts = [[self.scorer.read(o, p.sample, p.frame) for o in g] for g, p in zip(sampled, prompts, strict=True)]
            groups = [
                form_group(p.sample, o, y, self.scorer, self.config.controls)  # r; eliminate, smooth
                for p, o, y in zip(prompts, rollouts, labels, strict=True)
            ]
            batch_std = self.batch_std(groups)
            settings = self.config.advantage
            self.groups = with_advantages(  # A, Eq. 6 and 7
                groups, self.paradigm, ddof=settings.ddof, eps=settings.eps, scale=settings.scale, batch_std=batch_std
            )
        with seen.timed("train"):
            batch = self.batch(prompts, self.groups)
            self.updating = True
            for _ in range(self.config.inner_steps):
                loss, carried = self.update(batch, optimizer, schedule, seen)  # Eq. 8
            self.updating = False
        return seen.report(self.groups, [len(p.token_ids) for p in prompts], loss, carried)

    def sample(self, prompts: Sequence[Prompt], number: int) -> list[list[Completion]]:
        """G completions of every prompt by the current policy; none where the paradigm samples nothing."""
        if not self.paradigm.rollouts:
            return [[] for _ in prompts]
        settings, decode = self.config.rollout, self.model.decode
        sampling = Sampling(settings.max_tokens, top_p=settings.top_p, token_budget=settings.token_budget)
        streams = [[stream(self.config.seed, number, p.sample.id, j) for j in range(settings.group_size)] for p in prompts]
        self.policy.eval()
        with autocast(self.config, self.model.device):
            sampled = sample(self.policy, self.model.family, prompts, settings.group_size, sampling, self.model.eos_ids, streams)
        self.policy.train()
        return [
            [Completion(decode(r.token_ids), r.token_ids, None, None, truncated=r.truncated, logprobs=r.logprobs) for r in g]
            for g in sampled
        ]

    def labels(self, prompts: Sequence[Prompt]) -> list[Completion | None]:
        """The label of every prompt, rendered as the policy writes (align) and read back by the parser of rollouts."""
        if not self.paradigm.label:
            return [None for _ in prompts]
        found: list[Completion | None] = []
        for prompt in prompts:
            label = label_completion(self.scorer.task, prompt.sample, prompt.frame, self.config.controls)
            label = self.scorer.read(label, prompt.sample, prompt.frame)
            found.append(replace(label, token_ids=self.model.encode_completion(label.text, f"label of {prompt.sample.id}")))
        return found

    def batch(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> Batch:
        """Flatten groups; compute old and reference log-probs where the objective needs them."""
        lengths = torch.tensor([len(c.token_ids) for g in groups for c in g.completions], dtype=torch.long)
        batch = Batch(prompts, groups, lengths)
        # A batch that feeds one step has ratio 1 by definition; sft's ratio is against the current policy always.
        if self.config.inner_steps > 1 and self.paradigm.coefficient != "one":
            batch.old = self.logprobs(self.policy, batch)
        if self.objective.kl and self.reference is not None:
            batch.reference = self.logprobs(self.reference, batch)
        elif self.objective.kl:
            with self.policy.without_adapters():
                batch.reference = self.logprobs(self.policy, batch)
        return batch

    @torch.no_grad()
    def logprobs(self, policy: Policy, batch: Batch) -> list[Tensor]:
        """Log-probs of every sequence, in order, without gradient."""
        found = [torch.empty(0, device=self.model.device)] * len(batch.lengths)
        training = policy.training
        policy.eval()  # adapters' dropout would disturb the ratio
        for row in self.rows(batch, everything=True):
            with autocast(self.config, self.model.device):
                values = policy(row)
            for number, part in zip(row.numbers, values.split(batch.lengths[row.numbers].tolist()), strict=True):
                found[number] = part
        policy.train(training)
        return found

    def rows(self, batch: Batch, *, everything: bool = False) -> Iterator[PackedRow]:
        """Packed rows of the sequences that carry a gradient, or of all."""
        bundles, number = [], 0
        for prompt, group in zip(batch.prompts, batch.groups, strict=True):
            chosen = []
            for completion, advantage in zip(group.completions, group.advantages, strict=True):
                # Without a KL term a sequence of zero advantage has no gradient; it still counts in the scale.
                if completion.token_ids and (everything or self.objective.kl or advantage != 0):
                    chosen.append(Scored(completion.token_ids, number))
                number += 1
            if chosen:
                bundles.append(Bundle(prompt, tuple(chosen)))
        family = self.model.family
        for row in plan(bundles, self.config.tokens_per_microbatch, shared=not family.unshared):
            yield build_row(row, family, self.model.device)

    def batch_std(self, groups: Sequence[Group]) -> float | None:
        """The deviation of all rewards of the batch, over all processes, where advantages are scaled by it."""
        if self.config.advantage.scale != "batch":
            return None
        return spread(parallel.gather([r for g in groups for r in g.rewards]), self.config.advantage.ddof)

    def update(self, batch: Batch, optimizer: Optimizer, schedule: LRScheduler, seen: Diagnostics) -> tuple[float, int]:
        """One optimiser step on the clipped objective (Eq. 8), summed over packed rows under one global scale.

        Returns:
            This process's share of the loss, and how many sequences went into rows.
        """
        device, objective = self.model.device, self.objective
        advantages = torch.tensor([a for g in batch.groups for a in g.advantages])
        is_label = torch.tensor([c.source == "label" for g in batch.groups for c in g.completions])
        tokens, sequences = parallel.total([float(batch.lengths.sum()), float(len(batch.lengths))], device)
        optimizer.zero_grad(set_to_none=True)
        total, carried = 0.0, 0
        for row in self.rows(batch):
            lengths = batch.lengths[row.numbers]
            spread = [torch.repeat_interleave(v[row.numbers], lengths).to(device) for v in (advantages, is_label)]
            weights = token_weights(lengths, objective.average, tokens, sequences).float().to(device)
            with autocast(self.config, self.model.device):
                logprobs = self.policy(row)
            old = None if batch.old is None else torch.cat([batch.old[n] for n in row.numbers])
            terms = token_terms(logprobs, old, spread[0], objective, member=row.member, members=len(batch.lengths))
            label, kl = spread[1], None
            if batch.reference is not None:
                kl = kl_estimate(logprobs, torch.cat([batch.reference[n] for n in row.numbers]), objective.kl_kind)
                seen.add("policy/kl", kl.detach()[~label])
                kl = kl if objective.kl_on_label else kl.masked_fill(label, 0)
            loss = weighted_loss(terms, weights, kl, kl_coefficient=objective.kl)
            loss.backward()
            total, carried, seen.unique = total + loss.item(), carried + len(row.numbers), seen.unique + row.length
            for source, where in (("policy", ~label), ("label", label)):
                seen.add(f"{source}/clip_frac", terms.clipped[where])
                seen.add(f"{source}/approx_kl", terms.kl[where])
            seen.add("label/nll", -logprobs.detach()[label])
        parallel.sum_gradients(self.policy)
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.config.optimizer.max_grad_norm)
        seen.add("policy/grad_norm", norm.detach().view(1))
        optimizer.step()
        schedule.step()
        return total, carried


def autocast(config: Config, device: torch.device) -> torch.autocast:
    """Mixed precision where the configuration and the device have it."""
    wanted = config.model.autocast
    on = wanted == "on" or (wanted == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=on)
