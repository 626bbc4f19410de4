"""The estimates of memory and time as a section: what it takes, whether it fits, and the setting to change."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from visurf.config import Config, LoraConfig
from visurf.doctor.at_hand import AtHand
from visurf.doctor.findings import Section, Table
from visurf.doctor.lengths import UNCOUNTED, Lengths
from visurf.doctor.memory import Estimate, estimate
from visurf.doctor.shape import Shape, shape_of
from visurf.doctor.timing import MEMORY, Device, device_named, processor_rate, step_time
from visurf.doctor.work import Precision, Work, precision_of
from visurf.stages import stages

# Of a device's memory, what fragments, kernels' workspaces and the driver are left.
ROOM = 0.92
# Tokens of image and text assumed where the data are not there.
ASSUMED_PROMPT, ASSUMED_LABEL = 1024, 64


@dataclasses.dataclass(frozen=True)
class Machine:
    """Where the run is to take place.

    Attributes:
        name: What people call it.
        bytes: Memory of the device; None where it is not known.
        host: Host memory in bytes; None likewise.
        gpu: Whether it is a GPU.
        device: Its rates; None where they are not known.
        processes: That share the model out, one a device, where the recipe says `parallel: fsdp2`.
    """

    name: str
    bytes: float | None
    host: float | None
    gpu: bool
    device: Device | None
    processes: int = 1


def machine_for(asked: str, parameters: int, most_on_cpu: int, processes: int = 1) -> Machine:
    """The device that was asked for, this machine's GPU, or its processor for models small enough for one.

    Raises:
        ValueError: The device that was asked for is not known.
    """
    import torch

    host = _host_memory()
    if asked:
        if asked.endswith(" GB"):
            size = float(asked.removesuffix(" GB"))
            return Machine(f"a GPU of {asked}", size * 1e9, None, gpu=True, device=None, processes=processes)
        found = device_named(asked)
        if found is None:
            raise ValueError(f"--gpu {asked}: expected one of {', '.join(MEMORY)}; for another give --gpu-memory GB")
        return Machine(found[0], found[2] * 1e9, None, gpu=True, device=found[1], processes=processes)
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        known = device_named(name)
        return Machine(
            name, torch.cuda.mem_get_info()[1], host, gpu=True, device=None if known is None else known[1], processes=processes
        )
    if parameters > most_on_cpu:
        return Machine("a GPU", None, None, gpu=True, device=None, processes=processes)
    return Machine("this processor", host, host, gpu=False, device=processor_rate(), processes=processes)


def _host_memory() -> float | None:
    info = Path("/proc/meminfo")
    if not info.exists():
        return None
    found = [line for line in info.read_text().splitlines() if line.startswith("MemAvailable")]
    return float(found[0].split()[1]) * 1024 if found else None


def work_of(config: Config, lengths: Sequence[Lengths], *, longest: bool, pictures: tuple[int, int] = (0, 0)) -> Work:
    """A step's work with the longest prompts, for memory, or with typical ones, for time.

    Args:
        config: Brings batch, group and longest completion.
        lengths: Of the data; empty for assumed ones.
        longest: Which of them.
        pictures: Distinct pictures, and pixels of the largest.
    """
    choose: Callable[[list[int]], float] = max if longest else median
    staged = stages(config)
    sampled = any(stage.paradigm.rollouts for stage in staged)
    labelled = any(stage.paradigm.label for stage in staged)
    labels = [n.label for n in lengths if n.label is not None]
    unknown = 0 if labels or not lengths else UNCOUNTED
    prompt = int(choose([n.prompt for n in lengths])) + unknown if lengths else ASSUMED_PROMPT
    features = max((n.image for n in lengths), default=0)
    return Work(
        prompts=config.prompts_per_step,
        prompt=prompt,
        patches=int(choose([n.patches for n in lengths])) if lengths else 4 * ASSUMED_PROMPT,
        completion=config.rollout.max_tokens if longest else max(config.rollout.max_tokens * 2 // 3, 1),
        label=(max(labels) if longest else int(median(labels))) if labels and labelled else ASSUMED_LABEL * labelled,
        rollouts=config.rollout.group_size if sampled else 0,
        pixel_bytes=max((n.pixel_bytes for n in lengths), default=0),
        picture_pixels=pictures[1],
        images=pictures[0],
        features=features,
        mixed=longest and len({n.prompt for n in lengths}) > 1,
    )


def check_resources(
    config: Config, at_hand: AtHand, lengths: Sequence[Lengths], machine: Machine, pictures: tuple[int, int]
) -> Section:
    """Memory and time of a step of one process.

    Args:
        config: The recipe.
        at_hand: Its model.
        lengths: Of the data, empty where they are not known.
        machine: Where it is to run.
        pictures: Distinct pictures of the train data, and pixels of the largest.
    """
    section = Section("resources", "Memory and time of a step (estimated)")
    if at_hand.network is None or at_hand.family is None:
        section.not_made.append("the model's shape is not known")
        return section
    if not lengths:
        section.not_made.append(f"the real lengths: {ASSUMED_PROMPT} tokens a prompt are assumed")
    shape = shape_of(at_hand.network, at_hand.family.vision_module, config.model.lora)
    precision = precision_of(config, gpu=machine.gpu)
    work = work_of(config, lengths, longest=True, pictures=pictures)
    found = estimate(shape, work, config, precision, machine.processes)
    among = f" of {machine.processes} that share the model" if machine.processes > 1 and config.parallel == "fsdp2" else ""
    section.facts["for"] = f"one process{among} on {machine.name}, the longest prompts and completions"
    section.facts["peak"] = f"{gigabytes(found.peak)}, while {found.moment}"
    if machine.gpu:
        section.facts["host memory beside"] = gigabytes(sum(found.host.values()) + shape.parameters * precision.weight)
    section.facts["packed rows"] = f"{found.rows} of up to {found.row:,} tokens"
    section.tables.append(_table(found))
    if at_hand.family.unshared:
        section.not_made.append("the cost of a family that cannot share prompts; the estimate is that of one that can")
    _fit(section, found, shape, work, config, machine)
    _time(section, shape, lengths, config, precision, machine)
    return section


def gigabytes(size: float) -> str:
    """Bytes in GB of 10^9, as devices are sold, or MB where that is less than one."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _table(found: Estimate) -> Table:
    names = list(dict.fromkeys([*found.training, *found.sampling]))
    rows = []
    for name in names:
        cells = (found.training.get(name, 0.0), found.sampling.get(name, 0.0))
        if any(cells):
            rows.append((name, *(gigabytes(v) if v else "" for v in cells)))
    rows.append(("in all", gigabytes(sum(found.training.values())), gigabytes(sum(found.sampling.values()))))
    return Table("Where the bytes go", ("what", "training", "sampling"), tuple(rows))


