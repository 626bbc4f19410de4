"""Attention in which everything a group shares is computed once.

One packed row holds the prompts of several groups and all their completions, without padding. A completion attends to its own
prompt and to itself, never to its siblings, so a prompt (and its image) runs through the model once however large the group is.
The function is registered under `NAME` with transformers' public `AttentionInterface`; the layout travels to it as the keyword
`visurf_layout` of the model's forward. Without a layout it is plain scaled-dot-product attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "visurf"


class Layout(Protocol):
    """How the queries and keys of one forward call relate."""

    calls: int

    def attend(self, module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """Attention output (batch, length, heads, head size) of queries and keys (batch, heads, length, head size)."""


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    visurf_layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls in every layer, for text and vision alike."""
    if visurf_layout is None or kwargs.get("is_causal") is False:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    visurf_layout.calls += 1
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return visurf_layout.attend(module, query, key, value, scale), None


def register() -> str:
    """Make the attention known to transformers (idempotent) and return its name."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME


def dummy_mask(device: torch.device | str) -> Tensor:
    """A 4-D mask that transformers hands through untouched, so that nothing of size length x length is built."""
    return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)


@dataclass
class CausalLayout:
    """Plain causal attention over right-padded rows (prefill)."""

    calls: int = 0

    def attend(self, module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """See `Layout.attend`."""
        output = functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
        return output.transpose(1, 2)


@dataclass
class PackedLayout:
    """Where prompts and completions lie in one packed row.

    Attributes:
        prompt_index: (B, P) positions of each prompt's tokens in the row; entries past a prompt's end repeat 0.
        prompt_bias: (B, 1, 1, P) additive mask: 0 on a prompt's tokens, -inf past its end.
        completion_index: (B, N, L) positions of the completions' tokens; padding repeats 0.
        inverse: (T,) for each token of the row, its place among the flattened prompts followed by the flattened completions.
        length: T, the number of tokens in the row.
    """

    prompt_index: Tensor
    prompt_bias: Tensor
    completion_index: Tensor
    inverse: Tensor
    length: int
    calls: int = field(default=0)

    @classmethod
    def build(
        cls,
        prompts: Sequence[tuple[int, int]],
        completions: Sequence[Sequence[tuple[int, int]]],
        length: int,
        device: torch.device | str,
    ) -> PackedLayout:
        """Build a layout from (start, length) spans.

        Args:
            prompts: The span of each group's prompt.
            completions: For each group, the spans of its completions. Every token of the row belongs to exactly one span.
            length: Number of tokens in the row.
            device: Where the index tensors live.

        Raises:
            ValueError: The spans do not cover the row exactly once.
        """
        groups, longest = len(prompts), max(n for _, n in prompts)
        members = max((len(c) for c in completions), default=0)
        reach = max((n for spans in completions for _, n in spans), default=0)
        prompt_index = torch.zeros(groups, longest, dtype=torch.long)
        prompt_bias = torch.full((groups, 1, 1, longest), float("-inf"))
        completion_index = torch.zeros(groups, members, reach, dtype=torch.long)
        inverse = torch.full((length,), -1, dtype=torch.long)
        offset = groups * longest
        covered = 0
        for g, (start, n) in enumerate(prompts):
            prompt_index[g, :n] = torch.arange(start, start + n)
            prompt_bias[g, ..., :n] = 0
            inverse[start : start + n] = torch.arange(g * longest, g * longest + n)
            covered += n
            for m, (first, count) in enumerate(completions[g]):
                completion_index[g, m, :count] = torch.arange(first, first + count)
                place = offset + (g * members + m) * reach
                inverse[first : first + count] = torch.arange(place, place + count)
                covered += count
        if covered != length or bool((inverse < 0).any()):
            raise ValueError(f"spans cover {covered} positions of a row of {length} tokens; each token needs exactly one span")
        prompts_, bias, members_, back = (t.to(device) for t in (prompt_index, prompt_bias, completion_index, inverse))
        return cls(prompts_, bias, members_, back, length)

    def attend(self, module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """See `Layout.attend`; the batch is one row."""
        if query.shape[0] != 1 or query.shape[2] != self.length:
            raise ValueError(f"the packed row has shape {tuple(query.shape)}, the layout expects 1 row of {self.length} tokens")
        heads, head_size = query.shape[1], query.shape[3]
        q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))  # (T, heads, D)
        groups, longest = self.prompt_index.shape
        flat = self.prompt_index.reshape(-1)
        pq, pk, pv = (t.index_select(0, flat).view(groups, longest, -1, head_size).transpose(1, 2) for t in (q, k, v))
        # Padding stands at the end, so causality alone keeps it out of every real query.
        prompt_out = functional.scaled_dot_product_attention(pq, pk, pv, is_causal=True, scale=scaling, enable_gqa=True)
        outputs = [prompt_out.transpose(1, 2).reshape(-1, heads, head_size)]
        if self.completion_index.numel():
            flat = self.completion_index.reshape(-1)
            shape = (*self.completion_index.shape, -1, head_size)
            cq, ck, cv = (t.index_select(0, flat).view(shape) for t in (q, k, v))
            outputs.append(_completion_attention(cq, ck, cv, pk, pv, self.prompt_bias, scaling))
        return torch.cat(outputs).index_select(0, self.inverse).unsqueeze(0)


def _completion_attention(
    query: Tensor, key: Tensor, value: Tensor, prompt_key: Tensor, prompt_value: Tensor, bias: Tensor, scaling: float
) -> Tensor:
    """Completions attend to their unexpanded prompt and causally to themselves, under one softmax.

    Args:
        query: (B, N, L, heads, D).
        key: (B, N, L, kv heads, D), like `value`.
        value: See `key`.
        prompt_key: (B, kv heads, P, D), like `prompt_value`: never copied per completion.
        prompt_value: See `prompt_key`.
        bias: (B, 1, 1, P), -inf on padding.
        scaling: Factor on the scores.

    Returns:
        (B * N * L, heads, D).
    """
    groups, members, length, heads, size = query.shape
    kv_heads = key.shape[3]
    share = heads // kv_heads
    q = (query * scaling).view(groups, members, length, kv_heads, share, size).permute(0, 3, 4, 1, 2, 5)
    own_key, own_value = (t.permute(0, 3, 1, 2, 4).unsqueeze(2) for t in (key, value))  # (B, kv, 1, N, L, D)
    rows = share * members * length
    to_prompt = q.reshape(groups, kv_heads, rows, size) @ prompt_key.transpose(-1, -2) + bias.to(q.dtype)
    to_own = q @ own_key.transpose(-1, -2)
    causal = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()
    to_own = to_own.masked_fill(~causal, float("-inf"))
    extent = prompt_key.shape[2]
    scores = torch.cat([to_prompt.view(*to_own.shape[:-1], extent), to_own], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
    out = (weights[..., :extent].reshape(groups, kv_heads, rows, extent) @ prompt_value).view(q.shape)
    out = out + weights[..., extent:] @ own_value
    return out.permute(0, 3, 4, 1, 2, 5).reshape(-1, heads, size)
