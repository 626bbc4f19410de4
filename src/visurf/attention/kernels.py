"""Ways to compute shared-prefix attention over a packed row, all exact; the fastest that the device has is chosen.

- `merged`: flash kernels over each segment by itself and over completions x prompt, joined by their log-sum-exp. Memory grows with
  the number of tokens only; any length, nothing to compile. CPU, and CUDA in half precision.
- `flex`: FlexAttention under a block mask, compiled once per length bucket. CUDA.
- `dense`: one softmax over [prompt | own tokens], written in plain operations. Any device; keeps scores of size
  completions x (prompt + own) for the backward.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from visurf.attention import dense, merged, merged_cuda

if TYPE_CHECKING:
    from visurf.attention.layout import PackedLayout

Kernel = Callable[[Tensor, Tensor, Tensor, "PackedLayout", float], Tensor]
LOG = logging.getLogger("visurf")


def choose(name: str, query: Tensor, key: Tensor) -> Kernel:
    """The kernel for tensors like these.

    Args:
        name: `auto` or one of the module's three.
        query: (1, heads, T, D).
        key: (1, kv heads, T, D).

    Raises:
        RuntimeError: The named kernel does not work on this device.
    """
    device = query.device.type
    if type(query) is not Tensor:
        # Tensors without data (shape inference, tracing) cannot tell whether a kernel is right.
        return _kernels(device)["merged" if name == "auto" else name]
    return _choose(name, device, query.dtype, query.shape[1], key.shape[1], query.shape[3])


def _kernels(device: str) -> dict[str, Kernel]:
    joined = merged_cuda.attend if device == "cuda" else merged.attend
    return {"merged": joined, "flex": _flex, "dense": dense.attend}


@cache
def _choose(name: str, device: str, dtype: torch.dtype, heads: int, kv_heads: int, size: int) -> Kernel:
    kernels = _kernels(device)
    if name == "dense" or device == "meta":
        return kernels["dense"]
    # FlexAttention has no backward on CPU.
    usual = ("merged", "flex") if device == "cuda" else ("merged",)
    for candidate in usual if name == "auto" else (name,):
        # In a thread of its own: checkpointing would count the tensors that the comparison saves, autocast change their type.
        with ThreadPoolExecutor(1) as apart:
            failure = apart.submit(_disagreement, kernels[candidate], device, dtype, (heads, kv_heads, size)).result()
        if failure is None:
            return kernels[candidate]
        if name != "auto":
            raise RuntimeError(f"model.attention={name} does not work on {device} in {dtype}: {failure}; use model.attention=auto")
        LOG.warning("attention kernel %r is not used on %s in %s: %s", candidate, device, dtype, failure)
    return kernels["dense"]


def _flex(*arguments: Any) -> Tensor:
    from visurf.attention.flex import attend

    return attend(*arguments)


def _disagreement(kernel: Kernel, device: str, dtype: torch.dtype, shape: tuple[int, int, int]) -> str | None:
    """Why a kernel cannot be used here, found on a small row: None, or what it raised or where it differs from `dense`."""
    from visurf.attention.layout import PackedLayout

    heads, kv_heads, size = shape
    layout = PackedLayout([(0, 7), (15, 3)], [[(7, 5), (12, 0), (12, 3)], [(18, 2)]], 20, device)
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randn(1, n, 20, size, generator=generator).to(device, dtype) for n in (heads, kv_heads, kv_heads)]
    upstream = torch.randn(1, 20, heads, size, generator=generator).to(device, dtype)
    found: list[list[Tensor]] = []
    with torch.enable_grad():
        for attend in (kernel, dense.attend):
            inputs = [t.detach().clone().requires_grad_() for t in draw]
            try:
                out = attend(inputs[0], inputs[1], inputs[2], layout, size**-0.5)
                found.append([out.detach(), *torch.autograd.grad(out, inputs, upstream)])
            except Exception as error:  # noqa: BLE001 - whatever the reason, the kernel cannot be used
                return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    bound = {torch.float32: 1e-4, torch.float64: 1e-6}.get(dtype, 0.05)
    worst = max(float((a - b).abs().max()) for a, b in zip(*found, strict=True))
    return None if worst <= bound else f"it differs from plain attention by {worst:.2g}"
