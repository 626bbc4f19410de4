"""Reasoning demonstrations: sample several answers of every prompt, keep those that the reward accepts, write them as labels."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from visurf.config import Config, ConfigError, to_dict
from visurf.data import load_data
from visurf.demonstrations import inside, names_coordinates, reasoning_of, write_response, write_target
from visurf.interruption import Interruption
from visurf.models import VisionLanguageModel
from visurf.models.family import Prompt
from visurf.naming import look_up
from visurf.picture_files import picture_name
from visurf.policy import Policy
from visurf.precision import autocast
from visurf.preparation import frozen_policy, make_scorer
from visurf.rollout.local import Rollout, Sampling, sample, stream
from visurf.row_file import RowFile
from visurf.scoring import Scorer, label_completion
from visurf.tasks import TASKS
from visurf.tasks.segmentation import objects_of
from visurf.types import Completion, Demonstration, Masks, Sample

Keep = Literal["best", "shortest", "all"]
# An answer is good enough, unless the user says otherwise, from this share of the largest possible reward.
ENOUGH = 0.8


@dataclass
class Tally:
    """What a distillation has seen so far; every number is a sum over prompts.

    Attributes:
        prompts: Prompts done.
        answered: Prompts with at least one accepted answer.
        completions: Answers sampled.
        truncated: Of them, those cut at the length limit.
        accepted: Of them, those that the reward accepts and that reason.
        rows: Rows written.
        reward: Of all completions, summed.
        kept_reward: Of the rows written, summed.
        kept_tokens: Of the rows written, summed.
        coordinates: Rows whose reasoning names coordinates.
    """

    prompts: int = 0
    answered: int = 0
    completions: int = 0
    truncated: int = 0
    accepted: int = 0
    rows: int = 0
    reward: float = 0.0
    kept_reward: float = 0.0
    kept_tokens: int = 0
    coordinates: int = 0

    def summary(self) -> dict[str, float]:
        """Shares and means; NaN where there is nothing to average."""

        def mean(total: float, count: int) -> float:
            return total / count if count else math.nan

        return {
            "prompts": self.prompts,
            "rows": self.rows,
            "answered_share": mean(self.answered, self.prompts),
            "accepted_share": mean(self.accepted, self.completions),
            "truncated_share": mean(self.truncated, self.completions),
            "mean_reward": mean(self.reward, self.completions),
            "mean_reward_kept": mean(self.kept_reward, self.rows),
            "mean_tokens_kept": mean(self.kept_tokens, self.rows),
            "rows_with_coordinates": self.coordinates,
        }


@dataclass(frozen=True)
class Candidate:
    """An accepted answer: its reward as the label that is written, and its length in tokens as sampled."""

    number: int
    demonstration: Demonstration
    reward: float
    tokens: int


def choose(candidates: Sequence[Candidate], keep: Keep) -> list[Candidate]:
    """Which accepted answers of one prompt are written.

    Args:
        candidates: In the order of sampling.
        keep: `best`: the highest reward, of equals the shortest. `shortest`: the fewest tokens, of equals the highest reward.
            `all`: every one, but equal ones once. Ties go to the first.
    """
    if keep == "all":
        first: dict[Demonstration, Candidate] = {}
        for candidate in candidates:
            first.setdefault(candidate.demonstration, candidate)
        return list(first.values())
    if keep == "best":
        return sorted(candidates, key=lambda c: (-c.reward, c.tokens, c.number))[:1]
    return sorted(candidates, key=lambda c: (c.tokens, -c.reward, c.number))[:1]


def least_reward(scorer: Scorer, asked: float | None) -> float:
    """The smallest reward that is accepted: the one asked for, or four fifths of the largest possible one.

    Raises:
        ConfigError: None was asked for, and a part has no known maximum.
    """
    if asked is not None:
        return asked
    weights = {name: scorer.weights.get(name, 1.0) for name in scorer.parts}
    largest = sum(weights[name] * part.maximum for name, part in scorer.parts.items() if weights[name] > 0)
    if not math.isfinite(largest):
        raise ConfigError("a reward of yours has no known maximum; say from which total an answer is accepted with --min-reward")
    return ENOUGH * largest


@dataclass
class Distillation:
    """A model that answers, a reward that accepts, and what is kept.

    Attributes:
        config: Model, data, task, reward and rollout settings; `rollout.group_size` answers are sampled of every prompt.
        model: Encodes and decodes.
        policy: Answers.
        scorer: Rates an answer, and once more the label that it becomes.
        keep: See `choose`.
        least: The smallest total reward that is accepted.
    """

    config: Config
    model: VisionLanguageModel
    policy: Policy
    scorer: Scorer
    keep: Keep
    least: float

    def answer(self, samples: Sequence[Sample], tally: Tally) -> list[list[Candidate]]:
        """What is kept of each sample's answers; counts what was seen."""
        task, settings = self.scorer.task, self.config.rollout
        prompts = [self.model.encode_prompt(s, task.prompt(s, self.config.task.prompt)) for s in samples]
        sampling = Sampling(
            settings.max_tokens, top_p=settings.top_p, token_budget=settings.token_budget, cuda_graphs=settings.cuda_graphs
        )
        streams = [[stream(self.config.seed, "distil", s.id, j) for j in range(settings.group_size)] for s in samples]
        with autocast(self.config, self.model.device):
            family, eos = self.model.family, self.model.eos_ids
            sampled = sample(self.policy, family, prompts, settings.group_size, sampling, eos, streams)
        return [self._kept(prompt, rollouts, tally) for prompt, rollouts in zip(prompts, sampled, strict=True)]

    def _kept(self, prompt: Prompt, rollouts: Sequence[Rollout], tally: Tally) -> list[Candidate]:
        texts = [self.model.decode(r.token_ids) for r in rollouts]
        read = [
            self.scorer.read(Completion(t, r.token_ids, None, None, truncated=r.truncated), prompt.sample, prompt.frame)
            for t, r in zip(texts, rollouts, strict=True)
        ]
        scores = self.scorer.score_all(read, prompt.sample)
        accepted = []
        for number, (completion, score) in enumerate(zip(read, scores, strict=True)):
            if score.total >= self.least and not completion.truncated:
                candidate = self._candidate(number, completion, prompt)
                accepted += [candidate] if candidate is not None else []
        kept = choose(accepted, self.keep)
        tally.prompts, tally.answered = tally.prompts + 1, tally.answered + bool(accepted)
        tally.completions, tally.accepted = tally.completions + len(read), tally.accepted + len(accepted)
        tally.truncated += sum(c.truncated for c in read)
        tally.reward += math.fsum(s.total for s in scores)
        tally.rows, tally.kept_reward = tally.rows + len(kept), tally.kept_reward + math.fsum(c.reward for c in kept)
        tally.kept_tokens += sum(c.tokens for c in kept)
        tally.coordinates += sum(c.demonstration.extent is not None for c in kept)
        return kept

    def _candidate(self, number: int, completion: Completion, prompt: Prompt) -> Candidate | None:
        """The label that an accepted answer becomes; None without reasoning, or where as a label it earns too little."""
        thinking = reasoning_of(completion.text)
        answer = None if completion.answer is None else inside(completion.answer, prompt.sample.size)
        if thinking is None or answer is None:
            return None
        extent = prompt.frame.extent if prompt.sample.images and names_coordinates(thinking) else None
        demonstration = Demonstration(thinking, answer, extent)
        labelled = dataclasses.replace(prompt.sample, response=demonstration)
        label = label_completion(self.scorer.task, labelled, prompt.frame, self.config.controls)
        reward = self.scorer.score(self.scorer.read(label, labelled, prompt.frame), labelled).total
        return Candidate(number, demonstration, reward, len(completion.token_ids)) if reward >= self.least else None


