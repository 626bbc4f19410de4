"""Recording a decode step as a CUDA graph: one launch per token instead of a thousand."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from visurf.budgets import is_out_of_memory

LOG = logging.getLogger("visurf")

# Steps that run as they are before the first shape is recorded, and before each further one: they make libraries ready and load the
# kernels of a shape, neither of which a recording can hold.
TRIAL = 4
FURTHER = 1


class Recorder:
    """Runs a step that depends on tensors in place alone, recorded once per shape on a CUDA device.

    Attributes:
        failed: Whether a recording has failed in this process; none is tried again.
    """

    failed: ClassVar[bool] = False

    def __init__(self, device: torch.device) -> None:
        """Nothing recorded yet; on other devices nothing ever is."""
        self.works = device.type == "cuda" and not Recorder.failed
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
        if self.works and tried >= (FURTHER if self.graphs else TRIAL):
            stream = None if self.side is None else torch.cuda.current_stream(self.side.device)
            try:
                self.graphs[shape] = record(step, shape, self.side, self.pool)
            except RuntimeError as error:
                self.works = False
                # Memory that ran out says nothing of the step, and the next batch is smaller.
                Recorder.failed = not is_out_of_memory(error)
                if stream is not None:
                    # A recording that fails leaves the process on its stream.
                    torch.cuda.set_stream(stream)
                    self.side = None
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
