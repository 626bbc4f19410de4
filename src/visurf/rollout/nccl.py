"""Weights over NCCL, through vLLM's own weight-transfer interface: no disk between the trainer's GPU and the servers'.

Written against the interface of vLLM 0.32 (`vllm.distributed.weight_transfer`, endpoints `/init_weight_transfer_engine`,
`/start_weight_update`, `/update_weights`, `/finish_weight_update`). Needs vLLM in the trainer's environment and a GPU on both
sides; the tests drive it with a stand-in for vLLM's trainer side, never with NCCL.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from visurf import parallel
from visurf.rollout.transfer import checkpoint_tensors, merged
from visurf.rollout.vllm import Server, ServerLost, Weights


class Fleet:
    """All servers as the one that vLLM's trainer side talks to (its `VLLMWeightSyncClient`), each with its ranks."""

    def __init__(self, servers: Sequence[Server]) -> None:
        """Take the servers and ask how many workers each has."""
        self.servers = list(servers)
        self.sizes = [int(s.ask("GET", "/get_world_size")["world_size"]) for s in self.servers]

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Let every worker of every server join; the first worker of the first one has rank `rank_offset`."""
        offsets = [init_info["rank_offset"] + sum(self.sizes[:i]) for i in range(len(self.sizes))]
        self._all("/init_weight_transfer_engine", [{"init_info": {**init_info, "rank_offset": o}} for o in offsets])

    def shutdown_weight_transfer_engine(self) -> None:
        """Let all leave."""
        self._all("/shutdown_weight_transfer_engine")

    def start_weight_update(self) -> None:
        """Tell all that weights will come."""
        self._all("/start_weight_update")

    def update_weights(self, update_info: Any) -> None:
        """Let all receive; returns when they have."""
        self._all("/update_weights", [{"update_info": update_info}] * len(self.servers))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Tell all that the weights are complete."""
        body = None if weight_version is None else {"weight_version": weight_version}
        self._all("/finish_weight_update", [body] * len(self.servers))

    def _all(self, path: str, bodies: Sequence[Any] | None = None) -> None:
        """Ask all at once: they wait for one another inside."""
        given = bodies or [None] * len(self.servers)
        with ThreadPoolExecutor(len(self.servers)) as pool:
            for asked in [pool.submit(s.ask, "POST", path, b) for s, b in zip(self.servers, given, strict=True)]:
                asked.result()


class Parameters:
    """The trained network's parameters under their names in a checkpoint, adapters merged; vLLM's `WeightSource`."""

    def __init__(self, network: Any) -> None:
        """Take a network that this process holds whole."""
        self.network = network

    def metadata(self) -> list[Any]:
        """Name, dtype and shape of all, in the order of iteration."""
        from vllm.distributed.weight_transfer.base import ParamMeta

        return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in checkpoint_tensors(self.network)]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """All of them."""
        yield from checkpoint_tensors(self.network)

    def held_names(self) -> None:
        """All of them."""
        return None


class NcclTransfer:
    """Broadcasts from the first process to all workers of all servers, over a group that lives as long as the servers do."""

    together = True

    def __init__(self, network: Any, servers: Sequence[Server], host: str, start: Callable[..., Any] | None = None) -> None:
        """Take what is pushed.

        Args:
            network: What is trained, whole on the first process.
            servers: All of them; a broadcast reaches all or none.
            host: Address of this machine that the servers reach.
            start: Opens vLLM's trainer side; None for vLLM's own.
        """
        self.network, self.servers, self.host, self.start = network, list(servers), host, start or _open_sender
        self.sender: Any = None
        self.given: set[str] = set()

    def publish(self, version: str) -> Weights:
        """See `visurf.rollout.transfer.Transfer.publish`; the broadcast itself is part of the first `give`."""
        self.given = set()
        return Weights(version)

    def give(self, server: Server, weights: Weights) -> None:
        """See `visurf.rollout.transfer.Transfer.give`; reaches all servers at once, so that the others' turns do nothing."""
        if server.address in self.given:
            return
        if parallel.several() and parallel.rank() != 0:
            raise ServerLost(f"{server.address} waits for weights that only the first process can send")
        for each in self.servers:
            each.reset_caches()
        try:
            if self.sender is None:
                self.sender = self.start(Parameters(self.network), Fleet(self.servers), self.host)
            with merged(self.network):
                self.sender.send_weights()
        except Exception as error:
            # A worker that went away leaves the group unusable: it is opened anew with all that are there.
            self._drop()
            raise ServerLost(f"{server.address}: weights could not be sent ({type(error).__name__}: {error})") from error
        for each in self.servers:
            each.reset_caches()
            each.note_version(weights.version)
        self.given = {each.address for each in self.servers}

    def close(self) -> None:
        """See `visurf.rollout.transfer.Transfer.close`."""
        self._drop()

    def _drop(self) -> None:
        sender, self.sender, self.given = self.sender, None, set()
        if sender is not None:
            sender.shutdown()


def _open_sender(source: Parameters, fleet: Fleet, host: str) -> Any:
    """Open vLLM's trainer side as rank 0 of a group with all workers."""
    try:
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo, NCCLTrainerWeightTransferEngine
    except ImportError as error:
        raise ImportError(
            "rollout.servers.push=nccl needs vLLM in this environment too; install it, or set rollout.servers.push=file",
            name="vllm",
        ) from error
    if not torch.cuda.is_available():
        raise RuntimeError("rollout.servers.push=nccl needs a GPU; set rollout.servers.push=file")
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    about = NCCLTrainerInitInfo(master_address=host, master_port=port, world_size=1 + sum(fleet.sizes), rank=0)
    return NCCLTrainerWeightTransferEngine.trainer_init(about, client=fleet, source=source)
