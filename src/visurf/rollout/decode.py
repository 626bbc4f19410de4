"""Attention of one new token per rollout: the prompt's keys unexpanded, own keys by lane, under one softmax."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from visurf.rollout.seats import Lanes


@dataclass
class DecodeLayout:
    """The layout of a decode step, see `visurf.attention.Layout`.

    Attributes:
        cache: Of `PrefixLayer`s.
        prompt_bias: (prompts * kv heads, 1, P), minus infinity past a prompt's end; None where all are P long.
        width: Columns of the ring in use.
        own_bias: (lanes, 1, width), see `visurf.rollout.prefix_cache.own_bias`; None where everything is visible.
        calls: Layers that asked.
        lanes: Where the rows of this step lie.
    """

    cache: Cache
    prompt_bias: Tensor | None = None
    width: int = 0
    own_bias: Tensor | None = None
    calls: int = field(default=0)
    lanes: Lanes = field(init=False)

    def attend(self, module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float, kernel: str) -> Tensor:
        """Attention output (N, 1, heads, D) of queries (N, heads, 1, D); the cache has the keys."""
        layer: Any = self.cache.layers[module.layer_idx]  # type: ignore[index]
        (prompt_key, prompt_value), table = layer.prompt, self.lanes
        own_key, own_value = (t[:, : self.width] for t in layer.own)
        rows, heads, _, size = query.shape
        share, extent, lanes = heads // table.heads, prompt_key.shape[1], own_key.shape[0]
        folded = query.to(value.dtype).reshape(rows * table.heads, share * size).index_select(0, table.fold)
        to_prompt = _scores(folded.view(prompt_key.shape[0], -1, size), prompt_key, self.prompt_bias, scaling)
        to_prompt = to_prompt.view(-1, share, extent)
        by_lane = folded
        if table.pick is not None:
            to_prompt, by_lane = to_prompt.index_select(0, table.pick), folded.index_select(0, table.pick)
        to_own = _scores(by_lane.view(lanes, share, size), own_key, self.own_bias, scaling)
        weights = torch.softmax(torch.cat([to_prompt, to_own], dim=-1), dim=-1).to(value.dtype)
        on_prompt = weights[..., :extent]
        if table.spread is not None:
            on_prompt = on_prompt.index_select(0, table.spread)
        out = (on_prompt.view(prompt_key.shape[0], -1, extent) @ prompt_value).view(-1, share, size)
        if table.pick is not None:
            out = out.index_select(0, table.pick)
        out = torch.baddbmm(out, weights[..., extent:], own_value).view(lanes, share * size)
        if table.rows is not None:
            out = out.index_select(0, table.rows)
        return out.view(rows, 1, heads, size)


def _scores(query: Tensor, key: Tensor, bias: Tensor | None, scaling: float) -> Tensor:
    """Scaled and masked scores in float32, whatever the keys' type: (B, R, D) and (B, K, D) -> (B, R, K)."""
    turned = key.transpose(1, 2)
    if query.dtype == torch.float32:
        if bias is None:
            return torch.baddbmm(query.new_zeros(()), query, turned, beta=0, alpha=scaling)
        return torch.baddbmm(bias, query, turned, alpha=scaling)
    if query.device.type == "cuda":
        # Rounding scores to bfloat16 would cost up to a few percent of a weight.
        scores = torch.bmm(query, turned, out_dtype=torch.float32).mul_(scaling)  # type: ignore[call-arg]
    else:
        with torch.autocast(query.device.type, enabled=False):
            scores = torch.bmm(query.float(), turned.float()).mul_(scaling)
    return scores if bias is None else scores.add_(bias)