def _fit(section: Section, found: Estimate, shape: Shape, work: Work, config: Config, machine: Machine) -> None:
    """Say whether it fits, and what to change where it does not."""
    if machine.bytes is None:
        sizes = sorted({*MEMORY.values(), 24})
        fits = next((f"one GPU of {size} GB" for size in sizes if found.peak <= ROOM * size * 1e9), "")
        section.facts["smallest usual GPU"] = fits or f"none: more than {sizes[-1]} GB; shard it (parallel=fsdp2)"
        return
    room = ROOM * machine.bytes
    section.facts["room"] = gigabytes(machine.bytes)
    if found.peak > room:
        advice = remedies(shape, work, config, room, gpu=machine.gpu, processes=machine.processes)
        section.error(f"about {gigabytes(found.peak)} will not fit into {gigabytes(machine.bytes)} of {machine.name}", advice)
    host = sum(found.host.values()) + shape.parameters * precision_of(config, gpu=machine.gpu).weight
    if machine.gpu and machine.host is not None and host > ROOM * machine.host:
        section.warn(
            f"about {gigabytes(host)} of host memory, {gigabytes(machine.host)} are free",
            "lower data.workers, model.feature_cache_mb or model.max_pixels",
        )


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
        names.append(name)
        changed = change(changed)
        if fits(changed):
            return "together: " + _said(names)
    return f"even {_said(names)} do not suffice: shard it over several GPUs (parallel=fsdp2), or take a smaller model"


def _said(names: Sequence[str]) -> str:
    """All settings once, in order."""
    return " ".join(dict.fromkeys(" ".join(names).split()))


def _changes(work: Work, config: Config, *, gpu: bool, processes: int) -> list[tuple[str, Callable[[Config], Config]]]:
    """Changes of a recipe by what they cost, the cheapest first."""
    row = max(work.prompt + work.completion, 1024)

    def model(**values: object) -> Callable[[Config], Config]:
        return lambda c: dataclasses.replace(c, model=dataclasses.replace(c.model, **values))  # type: ignore[arg-type]

    def budget(config: Config) -> Config:
        return dataclasses.replace(config, tokens_per_microbatch=min(row, config.tokens_per_microbatch))

    def decoded(config: Config) -> Config:
        tokens = min(work.prompt + work.rollouts * work.completion, config.rollout.token_budget)
        return dataclasses.replace(config, rollout=dataclasses.replace(config.rollout, token_budget=max(tokens, 1)))

    def offloaded(config: Config) -> Config:
        rollout = dataclasses.replace(config.rollout, whole_model=False)
        return dataclasses.replace(model(offload=True)(config), rollout=rollout)

    found = [
        (f"tokens_per_microbatch={row}", budget),
        (f"rollout.token_budget={work.prompt + work.rollouts * work.completion}", decoded),
        ("model.gradient_checkpointing=true", model(gradient_checkpointing=True)),
        ("model.freeze_vision=true", model(freeze_vision=True)),
    ]
    if config.parallel == "fsdp2" and processes > 1:
        found.append(("model.offload=true rollout.whole_model=false", offloaded))
    adapters = config.model.lora if config.model.lora.rank else LoraConfig(rank=64)
    if not config.model.lora.rank:
        found.append(("model.lora.rank=64", model(lora=adapters)))
    # Servers that take whole models cannot have one that is merged into a quantised base.
    served = config.rollout.engine == "vllm" and config.rollout.servers.push not in ("auto", "adapter")
    if gpu and config.parallel == "ddp" and not served:
        four = model(lora=dataclasses.replace(adapters, quantize="4bit"))
        name = "model.lora.quantize=4bit"
        # Each change must also be one that can be made alone.
        found.append((name if config.model.lora.rank else f"model.lora.rank=64 {name}", four))
    return found


def _time(
    section: Section, shape: Shape, lengths: Sequence[Lengths], config: Config, precision: Precision, machine: Machine
) -> None:
    if machine.device is None:
        section.not_made.append(f"the time of a step: the rates of {machine.name} are not known; --gpu NAME names a device")
        return
    typical = step_time(shape, work_of(config, lengths, longest=False), config, precision, machine.device)
    total = typical.total
    parts = f"sampling {seconds(typical.prefill + typical.decode)}, training {seconds(typical.train)}"
    section.facts["time of a step, roughly"] = f"{seconds(total)} ({parts})"
    section.facts["time of the run, roughly"] = seconds(total * stages(config)[-1].end)


def seconds(value: float) -> str:
    """A duration in words."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if value >= 2 * size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.2g} s"
