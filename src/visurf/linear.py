"""Linear layers through oneDNN where that is the faster library: float32 on x86 processors.

PyTorch multiplies float32 matrices with MKL, which on processors of other makers than its own leaves half of the speed unused, and
which reads a weight several times when there are few rows. The products are the same up to rounding.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

# Multiplications below which the call costs more than it saves, with a plain weight and with one in oneDNN's own layout.
WORTH = 1 << 20
FEW_WORTH = 1 << 18
# Rows up to which a weight in oneDNN's own layout is read faster than a plain one.
FEW_ROWS = 512
# Copies of weights in that layout take so many bytes at most.
PACKED_BYTES = 4 << 30
# Compiled kernels that are kept.
KERNELS = 16


class Linear(nn.Linear):
    """`torch.nn.Linear`, computed by oneDNN where it can be.

    Attributes:
        keep: While true, the weight does not change and is kept in oneDNN's own layout once it was used.
    """

    keep: bool = False
    packed: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        """See `torch.nn.Linear`."""
        weight = self.weight
        if input.numel() * weight.shape[0] < (FEW_WORTH if self.keep else WORTH) or not _suits(input, weight):
            return functional.linear(input, weight, self.bias)
        if torch.is_grad_enabled() and (weight.requires_grad or input.requires_grad):
            product: Tensor = _Product.apply(input, weight, self.bias)  # type: ignore[no-untyped-call]
            return product
        if self.keep and self.packed is None and input.numel() <= FEW_ROWS * weight.shape[1]:
            self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
        return _product(input, weight if self.packed is None else self.packed, self.bias)


class _Product(torch.autograd.Function):
    """input @ weight.T + bias, and its three gradients."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, weight)
        return _product(rows, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        rows, weight = ctx.saved_tensors
        flat = upstream.reshape(-1, upstream.shape[-1])
        to_rows = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            to_rows = _product(flat, weight.t(), None).view(rows.shape)
        if ctx.needs_input_grad[1]:
            to_weight = _product(flat.t(), rows.reshape(-1, rows.shape[-1]).t(), None)
        if ctx.needs_input_grad[2]:
            to_bias = flat.sum(0)
        return to_rows, to_weight, to_bias


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return found


def _suits(rows: Tensor, weight: Tensor) -> bool:
    return (
        rows.dtype == weight.dtype == torch.float32
        and rows.device.type == weight.device.type == "cpu"
        and type(weight) in (nn.Parameter, Tensor)
        and not torch.is_autocast_enabled("cpu")
        and available()
    )


@cache
def available() -> bool:
    """Whether PyTorch has the functions, and they compute what they should."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()):
        return False
    generator = torch.Generator().manual_seed(0)
    rows, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((5, 7), (6, 7), (6,)))
    expected = functional.linear(rows, weight, bias)
    try:
        found = [_product(rows, w, bias) for w in (weight, torch.ops.mkldnn._reorder_linear_weight(weight))]
        found.append(_product(rows, weight.t().contiguous().t(), bias))
    except (AttributeError, RuntimeError):
        return False
    return all(torch.allclose(f, expected, atol=1e-5) for f in found)


def use_onednn(network: nn.Module) -> None:
    """Let a network's linear layers compute through oneDNN; parameters and names stay what they are.

    Sets ``LRU_CACHE_CAPACITY`` and ``ONEDNN_PRIMITIVE_CACHE_CAPACITY`` where they are not set: PyTorch and oneDNN would each keep
    1,024 compiled kernels, one for every shape, and packed rows and batches of rollouts have ever new shapes, so that memory grows
    by hundreds of megabytes over many steps.
    """
    for name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(KERNELS))
    for module in network.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear


def use_plain(network: nn.Module) -> None:
    """Undo `use_onednn`."""
    for module in network.modules():
        if type(module) is Linear:
            module.__class__ = nn.Linear  # type: ignore[assignment]


@contextmanager
def frozen_weights(network: nn.Module) -> Iterator[None]:
    """While weights do not change, keep copies in oneDNN's own layout, made when a layer first sees few rows."""
    layers = [m for m in network.modules() if isinstance(m, Linear) and type(m.weight) is nn.Parameter]
    if sum(m.weight.numel() * m.weight.element_size() for m in layers) > PACKED_BYTES:
        layers = []
    try:
        for layer in layers:
            layer.keep = True
        yield
    finally:
        for layer in layers:
            layer.keep, layer.packed = False, None
