"""Which settings make a recipe fit into a device, those that cost least first. Torch-free."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from visurf.config import Config, LoraConfig
from visurf.doctor.memory import estimate
from visurf.doctor.shape import Shape
from visurf.doctor.work import Work, precision_of

# Adapters take a learning rate about ten times that of full training. Source: VLM-R1's run_grpo_rec_lora.sh.
ADAPTERS = "model.lora.rank=64 model.lora.alpha=128 optimizer.lr=1e-5"
LORA = LoraConfig(rank=64, alpha=128)


def remedies(shape: Shape, work: Work, config: Config, room: float, *, gpu: bool, processes: int = 1) -> str:
    """The first single change that makes it fit, those that cost least first; else the first sum of changes that does."""
    changed, names = config, list[str]()

    def fits(candidate: Config) -> bool:
        return estimate(shape, work, candidate, precision_of(candidate, gpu=gpu), processes).peak <= room

    changes = _changes(work, config, gpu=gpu, processes=processes)
    for name, change in changes:
        if fits(change(config)):
            return name
    for name, change in changes:
        # A quantised base cannot be shared out.
        if "quantize" in name and changed.parallel == "fsdp2" and processes > 1:
            continue
        names.append(name)
        changed = change(changed)
        if fits(changed):
            return "together: " + _said(names)
    return f"even {_said(names)} do not suffice: shard it over several GPUs (parallel=fsdp2), or take a smaller model"


def gpus_that_hold(shape: Shape, work: Work, config: Config, room: float) -> int | None:
    """The fewest of 2, 4 or 8 GPUs that share the model and fit, for a step that one of them would have alone; None for none."""
    if config.model.lora.quantize != "none":
        return None
    shared = dataclasses.replace(config, parallel="fsdp2")
    for number in (2, 4, 8):
        part = dataclasses.replace(work, prompts=math.ceil(work.prompts / number))
        if estimate(shape, part, shared, precision_of(shared, gpu=True), number).peak <= room:
            return number
    return None


def _said(names: Sequence[str]) -> str:
    """All settings once, in order; of two values of one the later."""
    settings = dict(setting.split("=", 1) for setting in " ".join(names).split())
    return " ".join(f"{key}={value}" for key, value in settings.items())


def _changes(work: Work, config: Config, *, gpu: bool, processes: int) -> list[tuple[str, Callable[[Config], Config]]]:
    """Changes of a recipe by what they cost, the cheapest first."""
    # The smallest row that cuts no group, and the smallest at all: with that every completion computes its prompt anew.
    group, row = max(work.group, 1024), max(work.prompt + work.completion, 1024)
    several = processes > 1 and config.model.lora.quantize == "none"

    def model(**values: object) -> Callable[[Config], Config]:
        return lambda c: dataclasses.replace(c, model=dataclasses.replace(c.model, **values))  # type: ignore[arg-type]

    def budget(tokens: int) -> Callable[[Config], Config]:
        return lambda c: dataclasses.replace(c, tokens_per_microbatch=min(tokens, c.tokens_per_microbatch))

    def decoded(config: Config) -> Config:
        tokens = min(work.prompt + work.rollouts * work.completion, config.rollout.token_budget)
        return dataclasses.replace(config, rollout=dataclasses.replace(config.rollout, token_budget=max(tokens, 1)))

    def shared(config: Config) -> Config:
        return dataclasses.replace(config, parallel="fsdp2")

    def offloaded(config: Config) -> Config:
        rollout = dataclasses.replace(config.rollout, whole_model=False)
        return dataclasses.replace(model(offload=True)(shared(config)), rollout=rollout)

    found = list[tuple[str, Callable[[Config], Config]]]()
    if several and config.parallel == "ddp":
        found.append(("parallel=fsdp2", shared))
    if group < config.tokens_per_microbatch:
        found.append((f"tokens_per_microbatch={group}", budget(group)))
    found += [
        (f"rollout.token_budget={work.prompt + work.rollouts * work.completion}", decoded),
        ("model.gradient_checkpointing=true", model(gradient_checkpointing=True)),
    ]
    if row < min(group, config.tokens_per_microbatch):
        found.append((f"tokens_per_microbatch={row}", budget(row)))
    found.append(("model.freeze_vision=true", model(freeze_vision=True)))
    if several:
        offload = "model.offload=true rollout.whole_model=false"
        found.append((offload if config.parallel == "fsdp2" else f"parallel=fsdp2 {offload}", offloaded))
    adapters = config.model.lora if config.model.lora.rank else LORA
    if not config.model.lora.rank:
        found.append((ADAPTERS, model(lora=adapters)))
    # Servers that take whole models cannot have one that is merged into a quantised base.
    served = config.rollout.engine == "vllm" and config.rollout.servers.push not in ("auto", "adapter")
    if gpu and (config.parallel == "ddp" or processes == 1) and not served:
        four = model(lora=dataclasses.replace(adapters, quantize="4bit"))
        # Each change must also be one that can be made alone.
        parts = ["" if config.model.lora.rank else ADAPTERS, "parallel=ddp" if config.parallel == "fsdp2" else ""]
        name = " ".join([*filter(None, parts), "model.lora.quantize=4bit"])
        found.append((name, lambda c: dataclasses.replace(four(c), parallel="ddp")))
    return found
