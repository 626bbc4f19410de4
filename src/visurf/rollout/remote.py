"""The policy sampled by servers, as the training loop sees it: weights in step with training, and rollouts drawn ahead of time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from visurf.config import Config
from visurf.models.family import Prompt, VisionLanguageModel
from visurf.placement import Placement
from visurf.rollout.sampling import of_sample
from visurf.rollout.servers import Limits, Servers
from visurf.rollout.transfer import AdapterTransfer, FileTransfer, Transfer
from visurf.rollout.types import Rollout, Sampling
from visurf.rollout.vllm import Drawing, Server


class Remote:
    """Draws rollouts on servers.

    Attributes:
        overlap: Whether the next step's rollouts are drawn while this one is trained.
        staleness: Optimiser batches between the weights that drew the last rollouts and those they train.
    """

    def __init__(self, config: Config, model: VisionLanguageModel, servers: Servers) -> None:
        """Take settings, the model whose tokens are spoken, and the servers."""
        settings = config.rollout
        self.seed, self.size, self.overlap, self.servers = config.seed, settings.group_size, settings.overlap, servers
        sampling = Sampling(settings.max_tokens, top_p=settings.top_p)
        self.drawing = Drawing(sampling, settings.temperature, model.eos_ids, model.banned_ids, model.image_id)
        self.staleness = 0
        self.current = False
        self._pool = ThreadPoolExecutor(1, "rollouts")
        self._ahead: tuple[int, Future[list[list[Rollout]]]] | None = None

    def prepare(self) -> None:
        """Before a step draws: wait for what is being drawn ahead, then push weights that have changed; all processes take part."""
        if self._ahead is not None:
            # What went wrong is raised where the rollouts are taken, when all processes can hear of it.
            self._ahead[1].exception()
        if not self.current:
            self.servers.push()
            self.current = True

    def draw(self, prompts: Sequence[Prompt], number: int, first: int, members: int) -> list[list[Rollout]]:
        """Rollouts `first` to `first + members` of every prompt in step `number`: those drawn ahead, or drawn now."""
        if self._ahead is not None and self._ahead[0] == number:
            (_, future), self._ahead, self.staleness = self._ahead, None, 1
            return future.result()
        self.staleness = 0
        return self._draw(prompts, number, first, members)

    def begin(self, prompts: Sequence[Prompt], number: int) -> None:
        """Start to draw a later step's rollouts with the weights that the servers have now."""
        self._ahead = (number, self._pool.submit(self._draw, prompts, number, 0, self.size))

    def updated(self) -> None:
        """The policy's weights have changed."""
        self.current = False

    def report(self) -> dict[str, float]:
        """What the last step's rollouts are and what happened to the servers."""
        return {"rollout/staleness": float(self.staleness), **self.servers.report()}

    def close(self) -> None:
        """End what is being drawn; the servers go on running."""
        self.servers.stopping.set()
        self._pool.shutdown(cancel_futures=True)
        self.servers.close()

    def _draw(self, prompts: Sequence[Prompt], number: int, first: int, members: int) -> list[list[Rollout]]:
        # One seed a request: the server adds the number of the rollout to it.
        seeds = [int(of_sample(self.seed, number, p.sample, first).integers(2**62)) for p in prompts]
        return self.servers.draw(prompts, members, self.drawing, seeds)


def connect(config: Config, model: VisionLanguageModel, network: Any, placement: Placement) -> Remote | None:
    """The servers that a stage samples with, or None where it samples in process.

    Raises:
        ImportError: httpx is not installed.
    """
    if config.rollout.engine == "local":
        return None
    settings = config.rollout.servers
    token = os.environ.get(settings.token_variable, "")
    servers = [Server(address.rstrip("/"), token, settings.timeout) for address in dict.fromkeys(settings.addresses)]
    limits = Limits(settings.requests, settings.patience)
    return Remote(config, model, Servers(servers, _transfer(config, model, network, placement, servers), limits))


def _transfer(
    config: Config, model: VisionLanguageModel, network: Any, placement: Placement, servers: Sequence[Server]
) -> Transfer:
    settings = config.rollout.servers
    adapted = hasattr(network, "peft_config")
    push = settings.push if settings.push != "auto" else ("adapter" if adapted else "file")
    if push == "nccl":
        from visurf.rollout.nccl import NcclTransfer

        return NcclTransfer(network, servers, settings.host)
    # What lies in it is removed with the run: in a folder that others may use, one of the run's own.
    out = Path(config.out).absolute()
    own = f"visurf-{hashlib.blake2b(str(out).encode(), digest_size=8).hexdigest()}"
    folder = Path(settings.folder) / own if settings.folder else out / "servers"
    if push == "adapter":
        return AdapterTransfer(network, folder, placement.weights)
    return FileTransfer(model, network, folder, placement.weights)
