"""What an unknown key may mean: a key of ours without its section, or the name that another library gives it."""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from visurf.naming import suggestion

_EPOCHS = "steps: epochs x rows / prompts_per_step"
_TOKENS = "rollout.max_tokens"
_ROWS = "tokens_per_microbatch: a step of prompts_per_step is cut into rows of so many tokens"
_BATCH = "an optimiser step is on the whole batch; lower prompts_per_step instead"
_UNCUT = "prompts are never cut"
_FLAG = "it is a flag of the server, `visurf serve RECIPE --flag=...`"
_PROCESSES = "`torchrun` starts the processes (docs/scaling.md)"
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
    "clip_ratio_low": "objective.clip_low",
    "clip_ratio_high": "objective.clip_high",
    "epsilon_high": "objective.clip_high",
    "loss_type": "objective.average and objective.surrogate",
    "loss_agg_mode": "objective.average",
    "importance_sampling_level": "objective.ratio",
    "adv_estimator": "paradigm, advantage.baseline and advantage.scale",
    "num_iterations": "inner_steps",
    "ppo_epochs": "inner_steps",
    "scale_rewards": "advantage.scale",
    "reward_funcs": "reward.functions",
    "reward_function": "reward.functions",
    "reward_weights": "reward.weights",
    "batch_size": "prompts_per_step",
    "train_batch_size": "prompts_per_step",
    "rollout_batch_size": "prompts_per_step",
    "per_device_train_batch_size": "prompts_per_step, which is of all processes (tokens_per_microbatch bounds the memory)",
    "gradient_accumulation_steps": _ROWS,
    "ppo_micro_batch_size": _ROWS,
    "ppo_micro_batch_size_per_gpu": _ROWS,
    "micro_batch_size_per_device_for_update": _ROWS,
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
    "finetuning_type": "model.lora.rank, 0 for all parameters",
    "quantization_bit": "model.lora.quantize",
    "image_max_pixels": "model.max_pixels",
    "deepspeed": "parallel=fsdp2",
    "fsdp": "parallel=fsdp2",
    "use_vllm": "rollout.engine=vllm",
    "vllm_mode": "rollout.engine=vllm, which samples on servers",
    "vllm_importance_sampling_cap": "rollout.correction",
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
    "stage": "paradigm",
    "lora": "model.lora.rank",
}
# Names of theirs that no setting stands for -> why.
NOT_HERE = {
    "ppo_mini_batch_size": _BATCH,
    "global_batch_size": _BATCH,
    "max_prompt_length": _UNCUT,
    "cutoff_len": _UNCUT,
    "warmup_ratio": "optimizer.warmup_steps is the ratio times steps",
    "template": "the checkpoint's chat template is used",
    "logging_steps": "metrics.jsonl has a line for every step",
    "gpu_memory_utilization": _FLAG,
    "tensor_model_parallel_size": _FLAG,
    "n_gpus_per_node": _PROCESSES,
    "nnodes": _PROCESSES,
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


def named(path: str) -> str:
    """What a key surely means: what another library calls so, or the same name in another section; empty where it is neither.

    >>> named("trainer.learning_rate")
    "; what others call 'learning_rate' is set here with optimizer.lr"
    >>> named("max_pixels")
    '; did you mean model.max_pixels?'
    """
    name = path.rpartition(".")[2]
    key = name.casefold()
    if key in ELSEWHERE:
        return f"; what others call {name!r} is set here with {ELSEWHERE[key]}"
    if key in NOT_HERE:
        return f"; no setting here stands for {name!r}: {NOT_HERE[key]}"
    return f"; did you mean {' or '.join(paths()[name])}?" if name in paths() else ""


def unknown_key(path: str, value: object, known: Mapping[str, object]) -> str:
    """What is wrong with a key that is not known, and what may be meant by it or by the keys below it.

    Args:
        path: Dotted, as it came.
        value: What was given for it. Sections of other libraries have names of their own, so that what stands in them counts.
        known: The keys that could stand in its place, and their types.
    """
    for leaf in _leaves(path, value):
        if said := named(leaf):
            return f"unknown key {leaf!r}{said}"
    # A section is no misspelt value.
    fit = {name: kind for name, kind in known.items() if not isinstance(value, Mapping) or _holds_keys(kind)}
    page = "" if "." in path else " (names of other libraries: docs/coming-from.md)"
    return f"unknown key {path!r}{suggestion(path.rpartition('.')[2], fit)}{page}"


def _leaves(path: str, value: object) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        for key, below in value.items():
            yield from _leaves(f"{path}.{key}", below)
    else:
        yield path


def _holds_keys(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind) or typing.get_origin(kind) is Mapping
