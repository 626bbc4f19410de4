"""Every setting of a run, as frozen dataclasses with the defaults and what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from visurf.config.limits import check_limits
from visurf.control import Controls


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters on the language model; without them all parameters are trained.

    Attributes:
        rank: Of the adapters; 0 for none.
        alpha: The adapters' output is scaled by alpha / rank.
        dropout: Probability of dropping an adapter's input.
        targets: Last names of the linear layers that get an adapter; the vision tower never does.
        quantize: Hold the language model's layers under the adapters in 4 or 8 bits (QLoRA); needs a GPU and bitsandbytes, see
            docs/memory.md.
    """

    rank: int = 0
    alpha: int = 32
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    quantize: Literal["none", "4bit", "8bit"] = "none"


@dataclass(frozen=True)
class ModelConfig:
    """Which model, and how it is held.

    Attributes:
        path: Folder in the hub's layout, hub name, or `mini` for the embedded model.
        family: A family's name or ``pkg.module:NAME``; empty to go by the checkpoint.
        frame: Width and height of the integer frame in which the model writes coordinates; none for its family's.
        dtype: Of the frozen or adapted weights; `auto` is float32, and bfloat16 for the base of adapters on a GPU, and for a model
            that is only asked where `autocast` is on.
        autocast: bfloat16 arithmetic over float32 parameters; `auto` where the device has it.
        freeze_vision: Do not train the vision tower.
        min_pixels: Overrides the image processor's lower limit.
        max_pixels: Overrides the image processor's upper limit.
        gradient_checkpointing: Recompute activations in the backward pass to save memory.
        offload: With `parallel: fsdp2`, keep parameters, gradients and optimiser states in host memory and bring a layer to the
            device when it runs; slower.
        attention: Kernel over packed rows; all are exact, `auto` takes the fastest that works on the device.
        feature_cache_mb: Host memory, in MiB, for vision features, kept where the vision tower is not trained: a picture then
            runs through it once and is not read again. 0 keeps none.
        lora: Adapters.
    """

    path: str = "mini"
    family: str = ""
    frame: tuple[float, float] | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    autocast: Literal["auto", "on", "off"] = "auto"
    freeze_vision: bool = False
    min_pixels: int | None = None
    max_pixels: int | None = None
    gradient_checkpointing: bool = False
    offload: bool = False
    attention: Literal["auto", "merged", "flex", "dense"] = "auto"
    feature_cache_mb: int = 1024
    lora: LoraConfig = LoraConfig()


@dataclass(frozen=True)
class DataConfig:
    """Where samples come from.

    Attributes:
        train: JSONL file, ``benchmark:NAME?root=FOLDER&split=SPLIT`` for a data set in its original layout, or
            ``world:DOMAIN?count=N&seed=S`` for the rendered world.
        validation: Likewise; evaluated during training. Empty for none.
        root: Folder that the paths in `train`, `validation` and `images` are relative to; empty for where the command is started.
        images: Folder that image paths are relative to; empty for the JSONL file's own.
        format: Layout of the rows.
        box_format: Of boxes in the file.
        frame: What the file's coordinates are: pixels of the original image, 0-1000, or fractions.
        on_bad_sample: Stop at the first bad row, or skip it, counted and named; so too at a sample that goes bad during training.
            In an evaluation such a sample is not left out: it counts as failed.
        workers: Threads that read and resize the next step's images while this one is trained; 0 reads them when needed.
    """

    train: str = ""
    validation: str = ""
    root: str = ""
    images: str = ""
    format: Literal["jsonl", "visual_rft", "vision_reasoner"] = "jsonl"
    box_format: Literal["xyxy", "xywh"] = "xyxy"
    frame: Literal["pixel", "1000", "unit"] = "pixel"
    on_bad_sample: Literal["error", "skip"] = "error"
    workers: int = 2


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
    """(reward - baseline) / (std + eps); see `visurf.advantages.group_advantages`.

    Attributes:
        ddof: 1 for the sample, 0 for the population standard deviation.
        eps: Added to the standard deviation.
        scale: Divide by the deviation of the `group`, of the whole `batch`, or by `none` (Dr. GRPO).
        baseline: Subtract the `mean` of the group, or for every member the mean of the `others` (RLOO, with `scale: none`).
    """

    ddof: int = 1
    eps: float = 1e-6
    scale: Literal["group", "batch", "none"] = "group"
    baseline: Literal["mean", "others"] = "mean"


