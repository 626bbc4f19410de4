"""How far the engine that sampled agrees with the network that is trained, and the correction for where it does not.

A server computes in another precision, with other kernels, and under overlap with the weights of one step before. Its log-probs
then differ from those of training for the same tokens.
Source of the correction: Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training" (2025), truncated
importance sampling; of both old policies at once: Fu et al., "AReaL", arXiv 2505.24298 (decoupled objective).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from visurf.diagnostics import Diagnostics
from visurf.types import Group


def sampled_logprobs(groups: Sequence[Group]) -> list[Tensor]:
    """Log-probs at sampling time of every sequence, in order: (tokens,) float32, NaN where a token was not sampled."""
    found = []
    for completion in (c for group in groups for c in group.completions):
        values = torch.full((len(completion.token_ids),), torch.nan)
        if completion.source == "policy" and completion.logprobs is not None:
            values[completion.hint :] = torch.tensor(completion.logprobs, dtype=torch.float32)
        found.append(values)
    return found


def correction(old: Tensor, sampled: Tensor, cap: float) -> Tensor:
    """min(p_old / p_sampled, cap) of every token, without gradient; 1 where a token was not sampled.

    Args:
        old: (K,) log-probs of the policy at the start of the step, by the network that is trained.
        sampled: (K,) log-probs by the engine that sampled; NaN where nothing was.
        cap: Upper bound, above 0.
    """
    ratio = torch.exp(old.detach() - sampled).clamp(max=cap)
    return torch.where(sampled.isnan(), torch.ones_like(ratio), ratio)


def compare(old: Tensor, sampled: Tensor, cap: float, seen: Diagnostics) -> Tensor | None:
    """Note how far both differ, and return the correction where one is asked for (cap above 0)."""
    where = ~sampled.isnan()
    difference = (old.detach() - sampled)[where]
    seen.add("rollout/logprob_difference", difference.abs())
    # k3 of the divergence of training's distribution from that which sampled: not negative, 0 where they agree.
    seen.add("rollout/divergence", torch.expm1(difference) - difference)
    if not cap:
        return None
    weights = correction(old, sampled, cap)
    seen.add("rollout/correction", weights[where])
    seen.add("rollout/capped", (difference.exp() > cap).float())
    return weights


def watched(metrics: dict[str, float], limit: float) -> dict[str, float]:
    """Metrics with `rollout/alarm`: 1, and a warning, where the mean difference exceeds a limit above 0 or is no number."""
    found = metrics.get("rollout/logprob_difference", 0.0)
    alarm = bool(limit) and not found <= limit
    if alarm:
        warnings.warn(
            f"log-probs of the rollout servers differ from training's by {found:.3g} on average, more than rollout.servers.alarm="
            f"{limit:g}: is it the same model in the same precision? rollout.correction=2 weighs the difference out",
            stacklevel=2,
        )
    return {**metrics, "rollout/alarm": float(alarm)}
