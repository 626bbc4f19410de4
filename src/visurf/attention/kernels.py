"""Ways to compute shared-prefix attention over a packed row, all exact; the fastest that the device has is chosen.

- `merged`: flash kernels over each segment by itself and over completions x prompt, joined by their log-sum-exp. Memory grows with
  the number of tokens only; any length, nothing to compile. CPU, and CUDA in half precision.
- `flex`: FlexAttention under a block mask, compiled once per length bucket. CUDA.
- `dense`: one softmax over [prompt | own tokens], written in plain operations. Any device; keeps scores of size
  completions x (prompt + own) for the backward.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from visurf.attention import dense, merged, merged_cuda

if TYPE_CHECKING:
    from visurf.attention.layout import PackedLayout

Kernel = Callable[[Tensor, Tensor, Tensor, "PackedLayout", float], Tensor]
T = TypeVar("T")
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
    if type(query) is not Tensor:
        # Tensors without data (shape inference, tracing) cannot tell whether a kernel is right.
        return _kernels(query.device.type)["merged" if name == "auto" else name]
    return _choose(name, query.device, query.dtype, query.shape[1], key.shape[1], query.shape[3])


def _kernels(device: str) -> dict[str, Kernel]:
    joined = merged_cuda.attend if device == "cuda" else merged.attend
    return {"merged": joined, "flex": _flex, "dense": dense.attend}


@cache
def _choose(name: str, device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, size: int) -> Kernel:
    kernels = _kernels(device.type)
    if name == "dense" or device.type == "meta":
        return kernels["dense"]
    # FlexAttention has no backward on CPU.
    usual = ("merged", "flex") if device.type == "cuda" else ("merged",)
    for candidate in usual if name == "auto" else (name,):
        failure = apart(partial(_disagreement, kernels[candidate], device, dtype, (heads, kv_heads, size)), device)
        if failure is None:
            return kernels[candidate]
        if name != "auto":
            raise RuntimeError(f"model.attention={name} does not work on {device} in {dtype}: {failure}; use model.attention=auto")
        LOG.warning("attention kernel %r is not used on %s in %s: %s", candidate, device, dtype, failure)
    return kernels["dense"]


def apart(run: Callable[[], T], device: torch.device) -> T:
    """Run a trial of a kernel in a thread of its own, on this device.

    Checkpointing would count the tensors that the trial saves, autocast change their type; and a new thread begins on the first
    device, whichever its process works on.
    """

    def there() -> T:
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            return run()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(there).result()


def _flex(*arguments: Any) -> Tensor:
    from visurf.attention.flex import attend

    return attend(*arguments)


def _disagreement(kernel: Kernel, device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int]) -> str | None:
    """Why a kernel cannot be used here, found on a small row; see `disagreement`."""
    from visurf.attention.layout import PackedLayout

    heads, kv_heads, size = shape
    layout = PackedLayout([(0, 7), (15, 3)], [[(7, 5), (12, 0), (12, 3)], [(18, 2)]], 20, device)
    ways = [lambda *inputs, attend=attend: attend(*inputs, layout, size**-0.5) for attend in (kernel, dense.attend)]
    return disagreement(ways[0], ways[1], [(1, n, 20, size) for n in (heads, kv_heads, kv_heads)], device, dtype)


def disagreement(
    kernel: Callable[..., Tensor],
    plain: Callable[..., Tensor],
    shapes: Sequence[tuple[int, ...]],
    device: torch.device,
    dtype: torch.dtype,
) -> str | None:
    """Why a kernel cannot be used for tensors of these shapes: None, or what it raised or where it differs from plain operations.

    A half type is held against the same rounded inputs in float32, and each tensor against its own size: gradients of keys and
    values are sums over the query heads that share them, and may be ten times as large as an output.
    """
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]
    accurate = torch.promote_types(dtype, torch.float32)
    found: list[list[Tensor]] = []
    with torch.enable_grad():
        for attend, kind in ((kernel, dtype), (plain, accurate)):
            inputs = [t.detach().to(kind, copy=True).requires_grad_() for t in draw]
            try:
                out = attend(*inputs)
                upstream = torch.randn(out.shape, generator=generator.manual_seed(1)).to(device, dtype)
                found.append([out.detach(), *torch.autograd.grad(out, inputs, upstream.to(kind))])
            except Exception as error:  # noqa: BLE001 - whatever the reason, the kernel cannot be used
                return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    bound = {torch.float32: 2e-5, torch.float64: 2e-7}.get(dtype, 0.02)
    worst = float(torch.stack([(a.to(accurate) - b).abs().max() / b.abs().max() for a, b in zip(*found, strict=True)]).max())
    return None if worst <= bound else f"it differs from plain attention by {worst:.2g} of the largest value"
