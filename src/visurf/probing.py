"""What a starting checkpoint can do and where it could go: pass@k, label likelihood, entropy, spread of rewards, label rescue."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from visurf.config import Config, ConfigError
from visurf.data import load_data
from visurf.groups import form_group, with_advantages
from visurf.judging import judge
from visurf.metrics.passing import mean_pass_at
from visurf.models import VisionLanguageModel
from visurf.models.family import Prompt
from visurf.naming import look_up
from visurf.packing import Bundle, Scored, build_row
from visurf.paradigms import PARADIGMS
from visurf.policy import Policy
from visurf.precision import autocast
from visurf.preparation import frozen_policy, make_scorer
from visurf.rollout.local import Rollout, Sampling, sample, stream
from visurf.scoring import Scorer, label_completion
from visurf.spectra import compare_networks
from visurf.tasks import TASKS
from visurf.types import Completion, Sample

Record = dict[str, Any]
_BATCH = 16


@dataclass
class Probe:
    """A model that is asked.

    Attributes:
        config: Task, reward, rollout and control settings.
        model: Encodes and decodes.
        policy: Is sampled.
        scorer: Reads and rates.
        base: Another policy over the same tokens, to which the KL divergence is estimated; None for none.
        measure: The per-sample measure that says what is right.
        threshold: From which value on.
    """

    config: Config
    model: VisionLanguageModel
    policy: Policy
    scorer: Scorer
    base: Policy | None
    measure: str
    threshold: float

    def ask(self, samples: Sequence[Sample], rollouts: int) -> list[Record]:
        """One record for each sample."""
        task, settings = self.scorer.task, self.config.rollout
        prompts = [self.model.encode_prompt(s, task.prompt(s, self.config.task.prompt)) for s in samples]
        sampling = Sampling(settings.max_tokens, token_budget=settings.token_budget, cuda_graphs=settings.cuda_graphs)
        streams = [[stream(self.config.seed, "probe", s.id, j) for j in range(rollouts)] for s in samples]
        with autocast(self.config, self.model.device):
            drawn = sample(self.policy, self.model.family, prompts, rollouts, sampling, self.model.eos_ids, streams)
            return [self._record(prompt, group) for prompt, group in zip(prompts, drawn, strict=True)]

    def _record(self, prompt: Prompt, drawn: Sequence[Rollout]) -> Record:
        asked, frame, controls = prompt.sample, prompt.frame, self.config.controls
        read = [self.scorer.read(self._completion(r), asked, frame) for r in drawn]
        measures = [judge(asked, one, self.scorer.task)["measures"].get(self.measure) for one in read]
        label = self.scorer.read(label_completion(self.scorer.task, asked, frame, controls), asked, frame)
        label = dataclasses.replace(label, token_ids=self.model.encode_completion(label.text, f"label of {asked.id}"))
        (group,) = with_advantages([form_group(asked, read, label, self.scorer, controls)], PARADIGMS["visurf"])
        rewards = group.rewards[: len(read)]
        mean = math.fsum(rewards) / len(rewards)
        flat = max(rewards) - min(rewards) <= 1e-12 * max(1.0, abs(mean))
        logprobs = [v for r in drawn for v in r.logprobs]
        scored = self._logprobs(self.policy, prompt, [label.token_ids])[0]
        found: Record = {
            "id": asked.id,
            "right": sum(v is not None and v >= self.threshold for v in measures),
            "applies": any(v is not None for v in measures),
            "parse_failed": sum(one.error is not None for one in read) / len(read),
            "tokens": sum(len(r.token_ids) for r in drawn) / len(drawn),
            "entropy": -math.fsum(logprobs) / max(1, len(logprobs)),
            "reward": mean,
            "reward_variance": math.fsum((r - mean) ** 2 for r in rewards) / max(1, len(rewards) - 1),
            "flat": float(flat),
            "label_nll": -float(scored.double().mean()),
            "label_rescues": float(flat and group.advantages[-1] != 0),
            "label_advantage": group.advantages[-1],
        }
        if self.base is not None:
            base = self._logprobs(self.base, prompt, [r.token_ids for r in drawn if r.token_ids])
            own = self._logprobs(self.policy, prompt, [r.token_ids for r in drawn if r.token_ids])
            # The mean of log p - log q over tokens that p sampled.
            found["kl"] = float(torch.cat(own).double().sub(torch.cat(base).double()).mean()) if own else 0.0
        return found

    def _completion(self, rollout: Rollout) -> Completion:
        return Completion(self.model.decode(rollout.token_ids), rollout.token_ids, None, None, truncated=rollout.truncated)

    @torch.no_grad()
    def _logprobs(self, policy: Policy, prompt: Prompt, sequences: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        # One row a sequence where a family cannot share a prompt.
        size = 1 if self.model.family.unshared else max(1, len(sequences))
        for start in range(0, len(sequences), size):
            part = sequences[start : start + size]
            bundle = Bundle(prompt, tuple(Scored(tuple(tokens), number) for number, tokens in enumerate(part)))
            found += policy(build_row([bundle], self.model.family, self.model.device)).split([len(tokens) for tokens in part])
        return found


def right_measure(config: Config) -> str:
    """The per-sample measure behind the headline metric of a configuration's task; empty for a metric that is made of none."""
    task = look_up(config.task.name, TASKS, "task")
    return task.metrics[task.headline].measure


