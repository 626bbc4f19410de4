"""Processes: nothing to set up for one; started by torchrun for several. Gradients are summed, never averaged.

The loss carries a scale that is global over processes, so the sum of the gradients is the gradient of the whole step.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

T = TypeVar("T")


def start() -> tuple[int, int]:
    """Join the processes that torchrun started; returns rank and number of processes (0 and 1 without torchrun)."""
    if "WORLD_SIZE" not in os.environ or not dist.is_available():
        return 0, 1
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return dist.get_rank(), dist.get_world_size()


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


def total(values: Iterable[float], where: torch.device) -> list[float]:
    """Sums over all processes, in float64."""
    numbers = torch.tensor(list(values), dtype=torch.float64, device=where)
    if several():
        dist.all_reduce(numbers)
    return [float(v) for v in numbers.tolist()]


def mean_metrics(metrics: Mapping[str, float], weight: float, where: torch.device) -> dict[str, float]:
    """Weighted means over processes; a process that lacks a metric does not count in it, unless it is a share of events.

    Shares of parse errors and abstentions are reported only where they are not 0.
    """
    if not several():
        return dict(metrics)
    gathered: list[tuple[dict[str, float], float]] = [({}, 0.0)] * dist.get_world_size()
    dist.all_gather_object(gathered, (dict(metrics), weight))
    names = {name: None for found, _ in gathered for name in found}
    means = {}
    for name in names:
        event = name.startswith(("parse/", "abstained/"))
        having = [(found.get(name, 0.0), w) for found, w in gathered if (event or name in found) and w > 0]
        if having:
            means[name] = sum(v * w for v, w in having) / sum(w for _, w in having)
    return means


def all_names(names: Iterable[str]) -> list[str]:
    """The sorted union of every process's names, so that all take part in the same sums."""
    if not several():
        return sorted(names)
    gathered: list[list[str]] = [[]] * dist.get_world_size()
    dist.all_gather_object(gathered, sorted(names))
    return sorted({name for found in gathered for name in found})


def gather(items: list[T]) -> list[T]:
    """Everybody's items, on every process."""
    if not several():
        return items
    gathered: list[list[T]] = [[]] * dist.get_world_size()
    dist.all_gather_object(gathered, items)
    return [item for part in gathered for item in part]


def sum_gradients(module: nn.Module) -> None:
    """Add up the gradients of all processes; a parameter that got none counts as zeros, so that every process takes part."""
    for parameter in module.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if several():
                dist.all_reduce(parameter.grad)


def barrier() -> None:
    """Wait for all processes."""
    if several():
        dist.barrier()
