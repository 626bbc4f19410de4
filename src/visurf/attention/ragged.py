"""Attention within consecutive sequences of different length in one row: a vision tower's images and windows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def attend_ragged(query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, scaling: float) -> Tensor:
    """Full attention inside each sequence; sequences of equal length run together.

    Args:
        query: (1, heads, T, D), like `key` and `value`.
        key: See `query`.
        value: See `query`.
        bounds: (S + 1,) int32, cumulative lengths.
        scaling: Factor on the scores.

    Returns:
        (1, T, heads, D).
    """
    varlen = _varlen_kernel() if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) else None
    if varlen is not None:
        q, k, v = (t[0].transpose(0, 1).contiguous() for t in (query, key, value))
        longest, bounds = int((bounds[1:] - bounds[:-1]).max()), bounds.to(torch.int32)
        return varlen(q, k, v, bounds, bounds, longest, longest, scale=scaling).unsqueeze(0)  # type: ignore[no-any-return]
    lengths = (bounds[1:] - bounds[:-1]).tolist()
    if len(set(lengths)) == 1:
        return _equal(query, key, value, count=len(lengths), scaling=scaling)
    places: dict[int, list[Tensor]] = defaultdict(list)
    start = 0
    for length in lengths:
        places[length].append(torch.arange(start, start + length, device=query.device))
        start += length
    parts, order = [], []
    for found in places.values():
        index = torch.cat(found)
        order.append(index)
        parts.append(_equal(*(t.index_select(2, index) for t in (query, key, value)), count=len(found), scaling=scaling))
    return torch.cat(parts, dim=1).index_select(1, torch.argsort(torch.cat(order)))


def _equal(query: Tensor, key: Tensor, value: Tensor, *, count: int, scaling: float) -> Tensor:
    """`count` sequences of equal length, one after the other."""
    _, heads, total, size = query.shape
    q, k, v = (t.view(heads, count, -1, size).transpose(0, 1) for t in (query, key, value))
    out = functional.scaled_dot_product_attention(q, k, v, scale=scaling)
    return out.transpose(1, 2).reshape(1, total, heads, size)


@cache
def _varlen_kernel() -> Callable[..., Any] | None:
    """One kernel for all lengths, where this version of torch has it."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn
