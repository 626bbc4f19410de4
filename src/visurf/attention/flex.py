"""Shared-prefix attention by FlexAttention: one fused kernel under a block mask, compiled once per length bucket."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from visurf.attention.layout import PackedLayout

T = TypeVar("T")
BLOCK = 128
# Lengths up to 128 thousand tokens, each with and without gradient.
COMPILATIONS = 256
LOG = logging.getLogger("visurf")


def bucket(length: int) -> int:
    """The padded length of a row: at most an eighth longer, so that few different ones occur.

    >>> bucket(20), bucket(1000), bucket(1100), bucket(9000)
    (128, 1024, 1152, 9216)
    """
    step = BLOCK
    while step * 16 < length:
        step *= 2
    return -(-length // step) * step


def mask_of(layout: PackedLayout, length: int) -> Any:
    """Block mask of a row padded to `length`; built once per row and shared by its layers."""
    from torch.nn.attention.flex_attention import create_block_mask

    if length not in layout.masks:
        # Padding is a group of its own, so that its rows have something to attend to.
        group, segment = (functional.pad(t, (0, length - layout.length), value=-1) for t in (layout.group, layout.segment))

        def visible(batch: Tensor, head: Tensor, q: Tensor, kv: Tensor) -> Tensor:
            return (q >= kv) & (group[q] == group[kv]) & ((segment[kv] == 0) | (segment[q] == segment[kv]))

        layout.masks[length] = create_block_mask(visible, None, None, length, length, device=layout.device)
    return layout.masks[length]


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
    from torch.nn.attention.flex_attention import flex_attention

    length = bucket(layout.length)
    padded = (functional.pad(t, (0, 0, 0, length - layout.length)) for t in (query, key, value))
    run = _kernel(length) if query.is_cuda else flex_attention
    out: Tensor = run(*padded, block_mask=mask_of(layout, length), scale=scaling, enable_gqa=query.shape[1] != key.shape[1])
    return out[:, :, : layout.length].transpose(1, 2)


@cache
def _kernel(length: int) -> Any:
    """FlexAttention compiled for one length; uncompiled it runs as torch does it eagerly (forward only on a CPU)."""
    from torch.nn.attention.flex_attention import flex_attention

    LOG.warning("compiling FlexAttention for rows of up to %d tokens: once per length, this may take a minute", length)
    return compiled(flex_attention)


def compiled(function: Callable[..., T], **options: Any) -> Callable[..., T]:
    """A function compiled for each shape it meets, `COMPILATIONS` in all.

    torch counts what it compiled of a function over all its compiled forms, and beyond a limit, 8 as a rule, runs the function
    as it is, which for FlexAttention is slow and large.
    """
    run = torch.compile(function, dynamic=False, **options)

    def limited(*arguments: Any, **named: Any) -> T:
        with torch._dynamo.config.patch(recompile_limit=COMPILATIONS, accumulated_recompile_limit=COMPILATIONS):
            return run(*arguments, **named)

    return limited
