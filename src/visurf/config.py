"""Configuration: frozen dataclasses, filled from YAML and then from ``key=value`` on the command line.

A recipe holds what differs from these defaults. An unknown key, a wrong type or an impossible value is an error that says which
key, what was expected and what came.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from visurf.control import Controls
from visurf.naming import suggestion


class ConfigError(ValueError):
    """A recipe or command line that cannot be used."""


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters on the language model; without them all parameters are trained.

    Attributes:
        rank: Of the adapters; 0 for none.
        alpha: The adapters' output is scaled by alpha / rank.
        dropout: Probability of dropping an adapter's input.
        targets: Last names of the linear layers that get an adapter; the vision tower never does.
    """

    rank: int = 0
    alpha: int = 32
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class ModelConfig:
    """Which model, and how it is held.

    Attributes:
        path: Folder in the hub's layout, hub name, or `mini` for the embedded model.
        family: A family's name or ``pkg.module:NAME``; empty to go by the checkpoint.
        dtype: Of the frozen or adapted weights; `auto` is float32, and bfloat16 for the base of adapters on a GPU.
        autocast: bfloat16 arithmetic over float32 parameters; `auto` where the device has it.
        freeze_vision: Do not train the vision tower.
        min_pixels: Overrides the image processor's lower limit.
        max_pixels: Overrides the image processor's upper limit.
        gradient_checkpointing: Recompute activations in the backward pass to save memory.
        attention: Kernel over packed rows; all are exact, `auto` takes the fastest that works on the device.
        lora: Adapters.
    """

    path: str = "mini"
    family: str = ""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    autocast: Literal["auto", "on", "off"] = "auto"
    freeze_vision: bool = False
    min_pixels: int | None = None
    max_pixels: int | None = None
    gradient_checkpointing: bool = False
    attention: Literal["auto", "merged", "flex", "dense"] = "auto"
    lora: LoraConfig = LoraConfig()


@dataclass(frozen=True)
class DataConfig:
    """Where samples come from.

    Attributes:
        train: JSONL file, or ``world:DOMAIN?count=N&seed=S`` for the rendered world.
        validation: Likewise; evaluated during training. Empty for none.
        images: Folder that image paths are relative to; empty for the JSONL file's own.
        format: Layout of the rows.
        box_format: Of boxes in the file.
        frame: What the file's coordinates are: pixels of the original image, 0-1000, or fractions.
        on_bad_sample: Stop at the first bad row, or skip it, counted and named.
    """

    train: str = ""
    validation: str = ""
    images: str = ""
    format: Literal["jsonl", "visual_rft", "vision_reasoner"] = "jsonl"
    box_format: Literal["xyxy", "xywh"] = "xyxy"
    frame: Literal["pixel", "1000", "unit"] = "pixel"
    on_bad_sample: Literal["error", "skip"] = "error"


@dataclass(frozen=True)
class TaskConfig:
    """Which task, and its prompt.

    Attributes:
        name: A task of docs/tasks.md, or ``pkg.module:NAME`` of a `Task`.
        prompt: A name of the task's prompts, a text with ``{question}`` or another of its slots, or empty for the task's default.
    """

    name: str = "referring"
    prompt: str = ""


@dataclass(frozen=True)
class RewardConfig:
    """How completions are scored.

    Attributes:
        variant: `sound`, `published` (the formulas of the released code) or `paper`, where the task's reward has them.
        frame: Width and height of the frame in which pixel thresholds hold.
        weights: Weight of each part; a part that is not named counts once, 0 switches it off (it is still logged).
        functions: More parts: name -> ``pkg.module:function`` or ``file.py:function``, called as (completion, sample), or as TRL
            does if it has an argument ``completions``; the prefixes ``plain:``, ``trl:`` and ``trl-chat:`` say it expressly.
        segmenter: Adds the part `mask_iou`, which pays the IoU of masks: `classical` for GrabCut, or a SAM 2 checkpoint. Samples
            without a true mask abstain. Empty for none.
        time_limit: Seconds one call of such a function may take; 0 for no limit. Under a limit it runs in a thread.
        on_error: What a reward that fails, returns no number or exceeds its limit does: stop the run, or abstain and count.
    """

    variant: Literal["sound", "published", "paper"] = "sound"
    frame: tuple[float, float] = (840.0, 840.0)
    weights: Mapping[str, float] = field(default_factory=dict)
    functions: Mapping[str, str] = field(default_factory=dict)
    segmenter: str = ""
    time_limit: float = 0.0
    on_error: Literal["stop", "abstain"] = "stop"


