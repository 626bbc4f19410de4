"""The processes of a run: joining them, dealing samples to them, bringing numbers together, failing together.

Without torchrun there is one process and everything here does nothing. How the policy lies on the processes is in
`visurf.replicas` and `visurf.sharding`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import zip_longest
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")
_NOTHING = object()


class OtherProcessError(RuntimeError):
    """Another process of the run failed; the message names it and holds its own."""


def start(timeout: float = 30.0) -> tuple[int, int]:
    """Join the processes that torchrun started.

    Args:
        timeout: Minutes that a process waits for the others before it gives up.

    Returns:
        Rank and number of processes; 0 and 1 without torchrun.

    Raises:
        ValueError: Only a part of what torchrun sets is set.
    """
    if "WORLD_SIZE" not in os.environ or not dist.is_available():
        return 0, 1
    if not dist.is_initialized():
        if "MASTER_ADDR" not in os.environ:
            raise ValueError(
                "WORLD_SIZE is set and MASTER_ADDR is not: start several processes with "
                "`torchrun --nproc_per_node N -m visurf train RECIPE`, which sets all of them, or unset RANK and WORLD_SIZE for one"
            )
        device()
        # Small numbers and objects travel between CPUs: they need no kernel and wait for none.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=timedelta(minutes=timeout))
    return dist.get_rank(), dist.get_world_size()


def stop() -> None:
    """Leave the processes; a later `start` joins anew."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def device() -> torch.device:
    """The device of this process."""
    if torch.cuda.is_available():
        index = int(os.environ.get("LOCAL_RANK", 0))
        torch.cuda.set_device(index)
        return torch.device("cuda", index)
    return torch.device("cpu")


def several() -> bool:
    """Whether more than one process works on this run."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if several() else 0


def number() -> int:
    """How many processes there are."""
    return dist.get_world_size() if several() else 1


def share(items: Sequence[T]) -> Sequence[T]:
    """This process's items: they are dealt in order, as cards are, and may not suffice for all."""
    return items[dist.get_rank() :: dist.get_world_size()] if several() else items


def rejoin(items: list[T]) -> list[T]:
    """Everybody's items on every process, in the order from which `share` dealt them."""
    dealt = zip_longest(*_gather(items), fillvalue=_NOTHING)
    return [item for turn in dealt for item in turn if item is not _NOTHING]  # type: ignore[misc]


def gather(items: list[T]) -> list[T]:
    """Everybody's items on every process, those of the first process first."""
    return [item for part in _gather(items) for item in part]


def _gather(items: list[T]) -> list[list[T]]:
    if not several():
        return [items]
    gathered: list[list[T]] = [[]] * dist.get_world_size()
    dist.all_gather_object(gathered, items)
    return gathered


def total(values: Iterable[float]) -> list[float]:
    """Sums over all processes, in float64."""
    numbers = torch.tensor(list(values), dtype=torch.float64)
    if several():
        dist.all_reduce(numbers)
    return [float(v) for v in numbers.tolist()]


def barrier() -> None:
    """Wait for all processes."""
    total([0.0])


@contextmanager
def agreed() -> Iterator[None]:
    """Leave the block on all processes or on none: where one fails, every other one raises too.

    No collective may stand in the block unless it is kept in step by other means.

    Raises:
        OtherProcessError: On all processes but the first of those that failed, which raises its own error.
    """
    if not several():
        yield
        return
    problem: Exception | None = None
    try:
        yield
    except Exception as error:  # noqa: BLE001 - raised again below, when all know
        problem = error
    said = gather([None if problem is None else f"{type(problem).__name__}: {problem}"])
    failed = next((number for number, text in enumerate(said) if text is not None), None)
    if failed is None:
        return
    if problem is not None and failed == rank():
        raise problem
    raise OtherProcessError(f"process {failed} of {len(said)} failed: {said[failed]}") from problem
