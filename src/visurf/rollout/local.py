"""Rollouts in process: a prompt and its image run through the model once, whatever the number of rollouts.

The prompt's keys and values are kept once per prompt and never copied per rollout: the rollouts of a prompt are folded into the
query. Rollouts that end leave, and waiting prompts join as soon as the token budget has room for them. Every rollout draws from its
own random stream, so order and batch size change nothing but kernel rounding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from visurf.linear import frozen_weights
from visurf.models.family import Family, Prompt
from visurf.packing import Bundle, build_row
from visurf.policy import Policy
from visurf.rollout.batch import Work
from visurf.rollout.fixed import new_batch
from visurf.rollout.record import Record
from visurf.rollout.sampling import stream
from visurf.rollout.types import Rollout, Sampling

__all__ = ["Rollout", "Sampling", "sample", "stream"]

# Prompt tokens that run through the network together; a longer prompt runs alone.
PREFILL = 16384


@torch.no_grad()
def sample(
    policy: Policy,
    family: Family,
    prompts: Sequence[Prompt],
    members: int,
    settings: Sampling,
    eos: tuple[int, ...],
    streams: Sequence[Sequence[np.random.Generator]] | None = None,
) -> list[list[Rollout]]:
    """Sample completions of prompts.

    Args:
        policy: In eval mode; its temperature and banned tokens define the distribution.
        family: Joins the prompts' tensors.
        prompts: B prompts.
        members: Rollouts of each prompt.
        settings: Length limit, greedy or sampled, top-p, budget.
        eos: Tokens that end a completion.
        streams: One random generator per prompt and rollout; not needed when greedy.

    Returns:
        For each prompt its rollouts, in order.
    """
    if not settings.greedy and streams is None:
        raise ValueError("sampling needs one random stream per prompt and rollout")
    if not prompts:
        return []
    if family.unshared:
        from visurf.rollout.unshared import sample_unshared

        return sample_unshared(policy, family, prompts, members, settings, eos, streams)
    draws = None
    if not settings.greedy:
        assert streams is not None
        draws = np.stack([g.random(settings.max_tokens) for of_prompt in streams for g in of_prompt])
    record = Record(len(prompts) * members, settings, draws, next(policy.parameters()).device)
    work = Work([len(p.token_ids) for p in prompts], members, prompts[0].position_ids.shape[0], settings, eos)
    with frozen_weights(policy):
        _Scheduler(policy, family, prompts, record, work).run()
    return record.collect(members, eos)


class _Scheduler:
    """Decides which prompts are decoded when; the longest come first, so that a batch holds prompts of like length."""

    def __init__(self, policy: Policy, family: Family, prompts: Sequence[Prompt], record: Record, work: Work) -> None:
        self.family, self.prompts, self.record, self.members = family, prompts, record, work.members
        self.device = record.tokens.device
        self.batch = new_batch(policy, record, work)
        self.waiting = deque(sorted(range(len(prompts)), key=lambda i: -work.lengths[i]))
        # Asking the device which rows have ended makes the host wait: not before every token where that costs something.
        self.longest_wait = 1 if self.device.type == "cpu" else 16
        self.wait = 1

    def run(self) -> None:
        """Decode to the end."""
        batch = self.batch
        while self.waiting or batch.rows:
            chosen = self._fitting()
            if chosen:
                self._admit(chosen)
                batch.leave()
                continue
            for _ in range(min(self.wait, batch.steps_left())):
                batch.step()
            self.wait = max(self.wait // 2, 1) if batch.leave() else min(self.wait * 2, self.longest_wait)

    def _fitting(self) -> list[int]:
        """Take the waiting prompts for which there is room."""
        chosen: list[int] = []
        while self.waiting and self.batch.fits([self._length(i) for i in (*chosen, self.waiting[0])]):
            chosen.append(self.waiting.popleft())
        return chosen

    def _length(self, i: int) -> int:
        return len(self.prompts[i].token_ids)

    def _admit(self, chosen: Sequence[int]) -> None:
        """Run prompts, several in one packed row, draw the first token of their rollouts and let those join."""
        batch, members = self.batch, self.members
        places: dict[int, int] = {}
        tokens: list[Tensor] = []
        for part in self._parts(chosen):
            row = build_row([Bundle(self.prompts[i], ()) for i in part], self.family, self.device)
            hidden = batch.run_prompts(row.inputs)
            if not places:
                places = dict(zip(chosen, batch.make_room([self._length(i) for i in chosen]), strict=True))
            ends = np.cumsum([self._length(i) for i in part])
            for i, end in zip(part, ends.tolist(), strict=True):
                batch.place(places[i], end - self._length(i))
            log_p = batch.log_p(hidden.index_select(0, torch.from_numpy(ends - 1).to(self.device)))
            number = torch.tensor([i * members + j for i in part for j in range(members)], device=self.device)
            tokens.append(self.record.draw(log_p, number, torch.zeros_like(number), members))
        position = torch.tensor([self.prompts[i].next_position for i in chosen], device=self.device)
        rows = [(i * members + j, places[i]) for i in chosen for j in range(members)]
        batch.join(rows, torch.cat(tokens), position.repeat_interleave(members))

    def _parts(self, chosen: Sequence[int]) -> list[list[int]]:
        """Packed rows of prompts, in order."""
        parts: list[list[int]] = []
        room = 0
        for i in chosen:
            if not parts or self._length(i) > room:
                parts.append([])
                room = PREFILL
            parts[-1].append(i)
            room -= self._length(i)
        return parts