@dataclass(frozen=True)
class AdvantageConfig:
    """(reward - mean) / (std + eps); see `visurf.advantages.group_advantages`.

    Attributes:
        ddof: 1 for the sample, 0 for the population standard deviation.
        eps: Added to the standard deviation.
        scale: Divide by the deviation of the `group`, of the whole `batch`, or by `none` (Dr. GRPO).
    """

    ddof: int = 1
    eps: float = 1e-6
    scale: Literal["group", "batch", "none"] = "group"


@dataclass(frozen=True)
class ObjectiveConfig:
    """Settings of the clipped objective; see `visurf.objective`.

    Attributes:
        clip_low: The ratio is clipped below 1 - clip_low.
        clip_high: The ratio is clipped above 1 + clip_high (DAPO's clip-higher when larger than clip_low).
        ratio: One ratio a token, or one a sequence: exp of the mean log-ratio (GSPO, arXiv 2507.18071).
        average: `token`: every token of the optimiser step weighs the same. `sequence`: every sequence does (Eq. 8).
        ratio_cap: Upper bound of the unclipped branch (two-sided clipping), or none.
        surrogate: `clip`: Eq. 8. `cispo`: the ratio, bounded by 1 + clip_high and without gradient, weighs A log p, so that
            no token loses its gradient (MiniMax-M1, arXiv 2506.13585). `free`: ratio x A without clipping.
        kl: Coefficient of the KL term to the model at the stage's start; 0 needs no reference.
        kl_kind: Its estimate; `k3_clamped` is verl's low_var_kl.
        kl_on_label: Let the KL term cover label tokens too, which the policy did not sample.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    ratio: Literal["token", "sequence"] = "token"
    average: Literal["token", "sequence"] = "token"
    ratio_cap: float | None = None
    surrogate: Literal["clip", "cispo", "free"] = "clip"
    kl: float = 0.0
    kl_kind: Literal["k1", "abs", "mse", "k3", "k3_clamped"] = "k3"
    kl_on_label: bool = False


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its schedule; both start anew with every stage.

    Attributes:
        lr: Peak learning rate.
        weight_decay: On matrices; vectors such as biases and norms have none.
        betas: Decay rates of the two moments.
        schedule: Name of transformers' schedule, over the stage's optimiser steps.
        warmup_steps: Optimiser steps of linear warm-up.
        max_grad_norm: The gradient's norm is clipped to this.
    """

    lr: float = 1e-6
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = 0
    max_grad_norm: float = 1.0


@dataclass(frozen=True)
class RolloutConfig:
    """How the policy is sampled.

    Attributes:
        group_size: Rollouts of each prompt (G).
        max_tokens: Longest completion; a longer one is cut and kept.
        temperature: Divides the logits, in sampling and in every log-prob of training alike.
        top_p: Keep the smallest set of tokens with this probability; below 1 the ratio is no longer exact.
        token_budget: Tokens decoded at once, prompts and room for all their completions included.
    """

    group_size: int = 8
    max_tokens: int = 512
    temperature: float = 1.0
    top_p: float = 1.0
    token_budget: int = 65536


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation of the policy during training, with greedy decoding.

    Attributes:
        every: Steps between evaluations, and one at the end; 0 never evaluates.
        limit: How many validation samples, from the first; 0 for all.
        metric: The step with its highest value counts as the best; its checkpoint, if one was written, is kept. Empty for
            the task's headline metric.
    """

    every: int = 0
    limit: int = 200
    metric: str = ""


@dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoints of a run.

    Attributes:
        every: Steps between checkpoints; one is written at the end of every stage too, and 0 writes those only.
        keep: How many to keep beside the best; 0 keeps all.
        resume: `auto` goes on from the last checkpoint where there is one, `never` refuses a used folder.
    """

    every: int = 50
    keep: int = 2
    resume: Literal["auto", "never"] = "auto"


