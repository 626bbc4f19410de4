"""The two sides that are always there: visurf itself and the plain padded way, on the same weights, samples and lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from visurf import loop as loop_module
from visurf.config import AdvantageConfig, Config, LoraConfig, ModelConfig, OptimizerConfig, RolloutConfig, TaskConfig
from visurf.groups import form_group, with_advantages
from visurf.loop import Loop
from visurf.models.family import Prompt, VisionLanguageModel
from visurf.packing import Bundle, Scored, build_row, plan
from visurf.paradigms import VISURF
from visurf.policy import Policy
from visurf.precision import autocast
from visurf.preparation import add_adapters, make_optimizer
from visurf.rollout.local import Rollout, Sampling, sample
from visurf.scoring import Scorer
from visurf.speed.naive import naive_generate, naive_logprobs
from visurf.speed.shapes import SPECIAL, Shape, build_model, plain_copy
from visurf.speed.workloads import TASK, Ends, Workload
from visurf.tasks import RewardSettings
from visurf.types import Completion, Group, Sample

_FIRST_WORD = len(SPECIAL) + 3  # token ids of plain words begin here, see `visurf.speed.shapes.build_tokenizer`
# TRL's addend to the deviation, so that all sides have the same advantages.
EPS = 1e-4


@dataclass(frozen=True)
class Outcome:
    """What a step left: its loss, and the norm of its gradient before clipping."""

    loss: float
    grad_norm: float


def configuration(shape: Shape, workload: Workload, tokens: int) -> Config:
    """The settings of visurf's loop; the rivals are given the same."""
    return Config(
        model=ModelConfig(lora=LoraConfig(rank=shape.lora_rank)),
        task=TaskConfig(TASK.name),
        advantage=AdvantageConfig(eps=EPS),
        optimizer=OptimizerConfig(lr=1e-6),
        rollout=RolloutConfig(group_size=workload.members, max_tokens=workload.max_tokens),
        tokens_per_microbatch=tokens,
    )


class _ReplayedLoop(Loop):
    """The training loop whose rollouts end where the workload says; everything else of it is untouched."""

    def draw(self, prompts: Sequence[Prompt], number: int, first: int, members: int) -> list[list[Rollout]]:
        """See `Loop.draw`."""

        def ends(seed: int, step: int, sample: Sample, member: int) -> Ends:
            return _ends(sample, member)

        with patch.object(loop_module, "of_sample", ends):
            found = super().draw(prompts, number, first, members)
        check_lengths(prompts, [[r.token_ids for r in group] for group in found])
        return found


def _ends(sample: Sample, member: int) -> Ends:
    return Ends(sample.meta["lengths"][member], member)


def check_lengths(prompts: Sequence[Prompt], found: Sequence[Sequence[Sequence[int]]]) -> None:
    """Refuse to measure rollouts of other lengths than the workload's."""
    for prompt, group in zip(prompts, found, strict=True):
        lengths, asked = [len(c) for c in group], list(prompt.sample.meta["lengths"])
        if lengths != asked:
            raise RuntimeError(f"sample {prompt.sample.id}: rollouts of {lengths} tokens, the workload asks for {asked}")


