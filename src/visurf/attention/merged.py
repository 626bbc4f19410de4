"""Shared-prefix attention from flash kernels whose parts are joined by their log-sum-exp.

A completion's softmax runs over two sets of keys, its prompt's and its own. Each part is computed by a flash kernel, which also
gives the log of its normaliser; with both the parts are joined exactly. Backwards, a flash kernel that is handed the *joined*
output and normaliser gives exactly its part's share of the gradients, so nothing of size completions x prompt is ever kept.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from visurf.attention.layout import PackedLayout, Span

_aten = torch.ops.aten
_Three = tuple[Tensor, Tensor, Tensor]
# The normaliser of positions that only pad: every weight exp(score - normaliser) vanishes.
_NOTHING = 1e30


def attend(query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scaling: float) -> Tensor:
    """Attention over a packed row, on CPU.

    Args:
        query: (1, heads, T, D).
        key: (1, kv heads, T, D), like `value`.
        value: See `key`.
        layout: Of the row.
        scaling: Factor on the scores.

    Returns:
        (1, T, heads, D).
    """
    result: Tensor = _Merged.apply(query, key, value, layout, scaling)
    return result


@dataclass(frozen=True)
class Bucket:
    """Completions of similar length, padded to the longest.

    Attributes:
        index: (n, L) position of each token in the row; padding repeats a position.
        padding: (n, 1, L) true past a completion's end.
        at: (tokens,) positions of the tokens in the row, one completion after the other.
        place: (tokens,) where they stand in the flattened (n, L).
    """

    index: Tensor
    padding: Tensor
    at: Tensor
    place: Tensor

    def gather(self, rows: Tensor) -> Tensor:
        """(1, heads, T, D) -> (n, heads, L, D)."""
        count, length = self.index.shape
        picked = rows[0].index_select(1, self.index.flatten())
        return picked.view(rows.shape[1], count, length, rows.shape[3]).transpose(0, 1)

    def tokens(self, padded: Tensor) -> Tensor:
        """(n, heads, L, D) -> (1, heads, tokens, D), without the padding."""
        flat = padded.transpose(0, 1).flatten(1, 2)
        return flat.index_select(1, self.place).unsqueeze(0)


def _buckets(layout: PackedLayout) -> list[Bucket]:
    """The completions of a row, those of similar length together; made once per row."""
    if "buckets" not in layout.masks:
        found: dict[int, list[Span]] = defaultdict(list)
        for members in layout.completions:
            for start, count in members:
                if count:
                    # Powers of two bound the padding to half of a bucket.
                    found[(count - 1).bit_length()].append((start, count))
        layout.masks["buckets"] = [_bucket(spans, layout.device) for spans in found.values()]
    buckets: list[Bucket] = layout.masks["buckets"]
    return buckets


def _bucket(spans: list[Span], device: torch.device | str) -> Bucket:
    length = max(count for _, count in spans)
    index = [[start + min(i, count - 1) for i in range(length)] for start, count in spans]
    padding = [[[i >= count for i in range(length)]] for _, count in spans]
    at = [start + i for start, count in spans for i in range(count)]
    place = [n * length + i for n, (_, count) in enumerate(spans) for i in range(count)]
    return Bucket(*(torch.tensor(values, device=device) for values in (index, padding, at, place)))


class _Merged(torch.autograd.Function):
    """Flash attention on CPU, segment by segment; rows are (1, heads, T, D)."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scaling: float) -> Tensor:
        length, heads, size = query.shape[2], query.shape[1], query.shape[3]
        out = query.new_empty(1, length, heads, size)
        rows = out.transpose(1, 2)
        norm = torch.empty(1, heads, length, dtype=torch.float32, device=query.device)
        for prompt, after in groups_of(layout):
            inside = query[:, :, prompt], key[:, :, prompt], value[:, :, prompt]
            rows[:, :, prompt], norm[:, :, prompt] = _forward(inside, causal=True, scaling=scaling)
            if after is not None:
                across = query[:, :, after], *inside[1:]
                rows[:, :, after], norm[:, :, after] = _forward(across, causal=False, scaling=scaling)
        for bucket in _buckets(layout):
            inputs = bucket.gather(query), bucket.gather(key), bucket.gather(value)
            part, part_norm = _forward(inputs, causal=True, scaling=scaling)
            own, own_norm = bucket.tokens(part), bucket.tokens(part_norm.unsqueeze(-1)).squeeze(-1)
            to_prompt = norm.index_select(2, bucket.at)
            both = torch.logaddexp(to_prompt, own_norm)
            share = (own_norm - both).exp().unsqueeze(-1).to(own.dtype)
            joined = torch.lerp(rows.index_select(2, bucket.at), own, share)
            out.index_copy_(1, bucket.at, joined.transpose(1, 2))
            norm.index_copy_(2, bucket.at, both)
        ctx.save_for_backward(query, key, value, out, norm)
        ctx.layout, ctx.scaling = layout, scaling
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, norm = ctx.saved_tensors
        rows, upstream = out.transpose(1, 2), upstream.transpose(1, 2)
        grads = [torch.empty_like(t) for t in (query, key, value)]
        for prompt, after in groups_of(ctx.layout):
            inside = query[:, :, prompt], key[:, :, prompt], value[:, :, prompt]
            joined = upstream[:, :, prompt], rows[:, :, prompt], norm[:, :, prompt]
            found = _backward(inside, joined, causal=True, scaling=ctx.scaling)
            for grad, part in zip(grads, found, strict=True):
                grad[:, :, prompt] = part
            if after is not None:
                across = query[:, :, after], *inside[1:]
                joined = upstream[:, :, after], rows[:, :, after], norm[:, :, after]
                found = _backward(across, joined, causal=False, scaling=ctx.scaling)
                grads[0][:, :, after] = found[0]
                for grad, part in zip(grads[1:], found[1:], strict=True):
                    grad[:, :, prompt] += part
        for bucket in _buckets(ctx.layout):
            inputs = bucket.gather(query), bucket.gather(key), bucket.gather(value)
            above, result = (bucket.gather(t).masked_fill(bucket.padding.unsqueeze(-1), 0) for t in (upstream, rows))
            norms = bucket.gather(norm.unsqueeze(-1)).squeeze(-1).masked_fill(bucket.padding, _NOTHING)
            found = _backward(inputs, (above, result, norms), causal=True, scaling=ctx.scaling)
            grads[0].index_add_(2, bucket.at, bucket.tokens(found[0]))
            for grad, part in zip(grads[1:], found[1:], strict=True):
                grad.index_copy_(2, bucket.at, bucket.tokens(part))
        return (*grads, None, None)


