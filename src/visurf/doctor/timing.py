"""How long a step takes, from what it computes and the rates of the device. Torch-free, but for measuring a processor's own rate.

A rough number: what devices reach of their rates differs between models and kernels. docs/checking.md says what was assumed.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from visurf.accounting import DEVICES, Device, Parameters, Passed, decode_bytes, forward_flops, known_device, training_flops
from visurf.config import Config
from visurf.doctor.memory import estimate, together, trained_parameters
from visurf.doctor.shape import Shape
from visurf.doctor.shares import HELD
from visurf.doctor.work import Precision, Work

# Shares of the rates that training and decoding are taken to reach.
COMPUTED, READ = 0.4, 0.5
# GB of memory of the devices in `visurf.accounting.DEVICES`, vendor's datasheets.
MEMORY = {"H200": 141, "H100 PCIe": 80, "H100": 80, "A100-SXM4-80GB": 80, "A100-SXM4-40GB": 40, "L40S": 48}
MEMORY |= {"A100 80GB PCIe": 80, "A100-PCIE-40GB": 40, "NVIDIA B200": 180, "RTX A6000": 48, "RTX 5090": 32}
MEMORY |= {"RTX 4090": 24, "RTX 3090": 24}


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step.

    Attributes:
        prefill: The prompts' own pass before sampling.
        decode: Sampling token by token.
        train: Forward and backward passes of packed rows.
    """

    prefill: float
    decode: float
    train: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.prefill + self.decode + self.train


def device_named(name: str) -> tuple[str, Device, int] | None:
    """Name, rates and GB of memory of a device, or None.

    Args:
        name: As the table has it, as CUDA gives it, or a word of it with a number that is no memory's size, such as 4090.

    >>> [device_named(name)[0] for name in ("h100", "NVIDIA H100 80GB HBM3", "h100 pcie", "4090")], device_named("80GB")
    (['H100', 'H100', 'H100 PCIe', 'RTX 4090'], None)
    """
    asked, device = name.upper(), known_device(name)
    found = [part for part in DEVICES if part.upper() == asked] + [part for part, known in DEVICES.items() if known is device]
    if any(c.isdigit() for c in asked) and not asked.endswith("GB"):
        found += [part for part in DEVICES if asked in part.upper().split()]
    return (found[0], DEVICES[found[0]], MEMORY[found[0]]) if found else None


def processor_rate(seconds: float = 0.2) -> Device:
    """This processor's rates on one product of float32 matrices and one copy, measured for about so long."""
    side = 512
    first, second = np.ones((side, side), np.float32), np.ones((side, side), np.float32)
    rounds, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds / 2:
        first @ second
        rounds += 1
    flops = 2.0 * side**3 * rounds / (time.perf_counter() - began)
    block = np.ones(1 << 24, np.uint8)
    rounds, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds / 2:
        block.copy()
        rounds += 1
    return Device(flops, 2.0 * block.nbytes * rounds / (time.perf_counter() - began), "measured here")


def step_time(shape: Shape, work: Work, config: Config, precision: Precision, device: Device) -> StepTime:
    """Seconds of a step with a typical prompt; scoring, the optimiser and data are left out.

    Every token is counted through all layers, though the last one's feed-forward part leaves some out (`visurf.attention.unread`).
    """
    text = shape.parameters - shape.vision_parameters - shape.embedding_parameters
    tied = shape.head_parameters == shape.embedding_parameters and shape.parameters < text + 2 * shape.embedding_parameters
    counted = Parameters(text if tied else text - shape.head_parameters, shape.head_parameters, shape.vision_parameters)
    tokens, patches = work.prompts * work.prompt, work.prompts * work.patches
    rate = device.flops * COMPUTED
    prefill = decode = 0.0
    if work.rollouts:
        prefill = forward_flops(counted, Passed(tokens, predicted=work.prompts * work.rollouts, patches=patches)) / rate
        weights = (counted.text + counted.head) * precision.low
        at_once = together(work, config)
        keys = 2 * shape.keys * shape.layers * precision.low
        lengths = [[work.completion] * work.rollouts] * at_once
        read = decode_bytes(weights, keys, [work.prompt] * at_once, lengths) / (device.bandwidth * READ)
        draws = at_once * work.rollouts * work.completion
        drawn = forward_flops(counted, Passed(draws, predicted=draws)) / rate
        decode = math.ceil(work.prompts / at_once) * max(read, drawn)
    adapters = config.model.lora.rank > 0
    trained_tower = not adapters and not config.model.freeze_vision
    # A prompt is computed in every row that its group is cut into; features of a tower that is not trained are computed once.
    trained = work.prompts * work.computed(config.tokens_per_microbatch)
    if trained_tower:
        patches *= work.passes(config.tokens_per_microbatch)
    flops = training_flops(
        counted,
        Passed(trained, predicted=work.prompts * work.predicted, patches=patches),
        adapters=adapters,
        vision_trained=trained_tower,
    )
    if config.model.gradient_checkpointing:
        flops += forward_flops(counted, Passed(trained, patches=patches if trained_tower else 0))
    if config.model.lora.quantize != "none":
        # Every pass writes the layers out in bfloat16 and reads them again.
        layers = shape.linear_parameters - shape.head_parameters
        written = layers * (HELD[config.model.lora.quantize] + 2 * precision.low) / (device.bandwidth * READ)
        passes = 3 if config.model.gradient_checkpointing else 2
        rows = estimate(shape, work, config, precision).rows
        decode += written * work.completion * math.ceil(work.prompts / together(work, config)) if work.rollouts else 0.0
        return StepTime(prefill, decode, (flops / rate + written * passes * rows) * config.inner_steps)
    assert trained_parameters(shape, config) > 0
    return StepTime(prefill, decode, flops * config.inner_steps / rate)
