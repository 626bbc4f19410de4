"""Drawing tokens: one random stream per rollout, inverted cumulative distributions."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from visurf.types import Sample


def stream(seed: int, *names: object) -> np.random.Generator:
    """An independent random stream named by a seed and whatever identifies the rollout."""
    digest = hashlib.blake2b("/".join(str(n) for n in (seed, *names)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def of_sample(seed: int, step: int, sample: Sample, name: object) -> np.random.Generator:
    """The stream of one rollout, or of whatever is named, of a sample in a step; another one where it stands there again."""
    again = (f"again {sample.occurrence}",) if sample.occurrence else ()
    return stream(seed, step, sample.id, *again, name)


def choose(log_p: Tensor, uniform: Tensor | None, top_p: float, draws: int = 1) -> tuple[Tensor, Tensor]:
    """Pick tokens, and tell their log-probs.

    Args:
        log_p: (R, V) log-probs.
        uniform: (R, draws) numbers in [0, 1), or None to take the likeliest token.
        top_p: See `Sampling.top_p`.
        draws: Tokens picked from each row.

    Returns:
        (R, draws) token ids and (R, draws) log-probs.
    """
    if uniform is None:
        best, token = log_p.max(-1, keepdim=True)
        return token.expand(-1, draws), best.expand(-1, draws)
    token = inverse_cdf(log_p, uniform, top_p)
    return token, log_p.gather(-1, token)


def inverse_cdf(log_p: Tensor, uniform: Tensor, top_p: float) -> Tensor:
    """Sample by inverting the cumulative distribution in the vocabulary's order: (R, V) and (R, draws) -> (R, draws)."""
    p = log_p.exp()
    if top_p < 1:
        sorted_p, order = p.sort(dim=-1, descending=True)
        outside = sorted_p.cumsum(-1, dtype=torch.float64) - sorted_p >= top_p
        p = p.scatter(-1, order, sorted_p.masked_fill(outside, 0))
    cumulative = p.cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    # Rounding must not carry the threshold past the last token that has any probability.
    threshold = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, threshold, right=True).clamp(max=p.shape[-1] - 1)
