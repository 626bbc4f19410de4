"""The estimates of memory and time as a section: what it takes, whether it fits, and the setting to change."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from visurf.config import Config
from visurf.doctor.at_hand import AtHand
from visurf.doctor.disk import room_for, written
from visurf.doctor.findings import Section, Table, many
from visurf.doctor.lengths import UNCOUNTED, Lengths
from visurf.doctor.memory import Estimate, estimate
from visurf.doctor.remedies import ADAPTERS, gpus_that_hold, remedies
from visurf.doctor.shape import Shape, shape_of
from visurf.doctor.timing import MEMORY, Device, device_named, processor_rate, step_time
from visurf.doctor.work import Precision, Work, precision_of
from visurf.stages import stages

# Of a device's memory, what fragments, kernels' workspaces and the driver are left.
ROOM = 0.92
# Tokens of image and text assumed where the data are not there.
ASSUMED_PROMPT, ASSUMED_LABEL = 1024, 64
# Tokens computed over those of a group in one row, above which it is worth a warning: below it the repeats cost less than
# other settings that save as much memory.
REPEATED = 1.25


@dataclasses.dataclass(frozen=True)
class Machine:
    """Where the run is to take place.

    Attributes:
        name: What people call it.
        bytes: Memory of the device; None where it is not known.
        host: Host memory in bytes; None likewise.
        gpu: Whether it is a GPU.
        device: Its rates; None where they are not known.
        processes: Of the run, one a device. They share its prompts, and the model where the recipe says `parallel: fsdp2`.
    """

    name: str
    bytes: float | None
    host: float | None
    gpu: bool
    device: Device | None
    processes: int = 1


def machine_for(asked: str, parameters: int, most_on_cpu: int, processes: int = 1, memory: float | None = None) -> Machine:
    """The device that was asked for, this machine's GPU, or its processor for models small enough for one.

    Args:
        asked: Name of a device, empty for none.
        parameters: Of the model.
        most_on_cpu: Parameters of the largest model that a processor is for.
        processes: Of the run, one a device.
        memory: GB of a device that is asked for without a name.

    Raises:
        ValueError: The device that was asked for is not known.
    """
    import torch

    host = _host_memory()
    if memory is not None:
        return Machine(f"a GPU of {memory:g} GB", memory * 1e9, None, gpu=True, device=None, processes=processes)
    if asked:
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


def work_of(
    config: Config, lengths: Sequence[Lengths], *, longest: bool, pictures: tuple[int, int] = (0, 0), processes: int = 1
) -> Work:
    """A step's work of one process with the longest prompts, for memory, or with typical ones, for time.

    Args:
        config: Brings batch, group and longest completion.
        lengths: Of the data; empty for assumed ones.
        longest: Which of them.
        pictures: Distinct pictures, and pixels of the largest.
        processes: That share the prompts of a step; the one with most of them is meant.
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
        prompts=math.ceil(config.prompts_per_step / processes),
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
    work = work_of(config, lengths, longest=True, pictures=pictures, processes=machine.processes)
    found = estimate(shape, work, config, precision, machine.processes)
    section.facts["for"] = f"one process{_among(config, machine)} on {machine.name}, the longest prompts and completions"
    section.facts["peak"] = f"{gigabytes(found.peak)}, while {found.moment}"
    if machine.gpu:
        each = " for each process" if machine.processes > 1 else ""
        section.facts["host memory beside"] = gigabytes(_host(found, shape, precision)) + each
    section.facts["packed rows"] = f"{found.rows} of up to {found.row:,} tokens"
    section.tables.append(_table(found))
    if at_hand.family.unshared:
        section.not_made.append("the cost of a family that cannot share prompts; the estimate is that of one that can")
    else:
        _sharing(section, shape, work, lengths, config, machine)
    if machine.processes > 1 and config.parallel == "ddp" and not config.model.lora.rank:
        section.warn(
            f"each of the {machine.processes} processes holds the whole model, its gradients and moments: parallel=ddp",
            "parallel=fsdp2, with which they share them out",
        )
    _fit(section, found, shape, work, config, machine)
    _disk(section, shape, config, precision)
    _time(section, shape, lengths, config, precision, machine)
    return section


def _host(found: Estimate, shape: Shape, precision: Precision) -> float:
    """Bytes of host memory of one process of a GPU: images, and the checkpoint while it is loaded."""
    return sum(found.host.values()) + shape.parameters * precision.weight


