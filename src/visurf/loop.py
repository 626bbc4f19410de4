"""Algorithm 1: sample, add the label, control the rewards, compute one advantage, take one clipped step.

Source: ViSurf, arXiv 2510.10606, Algorithm 1. Every paradigm runs through `Loop.step`; what differs is a value, see
`visurf.paradigms`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from visurf import agreement, parallel
from visurf.advantages import spread
from visurf.budgets import Budget
from visurf.config import Config
from visurf.control import acting
from visurf.diagnostics import Diagnostics
from visurf.groups import compared_rewards, form_group, reached, with_advantages
from visurf.hinting import in_rounds
from visurf.learner import Learner
from visurf.mixing import Moment
from visurf.models.family import Prompt, VisionLanguageModel
from visurf.nonfinite import Findings
from visurf.paradigms import Paradigm
from visurf.placement import Placement
from visurf.policy import Policy
from visurf.precision import autocast
from visurf.prompting import Encoded, Prompting
from visurf.replicas import Replicas
from visurf.rollout.local import Rollout, Sampling, sample
from visurf.rollout.remote import Remote
from visurf.rollout.sampling import of_sample
from visurf.scoring import Scorer, label_completion
from visurf.types import Completion, Group, Sample


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
        self.first, self.placement = first, placement or Replicas(policy)
        self.remote = remote if paradigm.rollouts else None
        self.controls = acting(config.controls, paradigm.controls)
        self.mixing = {**paradigm.mixing, **config.mixing}
        self.groups: Sequence[Group] = ()
        self.learner = Learner(config, paradigm, model, policy, reference, self.placement, self.mixing)
        self.rollout_budget = Budget("rollout.token_budget", config.rollout.token_budget)
        self.prompting = Prompting(
            model,
            lambda sample: scorer.task.prompt(sample, config.task.prompt),
            lambda prompt: self.labels([prompt])[0],
            config.data.on_bad_sample,
            config.rollout.max_tokens if paradigm.rollouts else 0,
        )
        self.encoded = Encoded()  # of the step in hand
        self.ahead: dict[int, Encoded] = {}  # of the next step, where its rollouts are being drawn already

    def step(
        self, samples: Sequence[Sample], number: int, optimizer: Optimizer, schedule: LRScheduler, upcoming: Sequence[Sample] = ()
    ) -> dict[str, float]:
        """One iteration of Algorithm 1 on this process's samples; returns the metrics of all processes.

        `upcoming` are this process's samples of the next step, whose rollouts may be drawn while this one is trained.
        """
        seen, learner = Diagnostics(self.placement.device), self.learner
        learner.changed = learner.begun = learner.updating = False
        learner.findings = Findings()
        with parallel.agreed(), seen.timed("encode"), autocast(self.config, self.placement.device):
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
                    with autocast(self.config, self.placement.device):
                        self.ahead[number + 1] = self.prompting.encode(upcoming)
                    self.remote.begin(self.ahead[number + 1].prompts, number + 1)
            with seen.timed("reward"):
                rollouts = [[self.scorer.read(o, p.sample, p.frame) for o in g] for g, p in zip(sampled, prompts, strict=True)]
                groups = [
                    form_group(p.sample, o, None if self.paradigm.label == "hint" else y, self.scorer, self.controls)
                    for p, o, y in zip(prompts, rollouts, labels, strict=True)
                ]  # r; eliminate, smooth
        learner.updating = parallel.several()
        with seen.timed("reward"):
            self.groups = self.advantages(groups, moment)  # A, Eq. 6 and 7
        with seen.timed("train"):
            served, stale = self.remote is not None, self.remote is not None and self.remote.staleness > 0
            batch = learner.fitted(lambda: learner.batch(prompts, self.groups, served=served, stale=stale))
            learner.findings.look_at_rollouts(self.groups)
            for _ in range(self.config.inner_steps):
                loss, carried = learner.update(batch, optimizer, schedule, seen)  # Eq. 8
        counted = learner.meter.take(seen.seconds["train"])
        metrics = seen.report(self.groups, [len(p.token_ids) for p in prompts], loss, carried) | counted
        metrics |= self.model.kept() | self.incidents()
        if self.remote is not None:
            if learner.changed:
                self.remote.updated()
            metrics = agreement.watched(metrics | self.remote.report(), self.config.rollout.servers.alarm)
        return metrics

    def incidents(self) -> dict[str, float]:
        """What went wrong in a step and was lived with, over all processes."""
        self.rollout_budget.agree()
        bad = parallel.total([len(self.encoded.skipped)])[0]
        found = {"train/step_skipped": float(self.learner.findings.skipped), "data/skipped": bad}
        return found | self.learner.budget.report() | self.rollout_budget.report()

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
            streams = [of_sample(self.config.seed, number, prompt.sample, "hint") for prompt in prompts]
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
                cuda_graphs=self.cuda_graphs,
            )
            streams = [[of_sample(self.config.seed, number, p.sample, first + j) for j in range(members)] for p in prompts]
            with autocast(self.config, self.placement.device):
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
        self.learner.meter.sample(prompts, sampled, shared=not self.model.family.unshared)
        return sampled

    @property
    def cuda_graphs(self) -> Literal["auto", "on", "off"]:
        """The setting, and what `auto` is where the policy lies as it does."""
        wanted = self.config.rollout.cuda_graphs
        return "off" if wanted == "auto" and not self.placement.records else wanted

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

    def advantages(self, groups: Sequence[Group], moment: Moment) -> list[Group]:
        """Groups with the coefficients of their sequences; a deviation of the whole batch is one over all processes."""
        settings, std = self.config.advantage, None
        if settings.scale == "batch":
            std = spread(parallel.gather([r for g in groups for r in compared_rewards(g, self.paradigm)]), settings.ddof)
        return with_advantages(groups, self.paradigm, **asdict(settings), batch_std=std, moment=moment)