def groups_of(layout: PackedLayout) -> list[tuple[slice, slice | None]]:
    """Each prompt's positions, and those of all its completions, None where it has no completion token."""
    found: list[tuple[slice, slice | None]] = []
    for (start, length), members in zip(layout.prompts, layout.completions, strict=True):
        end = start + length
        last = end + sum(n for _, n in members)
        found.append((slice(start, end), slice(end, last) if last > end else None))
    return found


def _forward(inputs: _Three, *, causal: bool, scaling: float) -> tuple[Tensor, Tensor]:
    """Output and log-normaliser (batch, heads, L) of the CPU's flash kernel, given query, key and value."""
    out, norm = _aten._scaled_dot_product_flash_attention_for_cpu(*inputs, 0.0, causal, scale=scaling)
    return out, norm


def _backward(inputs: _Three, joined: _Three, *, causal: bool, scaling: float) -> _Three:
    """Gradients of query, key and value of one part, given the joined output's gradient, the output and its normaliser."""
    upstream, out, norm = joined
    kernel = _aten._scaled_dot_product_flash_attention_for_cpu_backward
    # The kernel reads the normaliser as the forward lays it out: heads innermost.
    norm = norm.transpose(1, 2).contiguous().transpose(1, 2)
    found: _Three = kernel(upstream, *inputs, out, norm, 0.0, causal, scale=scaling)
    return found
