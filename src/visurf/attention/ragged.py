"""Attention within consecutive sequences of different length in one row: a vision tower's images and windows."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from visurf.attention.kernels import apart, disagreement

LOG = logging.getLogger("visurf")


def attend_ragged(query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, scaling: float, longest: int | None = None) -> Tensor:
    """Full attention inside each sequence; sequences of equal length run together.

    Args:
        query: (1, heads, T, D), like `key` and `value`.
        key: See `query`.
        value: See `query`.
        bounds: (S + 1,) int32, cumulative lengths.
        scaling: Factor on the scores.
        longest: The longest sequence, where that is known: reading it from `bounds` waits for the device.

    Returns:
        (1, T, heads, D).
    """
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and _fuses(query.device, query.dtype, query.shape[3]):
        return _fused(query, key, value, bounds, scaling, longest)
    return _by_length(query, key, value, bounds, scaling)


def _fused(query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, scaling: float, longest: int | None = None) -> Tensor:
    """All sequences in one kernel."""
    q, k, v = (t[0].transpose(0, 1).contiguous() for t in (query, key, value))
    if longest is None:
        longest = int((bounds[1:] - bounds[:-1]).max())
    bounds = bounds.to(torch.int32)
    out: Tensor = _varlen_kernel()(q, k, v, bounds, bounds, longest, longest, scale=scaling)
    return out.unsqueeze(0)


def _by_length(query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, scaling: float) -> Tensor:
    """Sequences of equal length together."""
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
def _fuses(device: torch.device, dtype: torch.dtype, size: int) -> bool:
    """Whether the kernel for all lengths is here and right, tried once on a small row; where it is not, the log says why."""
    bounds = torch.tensor([0, 3, 10, 11], dtype=torch.int32, device=device)
    ways = [lambda *inputs, attend=attend: attend(*inputs, bounds, size**-0.5) for attend in (_fused, _by_length)]
    failure = apart(lambda: disagreement(ways[0], ways[1], [(1, 2, 11, size)] * 3, device, dtype), device)
    if failure is not None:
        LOG.warning("vision attention runs one kernel for each length on %s in %s: %s", device, dtype, failure)
    return failure is None


def _varlen_kernel() -> Callable[..., Any]:
    """One kernel for all lengths, where this version of torch has it."""
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn
