"""Shaped ratios of mixed on- and off-policy training: what another policy wrote counts by how likely the current one finds it.

A label is off-policy: nobody knows the probability with which it was written, which is taken as 1, so its ratio is the current
probability p. Without shaping, tokens that the policy finds unlikely hardly move it; f(p) = p / (p + c) lifts them.

Source: LUFFY, "Learning to Reason under Off-Policy Guidance", arXiv 2504.14945 (policy shaping), and its released code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Shape = Literal["ratio", "log", "ratio_log", "square_root", "power", "saturating"]


@dataclass(frozen=True)
class Shaping:
    """How a ratio is shaped.

    Attributes:
        shape: `ratio` as it is; `log` of it; `ratio_log`: ratio + weight x log; `square_root`; `power`; `saturating`: f(p) / f(old)
            with f(p) = p / (p + constant), and f(p) alone off-policy.
        weight: Factor of the logarithm (on-policy `log` is not weighted).
        exponent: Of `power`.
        constant: c of `saturating`; the smaller, the earlier unlikely tokens count in full.
    """

    shape: Shape = "ratio"
    weight: float = 0.1
    exponent: float = 0.5
    constant: float = 0.1


def saturate(logprobs: Tensor, constant: float) -> Tensor:
    """f(p) = p / (p + c), in [0, 1)."""
    p = torch.exp(logprobs)
    return p / (p + constant)


def on_policy_ratio(logprobs: Tensor, old_logprobs: Tensor, shaping: Shaping) -> Tensor:
    """The shaped ratio of tokens that the policy sampled, same shape as its inputs, with gradient."""
    log_ratio = logprobs - old_logprobs
    match shaping.shape:
        case "ratio":
            return torch.exp(log_ratio)
        case "log":
            return log_ratio
        case "ratio_log":
            return torch.exp(log_ratio) + shaping.weight * log_ratio
        case "square_root":
            return torch.sqrt(torch.exp(log_ratio))
        case "power":
            return torch.exp(log_ratio) ** shaping.exponent
        case "saturating":
            return saturate(logprobs, shaping.constant) / saturate(old_logprobs, shaping.constant)
    raise ValueError(f"unknown shape {shaping.shape!r}")


def off_policy_ratio(
    logprobs: Tensor,
    shaping: Shaping,
    *,
    written_with: Tensor | None = None,
    lowest: float | None = None,
    highest: float | None = None,
) -> Tensor:
    """The shaped ratio of tokens that somebody else wrote, same shape as its inputs, with gradient.

    Args:
        logprobs: Log-probs of the current policy.
        shaping: Not used where `written_with` is given.
        written_with: Probability of each token under who wrote it, where it is known.
        lowest: Lower bound, or None.
        highest: Upper bound, or None.
    """
    if written_with is not None:
        ratio = torch.exp(logprobs) / (written_with + 1e-6)
    elif shaping.shape == "log":
        ratio = shaping.weight * logprobs
    elif shaping.shape == "saturating":
        ratio = saturate(logprobs, shaping.constant)
    else:
        ratio = on_policy_ratio(logprobs, torch.zeros_like(logprobs), shaping)
    if highest is not None:
        ratio = torch.clamp(ratio, max=highest)
    return ratio if lowest is None else torch.clamp(ratio, min=lowest)
