"""What a stage needs before its first step: scorer, model with what is trained of it, optimiser, order of the samples."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from visurf import parallel
from visurf.config import Config, ConfigError, LoraConfig
from visurf.mask_reward import mask_part
from visurf.models import VisionLanguageModel, load_model
from visurf.models.features import FeatureCache
from visurf.models.quantization import check_quantization
from visurf.models.read_ahead import ReadAhead
from visurf.placement import Placement
from visurf.policy import Policy
from visurf.precision import is_mixed
from visurf.replicas import Replicas
from visurf.scoring import Scorer, function_part
from visurf.segmenter import load_segmenter
from visurf.tasks import RewardSettings, Task


def make_scorer(config: Config, task: Task) -> Scorer:
    """The task's reward as a recipe sets it, with the user's own functions as further parts."""
    settings = RewardSettings(config.reward.variant, config.reward.frame)
    parts = task.parts(settings)
    segmenter = load_segmenter(config.reward.segmenter) if config.reward.segmenter else None
    if segmenter is not None:
        parts["mask_iou"] = mask_part(segmenter)
    for name, reference in config.reward.functions.items():
        parts[name] = function_part(
            reference, prompt=lambda sample: task.prompt(sample, config.task.prompt), limit_s=config.reward.time_limit
        )
    return Scorer(task, parts, dict(config.reward.weights), config.reward.on_error, segmenter=segmenter)


def prepare_model(config: Config, source: str, weights: Path | None = None) -> tuple[VisionLanguageModel, nn.Module]:
    """Load a model (its network from `weights`, if given) and decide what of it is trained.

    Returns:
        The model, and the network to optimise, with adapters if any.

    Raises:
        ValueError: A quantised base was asked for where it cannot be had.
    """
    settings = config.model
    device = parallel.device()
    low = settings.dtype == "bfloat16" or (settings.dtype == "auto" and settings.lora.rank > 0 and device.type == "cuda")
    check_quantization(settings.lora.quantize, device)
    model = load_model(
        source,
        dtype=torch.bfloat16 if low else torch.float32,
        device="cpu" if is_sharded(config) else device,
        min_pixels=settings.min_pixels,
        max_pixels=settings.max_pixels,
        weights=weights,
        family=settings.family,
        kernel=settings.attention,
        quantize=settings.lora.quantize,
    )
    model.frame = settings.frame
    if settings.feature_cache_mb:
        model.features = FeatureCache(settings.feature_cache_mb << 20)
    if config.data.workers:
        model.ahead = ReadAhead(config.data.workers)
    network: Any = model.network
    if settings.gradient_checkpointing:
        network.gradient_checkpointing_enable({"use_reentrant": False})
    if settings.freeze_vision:
        network.get_submodule(model.family.vision_module).requires_grad_(False)
    if settings.lora.rank:
        network = add_adapters(network, settings.lora, model.family.vision_module)
    return model, network


def start_of(config: Config, out: Path, index: int) -> str:
    """The model that a stage of a run begins with: the run's own, or what the stage before has left."""
    return config.model.path if index == 0 else str(out / "stages" / str(index))


def load_stage(config: Config, source: str, checkpoint: Path | None) -> tuple[VisionLanguageModel, nn.Module]:
    """A stage's model as it begins, or as a checkpoint within the stage has it.

    Args:
        config: Of the stage.
        source: From `start_of`.
        checkpoint: Its folder; it holds the whole network, or its adapters.
    """
    if checkpoint is None or not config.model.lora.rank:
        return prepare_model(config, source, None if checkpoint is None else checkpoint / "model")
    model, network = prepare_model(config, source)
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    set_peft_model_state_dict(network, load_file(checkpoint / "model" / "adapter_model.safetensors"))  # type: ignore[arg-type]
    return model, network


