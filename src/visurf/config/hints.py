"""What an unknown key may mean: a key of ours without its section, or the name that another library gives it."""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Mapping
from typing import Any

from visurf.naming import suggestion

_EPOCHS = "steps: epochs x rows / prompts_per_step"
_TOKENS = "rollout.max_tokens"
# Names in TRL, transformers, peft, verl and EasyR1 -> what is set here.
ELSEWHERE = {
    "num_generations": "rollout.group_size",
    "n": "rollout.group_size",
    "num_rollouts": "rollout.group_size",
    "max_completion_length": _TOKENS,
    "max_new_tokens": _TOKENS,
    "max_response_length": _TOKENS,
    "learning_rate": "optimizer.lr",
    "warmup": "optimizer.warmup_steps",
    "lr_scheduler_type": "optimizer.schedule",
    "max_norm": "optimizer.max_grad_norm",
    "beta": "objective.kl",
    "kl_coef": "objective.kl",
    "kl_loss_coef": "objective.kl",
    "epsilon": "objective.clip_low and objective.clip_high",
    "clip_ratio": "objective.clip_low and objective.clip_high",
    "epsilon_high": "objective.clip_high",
    "loss_type": "objective.average and objective.surrogate",
    "num_iterations": "inner_steps",
    "ppo_epochs": "inner_steps",
    "scale_rewards": "advantage.scale",
    "reward_funcs": "reward.functions",
    "reward_weights": "reward.weights",
    "batch_size": "prompts_per_step",
    "train_batch_size": "prompts_per_step",
    "rollout_batch_size": "prompts_per_step",
    "per_device_train_batch_size": "prompts_per_step, which is of all processes (tokens_per_microbatch bounds the memory)",
    "gradient_accumulation_steps": "tokens_per_microbatch: a step of prompts_per_step is cut into rows of so many tokens",
    "epochs": _EPOCHS,
    "num_epochs": _EPOCHS,
    "num_train_epochs": _EPOCHS,
    "total_epochs": _EPOCHS,
    "max_steps": "steps",
    "total_training_steps": "steps",
    "output_dir": "out",
    "report_to": "trackers",
    "logger": "trackers",
    "eval_steps": "evaluation.every",
    "test_freq": "evaluation.every",
    "save_steps": "checkpoint.every",
    "save_freq": "checkpoint.every",
    "save_total_limit": "checkpoint.keep",
    "resume_from_checkpoint": "checkpoint.resume",
    "model_name_or_path": "model.path",
    "model_name": "model.path",
    "model_path": "model.path",
    "torch_dtype": "model.dtype",
    "bf16": "model.autocast",
    "attn_implementation": "model.attention",
    "freeze_vision_tower": "model.freeze_vision",
    "freeze_vision_modules": "model.freeze_vision",
    "load_in_4bit": "model.lora.quantize=4bit",
    "load_in_8bit": "model.lora.quantize=8bit",
    "lora_r": "model.lora.rank",
    "r": "model.lora.rank",
    "lora_rank": "model.lora.rank",
    "lora_alpha": "model.lora.alpha",
    "lora_dropout": "model.lora.dropout",
    "target_modules": "model.lora.targets",
    "lora_target_modules": "model.lora.targets",
    "use_vllm": "rollout.engine=vllm",
    "vllm_server_base_url": "rollout.servers.addresses",
    "dataset": "data.train",
    "dataset_name": "data.train",
    "train_files": "data.train",
    "val_files": "data.validation",
    "image_folder": "data.images",
    "image_dir": "data.images",
    "prompt_template": "task.prompt",
    "algorithm": "paradigm",
    "method": "paradigm",
    "lora": "model.lora.rank",
}


@functools.cache
def paths() -> Mapping[str, tuple[str, ...]]:
    """Last part of every dotted key of a recipe -> the whole keys that end so."""
    # The settings themselves ask here for hints.
    from visurf.config.settings import Config

    found: dict[str, list[str]] = {}
    for path in _paths(Config, ""):
        found.setdefault(path.rpartition(".")[2], []).append(path)
    return {name: tuple(listed) for name, listed in found.items()}


def _paths(cls: Any, where: str) -> list[str]:
    found = []
    for name, kind in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(kind):
            found += _paths(kind, f"{where}{name}.")
        else:
            found.append(where + name)
    return found


def hint(path: str, known: Mapping[str, object]) -> str:
    """What may be meant by a key that is not known: what another library calls so, the same name in another section, the nearest.

    Args:
        path: Dotted, as it came.
        known: The keys that could stand in its place.

    >>> hint("learning_rate", {})
    "; what others call 'learning_rate' is set here with optimizer.lr"
    >>> hint("max_pixels", {})
    '; did you mean model.max_pixels?'
    """
    name = path.rpartition(".")[2]
    if name.casefold() in ELSEWHERE:
        return f"; what others call {name!r} is set here with {ELSEWHERE[name.casefold()]}"
    if name in paths():
        return f"; did you mean {' or '.join(paths()[name])}?"
    return suggestion(name, dict(known))
