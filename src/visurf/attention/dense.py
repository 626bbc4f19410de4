"""Shared-prefix attention in plain operations: one softmax over the prompt's scores and a completion's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from visurf.attention.layout import PackedLayout


def attend(query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scaling: float) -> Tensor:
    """Attention over a packed row.

    Args:
        query: (1, heads, T, D).
        key: (1, kv heads, T, D), like `value`.
        value: See `key`.
        layout: Of the row.
        scaling: Factor on the scores.

    Returns:
        (1, T, heads, D).
    """
    outputs = []
    for (start, length), members in zip(layout.prompts, layout.completions, strict=True):
        end = start + length
        q, k, v = (t[:, :, start:end] for t in (query, key, value))
        prompt = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True)
        outputs.append(prompt.transpose(1, 2))
        last = end + sum(n for _, n in members)
        if last > end:
            lengths = [n for _, n in members if n]
            own = [t[:, :, end:last] for t in (query, key, value)]
            outputs.append(_completions(own, (k, v), lengths, scaling))
    return torch.cat(outputs, dim=1)


def _completions(own: list[Tensor], prompt: tuple[Tensor, Tensor], lengths: list[int], scaling: float) -> Tensor:
    """Completions of one group attend to their unexpanded prompt and causally to themselves: (1, tokens, heads, D)."""
    query, key, value = own
    heads, kv_heads, tokens, size = query.shape[1], key.shape[1], query.shape[2], query.shape[3]
    share = heads // kv_heads
    member = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(query.device)
    order = torch.arange(tokens, device=query.device)
    visible = (member.unsqueeze(1) == member) & (order.unsqueeze(1) >= order)
    q = (query * scaling).reshape(kv_heads, share * tokens, size)
    extent = prompt[0].shape[2]
    to_prompt = (q @ prompt[0][0].transpose(-1, -2)).view(kv_heads, share, tokens, extent)
    to_own = (q @ key[0].transpose(-1, -2)).view(kv_heads, share, tokens, tokens).masked_fill(~visible, float("-inf"))
    weights = torch.softmax(torch.cat([to_prompt, to_own], dim=-1), dim=-1, dtype=torch.float32).to(q.dtype)
    weights = weights.view(kv_heads, share * tokens, extent + tokens)
    out = weights[..., :extent] @ prompt[1][0] + weights[..., extent:] @ value[0]
    return out.view(1, heads, tokens, size).transpose(1, 2)
