"""Algorithm 1: sample, add the label, control the rewards, compute one advantage, take one clipped step.

Source: ViSurf, arXiv 2510.10606, Algorithm 1. Every paradigm runs through `Loop.step`; what differs is a value, see
`visurf.paradigms`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from visurf import agreement, parallel
from visurf.advantages import spread
from visurf.config import Config
from visurf.control import acting
from visurf.diagnostics import Diagnostics
from visurf.groups import compared_rewards, form_group, reached, with_advantages
from visurf.hinting import in_rounds
from visurf.mixing import Moment
from visurf.models.family import Prompt, VisionLanguageModel
from visurf.objective import kl_estimate, supervised_loss, token_terms, weighted_loss
from visurf.packing import Bundle, PackedRow, Scored, build_row, plan
from visurf.paradigms import Paradigm
from visurf.placement import Placement
from visurf.policy import Policy
from visurf.replicas import Replicas
from visurf.rollout.local import Rollout, Sampling, sample, stream
from visurf.rollout.remote import Remote
from visurf.scoring import Scorer, label_completion
from visurf.types import Completion, Group, Sample
from visurf.weighing import Weighing


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
        # While true, weights and step number do not belong together, or a failure of one process is unknown to the others.
        self.updating = False

    def step(
        self, samples: Sequence[Sample], number: int, optimizer: Optimizer, schedule: LRScheduler, upcoming: Sequence[Sample] = ()
    ) -> dict[str, float]:
        """One iteration of Algorithm 1 on this process's samples; returns the metrics of all processes.

        `upcoming` are this process's samples of the next step, whose rollouts may be drawn while this one is trained.
        """
        seen = Diagnostics(self.model.device)
        with parallel.agreed(), seen.timed("encode"), autocast(self.config, self.model.device):
            prompts = (self.remote.begun(number) if self.remote else None) or self.encode(samples)
            labels = self.labels(prompts)  # y, aligned
        if self.remote is not None:
            with seen.timed("push"):
                self.remote.prepare()
        moment = Moment(number - self.first, self.config.steps, self.mixing)
        with parallel.agreed():
            with seen.timed("rollout"):
                sampled = self.sample(prompts, labels, number, moment)  # o_1 ... o_G from the old policy
                if self.remote is not None and self.remote.overlap and upcoming:
                    self.remote.begin(self.encode(upcoming), number + 1)
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
            batch = self.batch(prompts, self.groups)
            self.updating = True
            for _ in range(self.config.inner_steps):
                loss, carried = self.update(batch, optimizer, schedule, seen)  # Eq. 8
            self.updating = False
        metrics = seen.report(self.groups, [len(p.token_ids) for p in prompts], loss, carried) | self.model.kept()
        if self.remote is not None:
            metrics = agreement.watched(metrics | self.remote.report(), self.config.rollout.servers.alarm)
        return metrics

    def encode(self, samples: Sequence[Sample]) -> list[Prompt]:
        """The prompts of samples."""
        return [self.model.encode_prompt(s, self.scorer.task.prompt(s, self.config.task.prompt)) for s in samples]

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
        sampling = Sampling(
            settings.max_tokens, top_p=settings.top_p, token_budget=settings.token_budget, cuda_graphs=settings.cuda_graphs
        )
        streams = [[stream(self.config.seed, number, p.sample.id, first + j) for j in range(members)] for p in prompts]
        self.policy.eval()
        with autocast(self.config, self.model.device):
            sampled = sample(self.policy, self.model.family, prompts, members, sampling, self.model.eos_ids, streams)
        self.policy.train()
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
        return plan(bundles, self.config.tokens_per_microbatch, shared=not self.model.family.unshared)

    def row(self, bundles: Sequence[Bundle]) -> PackedRow:
        """A packed row on the device."""
        return build_row(self.placement.complete(bundles), self.model.family, self.model.device)

    def advantages(self, groups: Sequence[Group], moment: Moment) -> list[Group]:
        """Groups with the coefficients of their sequences; a deviation of the whole batch is one over all processes."""
        settings, std = self.config.advantage, None
        if settings.scale == "batch":
            std = spread(parallel.gather([r for g in groups for r in compared_rewards(g, self.paradigm)]), settings.ddof)
        return with_advantages(groups, self.paradigm, **asdict(settings), batch_std=std, moment=moment)

    def update(self, batch: Batch, optimizer: Optimizer, schedule: LRScheduler, seen: Diagnostics) -> tuple[float, int]:
        """One optimiser step on the clipped objective (Eq. 8), summed over packed rows under one global scale.

        Returns:
            This process's share of the loss, and how many sequences went into rows.
        """
        device, objective = self.model.device, self.objective
        weighing = Weighing.of(batch.groups, self.paradigm, self.mixing, objective, self.config.rollout.max_tokens)
        planned = self.planned(batch)
        self.placement.begin(len(planned))
        total, carried, shaping = 0.0, 0, weighing.shaping
        for bundles in planned:
            row = self.row(bundles)
            part = weighing.row(row.numbers, device)
            with autocast(self.config, self.model.device):
                logprobs = self.policy(row)
            old = None if batch.old is None else torch.cat([batch.old[n] for n in row.numbers])
            members, label, kl = len(batch.lengths), part.foreign, None
            terms = token_terms(
                logprobs, old, part.advantages, objective, member=row.member, members=members, foreign=label, shaping=shaping
            )
            if batch.sampled is not None:
                sampled = torch.cat([batch.sampled[n] for n in row.numbers]).to(device)
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
            total, carried = total + loss.item(), carried + len(row.numbers)
            seen.unique += sum(b.tokens for b in bundles)
            for source, where in (("policy", ~label), ("label", label)):
                seen.add(f"{source}/clip_frac", terms.clipped[where])
                seen.add(f"{source}/approx_kl", terms.kl[where])
            seen.add("label/nll", -logprobs.detach()[label])
        self.placement.finish()
        norm = self.placement.clip(self.config.optimizer.max_grad_norm)
        seen.add("policy/grad_norm", norm.detach().view(1))
        optimizer.step()
        schedule.step()
        if self.remote is not None:
            self.remote.updated()
        return total, carried


def autocast(config: Config, device: torch.device) -> torch.autocast:
    """Mixed precision where the configuration and the device have it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=is_mixed(config, device))


def is_mixed(config: Config, device: torch.device) -> bool:
    """Whether arithmetic is bfloat16 over parameters of another precision."""
    wanted = config.model.autocast
    return wanted == "on" or (wanted == "auto" and device.type == "cuda")
