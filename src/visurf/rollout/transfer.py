"""How new weights reach a server: as a file, as an adapter, or over NCCL. One class each behind `Transfer`.

What is pushed is prepared once (`publish`, by all processes of the run together) and then given to each server (`give`), again to
one that was away. Nothing here samples.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from visurf import parallel
from visurf.models.quantization import is_quantized
from visurf.rollout.vllm import Server, Weights

if TYPE_CHECKING:
    from visurf.models.family import VisionLanguageModel

# The network's tensors on the first process where the network itself does not hold them; see `Placement.weights`.
Gather = Callable[[Any], "dict[str, Tensor] | None"]


class Transfer(Protocol):
    """A way of weights to servers.

    Attributes:
        together: Whether giving reaches all servers at once, so that none may be sampling.
    """

    together: bool

    def publish(self, version: str) -> Weights:
        """Make the policy's present weights ready to be given; all processes take part."""

    def give(self, server: Server, weights: Weights) -> None:
        """Let a server answer with the weights that were published last.

        Raises:
            ServerLost: It could not take them; it may be tried again.
        """

    def close(self) -> None:
        """Remove what was made for the transfer."""


class FileTransfer:
    """A safetensors checkpoint, adapters merged, that every server reads from the same folder."""

    together = False

    def __init__(self, model: VisionLanguageModel, network: Any, folder: Path, gather: Gather) -> None:
        """Take what is pushed.

        Args:
            model: Brings configuration, tokenizer and processor.
            network: What is trained, with its adapters if any.
            folder: Servers must see it under the same path.
            gather: Collects the weights of a sharded network.
        """
        self.model, self.network, self.folder, self.gather = model, network, folder.absolute(), gather
        self.path = self.folder

    def publish(self, version: str) -> Weights:
        """See `Transfer.publish`."""
        tensors = self.gather(self.network)
        self.path = self.folder / version
        with parallel.agreed():
            if parallel.rank() == 0:
                write_checkpoint(self.model, self.network, self.path, tensors)
                _keep_only(self.folder, self.path)
        return Weights(version)

    def give(self, server: Server, weights: Weights) -> None:
        """See `Transfer.give`; the engine's and the front end's caches are cleared before and after."""
        server.reset_caches()
        server.ask("POST", "/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(self.path)}})
        server.reset_caches()
        server.note_version(weights.version)

    def close(self) -> None:
        """See `Transfer.close`."""
        if parallel.rank() == 0:
            shutil.rmtree(self.folder, ignore_errors=True)


class AdapterTransfer:
    """Only the adapters, each version under a name of its own: no cache can then hold anything of another version."""

    together = False

    def __init__(self, network: Any, folder: Path, gather: Gather) -> None:
        """Take what is pushed; arguments as of `FileTransfer`."""
        self.network, self.folder, self.gather = network, folder.absolute(), gather
        self.path = self.folder

    def publish(self, version: str) -> Weights:
        """See `Transfer.publish`."""
        tensors = self.gather(self.network)
        self.path = self.folder / version
        with parallel.agreed():
            if parallel.rank() == 0:
                self.network.save_pretrained(self.path, state_dict=tensors)
                _keep_only(self.folder, self.path)
        return Weights(version, f"visurf-{version}")

    def give(self, server: Server, weights: Weights) -> None:
        """See `Transfer.give`; adapters of earlier versions are unloaded first."""
        for name in server.adapters():
            if name.startswith("visurf-"):
                server.ask("POST", "/v1/unload_lora_adapter", {"lora_name": name})
        server.ask("POST", "/v1/load_lora_adapter", {"lora_name": weights.adapter, "lora_path": str(self.path)})

    def close(self) -> None:
        """See `Transfer.close`."""
        if parallel.rank() == 0:
            shutil.rmtree(self.folder, ignore_errors=True)


def write_checkpoint(model: VisionLanguageModel, network: Any, folder: Path, tensors: Mapping[str, Tensor] | None) -> None:
    """Write configuration and weights as one checkpoint, adapters merged; the folder appears when it is complete.

    An output layer that shares the embedding's weights is written under its own name too: vLLM's CPU build computes it from a copy
    that a reload renews only where the checkpoint names the layer. Elsewhere the same values are taken twice.

    Args:
        model: Brings configuration, tokenizer and processor.
        network: What is trained.
        folder: To be written.
        tensors: The network's where it does not hold them itself; with adapters the base is then loaded anew to merge them.
    """
    from visurf.exporting import export
    from visurf.models import save_model

    folder.parent.mkdir(parents=True, exist_ok=True)
    if tensors is not None or not hasattr(network, "peft_config"):
        export(model, network, folder, tensors, untied=True)
        return
    partial = folder.with_name(f".partial-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    with merged(network):
        tensors = {name: t.cpu().contiguous() for name, t in checkpoint_tensors(network)}
        save_model(model, model.network, partial, tensors, untied=True)
    partial.replace(folder)


def checkpoint_tensors(network: Any) -> Iterator[tuple[str, Tensor]]:
    """Parameters under the names they would have without adapters, which are left out; see `merged`."""
    base = network.get_base_model() if hasattr(network, "get_base_model") else network
    for name, parameter in base.named_parameters():
        if ".lora_" not in name:
            yield name.replace(".base_layer.", "."), parameter.detach()


@contextmanager
def merged(network: Any) -> Iterator[None]:
    """Adapters merged into the parameters for a while, which are then put back bit by bit: subtraction would leave rounding."""
    if not hasattr(network, "merge_adapter"):
        yield
        return
    if is_quantized(network):
        raise ValueError("adapters cannot be merged into a quantised base and taken out again; set rollout.servers.push=adapter")
    weights = [m.base_layer.weight for m in network.modules() if hasattr(m, "base_layer")]
    # In host memory: beside the weights a GPU may have no room for nearly all of them once more.
    before = [weight.data.to("cpu", copy=True) for weight in weights]
    network.merge_adapter()
    try:
        yield
    finally:
        network.unmerge_adapter()
        for weight, kept in zip(weights, before, strict=True):
            weight.data.copy_(kept)


def _keep_only(folder: Path, path: Path) -> None:
    for other in folder.iterdir():
        if other != path:
            shutil.rmtree(other, ignore_errors=True)


def holds(server: Server, weights: Weights) -> bool:
    """Whether a server has these weights; one that was started anew has not."""
    if weights.adapter:
        return weights.adapter in server.adapters()
    return server.version() == weights.version
