"""On what a run computes, in words, and a word of warning where that cannot be meant."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from visurf import parallel

# A model above so many parameters is not trained on a CPU.
MOST_ON_CPU = 1_000_000_000


def described() -> str:
    """The device of this process, and how many processes there are.

    >>> described()  # doctest: +SKIP
    'NVIDIA H200, 2 processes'
    """
    found = parallel.device()
    cpu = f"CPU ({_why_no_gpu()}), {torch.get_num_threads()} threads"
    name = torch.cuda.get_device_name(found) if found.type == "cuda" else cpu
    return name + (f", {parallel.number()} processes" if parallel.several() else "")


def _why_no_gpu() -> str:
    return "torch finds no CUDA device" if torch.version.cuda else "this torch is built without CUDA"


def warn_of_processor(network: nn.Module) -> None:
    """Warn where a large model is to be trained without a GPU."""
    count = sum(parameter.numel() for parameter in network.parameters())
    if parallel.device().type == "cpu" and count > MOST_ON_CPU:
        warnings.warn(
            f"{count / 1e9:.1f} billion parameters are trained on the CPU, which takes hours a step: {_why_no_gpu()}; "
            "`visurf env` shows the devices, `visurf check RECIPE --gpu NAME` estimates memory and time",
            stacklevel=2,
        )
