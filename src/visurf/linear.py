"""Linear layers through oneDNN where that is the faster library: float32 on x86 processors.

PyTorch multiplies float32 matrices with MKL. On processors of other makers than its own it leaves half of the speed unused; on all
it reads a weight several times when there are few rows. The products are the same up to rounding.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
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
# Compiled kernels that are kept: those of some 30 numbers of rows (`rung`) in the seven layers that differ within a network.
KERNELS = 256


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
        if not self.keep or _differentiated(input, weight) or not _suits(input, weight, FEW_WORTH):
            return product(input, weight, self.bias)
        rows = input.numel() // weight.shape[1]
        if rows > FEW_ROWS:
            return product(input, weight, self.bias)
        if self.packed is None:
            self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
        if (padded := rung(rows)) == rows:
            return _product(input, self.packed, self.bias)
        flat = functional.pad(input.reshape(rows, -1), (0, 0, 0, padded - rows))
        return _product(flat, self.packed, self.bias)[:rows].view(*input.shape[:-1], -1)


def rung(rows: int) -> int:
    """The number of rows that a product with few rows is padded to, four for each doubling: a kernel is compiled for each."""
    step = max(1, 1 << (rows - 1).bit_length() >> 3)
    return -(-rows // step) * step


def product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`torch.nn.functional.linear`, by oneDNN where that is faster: (..., K), (N, K) and (N,) -> (..., N)."""
    if intel() or not _suits(rows, weight, WORTH):
        return functional.linear(rows, weight, bias)
    if _differentiated(rows, weight):
        found: Tensor = _Product.apply(rows, weight, bias)  # type: ignore[no-untyped-call]
        return found
    return _product(rows, weight, bias)


def _differentiated(rows: Tensor, weight: Tensor) -> bool:
    return torch.is_grad_enabled() and (weight.requires_grad or rows.requires_grad)


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


def _suits(rows: Tensor, weight: Tensor, worth: int) -> bool:
    return (
        rows.numel() * weight.shape[0] >= worth
        and rows.dtype == weight.dtype == torch.float32
        and rows.device.type == weight.device.type == "cpu"
        and type(weight) in (nn.Parameter, Tensor)
        and not torch.is_autocast_enabled("cpu")
        and available()
    )


@cache
def intel() -> bool:
    """Whether the processor is of MKL's own maker, for which MKL multiplies many rows as fast, and transposed ones faster."""
    try:
        described = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        described = platform.processor()
    return "GenuineIntel" in described


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
