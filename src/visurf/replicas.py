"""The policy whole on every process, and its gradients added up while the last row's backward pass is still running.

Gradients are summed, never averaged: the loss carries a scale that is global over processes. Torch's own wrapper for this averages,
needs a backward pass on every process, and knows neither how many rows a process has nor that it may have none; this needs neither.
Source of the buckets and of their order: Li et al., "PyTorch Distributed", arXiv 2006.15704.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from visurf import parallel

if TYPE_CHECKING:
    from visurf.packing import Bundle

BUCKET_BYTES = 25 * 2**20


class Replicas:
    """The policy whole on every process, or on the only one; a `visurf.placement.Placement`."""

    repeats = True
    records = True

    def __init__(self, policy: nn.Module) -> None:
        """Take a policy; every process gets the first one's parameters."""
        self.device = next(policy.parameters()).device
        self.trained = [p for p in policy.parameters() if p.requires_grad]
        self.left = 0
        self.buckets: list[_Bucket] = []
        if not parallel.several():
            return
        for parameter in policy.parameters():
            dist.broadcast(parameter.detach(), 0)
        # The backward pass finishes the last parameters first.
        self.parts = split(self.trained[::-1], BUCKET_BYTES)
        self.bucket_of = {p: number for number, part in enumerate(self.parts) for p in part}
        for parameter in self.trained:
            parameter.register_post_accumulate_grad_hook(self._ready)

    def place(self, policy: nn.Module) -> None:
        """See `visurf.placement.Placement.place`."""

    def begin(self, rows: int) -> None:
        """See `visurf.placement.Placement.begin`."""
        self.left = rows
        self.buckets = []
        for parameter in self.trained:
            parameter.grad = None
        if parallel.several():
            self.buckets = [_Bucket(part) for part in self.parts]

    def complete(self, bundles: Sequence[Bundle]) -> Sequence[Bundle]:
        """See `visurf.placement.Placement.complete`."""
        return bundles

    def backward(self, loss: Tensor) -> None:
        """See `visurf.placement.Placement.backward`; during the last row's, buckets set off as they fill."""
        self.left -= 1
        loss.backward()

    def finish(self) -> None:
        """See `visurf.placement.Placement.finish`."""
        for bucket in self.buckets:
            bucket.send()
        for bucket in self.buckets:
            bucket.wait()
        self.buckets = []
        for parameter in self.trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def abandon(self) -> None:
        """See `visurf.placement.Placement.abandon`; the sums are made, of gradients that nobody will use."""
        for bucket in self.buckets:
            bucket.send()
        for bucket in self.buckets:
            bucket.wait()
        self.buckets = []

    def clip(self, limit: float) -> Tensor:
        """See `visurf.placement.Placement.clip`."""
        return nn.utils.clip_grad_norm_(self.trained, limit)

    @contextmanager
    def passes(self, policy: nn.Module, rows: int) -> Iterator[None]:
        """See `visurf.placement.Placement.passes`."""
        yield

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """See `visurf.placement.Placement.sampling`."""
        yield

    def weights(self, network: nn.Module) -> dict[str, Tensor] | None:
        """See `visurf.placement.Placement.weights`."""
        return None

    def _ready(self, parameter: Tensor) -> None:
        """A parameter's gradient is whole; send all buckets that are full, in the one order that all processes keep."""
        if self.left > 0 or not self.buckets:
            return
        self.buckets[self.bucket_of[parameter]].missing -= 1  # type: ignore[index]
        for bucket in self.buckets:
            if bucket.missing > 0:
                break
            bucket.send()


class _Bucket:
    """Gradients of some parameters as views of one flat tensor, summed in one go."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        first = parameters[0]
        self.flat = torch.zeros(sum(p.numel() for p in parameters), dtype=first.dtype, device=first.device)
        self.missing = len(parameters)
        self.work: Any = None
        for parameter, part in zip(parameters, self.flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = part.view_as(parameter)

    def send(self) -> None:
        """Start the sum, once."""
        if self.work is None:
            self.work = dist.all_reduce(self.flat, async_op=True)

    def wait(self) -> None:
        """Wait for the sum."""
        self.work.wait()


def split(parameters: Sequence[nn.Parameter], limit: int) -> list[list[nn.Parameter]]:
    """Consecutive parameters of one dtype and device together, up to a number of bytes; a larger one stands alone."""
    parts: list[list[nn.Parameter]] = []
    used = 0
    for parameter in parameters:
        size = parameter.numel() * parameter.element_size()
        fits = parts and used + size <= limit
        if fits and (parts[-1][0].dtype, parts[-1][0].device) == (parameter.dtype, parameter.device):
            parts[-1].append(parameter)
            used += size
        else:
            parts.append([parameter])
            used = size
    return parts
