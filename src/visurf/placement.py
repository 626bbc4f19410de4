"""How the policy lies on the processes of a run: what a training step needs to know of it, and no more."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from visurf.packing import Bundle


class Placement(Protocol):
    """How policies lie on the processes, and how the gradients of one come together.

    Attributes:
        repeats: Whether rows can be run again after one of them failed on one process.
        records: Whether decode steps are recorded as CUDA graphs unless a recipe says otherwise.
        device: Where this process computes; parameters may lie elsewhere between passes.
    """

    repeats: bool
    records: bool
    device: torch.device

    def place(self, policy: nn.Module) -> None:
        """Lay out a policy that is only evaluated, such as a reference."""

    def begin(self, rows: int) -> None:
        """An optimiser step begins: this process will run so many packed rows backward."""

    def complete(self, bundles: Sequence[Bundle]) -> Sequence[Bundle]:
        """What a row must hold so that all processes use the same modules."""

    def backward(self, loss: Tensor) -> None:
        """One row's backward pass; its gradients add to those of the rows before."""

    def finish(self) -> None:
        """Every trained parameter's `grad` becomes the sum over all rows of all processes; zeros where no row had one."""

    def abandon(self) -> None:
        """A row failed: keep step with the other processes, as `finish` does, where that is possible."""

    def clip(self, limit: float) -> Tensor:
        """Clip the gradient to a global norm; returns the norm before, a plain scalar tensor."""

    def passes(self, policy: nn.Module, rows: int) -> AbstractContextManager[None]:
        """A context in which this process runs so many rows through a policy without gradient."""

    def sampling(self) -> AbstractContextManager[None]:
        """A context in which every process may run the policy as often as it likes, without gradient."""

    def weights(self, network: nn.Module) -> dict[str, Tensor] | None:
        """The whole network's tensors (those that are trained, with adapters) on the first process's CPU, empty on the others.

        None where the network itself holds them.
        """