@dataclass(frozen=True)
class StageConfig:
    """One stage of several.

    Attributes:
        paradigm: A paradigm of one stage.
        steps: Optimiser batches of the stage.
        override: Dotted keys that hold for it alone, such as ``{"optimizer.lr": 1e-5}``.
    """

    paradigm: str = "visurf"
    steps: int = 0
    override: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Config:
    """A whole run.

    Attributes:
        paradigm: `sft`, `rlvr`, `visurf`, `sft_then_rlvr`, or ``pkg.module:NAME`` of a `Paradigm`.
        stages: Explicit stages; empty for the paradigm's own (a paradigm of several stages shares `steps` equally).
        trackers: Where metrics go besides metrics.jsonl.
        steps: Optimiser batches of the run, over all stages; explicit stages bring their own.
        prompts_per_step: Prompts of one batch, over all processes.
        inner_steps: Optimiser steps on each batch of rollouts.
        tokens_per_microbatch: Budget of one packed row.
        seed: Of data order, rollouts and initialisation of adapters.
        out: The run folder.
        threads: CPU threads; 0 leaves torch's default.
    """

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    task: TaskConfig = TaskConfig()
    paradigm: str = "visurf"
    stages: tuple[StageConfig, ...] = ()
    controls: Controls = field(default_factory=Controls)
    reward: RewardConfig = RewardConfig()
    advantage: AdvantageConfig = AdvantageConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    rollout: RolloutConfig = RolloutConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    steps: int = 200
    prompts_per_step: int = 16
    inner_steps: int = 1
    tokens_per_microbatch: int = 16384
    seed: int = 0
    out: str = "runs/visurf"
    threads: int = 0

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            ConfigError: Names the key, what it must be and what came.
        """
        positive = {
            "steps": self.steps,
            "prompts_per_step": self.prompts_per_step,
            "inner_steps": self.inner_steps,
            "tokens_per_microbatch": self.tokens_per_microbatch,
            "rollout.group_size": self.rollout.group_size,
            "rollout.max_tokens": self.rollout.max_tokens,
            "rollout.temperature": self.rollout.temperature,
            "rollout.token_budget": self.rollout.token_budget,
            "optimizer.max_grad_norm": self.optimizer.max_grad_norm,
            "reward.frame": min(self.reward.frame),
        }
        not_negative = {
            "optimizer.lr": self.optimizer.lr,
            "optimizer.weight_decay": self.optimizer.weight_decay,
            "optimizer.warmup_steps": self.optimizer.warmup_steps,
            "objective.clip_low": self.objective.clip_low,
            "objective.clip_high": self.objective.clip_high,
            "objective.kl": self.objective.kl,
            "advantage.eps": self.advantage.eps,
            "advantage.ddof": self.advantage.ddof,
            "reward.time_limit": self.reward.time_limit,
            "model.lora.rank": self.model.lora.rank,
            "evaluation.every": self.evaluation.every,
            "evaluation.limit": self.evaluation.limit,
            "checkpoint.every": self.checkpoint.every,
            "checkpoint.keep": self.checkpoint.keep,
            "threads": self.threads,
            "seed": self.seed,
        }
        for name, value in positive.items():
            if not value > 0:
                raise ConfigError(f"{name}: expected more than 0, got {value!r}")
        for name, value in not_negative.items():
            if not value >= 0:
                raise ConfigError(f"{name}: expected 0 or more, got {value!r}")
        if not 0 < self.rollout.top_p <= 1:
            raise ConfigError(f"rollout.top_p: expected a number in (0, 1], got {self.rollout.top_p!r}")


C = TypeVar("C")


def build(cls: type[C], values: Mapping[str, Any], where: str = "") -> C:
    """Fill a configuration dataclass from plain values.

    Raises:
        ConfigError: Unknown key (with a suggestion), wrong type or value.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where or 'the recipe'}: expected keys and values, got {values!r}")
    hints = typing.get_type_hints(cls)
    known = {f.name: hints[f.name] for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    arguments = {}
    for key, value in values.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in known:
            raise ConfigError(f"unknown key {path!r}{suggestion(str(key), dict(known))}")
        arguments[key] = _convert(known[key], value, path)
    return cls(**arguments)


def _convert(kind: Any, value: Any, path: str) -> Any:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return value if isinstance(value, kind) else build(kind, value, path)  # type: ignore[arg-type]
    if origin is Literal:
        # YAML reads on and off as booleans.
        value = {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) and "on" in inner else value
        if value in inner or str(value) in inner:
            return value if value in inner else str(value)
        raise ConfigError(f"{path}: expected one of {', '.join(map(str, inner))}, got {value!r}")
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in inner:
            return None
        return _convert(next(i for i in inner if i is not type(None)), value, path)
    if origin is tuple:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise ConfigError(f"{path}: expected a list, got {value!r}")
        if len(inner) == 2 and inner[1] is Ellipsis:
            return tuple(_convert(inner[0], v, f"{path}[{i}]") for i, v in enumerate(value))
        if len(value) != len(inner):
            raise ConfigError(f"{path}: expected {len(inner)} values, got {value!r}")
        return tuple(_convert(i, v, path) for i, v in zip(inner, value, strict=True))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}: expected keys and values, got {value!r}")
        return {str(k): (v if inner[1] is Any else _convert(inner[1], v, f"{path}.{k}")) for k, v in value.items()}
    return _scalar(kind, value, path)


