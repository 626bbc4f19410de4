"""Rollouts that begin with a part of the label: a group is sampled in rounds, each with a hint of its own length.

Source: UFT, arXiv 2505.16984 (a prefix of the solution guides the rollout); TRAPO, arXiv 2512.17636 (micro-groups).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from visurf.mixing import HintRequest, Hints, Moment
from visurf.models.family import Prompt
from visurf.rollout.local import Rollout
from visurf.types import Completion


class Sampler(Protocol):
    """What sampling in rounds needs of the training loop."""

    def draw(self, prompts: Sequence[Prompt], number: int, first: int, members: int) -> list[list[Rollout]]:
        """Rollouts `first` to `first + members` of every prompt in step `number`."""

    def complete(self, rollout: Rollout, hint: Sequence[int] = ()) -> Completion:
        """What was sampled, with the hint before it, as a completion."""

    def solved(self, prompt: Prompt, label: Completion, completion: Completion) -> bool:
        """Whether a completion is right, measured by the label."""


def with_hint(prompt: Prompt, token_ids: Sequence[int]) -> Prompt:
    """The prompt with the first tokens of an answer behind it."""
    axes, count = prompt.position_ids.shape[0], len(token_ids)
    positions = torch.arange(prompt.next_position, prompt.next_position + count).expand(axes, -1)
    return dataclasses.replace(
        prompt,
        token_ids=(*prompt.token_ids, *token_ids),
        position_ids=torch.cat([prompt.position_ids, positions.to(prompt.position_ids)], dim=1),
        next_position=prompt.next_position + count,
    )


def in_rounds(
    sampler: Sampler,
    hints: Hints,
    group_size: int,
    prompts: Sequence[Prompt],
    labels: Sequence[Completion],
    streams: Sequence[np.random.Generator],
    number: int,
    moment: Moment,
) -> list[list[Completion]]:
    """Sample every prompt's group in rounds, guided as `hints` says.

    Args:
        sampler: Samples what follows the hints.
        hints: Sizes of the rounds and lengths of the hints.
        group_size: Rollouts of each prompt.
        prompts: What is answered.
        labels: The label of each prompt, tokenised.
        streams: Of each prompt, for the lengths that are drawn.
        number: Of the step.
        moment: Where the run stands.

    Returns:
        The rollouts of every prompt, hints included, in order.
    """
    found: list[list[Completion]] = [[] for _ in prompts]
    right: list[list[bool]] = [[] for _ in prompts]
    sizes = hints.split(group_size)
    for index, size in enumerate(sizes):
        first = sum(sizes[:index])
        given = []
        for solved, label, random in zip(right, labels, streams, strict=True):
            request = HintRequest(index, tuple(solved), len(label.token_ids), random, moment)
            given.append(label.token_ids[: hints.tokens(request)])
        open_ended = [i for i, label in enumerate(labels) if len(given[i]) < len(label.token_ids)]
        drawn = sampler.draw([with_hint(prompts[i], given[i]) for i in open_ended], number, first, size) if open_ended else []
        written = dict(zip(open_ended, drawn, strict=True))
        for i, hint in enumerate(given):
            # Where the whole label was given, nothing is left to write.
            parts = written.get(i, [Rollout((), (), truncated=False)] * size)
            found[i] += [sampler.complete(part, hint) for part in parts]
            if index + 1 < len(sizes):
                right[i] += [sampler.solved(prompts[i], labels[i], completion) for completion in found[i][first:]]
    return found