def probe(
    config: Config,
    rollouts: int = 64,
    *,
    against: str = "",
    measure: str = "",
    threshold: float = 0.5,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Probe `model.path` on `data.validation`.

    Args:
        config: Model, data, task, reward, control and rollout settings; `evaluation.limit` 0 takes all samples.
        rollouts: Sampled answers of every prompt; the largest k of pass@k.
        against: Another checkpoint of the same architecture: adds the KL divergence from it, and how the weights have changed.
        measure: Per-sample measure that says what is right; empty for that of the task's headline metric.
        threshold: From which value on an answer is right.
        progress: Called with (done, total) prompts.

    Returns:
        ``summary``, ``pass_at``, ``prompts`` (one record each), and with `against` ``weights``.

    Raises:
        ConfigError: No data, or a headline metric that is made of no per-sample measure.
    """
    if not config.data.validation:
        raise ConfigError("data.validation is not set; name a source of questions")
    if rollouts < 2:
        raise ConfigError(f"expected at least 2 rollouts of every prompt, got {rollouts}")
    if config.threads:
        torch.set_num_threads(config.threads)
    task = look_up(config.task.name, TASKS, "task")
    measure = measure or right_measure(config)
    if not measure:
        raise ConfigError(f"the headline metric of {task.name} is no mean over samples; name a measure with --measure")
    model, policy = frozen_policy(config, config.model.path)
    other = frozen_policy(config, against) if against else None
    samples = load_data(config.data.validation, config.data, task).samples[: config.evaluation.limit or None]
    asking = Probe(config, model, policy, make_scorer(config, task), other[1] if other else None, measure, threshold)
    found: list[Record] = []
    for start in range(0, len(samples), _BATCH):
        found += asking.ask(samples[start : start + _BATCH], rollouts)
        if progress is not None:
            progress(len(found), len(samples))
    about = {"model": config.model.path, "data": config.data.validation, "rollouts": rollouts, "measure": measure}
    result = {**about, "threshold": threshold, **summary(found, rollouts), "prompts": found}
    if other is not None:
        changes = compare_networks(other[1].network, policy.network)
        result |= {"against": against, "weights": {name: dataclasses.asdict(change) for name, change in changes.items()}}
    return result


def summary(found: Sequence[Record], rollouts: int) -> dict[str, Any]:
    """Means over prompts, and pass@k over those to which the measure applies.

    Raises:
        ValueError: No records.
    """
    if not found:
        raise ValueError("no prompts to probe")
    skip = ("id", "right", "applies")
    means = {name: math.fsum(r[name] for r in found) / len(found) for name in found[0] if name not in skip}
    asked = [r["right"] for r in found if r["applies"]]
    return {"summary": {**means, "samples": len(found)}, "pass_at": mean_pass_at(rollouts, asked) if asked else {}}