@dataclass(frozen=True)
class ObjectiveConfig:
    """Settings of the clipped objective; see `visurf.objective`.

    Attributes:
        clip_low: The ratio is clipped below 1 - clip_low.
        clip_high: The ratio is clipped above 1 + clip_high (DAPO's clip-higher when larger than clip_low).
        ratio: One ratio a token, or one a sequence: exp of the mean log-ratio (GSPO, arXiv 2507.18071).
        average: `token`: every token of the optimiser step weighs the same. `sequence`: every sequence does (Eq. 8).
            `constant`: every token weighs 1 / (rollout.max_tokens x sequences), whatever was written (Dr. GRPO).
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
    average: Literal["token", "sequence", "constant"] = "token"
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
        max_skipped: A step whose loss, gradient or log-probs are not finite is skipped; so many in a row stop the run.
    """

    lr: float = 1e-6
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = 0
    max_grad_norm: float = 1.0
    max_skipped: int = 3


@dataclass(frozen=True)
class ServersConfig:
    """vLLM servers that sample, see docs/servers.md.

    Attributes:
        addresses: Of all servers, such as ``http://127.0.0.1:8000``; prompts go to whichever has room.
        token_variable: Environment variable that holds the servers' token, if they want one.
        push: How new weights reach them after every optimiser step: `file`, a safetensors checkpoint that they read; `adapter`,
            the adapters alone; `nccl`, over the GPU interconnect. `auto` is `adapter` where adapters are trained, else `file`.
        folder: Where checkpoints and adapters for them are written, in a folder of the run's own that is removed at its end; every
            server must see it under the same path. Empty for ``out/servers``; memory (/dev/shm) does on one machine.
        host: Address of this machine that the servers reach, for `nccl`.
        requests: Prompts that one server is asked at once.
        timeout: Seconds that a request may take before its server counts as lost.
        patience: Seconds that lost servers are waited for; then the run ends, and the same command goes on with it.
        alarm: Warn when the mean absolute difference between training's and the servers' log-probs of the same tokens exceeds this
            (nats); 0 never does.
    """

    addresses: tuple[str, ...] = ("http://127.0.0.1:8000",)
    token_variable: str = "VISURF_SERVER_TOKEN"
    push: Literal["auto", "file", "adapter", "nccl"] = "auto"
    folder: str = ""
    host: str = "127.0.0.1"
    requests: int = 32
    timeout: float = 600.0
    patience: float = 600.0
    alarm: float = 0.1


@dataclass(frozen=True)
class RolloutConfig:
    """How the policy is sampled.

    Attributes:
        group_size: Rollouts of each prompt (G).
        max_tokens: Longest completion; a longer one is cut and kept.
        temperature: Divides the logits, in sampling and in every log-prob of training alike.
        top_p: Keep the smallest set of tokens with this probability; below 1 the ratio is no longer exact.
        token_budget: Tokens decoded at once: prompts, and `max_tokens` for every completion that has not ended. Further prompts
            join as soon as there is room.
        whole_model: With `parallel: fsdp2`, hold the whole model in every process while sampling; off gathers it layer by layer for
            every token, which is slower and takes less memory.
        cuda_graphs: `on` decodes in fixed shapes on a GPU and replays recorded steps; `off` runs one kernel at a time. `auto` is
            `on`, but with `parallel: fsdp2`, where recording has not been tried, `off`.
        engine: `local` samples in the processes that train, `vllm` on servers.
        overlap: With `engine: vllm`, sample the next step's rollouts while this step is trained. They are then one step old.
        correction: Weigh every sampled token by min(p / p_sampled, correction), p by the network that is trained and p_sampled by
            the server (truncated importance sampling); 0 does not.
        servers: Where they are, and how weights get there.
    """

    group_size: int = 8
    max_tokens: int = 512
    temperature: float = 1.0
    top_p: float = 1.0
    token_budget: int = 65536
    whole_model: bool = True
    cuda_graphs: Literal["auto", "on", "off"] = "auto"
    engine: Literal["local", "vllm"] = "local"
    overlap: bool = False
    correction: float = 0.0
    servers: ServersConfig = ServersConfig()


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation of the policy during training, with greedy decoding.

    Attributes:
        every: Steps between evaluations, and one at the end; 0 never evaluates.
        before: Evaluate before the first step too, where there are evaluations at all: what the run begins with, and what a model
            that loses its reasoning at once is compared with.
        limit: How many validation samples, from the first; 0 for all.
        metric: The step with its highest value counts as the best; its checkpoint, if one was written, is kept. Empty for
            the task's headline metric.
        side: Name -> what else the model is asked before the first step, at every evaluation and at the end: a source as in
            `data.validation`, or ``{data: ..., task: ..., prompt: ..., limit: ...}`` where its task, prompt or number of samples
            are others.
        alarms: Look, at every evaluation, for signs that the reward deceives; see docs/studies.md.
    """

    every: int = 0
    before: bool = True
    limit: int = 200
    metric: str = ""
    side: Mapping[str, Any] = field(default_factory=dict)
    alarms: bool = True


@dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoints of a run.

    Attributes:
        every: Steps between checkpoints. One is written at the end of every stage and after every validation that is the best so
            far, too; 0 writes those at the ends only.
        keep: How many to keep beside the best; 0 keeps all.
        resume: `auto` goes on from the last checkpoint where there is one, `never` refuses a used folder.
    """

    every: int = 50
    keep: int = 2
    resume: Literal["auto", "never"] = "auto"


