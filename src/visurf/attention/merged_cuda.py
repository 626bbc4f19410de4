"""Shared-prefix attention from CUDA's flash kernels over cumulative lengths; the idea is `visurf.attention.merged`'s."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from visurf.attention.merged import groups_of

if TYPE_CHECKING:
    from visurf.attention.layout import PackedLayout

_aten = torch.ops.aten


def attend(query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scaling: float) -> Tensor:
    """Attention over a packed row, on CUDA in half precision.

    Args:
        query: (1, heads, T, D).
        key: (1, kv heads, T, D), like `value`.
        value: See `key`.
        layout: Of the row.
        scaling: Factor on the scores.

    Returns:
        (1, T, heads, D).
    """
    q, k, v = (t[0].transpose(0, 1).contiguous() for t in (query, key, value))
    result: Tensor = _Merged.apply(q, k, v, bounds_of(layout), scaling)
    return result.unsqueeze(0)


@dataclass(frozen=True)
class Bounds:
    """A packed row for kernels that take cumulative lengths, without the segments and groups that are empty.

    Attributes:
        segments: (S + 1,) int32 bounds of all prompts and completions.
        longest: The longest segment.
        after: (C,) positions of completion tokens.
        before: (P,) positions of the prompt tokens that they look at.
        queries: (B + 1,) int32 bounds of groups among `after`.
        keys: (B + 1,) int32 bounds of groups among `before`.
        most: Most completion tokens of a group, and most prompt tokens.
    """

    segments: Tensor
    longest: int
    after: Tensor
    before: Tensor
    queries: Tensor
    keys: Tensor
    most: tuple[int, int]


def bounds_of(layout: PackedLayout) -> Bounds:
    """Bounds of a row; made once per row."""
    if "bounds" not in layout.masks:
        groups = zip(layout.prompts, layout.completions, strict=True)
        lengths = [n for prompt, members in groups for n in (prompt[1], *(c for _, c in members)) if n]
        pairs = [(prompt, after) for prompt, after in groups_of(layout) if after is not None]
        columns = [[part.stop - part.start for part in column] for column in zip(*pairs, strict=True)] or [[], []]

        def running(counts: list[int]) -> Tensor:
            return torch.tensor([0, *itertools.accumulate(counts)], dtype=torch.int32, device=layout.device)

        def positions(which: int) -> Tensor:
            parts = [torch.arange(pair[which].start, pair[which].stop) for pair in pairs]
            return (torch.cat(parts) if parts else torch.empty(0, dtype=torch.long)).to(layout.device)

        layout.masks["bounds"] = Bounds(
            running(lengths),
            max(lengths, default=0),
            positions(1),
            positions(0),
            running(columns[1]),
            running(columns[0]),
            (max(columns[1], default=0), max(columns[0], default=0)),
        )
    found: Bounds = layout.masks["bounds"]
    return found


class _Merged(torch.autograd.Function):
    """Flash attention on CUDA over cumulative lengths; rows are (T, heads, D)."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, bounds: Bounds, scaling: float) -> Tensor:
        flash = _aten._flash_attention_forward
        b = bounds
        whole = (b.segments, b.segments, b.longest, b.longest, 0.0, True, False)
        out, norm, state, unused, _ = flash(query, key, value, *whole, scale=scaling)  # norm: (heads, T)
        random = [state, unused]
        if len(b.after):
            across = (b.queries, b.keys, *b.most, 0.0, False, False)
            inputs = (query[b.after], key[b.before], value[b.before])
            part, part_norm, state, unused, _ = flash(*inputs, *across, scale=scaling)
            own = norm[:, b.after]
            both = torch.logaddexp(own, part_norm)
            share = (part_norm - both).exp().transpose(0, 1).unsqueeze(-1)
            out[b.after] = torch.lerp(out[b.after].float(), part.float(), share).to(out.dtype)
            norm[:, b.after] = both
            random += [state, unused]
        ctx.save_for_backward(query, key, value, out, norm, *random)
        ctx.bounds, ctx.scaling = bounds, scaling
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        flash = _aten._flash_attention_backward
        query, key, value, out, norm, *random = ctx.saved_tensors
        b, upstream = ctx.bounds, upstream.contiguous()
        whole = (b.segments, b.segments, b.longest, b.longest, 0.0, True, *random[:2])
        grads = list(flash(upstream, query, key, value, out, norm, *whole, scale=ctx.scaling))
        if len(b.after):
            across = (b.queries, b.keys, *b.most, 0.0, False, *random[2:])
            inputs = (query[b.after], key[b.before], value[b.before], out[b.after], norm[:, b.after].contiguous())
            found = flash(upstream[b.after], *inputs, *across, scale=ctx.scaling)
            for grad, part, at in zip(grads, found, (b.after, b.before, b.before), strict=True):
                grad.index_add_(0, at, part)
        return (*grads, None, None)