def _among(config: Config, machine: Machine) -> str:
    """What the processes of a run share, in words; nothing for one."""
    if machine.processes == 1:
        return ""
    shared = "that share the model" if config.parallel == "fsdp2" else "each with the whole model"
    return f" of {machine.processes} {shared}"


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


def _sharing(section: Section, shape: Shape, work: Work, lengths: Sequence[Lengths], config: Config, machine: Machine) -> None:
    """Prompts whose group is cut into several rows, each of which computes the prompt anew."""
    budget = config.tokens_per_microbatch
    uncounted = work.prompt - max((n.prompt for n in lengths), default=work.prompt)
    of_prompts = Counter(n.prompt + uncounted for n in lengths) or Counter([work.prompt])
    groups = {tokens: dataclasses.replace(work, prompt=tokens) for tokens in of_prompts}
    often = max(group.passes(budget) for group in groups.values())
    if often == 1:
        return
    section.facts["a prompt is computed"] = f"up to {often} times a pass: its group is cut into so many rows"
    dear = [tokens for tokens, group in groups.items() if group.computed(budget) > REPEATED * group.group]
    if not dear:
        return
    row = groups[max(dear)].group
    raised = dataclasses.replace(config, tokens_per_microbatch=row)
    peak = estimate(shape, work, raised, precision_of(config, gpu=machine.gpu), machine.processes).peak
    count = f"{sum(of_prompts[tokens] for tokens in dear):,} of {len(lengths):,} prompts" if lengths else "the assumed prompts"
    section.warn(
        f"{count}: the group does not fit one row of tokens_per_microbatch={budget}, so that a prompt of {max(dear):,} tokens is "
        f"computed {groups[max(dear)].passes(budget)} times in each pass of training instead of once",
        f"lower model.max_pixels, or set tokens_per_microbatch={row}, with which the peak is about {gigabytes(peak)}",
    )


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
        more = gpus_that_hold(shape, work, config, room) if machine.gpu and machine.processes == 1 else None
        if more and ADAPTERS in advice:
            advice = f"take {more} of them: torchrun --nproc-per-node {more}, parallel=fsdp2 (here --gpus {more}); or {advice}"
        section.error(f"about {gigabytes(found.peak)} will not fit into {gigabytes(machine.bytes)} of {machine.name}", advice)
    host = _host(found, shape, precision_of(config, gpu=machine.gpu)) * machine.processes
    if machine.gpu and machine.host is not None and host > ROOM * machine.host:
        section.warn(
            f"about {gigabytes(host)} of host memory, {gigabytes(machine.host)} are free",
            "lower data.workers, model.feature_cache_mb or model.max_pixels",
        )


def _disk(section: Section, shape: Shape, config: Config, precision: Precision) -> None:
    """Say what the run folder will take, and whether there is room for it on this machine."""
    found, (place, free) = written(shape, config, precision), room_for(Path(config.out))
    section.facts["on the disk"] = (
        f"{gigabytes(found.total)}: up to {many(found.checkpoints, 'checkpoint')} of {gigabytes(found.checkpoint)} at once, and "
        f"{gigabytes(found.models)} of whole models"
    )
    if found.total > free:
        section.warn(
            f"checkpoints and models take about {gigabytes(found.total)}; {place} on this machine has {gigabytes(free)}",
            "set out to a folder with more room, lower checkpoint.keep, or train adapters",
        )


def _time(
    section: Section, shape: Shape, lengths: Sequence[Lengths], config: Config, precision: Precision, machine: Machine
) -> None:
    if machine.device is None:
        section.not_made.append(f"the time of a step: the rates of {machine.name} are not known; --gpu NAME names a device")
        return
    work = work_of(config, lengths, longest=False, processes=machine.processes)
    typical = step_time(shape, work, config, precision, machine.device)
    total = typical.total
    parts = f"sampling {seconds(typical.prefill + typical.decode)}, training {seconds(typical.train)}"
    section.facts["time of a step, roughly"] = f"{seconds(total)} ({parts})"
    section.facts["time of the run, roughly"] = seconds(total * stages(config)[-1].end)


def seconds(value: float) -> str:
    """A duration in words."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if value >= 2 * size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f} s" if value >= 10 else f"{value:.2g} s"
