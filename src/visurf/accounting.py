"""What a step computes: tokens, floating-point operations, bytes, and what share of a device's known rates that is. Torch-free.

Only unique tokens count, each prompt once; recomputation (gradient checkpointing) does not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Device:
    """A device's rates.

    Attributes:
        flops: Dense bfloat16 matrix products, FLOP/s.
        bandwidth: Of its memory, bytes/s.
        source: Where the numbers come from.
    """

    flops: float
    bandwidth: float
    source: str


_DATASHEET = "vendor's datasheet, dense bfloat16"
# Devices of the same name with a smaller chip.
_OTHER_CHIPS = (" Laptop GPU", " D", " Ti")
# Looked up by a part of the name that CUDA gives; a longer part goes before a shorter one.
DEVICES = {
    "H200": Device(790e12, 4.3e12, "measured: 8192 x 8192 x 8192 product and device-to-device copy"),
    "H100 PCIe": Device(756e12, 2.0e12, _DATASHEET),
    "H100": Device(989e12, 3.35e12, _DATASHEET),
    "A100-SXM4-80GB": Device(312e12, 2.039e12, _DATASHEET),
    "A100-SXM4-40GB": Device(312e12, 1.555e12, _DATASHEET),
    "A100 80GB PCIe": Device(312e12, 1.935e12, _DATASHEET),
    "A100-PCIE-40GB": Device(312e12, 1.555e12, _DATASHEET),
    "L40S": Device(362e12, 0.864e12, _DATASHEET),
    "NVIDIA B200": Device(2250e12, 8.0e12, _DATASHEET),
    "RTX A6000": Device(154.8e12, 0.768e12, _DATASHEET),
    "RTX 5090": Device(209.5e12, 1.792e12, _DATASHEET),
    "RTX 4090": Device(165.2e12, 1.008e12, _DATASHEET),
    "RTX 3090": Device(71e12, 0.936e12, _DATASHEET),
}


def known_device(name: str) -> Device | None:
    """The rates of a device by the name that CUDA gives, or None.

    >>> known_device("NVIDIA H200").flops / 1e12, known_device("some CPU"), known_device("NVIDIA GeForce RTX 4090 Laptop GPU")
    (790.0, None, None)
    """
    if name.endswith(_OTHER_CHIPS):
        return None
    return next((device for part, device in DEVICES.items() if part in name), None)


@dataclass(frozen=True)
class Parameters:
    """Parameters by what passes through them; input embeddings count nothing.

    Attributes:
        text: Every token of the language model.
        head: Predicted tokens.
        vision: Picture patches.
        read: Only tokens whose last hidden state is read (`visurf.attention.unread`); 0 where all pass through all layers.
    """

    text: int
    head: int
    vision: int
    read: int = 0


@dataclass
class Passed:
    """What went through a network.

    Attributes:
        tokens: Unique tokens of the language model.
        read: Those whose last hidden state is read: each prompt's last one, and all of completions.
        predicted: Tokens whose probability was asked for.
        patches: Of the vision tower.
    """

    tokens: int = 0
    read: int = 0
    predicted: int = 0
    patches: int = 0


def count_parameters(network: Any, vision_module: str, read: Any = None) -> Parameters:
    """The parameters of a transformers model, adapters left out.

    Args:
        network: With `named_parameters`, `get_input_embeddings` and `get_output_embeddings`.
        vision_module: Dotted path of the vision tower, as in `visurf.models.Family`.
        read: The module that only tokens pass through that are read, from `visurf.attention.unread.part_left_out`.
    """
    embeddings, head = network.get_input_embeddings().weight, network.get_output_embeddings().weight
    inside = set() if read is None else {id(parameter) for parameter in read.parameters()}
    vision = text = of_read = 0
    for name, parameter in network.named_parameters():
        if parameter is embeddings or parameter is head or "lora_" in name:
            continue
        if name.startswith(f"{vision_module}."):
            vision += parameter.numel()
        elif id(parameter) in inside:
            of_read += parameter.numel()
        else:
            text += parameter.numel()
    return Parameters(text, head.numel(), vision, of_read)


def forward_flops(parameters: Parameters, passed: Passed) -> float:
    """2 x parameters per token that passes through them; attention's own products are not counted.

    >>> forward_flops(Parameters(100, 10, 5, read=20), Passed(tokens=7, read=4, predicted=3, patches=2))
    1640.0
    """
    text = parameters.text * passed.tokens + parameters.read * passed.read
    return 2.0 * (text + parameters.head * passed.predicted + parameters.vision * passed.patches)


def training_flops(parameters: Parameters, passed: Passed, *, adapters: bool = False, vision_trained: bool = True) -> float:
    """Forward and backward: 6 x parameters per token where they are trained, 4 x where only adapters are, 2 x where nothing is.

    The vision tower never has adapters, so it is trained with everything or not at all.

    >>> parameters, passed = Parameters(100, 10, 5, read=20), Passed(tokens=7, read=4, predicted=3, patches=2)
    >>> training_flops(parameters, passed)
    4920.0
    >>> training_flops(parameters, passed, adapters=True, vision_trained=False)
    3260.0
    """
    text = forward_flops(replace(parameters, vision=0), passed)
    vision = forward_flops(Parameters(0, 0, parameters.vision), passed)
    return text * (2 if adapters else 3) + vision * (3 if vision_trained else 1)


def utilisation(flops: float, seconds: float, device: str) -> float | None:
    """Model FLOP utilisation: the share of a known device's rate, or None for an unknown device."""
    known = known_device(device)
    return None if known is None or seconds <= 0 else flops / seconds / known.flops


def decode_bytes(weights: int, per_token: int, prompts: Sequence[int], lengths: Sequence[Iterable[int]]) -> int:
    """The fewest bytes that sampling reads: at every step the weights once, each prompt's keys once, each rollout's own keys.

    Args:
        weights: Bytes of the parameters that a decoded token passes through.
        per_token: Bytes of keys and values of one token, over all layers.
        prompts: Tokens of each prompt.
        lengths: Tokens sampled by each prompt's rollouts.

    >>> decode_bytes(1000, 10, [5], [[2, 3]])
    2140
    """
    groups = [list(of_prompt) for of_prompt in lengths]
    # The first token comes from the prompt's own forward; a step that draws token n reads n - 1 tokens of its own.
    steps = max((n for group in groups for n in group), default=1) - 1
    shared = sum(prompt * (max(group) - 1) for prompt, group in zip(prompts, groups, strict=True) if group)
    own = sum(n * (n - 1) // 2 for group in groups for n in group)
    return weights * steps + per_token * (shared + own)


# What a run's steps add up to.
_SUMMED = ("train/tokens", "train/tokens_naive", "flops/", "time/")


def totals(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Tokens, FLOPs and seconds of a run: the sums over the lines of its metrics.jsonl.

    >>> totals([{"train/tokens": 3, "loss": 0.5}, {"train/tokens": 4}])
    {'train/tokens': 7}
    """
    found: dict[str, float] = {}
    for row in rows:
        for name, value in row.items():
            if name.startswith(_SUMMED):
                found[name] = found.get(name, 0) + value
    return found