def _scalar(kind: Any, value: Any, path: str) -> Any:
    if kind is float and not isinstance(value, bool):
        # YAML reads 1e-6 as text; the number is what was meant.
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind is str and value is None:
        # `key=` on the command line, and a key without value in YAML.
        return ""
    if kind is str and isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    raise ConfigError(f"{path}: expected {kind.__name__}, got {value!r}")


def merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries, the second over the first."""
    merged = dict(base)
    for key, value in override.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """``{"a.b": 1}`` -> ``{"a": {"b": 1}}``."""
    result: dict[str, Any] = {}
    for key, value in dotted.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        result = merge(result, value)
    return result


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """``["optimizer.lr=1e-5"]`` -> nested values, each read as YAML.

    Raises:
        ConfigError: An argument is not ``key=value``.
    """
    dotted = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not key:
            raise ConfigError(f"expected key=value, got {argument!r}")
        try:
            dotted[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"{argument!r}: the value is not valid YAML ({error})") from error
    return nested(dotted)


def read_recipe(path: Path | str) -> dict[str, Any]:
    """The plain values of a YAML recipe.

    Raises:
        ConfigError: No such file, or not a YAML mapping.
    """
    try:
        values = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError as error:
        raise ConfigError(f"no recipe at {path}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML ({error})") from error
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path}: expected keys and values, got {type(values).__name__}")
    return dict(values)


def load_config(recipe: Path | str | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Defaults, then the recipe, then the overrides (nested).

    Raises:
        ConfigError: See `build` and `read_recipe`.
    """
    return build(Config, merge(read_recipe(recipe) if recipe else {}, overrides or {}))


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested values of a configuration, fit for YAML."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return value
