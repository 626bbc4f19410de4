"""The one clipped objective that every paradigm minimises.

Tokens of all sequences of an optimiser step stand in one flat vector; each has an advantage and a weight. The weights already
carry the global scale of the whole step, so losses of micro-batches and processes are simply summed.

Source: ViSurf, arXiv 2510.10606, Eq. 8 (and Eq. 1 to 4 for its two halves); PPO's clip, arXiv 1707.06347.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from visurf.config import ObjectiveConfig as Objective
from visurf.shaping import Shaping, off_policy_ratio

KL = Literal["k1", "abs", "mse", "k3", "k3_clamped"]
Surrogate = Literal["clip", "cispo", "free"]


@dataclass(frozen=True)
class TokenTerms:
    """Per-token pieces of the objective, each (K,): the loss, and detached diagnostics."""

    loss: Tensor
    ratio: Tensor
    clipped: Tensor
    kl: Tensor


def segment_mean(values: Tensor, member: Tensor, members: int) -> Tensor:
    """Mean of a flat token vector within each sequence, given back per token.

    Args:
        values: (K,).
        member: (K,) index of each token's sequence, in [0, members).
        members: Number of sequences.
    """
    sums = torch.zeros(members, dtype=values.dtype, device=values.device).index_add(0, member, values)
    counts = torch.bincount(member, minlength=members).clamp(min=1).to(values.dtype)
    return (sums / counts)[member]


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, kind: KL = "k3", ratio: Tensor | None = None) -> Tensor:
    """Per-token estimate of KL(policy || reference) from sampled tokens; same shape as its inputs.

    Args:
        logprobs: Of the current policy, with gradient.
        ref_logprobs: Of the reference.
        kind: Which estimate.
        ratio: exp of `log_ratio`; corrects the bias of tokens that an older policy sampled (DeepSeek-V3.2, arXiv 2512.02556).

    Source: Schulman, "Approximating KL divergence", 2020; `k3_clamped` is verl's low_var_kl, within [-10, 10].
    """
    difference = logprobs - ref_logprobs
    match kind:
        case "k1":
            estimate = difference
        case "abs":
            estimate = difference.abs()
        case "mse":
            estimate = 0.5 * difference.square()
        case "k3":
            estimate = torch.exp(-difference) + difference - 1
        case "k3_clamped":
            estimate = torch.clamp(torch.exp(-difference) + difference - 1, min=-10, max=10)
        case _:
            raise ValueError(f"unknown KL estimate {kind!r}")
    return estimate if ratio is None else estimate * ratio


def log_ratio(
    logprobs: Tensor,
    old_logprobs: Tensor | None,
    kind: Literal["token", "sequence"] = "token",
    *,
    member: Tensor | None = None,
    members: int = 0,
) -> Tensor:
    """The log-ratio of every token, log p - log p_old, or its mean over the token's sequence; (K,) with gradient.

    Arguments as in `token_terms`.
    """
    difference = logprobs - (logprobs.detach() if old_logprobs is None else old_logprobs)
    if kind == "token":
        return difference
    if member is None:
        raise ValueError('ratio="sequence" needs `member`, the sequence of each token')
    return segment_mean(difference, member, members)


def surrogate_loss(ratio: Tensor, advantages: Tensor, settings: Objective, logprobs: Tensor | None = None) -> Tensor:
    """The loss of every token given its ratio, (K,): -min(ratio A, clip(ratio) A) (Eq. 8), or what `surrogate` names.

    Args:
        ratio: (K,) with gradient.
        advantages: (K,).
        settings: Clip range and surrogate.
        logprobs: (K,) with gradient; needed for `cispo` only.
    """
    if settings.surrogate == "cispo":
        if logprobs is None:
            raise ValueError('surrogate="cispo" needs the log-probs')
        return -torch.clamp(ratio.detach(), max=1 + settings.clip_high) * advantages * logprobs
    free = ratio if settings.ratio_cap is None else torch.clamp(ratio, max=settings.ratio_cap)
    if settings.surrogate == "free":
        return -free * advantages
    bounded = torch.clamp(ratio, 1 - settings.clip_low, 1 + settings.clip_high)
    return -torch.minimum(free * advantages, bounded * advantages)


def is_clipped(ratio: Tensor, advantages: Tensor, settings: Objective) -> tuple[Tensor, Tensor]:
    """Which tokens the clip holds: below with a negative advantage, above with a positive one; two boolean (K,)."""
    below = (ratio < 1 - settings.clip_low) & (advantages < 0)
    return below, (ratio > 1 + settings.clip_high) & (advantages > 0)


def token_terms(
    logprobs: Tensor,
    old_logprobs: Tensor | None,
    advantages: Tensor,
    settings: Objective,
    *,
    member: Tensor | None = None,
    members: int = 0,
    foreign: Tensor | None = None,
    shaping: Shaping | None = None,
) -> TokenTerms:
    """-min(ratio A, clip(ratio) A) of every token (Eq. 8), before weighting.

    Tokens that the policy did not write have a ratio of their own under `shaping`, which is not clipped.

    Args:
        logprobs: (K,) log-probs of the current policy, with gradient.
        old_logprobs: (K,) log-probs of the policy that sampled; None means the current one, so that every ratio is 1 and the
            gradient is that of A log p.
        advantages: (K,) the advantage of each token's sequence.
        settings: Clip range and kind of ratio.
        member: (K,) index of each token's sequence; needed for sequence ratios only.
        members: Number of sequences.
        foreign: (K,) boolean: which tokens the policy did not write. They form no part of their sequence's ratio.
        shaping: Of the foreign tokens' ratio; None treats them like rollouts.
    """
    if foreign is not None and member is not None:
        member, members = member + members * foreign, 2 * members
    difference = log_ratio(logprobs, old_logprobs, settings.ratio, member=member, members=members)
    ratio = torch.exp(difference)
    loss = surrogate_loss(ratio, advantages, settings, logprobs)
    below, above = is_clipped(ratio.detach(), advantages, settings)
    clipped = below | above
    if foreign is not None and shaping is not None:
        shaped = off_policy_ratio(logprobs, shaping)
        loss, ratio = torch.where(foreign, -shaped * advantages, loss), torch.where(foreign, shaped, ratio)
        clipped = clipped & ~foreign
    return TokenTerms(loss, ratio.detach(), clipped, -difference.detach())


def weighted_loss(terms: TokenTerms, weights: Tensor, kl: Tensor | None = None, *, kl_coefficient: float = 0.0) -> Tensor:
    """The scalar to minimise: sum over tokens of weight x (clipped term + coefficient x KL).

    Args:
        terms: From `token_terms`.
        weights: (K,) with the global scale of the optimiser step, see `token_weights`.
        kl: (K,) from `kl_estimate`, 0 where the term does not act; or None.
        kl_coefficient: Factor of the KL term.
    """
    loss = terms.loss if kl is None else terms.loss + kl_coefficient * kl
    return (weights * loss).sum()


def sequence_weights(lengths: Tensor, average: str, total_tokens: float, total_sequences: float, most: float = 1) -> Tensor:
    """The weight of every token of each of the given sequences, (S,) float64.

    Args:
        lengths: (S,) tokens of each sequence.
        average: `token`, `sequence` or `constant`, see `Objective`.
        total_tokens: Tokens of the whole optimiser step, over all micro-batches and processes, skipped sequences included.
        total_sequences: Sequences of the whole optimiser step, likewise.
        most: Tokens a sequence may have, for `constant`.
    """
    if average == "token":
        return torch.full_like(lengths, 1, dtype=torch.float64) / max(total_tokens, 1)
    if average == "constant":
        return torch.full_like(lengths, 1, dtype=torch.float64) / (most * max(total_sequences, 1))
    return 1 / (lengths.clamp(min=1).double() * max(total_sequences, 1))


def token_weights(lengths: Tensor, average: str, total_tokens: float, total_sequences: float) -> Tensor:
    """`sequence_weights` of each token, flattened; empty sequences give none."""
    return torch.repeat_interleave(sequence_weights(lengths, average, total_tokens, total_sequences), lengths)


def supervised_loss(logprobs: Tensor, weights: Tensor) -> Tensor:
    """The weighted negative log-likelihood, a scalar: -sum of weight x log p.

    Args:
        logprobs: (K,) with gradient.
        weights: (K,) coefficient of supervision x scale x token weight; 0 on tokens that are not supervised.
    """
    return -(weights * logprobs).sum()