class Visurf:
    """The library itself."""

    name = "visurf"

    def __init__(self, shape: Shape, workload: Workload, device: torch.device, tokens: int) -> None:
        """Build a model with random weights and the loop around it."""
        self.shape, self.workload, self.device = shape, workload, device
        self.config = configuration(shape, workload, tokens)
        self.model: VisionLanguageModel = build_model(shape, device)
        network: Any = self.model.network
        if shape.lora_rank:
            network = add_adapters(network, self.config.model.lora, self.model.family.vision_module)
        self.policy = Policy(network, temperature=1.0, banned=self.model.banned_ids).to(device)
        self.scorer = Scorer(TASK, TASK.parts(RewardSettings()))
        self.optimizer, self.schedule = make_optimizer(self.config, self.policy, 1000)
        self.loop = _ReplayedLoop(self.config, VISURF, self.model, self.policy, self.scorer)
        self.metrics: dict[str, float] = {}

    def prompts(self, step: int) -> list[Prompt]:
        """The encoded prompts of one step."""
        samples = self.workload.samples(step, self.shape.text["vocab_size"])
        return [self.model.encode_prompt(s, s.question) for s in samples]

    def step(self, number: int) -> Outcome:
        """One whole step of the training loop."""
        samples = self.workload.samples(number, self.shape.text["vocab_size"])
        self.policy.train()
        self.metrics = self.loop.step(samples, number, self.optimizer, self.schedule)
        self.policy.zero_grad(set_to_none=True)  # so that only the side that runs holds gradients
        return Outcome(self.metrics["loss"], self.metrics["policy/grad_norm"])

    @property
    def groups(self) -> Sequence[Group]:
        """The groups of the last step, with advantages."""
        return self.loop.groups

    def use(self, workload: Workload) -> None:
        """Go on with another workload."""
        self.workload = workload
        self.config = configuration(self.shape, workload, self.config.tokens_per_microbatch)
        self.loop = _ReplayedLoop(self.config, VISURF, self.model, self.policy, self.scorer)

    def replayed(self, prompts: Sequence[Prompt]) -> list[Group]:
        """Groups as a step would leave them, with random words for the rollouts, without sampling."""
        groups: list[Group] = []
        for prompt, label in zip(prompts, self.loop.labels(prompts), strict=True):
            rng = np.random.default_rng(len(groups))
            ids = [(*rng.integers(_FIRST_WORD, _FIRST_WORD + 100, n - 1).tolist(), 0) for n in prompt.sample.meta["lengths"]]
            rollouts = [Completion(self.model.decode(i), i, None, None) for i in ids]
            groups.append(form_group(prompt.sample, rollouts, label, self.scorer, self.config.controls))
        return with_advantages(groups, VISURF, eps=EPS)

    def rollout(self, prompts: Sequence[Prompt], *, only_first: bool = False) -> list[list[Rollout]]:
        """Sample the workload's completions of encoded prompts, or `only_first` their first tokens."""
        members = self.workload.members
        streams: Any = [[_ends(p.sample, j) for j in range(members)] for p in prompts]
        self.policy.eval()
        settings = Sampling(1 if only_first else self.workload.max_tokens)
        with autocast(self.config, self.device):
            found = sample(self.policy, self.model.family, prompts, members, settings, self.model.eos_ids, streams)
        if not only_first:
            check_lengths(prompts, [[r.token_ids for r in group] for group in found])
        return found

    def train(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> Tensor:
        """Forward and backward of a step over packed rows; returns the log-probs of all sequences that carry a gradient."""
        self.policy.train()
        self.policy.zero_grad(set_to_none=True)
        bundles, weights, number = [], [], 0
        for prompt, group in zip(prompts, groups, strict=True):
            chosen = []
            for completion, advantage in zip(group.completions, group.advantages, strict=True):
                if advantage != 0:
                    chosen.append(Scored(completion.token_ids, number))
                weights.append(advantage)
                number += 1
            if chosen:
                bundles.append(Bundle(prompt, tuple(chosen)))
        total = token_count(groups)
        advantages = torch.tensor(weights, device=self.device)
        found: dict[int, Tensor] = {}
        for bundle in plan(bundles, self.config.tokens_per_microbatch):
            row = build_row(bundle, self.model.family, self.device)
            with autocast(self.config, self.device):
                logprobs = self.policy(row)
            (-(advantages[row.member] * logprobs).sum() / total).backward()
            found |= {n: logprobs.detach()[row.member == n] for n in row.numbers}
        return torch.cat([found[n] for n in sorted(found)])


class Naive:
    """Padded rows and generate: what trainers do that know nothing of groups."""

    name = "naive"

    def __init__(self, visurf: Visurf) -> None:
        """Copy the weights, under transformers' own attention."""
        self.visurf, self.device = visurf, visurf.device
        self.policy = Policy(plain_copy(visurf.policy.network), temperature=1.0, banned=visurf.model.banned_ids).to(self.device)
        self.network = self.policy.base()
        self.optimizer, self.schedule = make_optimizer(visurf.config, self.policy, 1000)

    @property
    def config(self) -> Config:
        """Visurf's."""
        return self.visurf.config

    def step(self, number: int) -> Outcome:
        """The same step as visurf's last one: encode, generate, score, one update."""
        replayed = self.visurf.groups
        prompts = self.visurf.prompts(number)
        self.generate(prompts, replayed)
        groups = self._score(replayed)
        loss, _ = self._backward(prompts, groups)
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.config.optimizer.max_grad_norm)
        self.optimizer.step()
        self.schedule.step()
        self.policy.zero_grad(set_to_none=True)
        return Outcome(loss, float(norm))

    def generate(self, prompts: Sequence[Prompt], groups: Sequence[Group], *, repeat: bool = True) -> int:
        """Draw the rollouts of given groups with transformers' generate; returns how many tokens."""
        completions = [[c.token_ids for c in g.completions if c.source == "policy"] for g in groups]
        self.policy.eval()
        with autocast(self.config, self.device):
            return naive_generate(self.network, prompts, completions, banned=self.visurf.model.banned_ids, repeat=repeat)

    def train(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> Tensor:
        """Forward and backward of a step over padded rows; returns the log-probs of all sequences."""
        return self._backward(prompts, groups)[1]

    def _score(self, replayed: Sequence[Group]) -> list[Group]:
        scorer, controls = self.visurf.scorer, self.config.controls
        groups = [form_group(g.sample, g.completions[:-1], g.completions[-1], scorer, controls) for g in replayed]
        return with_advantages(groups, VISURF, eps=EPS)

    def _backward(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> tuple[float, Tensor]:
        """The clipped objective at ratio 1 over padded micro-batches of at most the token budget; loss and log-probs."""
        self.policy.train()
        self.policy.zero_grad(set_to_none=True)
        members = [
            (p, c.token_ids, a)
            for p, g in zip(prompts, groups, strict=True)
            for c, a in zip(g.completions, g.advantages, strict=True)
        ]
        total = token_count(groups)
        longest = max(len(p.token_ids) + len(t) for p, t, _ in members)
        size = max(self.config.tokens_per_microbatch // longest, 1)
        loss, found = 0.0, []
        for start in range(0, len(members), size):
            part = members[start : start + size]
            with autocast(self.config, self.device):
                logprobs = naive_logprobs(
                    self.network, [(p, t) for p, t, _ in part], banned=self.visurf.model.banned_ids, everywhere=False
                )
            terms = [-a * torch.exp(v - v.detach()).sum() for v, (_, _, a) in zip(logprobs, part, strict=True)]
            piece = torch.stack(terms).sum() / total
            piece.backward()
            loss += piece.item()
            found += [v.detach() for v in logprobs]
        return loss, torch.cat(found)


def patch_count(prompts: Sequence[Prompt]) -> int:
    """Picture patches of prompts."""
    return sum(len(p.tensors["pixel_values"]) for p in prompts if p.tensors)


def token_count(groups: Sequence[Group]) -> int:
    """Completion tokens of groups."""
    return sum(len(c.token_ids) for g in groups for c in g.completions)
