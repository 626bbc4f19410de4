"""Recording a decode step as a CUDA graph: one launch per token instead of a thousand."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

LOG = logging.getLogger("visurf")

# Steps of one shape that run as they are before it is recorded: they also load kernels and make libraries ready.
TRIAL = 4


class Recorder:
    """Runs a step that depends on tensors in place alone, recorded once per shape on a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        """Nothing recorded yet; on other devices nothing ever is."""
        self.works = device.type == "cuda"
        self.side: Any = torch.cuda.Stream(device) if self.works else None
        self.pool: Any = torch.cuda.graph_pool_handle() if self.works else None
        self.graphs: dict[int, Any] = {}
        self.trials: dict[int, int] = {}

    def run(self, shape: int, step: Callable[[int], None]) -> None:
        """Run `step(shape)`, by replaying it if that shape was recorded.

        A step that cannot be recorded is run as it is from then on, and the log says so.
        """
        graph = self.graphs.get(shape)
        if graph is not None:
            graph.replay()
            return
        tried = self.trials.get(shape, 0)
        self.trials[shape] = tried + 1
        if self.works and tried >= TRIAL:
            try:
                self.graphs[shape] = record(step, shape, self.side, self.pool)
            except RuntimeError as error:
                self.works = False
                LOG.warning("decode steps are not recorded as CUDA graphs and run one kernel at a time: %s", error)
            else:
                self.graphs[shape].replay()
                return
        if self.side is None:
            step(shape)
        else:
            self.side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.side):
                step(shape)
            torch.cuda.current_stream().wait_stream(self.side)


def record(step: Callable[[int], None], shape: int, stream: Any, pool: Any) -> Any:
    """Record one step, without running it: its work, as a `torch.cuda.CUDAGraph`.

    Raises:
        RuntimeError: The step waits for the device, or does something else that a graph cannot hold.
    """
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, pool=pool, stream=stream):
        step(shape)
    return graph
