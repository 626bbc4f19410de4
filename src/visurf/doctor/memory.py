"""Where the bytes of a training step go: an estimate from shapes and settings, without weights and without torch.

The peak is the larger of two moments: sampling (keys of prompts and rollouts, logits of a step) and training (what the backward
pass of one packed row keeps). What a layer keeps is counted tensor by tensor, as the networks of transformers compute it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from visurf.config import Config
from visurf.doctor.shape import Shape
from visurf.doctor.shares import share_out, weight_bytes
from visurf.doctor.work import Precision, Work

MIB = 2**20
# `visurf.policy.Policy` holds float32 logits of so many bytes at once.
HEAD_BYTES = 1 << 28
# Copies of the logits that live together while a chunk is scored and sent back, and while a token is drawn.
SCORED, DRAWN = 4, 5
# Prompt tokens that are run together before sampling: `visurf.rollout.local.PREFILL`.
PREFILL = 16384
# What libraries hold for themselves in host memory once a model runs.
LIBRARIES = 8 * MIB
# Copies of weights in oneDNN's layout end here: `visurf.linear.PACKED_BYTES`.
PACKED_BYTES = 4 << 30


@dataclass(frozen=True)
class Estimate:
    """Bytes at the peak, by what holds them.

    Attributes:
        training: While a packed row is sent back.
        sampling: While rollouts are decoded.
        host: What lies in host memory where the step runs on a GPU; part of both others where it does not.
        row: Tokens of the largest packed row.
        rows: Packed rows of a step.
    """

    training: Mapping[str, float]
    sampling: Mapping[str, float]
    host: Mapping[str, float]
    row: int
    rows: int

    @property
    def peak(self) -> float:
        """Bytes on the device."""
        return max(sum(self.training.values()), sum(self.sampling.values()))

    @property
    def moment(self) -> str:
        """``training`` or ``sampling``: which of them is the peak."""
        return "training" if sum(self.training.values()) >= sum(self.sampling.values()) else "sampling"

    @property
    def parts(self) -> Mapping[str, float]:
        """The parts of the peak."""
        return self.training if self.moment == "training" else self.sampling


def trained_parameters(shape: Shape, config: Config) -> int:
    """How many parameters get a gradient."""
    if config.model.lora.rank:
        return shape.adapted * config.model.lora.rank
    return shape.parameters - (shape.vision_parameters if config.model.freeze_vision else 0)


def estimate(shape: Shape, work: Work, config: Config, precision: Precision, processes: int = 1) -> Estimate:
    """Bytes of one process at the peak of a step, from the second step on, when the optimiser has its moments.

    Args:
        shape: Of the model.
        work: Of a step; of unequal prompts the longest, for an upper bound.
        config: The recipe.
        precision: Of its numbers.
        processes: That share the model out with `parallel: fsdp2`; with `ddp` each takes what one does.
    """
    trained = trained_parameters(shape, config)
    states = {
        "weights": weight_bytes(shape, config, precision.weight),
        "adapters": float(trained * precision.trained) if config.model.lora.rank else 0.0,
        "reference": float(shape.parameters * precision.weight) if config.objective.kl and not config.model.lora.rank else 0.0,
        "moments": float(2 * trained * precision.trained),
    }
    gradients = float(trained * precision.trained)
    gathered, sampled, host = 0.0, 0.0, _host(shape, work, config)
    if config.parallel == "fsdp2" and processes > 1:
        if config.model.offload:
            host["parts of the model"] = (sum(states.values()) + gradients) / processes
        shared = share_out(states, gradients, shape, config, processes, precision.low, precision.trained)
        states, gradients, gathered, sampled = shared.states, shared.gradients, shared.gathered, shared.sampled
    held = {} if precision.gpu else host
    row, patches, rows, predicted = _row(work, config)
    kept, passing = _activations(shape, row, patches, config, precision)
    head = _head(shape, predicted, precision)
    # The gradient of the embeddings is dense, and stands beside what it is added to.
    largest = shape.embedding_parameters * precision.trained if not config.model.lora.rank else 0.0
    # A quantised matrix is whole for the time of its product.
    whole = 2.0 * shape.hidden * shape.intermediate if config.model.lora.quantize != "none" else 0.0
    begun = gradients if rows > 1 else 0.0
    training = {
        **states,
        **held,
        "gradients": begun,
        "activations of a packed row": kept,
        "passing values": max(passing + whole, head),
        "half-precision copies of weights": float(2 * shape.linear_parameters) if precision.mixed and not gathered else 0.0,
        "gathered layers": gathered,
    }
    # At the end of the backward pass the activations are gone and the gradients are whole.
    end = {**states, **held, "gradients": gradients, "passing values": largest, "gathered layers": gathered}
    if sum(end.values()) > sum(training.values()):
        training = end
    sampling = {}
    if work.rollouts:
        sampling = {**states, **held, "gradients": gradients, **_sampling(shape, work, config, precision)}
        sampling["gathered layers"] = sampled
    return Estimate(training, sampling, host, row, rows)


def _row(work: Work, config: Config) -> tuple[int, int, int, int]:
    """Of the largest packed row: tokens and patches; the number of rows; tokens that the row predicts."""
    budget = config.tokens_per_microbatch
    if work.mixed and work.group <= budget:
        share = min(budget / work.group, float(work.prompts))
        rows = math.ceil(work.prompts / share)
        return int(share * work.group), int(share * work.patches), rows, int(share * work.predicted)
    if work.group <= budget:
        groups = min(budget // work.group, work.prompts)
        return groups * work.group, groups * work.patches, math.ceil(work.prompts / groups), groups * work.predicted
    each = max(work.completion - 1, 1)
    sequences = max((budget - work.prompt) // each, 1)
    rows = work.prompts * work.passes(budget)
    return work.prompt + sequences * each, work.patches, rows, sequences * work.completion


def _layer(shape: Shape, config: Config, precision: Precision) -> float:
    """Bytes a token that one layer of the language model keeps for its backward pass."""
    low, adapters = precision.low, config.model.lora.rank > 0
    # A norm keeps what comes in and, for its weight, what it made of it; the linear layers behind it keep what came out.
    wide = 4 if precision.weight == 4 else low
    inside, outside = 4 * shape.hidden, wide * shape.hidden
    norms = 2 * (inside + (0 if adapters else outside) + outside)
    # Under autocast each linear layer keeps its own half-precision copy.
    casts = 5 * 2 * shape.hidden if precision.mixed else 0
    attention = low * 2 * (shape.queries + shape.keys)
    if shape.normed_heads:
        attention += (4 + low) * (shape.queries + shape.keys)
    mlp = low * 4 * shape.intermediate
    rank = config.model.lora.rank * 7 * low
    dropped = 0.0
    if adapters and config.model.lora.dropout:
        dropped = (low + 1) * (5 * shape.hidden + shape.queries + shape.intermediate)
    return norms + casts + attention + mlp + rank + dropped


def _block(shape: Shape, precision: Precision) -> float:
    """Bytes a patch that one block of the vision tower keeps."""
    low = precision.low
    casts = 2 * 2 * shape.vision_hidden if precision.mixed else 0
    norms = 6 * 4 * shape.vision_hidden if precision.weight == 4 else 4 * 4 * shape.vision_hidden
    return norms + casts + low * (4 * shape.vision_hidden + (4 if shape.vision_gated else 2) * shape.vision_intermediate)


def _activations(shape: Shape, row: int, patches: int, config: Config, precision: Precision) -> tuple[float, float]:
    """Bytes that a packed row keeps from forward to backward, and those that pass while one layer is sent back."""
    stream = 4 if precision.weight == 4 else 2
    layer, block = row * _layer(shape, config, precision), patches * _block(shape, precision)
    # Gradients of what an MLP holds, while it is sent back: of three products, one of which takes the room of what is freed.
    passing = row * precision.low * (2 * shape.intermediate + shape.hidden)
    tower = 0.0 if config.model.lora.rank or config.model.freeze_vision else 1.0
    ends = row * 3 * 4 * shape.hidden + tower * patches * 4 * 8 * shape.vision_hidden
    if config.model.gradient_checkpointing:
        kept = shape.layers * row * stream * shape.hidden + tower * shape.vision_layers * patches * stream * shape.vision_hidden
        return kept + ends, max(layer + passing, tower * 1.5 * block)
    # A tower that is not trained keeps nothing, but its largest block passes through.
    return shape.layers * layer + tower * shape.vision_layers * block + ends, passing


def _head(shape: Shape, predicted: int, precision: Precision) -> float:
    chunk = max(HEAD_BYTES // (4 * shape.vocabulary), 1)
    return float(SCORED * 4 * shape.vocabulary * min(predicted, chunk))


def together(work: Work, config: Config) -> int:
    """Prompts whose rollouts are decoded at once."""
    each = work.prompt + work.rollouts * config.rollout.max_tokens
    return max(min(config.rollout.token_budget // max(each, 1), work.prompts), 1)


def _sampling(shape: Shape, work: Work, config: Config, precision: Precision) -> dict[str, float]:
    """What sampling takes beside the states."""
    at_once = together(work, config)
    low = precision.low
    token = 2 * shape.keys * shape.layers * low
    prefill = min(at_once * work.prompt, max(PREFILL, work.prompt))
    share = prefill / max(at_once * work.prompt, 1)
    packed = 0.0
    if not precision.gpu and precision.weight == 4 and not precision.mixed:
        packed = float(shape.linear_parameters * 4)
        packed = packed if packed <= PACKED_BYTES else 0.0
    text = prefill * low * (3 * shape.intermediate + 6 * shape.hidden)
    tower = at_once * share * work.patches * low * (3 * shape.vision_intermediate + 8 * shape.vision_hidden)
    decoded = at_once * work.rollouts
    return {
        "keys of prompts": float((at_once * work.prompt + prefill) * token),
        "keys of rollouts": float(decoded * min(_columns(work.completion), config.rollout.max_tokens) * token),
        "logits of a step, or a prompt's pass": max(float(DRAWN * 4 * shape.vocabulary * decoded), text, tower),
        "weights in the layout of oneDNN": packed,
    }


def _columns(completion: int) -> int:
    """Columns of the ring that holds a rollout's keys: it begins with 32 and doubles."""
    return 32 * 2 ** max(math.ceil(math.log2(max(completion - 1, 1) / 32)), 0)


def _host(shape: Shape, work: Work, config: Config) -> dict[str, float]:
    """Images in host memory: those of a step, those read ahead, those being decoded, and kept features."""
    ahead = min(4 * config.data.workers, work.prompts)
    frozen = bool(config.model.lora.rank) or config.model.freeze_vision
    kept = 0.0
    if frozen and config.model.feature_cache_mb:
        kept = min(config.model.feature_cache_mb * MIB, work.images * work.features * shape.hidden * 4.0)
    return {
        "libraries": float(LIBRARIES),
        "images of a step": float((work.prompts + ahead) * work.pixel_bytes),
        # Decoded, resized as float32 and cut into patches.
        "images being read": float(max(config.data.workers, 1) * (work.picture_pixels * 3 + 3 * work.pixel_bytes)),
        "kept features": kept,
    }
