"""Which values of settings can work: bounds of single keys, and keys that only go together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from visurf.config.settings import Config


class ConfigError(ValueError):
    """A recipe or command line that cannot be used."""


def check_limits(config: Config) -> None:
    """Refuse values that cannot work.

    Raises:
        ConfigError: Names the key, what it must be and what came.
    """
    positive = {
        "steps": config.steps,
        "prompts_per_step": config.prompts_per_step,
        "inner_steps": config.inner_steps,
        "tokens_per_microbatch": config.tokens_per_microbatch,
        "rollout.group_size": config.rollout.group_size,
        "rollout.max_tokens": config.rollout.max_tokens,
        "rollout.temperature": config.rollout.temperature,
        "rollout.token_budget": config.rollout.token_budget,
        "optimizer.max_grad_norm": config.optimizer.max_grad_norm,
        "optimizer.max_skipped": config.optimizer.max_skipped,
        "reward.frame": min(config.reward.frame),
        "model.frame": min(config.model.frame or (1.0,)),
        "process_timeout": config.process_timeout,
        "rollout.servers.requests": config.rollout.servers.requests,
        "rollout.servers.timeout": config.rollout.servers.timeout,
        "rollout.servers.patience": config.rollout.servers.patience,
        "rollout.servers.addresses": len(set(config.rollout.servers.addresses)),
        "recording.every": config.recording.every,
        "recording.picture_side": config.recording.picture_side,
    }
    not_negative = {
        "optimizer.lr": config.optimizer.lr,
        "optimizer.weight_decay": config.optimizer.weight_decay,
        "optimizer.warmup_steps": config.optimizer.warmup_steps,
        "objective.clip_low": config.objective.clip_low,
        "objective.clip_high": config.objective.clip_high,
        "objective.kl": config.objective.kl,
        "advantage.eps": config.advantage.eps,
        "advantage.ddof": config.advantage.ddof,
        "reward.time_limit": config.reward.time_limit,
        "model.lora.rank": config.model.lora.rank,
        "evaluation.every": config.evaluation.every,
        "evaluation.limit": config.evaluation.limit,
        "checkpoint.every": config.checkpoint.every,
        "checkpoint.keep": config.checkpoint.keep,
        "model.feature_cache_mb": config.model.feature_cache_mb,
        "data.workers": config.data.workers,
        "rollout.correction": config.rollout.correction,
        "rollout.servers.alarm": config.rollout.servers.alarm,
        "recording.groups": config.recording.groups,
        "recording.text_mb": config.recording.text_mb,
        "recording.picture_mb": config.recording.picture_mb,
        "threads": config.threads,
        "seed": config.seed,
    }
    for name, value in positive.items():
        if not value > 0:
            raise ConfigError(f"{name}: expected more than 0, got {value!r}")
    for name, value in not_negative.items():
        if not value >= 0:
            raise ConfigError(f"{name}: expected 0 or more, got {value!r}")
    if config.optimizer.lr > 1:
        raise ConfigError(f"optimizer.lr: expected at most 1, got {config.optimizer.lr!r}; 1e-6 is usual, 1e-5 with adapters")
    for group, values in (("reward.weights", config.reward.weights), ("mixing", config.mixing)):
        for name, value in values.items():
            if not math.isfinite(value):
                raise ConfigError(f"{group}.{name}: expected a finite number, got {value!r}")
    _check_rollouts(config)
    _check_memory(config)


def check_processes(config: Config, processes: int) -> None:
    """Refuse values that cannot work with so many processes; for one alone ``parallel: fsdp2`` means nothing.

    Raises:
        ConfigError: Names the key, what came and what to set.
    """
    if config.parallel != "fsdp2" or processes == 1:
        return
    if config.rollout.cuda_graphs == "on" and not config.rollout.whole_model:
        raise ConfigError(
            "rollout.cuda_graphs: got 'on' with parallel=fsdp2 and rollout.whole_model=false: processes meet in every step, which "
            "a recorded step leaves out; set rollout.cuda_graphs=off, or rollout.whole_model=true"
        )
    if config.rollout.engine == "vllm" and config.rollout.servers.push == "nccl":
        raise ConfigError(
            "rollout.servers.push: got 'nccl' with parallel=fsdp2: no process holds the whole weights to send; set "
            "rollout.servers.push=auto, or parallel=ddp"
        )
    bits = config.model.lora.quantize
    if bits != "none":
        raise ConfigError(
            f"model.lora.quantize: got {bits!r} with parallel=fsdp2: a quantised base is held whole by every process; set "
            "parallel=ddp, or model.lora.quantize=none"
        )


def _check_rollouts(config: Config) -> None:
    if not 0 < config.rollout.top_p <= 1:
        raise ConfigError(f"rollout.top_p: expected a number in (0, 1], got {config.rollout.top_p!r}")
    if config.rollout.engine == "local":
        for name in ("overlap", "correction"):
            if getattr(config.rollout, name):
                raise ConfigError(f"rollout.{name}: needs rollout.engine=vllm; in process the policy samples itself")
    if config.rollout.servers.push == "adapter" and not config.model.lora.rank:
        raise ConfigError("rollout.servers.push: got 'adapter', but model.lora.rank is 0: nothing but the whole can be pushed")


def _check_memory(config: Config) -> None:
    if config.model.offload and config.parallel != "fsdp2":
        raise ConfigError(f"model.offload: needs parallel=fsdp2, got {config.parallel!r}; set it, or model.offload=false")
    bits = config.model.lora.quantize
    if bits == "none":
        return
    if not config.model.lora.rank:
        raise ConfigError(
            f"model.lora.quantize: got {bits!r}, but model.lora.rank is 0: quantised weights cannot be trained, only adapters "
            "on them; set model.lora.rank, such as 64, or model.lora.quantize=none"
        )
    if config.rollout.engine == "vllm" and config.rollout.servers.push not in ("auto", "adapter"):
        raise ConfigError(
            f"rollout.servers.push: got {config.rollout.servers.push!r} with model.lora.quantize={bits}: adapters cannot be "
            "merged into a quantised base without changing it; set rollout.servers.push=adapter"
        )