@dataclass(frozen=True)
class RecordingConfig:
    """What a run, or an evaluation, keeps to be looked at: whole groups in rollouts.jsonl, their pictures in `pictures`.

    Both limits are spread over the run: a step whose share is spent records nothing.

    Attributes:
        groups: Groups recorded of a step, the first in the order of the data, which is shuffled; 0 for none.
        every: Steps from one recorded step to the next.
        text_mb: Most MiB of rollouts.jsonl.
        picture_mb: Most MiB of pictures; a group beyond it has none. 0 keeps none.
        picture_side: Longest side, in pixels, to which larger pictures are reduced.
    """

    groups: int = 2
    every: int = 1
    text_mb: float = 64.0
    picture_mb: float = 32.0
    picture_side: int = 384


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
        paradigm: A paradigm of docs/paradigms.md, or ``pkg.module:NAME`` of a `Paradigm`.
        mixing: Hyperparameters of the paradigm, see docs/paradigms.md; what is not named has the paradigm's default.
        stages: Explicit stages; empty for the paradigm's own (a paradigm of several stages shares `steps` equally).
        trackers: Where metrics go besides metrics.jsonl.
        steps: Optimiser batches of the run, over all stages; explicit stages bring their own.
        prompts_per_step: Prompts of one batch, over all processes.
        inner_steps: Optimiser steps on each batch of rollouts.
        tokens_per_microbatch: Budget of one packed row.
        seed: Of data order, rollouts and initialisation of adapters.
        out: The run folder.
        parallel: Of several processes each holds the whole policy (`ddp`), or a part of its parameters, gradients and optimiser
            states (`fsdp2`); see docs/scaling.md.
        process_timeout: Minutes that a process waits for the others before the run ends.
        threads: CPU threads; 0 leaves torch's default.
    """

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    task: TaskConfig = TaskConfig()
    paradigm: str = "visurf"
    mixing: Mapping[str, float] = field(default_factory=dict)
    stages: tuple[StageConfig, ...] = ()
    controls: Controls = field(default_factory=Controls)
    reward: RewardConfig = RewardConfig()
    advantage: AdvantageConfig = AdvantageConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    rollout: RolloutConfig = RolloutConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    recording: RecordingConfig = RecordingConfig()
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    steps: int = 200
    prompts_per_step: int = 16
    inner_steps: int = 1
    tokens_per_microbatch: int = 16384
    seed: int = 0
    out: str = "runs/visurf"
    parallel: Literal["ddp", "fsdp2"] = "ddp"
    process_timeout: float = 30.0
    threads: int = 0

    def __post_init__(self) -> None:
        """Refuse values that cannot work, see `visurf.config.limits`."""
        check_limits(self)
