"""A network's weights as files, with a configuration that says of which type they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from visurf.models.quantization import dtype_of


def write_network(network: Any, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write a transformers model, or the adapters of one that has them.

    transformers writes the type of the network's first parameter into ``config.json``. Where others hold the weights, that one may
    belong to a frozen vision tower that computes in another type than it is written in.

    Args:
        network: With `save_pretrained`.
        folder: Created; files of the same name are replaced.
        weights: The network's tensors where it does not hold them itself.
    """
    network.save_pretrained(folder, state_dict=weights)
    if weights is not None and (folder / "config.json").is_file():
        network.config.dtype = dtype_of(network)
        network.config.save_pretrained(folder)