def frozen_policy(config: Config, source: str) -> tuple[VisionLanguageModel, Policy]:
    """Load a model that is only asked: nothing of it is trained, and it gets no adapters of its own.

    Args:
        config: Model and rollout settings; those of adapters and of checkpointing are left out.
        source: The model, see `ModelConfig.path`.

    Returns:
        The model, and its policy in eval mode on the model's device; in bfloat16 where the arithmetic is, unless the recipe
        says otherwise.
    """
    plain = dataclasses.replace(config.model, lora=LoraConfig(), gradient_checkpointing=False)
    if plain.dtype == "auto" and is_mixed(config, parallel.device()):
        # Autocast keeps its copies of weights only where these are trained: of others it would make them anew for every token.
        plain = dataclasses.replace(plain, dtype="bfloat16")
    model, network = prepare_model(dataclasses.replace(config, model=plain), source)
    network.requires_grad_(False)
    policy = Policy(network, temperature=config.rollout.temperature, banned=model.banned_ids).to(model.device)
    policy.eval()
    return model, policy


def add_adapters(network: nn.Module, settings: LoraConfig, vision_module: str) -> nn.Module:
    """Low-rank adapters on the language model's projections."""
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model

    names = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in settings.targets and not name.startswith(vision_module)
    ]
    if not names:
        linear = (name for name, module in network.named_modules() if isinstance(module, nn.Linear))
        known = sorted({name.rpartition(".")[2] for name in linear if not name.startswith(vision_module)})
        raise ConfigError(
            f"model.lora.targets: no linear layer of the language model is called {' or '.join(settings.targets)}; "
            f"it has {', '.join(known)}"
        )
    adapters = PeftConfig(r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=names)
    return get_peft_model(network, adapters)  # type: ignore[arg-type]


def is_sharded(config: Config) -> bool:
    """Whether a policy is shared out over several processes; it is then loaded on the CPU, and only its parts leave that."""
    return config.parallel == "fsdp2" and parallel.several()


def make_placement(config: Config, policy: Policy, model: VisionLanguageModel) -> Placement:
    """Lay the policy out on the processes, before its optimiser is made.

    Raises:
        ConfigError: It is to lie in host memory, but there is one process.
    """
    if config.model.offload and not is_sharded(config):
        raise ConfigError(
            "model.offload: needs several processes (torchrun --nproc_per_node 2 or more), there is one; "
            "set model.offload=false, or train adapters (model.lora.rank)"
        )
    if not is_sharded(config):
        return Replicas(policy)
    from visurf.sharding import Shards

    half = is_mixed(config, parallel.device())
    return Shards(policy, model, half=half, whole_model=config.rollout.whole_model, offload=config.model.offload)


def make_optimizer(config: Config, policy: Policy, batches: int) -> tuple[torch.optim.Optimizer, Any]:
    """AdamW (no decay on vectors) and transformers' schedule over a stage's optimiser steps."""
    from transformers import get_scheduler

    settings = config.optimizer
    trained = [p for p in policy.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=True)
    steps = batches * config.inner_steps
    warm = settings.schedule == "constant" and settings.warmup_steps > 0
    schedule = get_scheduler("constant_with_warmup" if warm else settings.schedule, optimizer, settings.warmup_steps, steps)
    return optimizer, schedule


def sample_order(count: int, seed: int, start: int, number: int) -> list[int]:
    """Which samples positions [start, start + number) of the endless shuffled stream are: a function of the seed alone."""
    found = []
    for position in range(start, start + number):
        epoch, place = divmod(position, count)
        found.append(int(_permutation(count, seed, epoch)[place]))
    return found


_PERMUTATIONS: dict[tuple[int, int, int], np.ndarray[Any, np.dtype[np.int64]]] = {}


def _permutation(count: int, seed: int, epoch: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    key = (count, seed, epoch)
    if key not in _PERMUTATIONS:
        _PERMUTATIONS.clear()
        _PERMUTATIONS[key] = np.random.default_rng((seed, epoch)).permutation(count)
    return _PERMUTATIONS[key]
