"""What of the states lies on one device: quantised weights, and models shared out with FSDP2, in host memory or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from visurf.config import Config
from visurf.doctor.shape import Shape

# Bytes of a quantised weight; with 4 bits 64 weights have a scale of 8 bits, and 256 scales one of 32 (arXiv 2305.14314).
HELD = {"4bit": 0.5 + 1 / 64 + 4 / (64 * 256), "8bit": 1.0}
# Layers that are gathered at once: the one that runs, and the next.
AHEAD = 2


@dataclass(frozen=True)
class Shared:
    """Bytes on the device of one process of several.

    Attributes:
        states: Parts of weights, reference, adapters and moments; nothing where they lie in host memory.
        gradients: Part of them; likewise.
        gathered: What is whole at once while training.
        sampled: Likewise while sampling.
    """

    states: dict[str, float]
    gradients: float
    gathered: float
    sampled: float


def weight_bytes(shape: Shape, config: Config, each: int) -> float:
    """Bytes of all weights where one takes `each`, but for those of quantised layers."""
    held = HELD.get(config.model.lora.quantize)
    if held is None:
        return float(shape.parameters * each)
    quantised = shape.linear_parameters - shape.head_parameters
    return (shape.parameters - quantised) * each + quantised * held


def share_out(
    states: Mapping[str, float], gradients: float, shape: Shape, config: Config, processes: int, low: int, trained: int
) -> Shared:
    """What one process holds of a model that several share, as `visurf.sharding` lays it out.

    Args:
        states: Of a whole model.
        gradients: Likewise.
        shape: Of the model.
        config: The recipe.
        processes: How many share it.
        low: Bytes of a gathered parameter.
        trained: Bytes of a trained one's gradient.
    """
    frozen = bool(config.model.lora.rank) or config.model.freeze_vision
    each = states["weights"] / shape.parameters
    tower = shape.vision_parameters * each if frozen else 0.0
    # A frozen tower stays whole on every device, in the policy and in its reference.
    share = {
        name: (tower + (size - tower) / processes if name in ("weights", "reference") and size else size / processes)
        for name, size in states.items()
    }
    if config.model.offload:
        share = {name: (tower if name in ("weights", "reference") and states[name] else 0.0) for name in states}
    head = shape.head_parameters if _untied(shape) else 0
    ends = shape.embedding_parameters + head
    layer = (shape.parameters - shape.vision_parameters - ends) / shape.layers
    # The embeddings belong to the outermost part, which stays gathered; a layer's gradient is whole before it is summed.
    gathered = low * (ends + AHEAD * layer)
    if not config.model.lora.rank:
        gathered += trained * max(layer, ends)
    whole = shape.parameters - (shape.vision_parameters if frozen else 0)
    sampled = float(low * whole) if config.rollout.whole_model else low * (ends + AHEAD * layer)
    return Shared(share, 0.0 if config.model.offload else gradients / processes, gathered, sampled)


def _untied(shape: Shape) -> bool:
    text = shape.parameters - shape.vision_parameters - shape.embedding_parameters
    return text >= shape.linear_parameters
