"""Timing in turn, and peak memory."""

from __future__ import annotations

import ctypes.util
import gc
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

MIB = 2**20


@dataclass
class Series:
    """What one contender took, repeat by repeat: wall seconds, processor seconds in its own code, and what its runs returned.

    The second leaves out what the system does for it, which is to zero the memory that it gives back and takes anew. On virtual
    machines that can be a third of the time, and the more memory a contender needs, the more.
    """

    wall: list[float] = field(default_factory=list)
    user: list[float] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratios(rival: Sequence[float], mine: Sequence[float]) -> list[float]:
    """How often mine goes into the rival's, repeat by repeat."""
    return [r / m for r, m in zip(rival, mine, strict=True)]


def alternate(
    contenders: Mapping[str, Callable[[int], Any]], repeats: int, warmup: int, device: torch.device, limit: float = 0.0
) -> dict[str, Series]:
    """Run contenders in turn, so that whatever slows the machine meets all of them.

    Args:
        contenders: Each is called with the number of the round.
        repeats: Rounds that count.
        warmup: Rounds before them that do not.
        device: Waited for before and after every run.
        limit: Stop after so many seconds, once one round counted; 0 for no limit.
    """
    found = {name: Series() for name in contenders}
    began = time.perf_counter()
    for number in range(warmup + repeats):
        if limit and number > warmup and time.perf_counter() - began > limit:
            break
        for name, run in contenders.items():
            gc.collect()
            synchronise(device)
            wall, user = time.perf_counter(), os.times().user
            result = run(number)
            synchronise(device)
            series = found[name]
            series.results.append(result)
            if number >= warmup:
                series.wall.append(time.perf_counter() - wall)
                series.user.append(os.times().user - user)
    return found


def synchronise(device: torch.device) -> None:
    """Wait for the device's queue."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_memory(run: Callable[[], Any], device: torch.device) -> float:
    """MiB that a call takes at its peak, above what was held before it.

    On a CPU that is the peak of this process's resident memory, so call it once in a process of its own.

    Raises:
        RuntimeError: The system does not tell a process's peak.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - held) / MIB
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not reset.exists():
        raise RuntimeError("peak memory on a CPU is read from /proc/self, which only Linux has")
    _return_free_memory()
    reset.write_text("5")  # forget the peak so far: proc(5)
    before = _resident(status, "VmRSS")
    run()
    return (_resident(status, "VmHWM") - before) / 1024


def _return_free_memory() -> None:
    """Give memory that the allocator only holds back to the system, or it would hide what the call takes."""
    libc = ctypes.util.find_library("c")
    trim = getattr(ctypes.CDLL(libc), "malloc_trim", None) if libc else None
    if trim is not None:
        trim(0)


def _resident(status: Path, name: str) -> float:
    (line,) = [line for line in status.read_text().splitlines() if line.startswith(name)]
    return float(line.split()[1])
