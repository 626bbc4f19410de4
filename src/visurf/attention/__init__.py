"""Attention in which everything a group shares is computed once.

One packed row holds the prompts of several groups and all their completions, without padding. A completion attends to its own
prompt and to itself, never to its siblings, so a prompt (and its image) runs through the model once however large the group is.
The functions are registered with transformers' public `AttentionInterface`; the layout travels to them as the keyword
`visurf_layout` of the model's forward. Without a layout they are plain scaled-dot-product attention.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from visurf.attention.layout import PackedLayout, Span
from visurf.attention.ragged import attend_ragged

__all__ = ["KERNELS", "NAME", "VISION_NAME", "Layout", "PackedLayout", "Span", "attention", "dummy_mask", "register"]

NAME = "visurf"
# transformers hands the bounds of images and windows only to attentions with this word in their name.
VISION_NAME = "visurf_flash_vision"
KERNELS = ("auto", "merged", "flex", "dense")


class Layout(Protocol):
    """How the queries and keys of one forward call relate."""

    calls: int

    def attend(self, module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float, kernel: str) -> Tensor:
        """Attention output (batch, length, heads, head size) of queries and keys (batch, heads, length, head size)."""


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    visurf_layout: Layout | None = None,
    *,
    kernel: str = "auto",
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls in every layer, for text and vision alike."""
    if visurf_layout is None or kwargs.get("is_causal") is False:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    visurf_layout.calls += 1
    # Under autocast the rotation of queries and keys gives float32, projections give the half type.
    query, key = query.to(value.dtype), key.to(value.dtype)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return visurf_layout.attend(module, query, key, value, scale, kernel), None


def vision_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of a vision tower whose images and windows stand one after the other in one row (Qwen's)."""
    if cu_seq_lens_q is None:
        kwargs.pop("visurf_layout", None)
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return attend_ragged(query, key, value, cu_seq_lens_q, scale, max_length_q), None


def register(kernel: str = "auto") -> str:
    """Make the attentions known to transformers (idempotent) and return the name that uses a kernel.

    Raises:
        ValueError: The kernel is unknown.
    """
    if kernel not in KERNELS:
        raise ValueError(f"expected an attention kernel of {', '.join(KERNELS)}, got {kernel!r}")
    name = NAME if kernel == "auto" else f"{NAME}_{kernel}"
    AttentionInterface.register(name, partial(attention, kernel=kernel))
    AttentionMaskInterface.register(name, sdpa_mask)
    AttentionInterface.register(VISION_NAME, vision_attention)
    AttentionMaskInterface.register(VISION_NAME, sdpa_mask)
    return name


def dummy_mask(device: torch.device | str) -> Tensor:
    """A 4-D mask that transformers hands through untouched, so that nothing of size length x length is built."""
    return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)