def distil(
    config: Config,
    out: Path,
    *,
    keep: Keep = "best",
    min_reward: float | None = None,
    copy_images: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Let `model.path` answer the prompts of `data.train` and write what the reward accepts as labels with reasoning.

    Args:
        config: Model, data, task, reward and rollout settings and the seed; `prompts_per_step` prompts are answered between two
            writes, `rollout.group_size` times each.
        out: JSONL; a run that was killed goes on where it stood and ends with the same bytes.
        keep: See `choose`.
        min_reward: See `least_reward`.
        copy_images: Copy pictures beside the rows instead of naming them where they lie.
        progress: Called with (done, total) prompts after every batch.

    Returns:
        See `Tally.summary`; `accepted_from`: the smallest accepted reward; `skipped`: bad rows of the data.

    Raises:
        ConfigError: `data.train` is not set, or `out` holds rows of something else.
        DataError: A bad sample, or a picture that rows cannot name.
        KeyboardInterrupt: After the batch in hand.
    """
    if not config.data.train:
        raise ConfigError("data.train is not set; name the data to answer")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("distillation runs in one process; start it without torchrun")
    if config.threads:
        torch.set_num_threads(config.threads)
    task = look_up(config.task.name, TASKS, "task")
    data = load_data(config.data.train, config.data, task)
    scorer = make_scorer(config, task)
    least = least_reward(scorer, min_reward)
    store = out.with_name(f"{out.stem}_images")
    if not copy_images:
        # A picture that rows cannot name is found now, not after hours.
        for image in (i for s in data.samples for i in s.images if isinstance(i.source, str | Path)):
            picture_name(image, out.parent, store, copy=False)
    rows = RowFile(out, _settings(config, data.samples, keep=keep, least=least, copy_images=copy_images))
    tally, total = Tally(**rows.tally), len(data.samples)
    if rows.done < total:
        distillation = _prepare(config, scorer, keep, least)
    with Interruption() as interruption:
        for start in range(rows.done, total, config.prompts_per_step):
            batch = data.samples[start : start + config.prompts_per_step]
            written = []
            for answered, kept in zip(batch, distillation.answer(batch, tally), strict=True):
                images = [picture_name(i, out.parent, store, copy=copy_images) for i in answered.images] if kept else []
                written += [_row(answered, candidate, images, config, keep) for candidate in kept]
            rows.append(written, start + len(batch), dataclasses.asdict(tally))
            if progress is not None:
                progress(rows.done, total)
            if interruption.asked and rows.done < total:
                raise KeyboardInterrupt
    return {**tally.summary(), "accepted_from": least, "skipped": len(data.skipped)}


def _prepare(config: Config, scorer: Scorer, keep: Keep, least: float) -> Distillation:
    model, policy = frozen_policy(config, config.model.path)
    return Distillation(config, model, policy, scorer, keep, least)


def _settings(config: Config, samples: Sequence[Sample], **chosen: Any) -> dict[str, Any]:
    """What decides the rows: a file is gone on with under the same alone."""
    values = to_dict(config)
    ids = hashlib.sha256("\n".join(s.id for s in samples).encode()).hexdigest()
    names = ("model", "data", "task", "controls", "reward", "rollout", "prompts_per_step", "seed")
    return {**{name: values[name] for name in names}, **chosen, "ids": ids}


def _row(of: Sample, candidate: Candidate, images: Sequence[str], config: Config, keep: Keep) -> dict[str, Any]:
    """One line of the output."""
    target = objects_of(of.target) if isinstance(of.target, Masks) else of.target
    about = {"model": config.model.path, "reward": candidate.reward, "tokens": candidate.tokens}
    return {
        "id": f"{of.id}#{candidate.number}" if keep == "all" else of.id,
        **({"image": images[0] if len(images) == 1 else list(images)} if images else {}),
        "question": of.question,
        "target": write_target(target),
        "response": write_response(candidate.demonstration),
        "meta": {**_plain(of.meta), "distilled": about},
    }


def _plain(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What of a sample's meta JSON can hold; masks and the like stay behind."""
    found = {}
    for name, value in meta.items():
        try:
            found[name] = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError):
            continue
    return found
