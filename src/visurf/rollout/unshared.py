"""Rollouts of a family that cannot share prompts: each runs its whole prompt, under the network's own attention and cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from visurf.models.family import Family, Prompt
from visurf.models.features import image_inputs
from visurf.packing import axes_first
from visurf.policy import Policy
from visurf.rollout.sampling import choose
from visurf.rollout.types import Rollout, Sampling


@torch.no_grad()
def sample_unshared(
    policy: Policy,
    family: Family,
    prompts: Sequence[Prompt],
    members: int,
    settings: Sampling,
    eos: tuple[int, ...],
    streams: Sequence[Sequence[np.random.Generator]] | None,
) -> list[list[Rollout]]:
    """As `visurf.rollout.local.sample`, one prompt at a time, repeated for each of its rollouts."""
    found = []
    for number, prompt in enumerate(prompts):
        draws = None
        if not settings.greedy:
            assert streams is not None
            draws = torch.from_numpy(np.stack([g.random(settings.max_tokens) for g in streams[number]]))
        found.append(_rollouts(policy, family, prompt, members, settings, eos, draws))
    return found


def _rollouts(
    policy: Policy,
    family: Family,
    prompt: Prompt,
    members: int,
    settings: Sampling,
    eos: tuple[int, ...],
    draws: torch.Tensor | None,
) -> list[Rollout]:
    base = policy.base()
    device = next(policy.parameters()).device
    ends = torch.tensor(eos, device=device)
    uniform = None if draws is None else draws.to(device)
    axes, length = prompt.position_ids.shape
    inputs: dict[str, Any] = image_inputs(family, [prompt] * members, device)
    inputs["input_ids"] = torch.tensor([prompt.token_ids] * members, device=device)
    inputs["position_ids"] = axes_first(prompt.position_ids.unsqueeze(1).expand(axes, members, length)).to(device)
    tokens: list[torch.Tensor] = []
    logprobs: list[torch.Tensor] = []
    ended = torch.zeros(members, dtype=torch.bool, device=device)
    for step in range(settings.max_tokens):
        mask = torch.ones(members, length + step, dtype=torch.long, device=device)
        output = base.model(**inputs, attention_mask=mask, use_cache=True)
        log_p = torch.log_softmax(policy.logits(output.last_hidden_state[:, -1], base.lm_head), dim=-1)
        drawn = choose(log_p, None if uniform is None else uniform[:, step : step + 1], settings.top_p)
        chosen, logprob = (t[:, 0] for t in drawn)
        tokens.append(chosen)
        logprobs.append(logprob)
        ended |= torch.isin(chosen, ends)
        if bool(ended.all()):
            break
        position = torch.full((axes, members, 1), prompt.next_position + step, device=device)
        inputs = {
            "input_ids": chosen.unsqueeze(1),
            "position_ids": axes_first(position),
            "past_key_values": output.past_key_values,
        }
    return [_cut(t, p, set(eos)) for t, p in zip(torch.stack(tokens, 1).tolist(), torch.stack(logprobs, 1).tolist(), strict=True)]


def _cut(tokens: list[int], logprobs: list[float], eos: set[int]) -> Rollout:
    """A rollout up to its end: what was drawn after it only kept the rows of its prompt together."""
    length = next((i + 1 for i, token in enumerate(tokens) if token in eos), 0)
    return Rollout(tuple(tokens[: length or None]), tuple(logprobs[: length or None]), truncated=not length)
