"""Atomic checkpoints and exact resume.

A checkpoint is a folder ``checkpoints/step-NNNNNN`` that appears under its name only when it is complete. It holds the weights (or
adapters) in safetensors, the optimiser and schedule, and the positions of the run's logs. It says nothing of the number of
processes: optimiser states go by the names of parameters, and where the policy is shared out every process writes its parts of
them (torch's distributed checkpoints), from which any number of processes can take theirs. Random states need no place in it: data
order, rollouts and dropout are functions of seed and step.

Every file's checksum stands in ``SHA256SUMS``. A checkpoint whose files are not what was written is set aside and the one before
is used.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from visurf import checksums, parallel
from visurf.models.writing import write_network


class CheckpointError(RuntimeError):
    """A checkpoint that could not be written, or a run of which none is intact."""


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        step: Optimiser batches done, over all stages.
        stage: Index of the stage that the last step belonged to.
        metrics_bytes: Length of metrics.jsonl.
        rollouts_bytes: Length of rollouts.jsonl.
        best: Best validation metric so far, or None.
        best_step: The step that reached it.
        seconds: Wall time spent so far.
        skipped: Steps in a row, up to the last, that were skipped for values that are not finite.
        halvings: How often the token budgets of training and of rollouts were halved because memory ran out.
        unmeasured: Metrics of the last step where its evaluation failed, which comes first when the run goes on; else None.
    """

    step: int = 0
    stage: int = 0
    metrics_bytes: int = 0
    rollouts_bytes: int = 0
    best: float | None = None
    best_step: int = -1
    seconds: float = 0.0
    skipped: int = 0
    halvings: tuple[int, int] = (0, 0)
    unmeasured: dict[str, Any] | None = None


SHARDS = "optimizer"


def folder_of(out: Path, step: int) -> Path:
    """The folder of a step's checkpoint."""
    return out / "checkpoints" / f"step-{step:06d}"


def save(
    out: Path,
    progress: Progress,
    network: Any,
    state: Mapping[str, Any],
    keep: int,
    *,
    weights: Mapping[str, Tensor] | None = None,
    shards: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint atomically, then drop the oldest ones, never the best; every process of the run calls it.

    Args:
        out: The run folder, which all processes see.
        progress: Saved as progress.json.
        network: Saved by its own `save_pretrained` (adapters only where it has them).
        state: Of optimiser and schedule: tensors and plain values.
        keep: How many to keep beside the best.
        weights: The network's tensors on the first process where it does not hold them itself.
        shards: Optimiser states of which every process holds parts.
    """
    final = folder_of(out, progress.step)
    partial = final.with_name(f".partial-{final.name}")
    try:
        _write(progress, network, state, partial, weights=weights, shards=shards)
        with parallel.agreed():
            if parallel.rank() == 0:
                _complete(out, progress, partial, final, keep)
    except parallel.OtherProcessError:
        raise
    except Exception as error:
        # What was written takes room that the next attempt needs.
        shutil.rmtree(partial, ignore_errors=True)
        steps = sorted(steps_in(out))
        before = f"the last one, of step {steps[-1]}, is intact" if steps else "there is none before it"
        raise CheckpointError(
            f"the checkpoint of step {progress.step} could not be written to {final.parent} ({error}); {before}. When there is "
            "room and it may be written to again, the same command goes on from there"
        ) from error


def _write(
    progress: Progress,
    network: Any,
    state: Mapping[str, Any],
    partial: Path,
    *,
    weights: Mapping[str, Tensor] | None,
    shards: Mapping[str, Any] | None,
) -> None:
    """Write all files of a checkpoint and their checksums; every process calls it."""
    with parallel.agreed():
        if parallel.rank() == 0:
            # Those of other steps come from processes that were killed.
            for left in (*partial.parent.glob(".partial-*"), *partial.parent.glob(".retired-*")):
                shutil.rmtree(left)
            partial.mkdir(parents=True)
    if shards is not None:
        with parallel.agreed():
            _write_shards(dict(shards), partial / SHARDS)
    with parallel.agreed():
        if parallel.rank() == 0:
            write_network(network, partial / "model", weights)
            torch.save(dict(state), partial / "state.pt")
            (partial / "progress.json").write_text(json.dumps(asdict(progress)))
    sums: list[tuple[str, str]] = []
    with parallel.agreed():
        sums = list(checksums.checksums(partial, parallel.share(checksums.files_in(partial))).items())
    sums = parallel.rejoin(sums)
    with parallel.agreed():
        if parallel.rank() == 0:
            checksums.write_list(partial, dict(sums))


def _write_shards(shards: dict[str, Any], folder: Path) -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        dcp.save(shards, checkpoint_id=folder)
    except CheckpointException as error:
        # It is no Exception; all processes get it, with what each of them met.
        number, (problem, _) = next(iter(error.failures.items()))
        raise OSError(f"process {number}: {problem}") from error


def _complete(out: Path, progress: Progress, partial: Path, final: Path, keep: int) -> None:
    """Give a checkpoint its name once everything is on the disk, and drop old ones."""
    for path in (*partial.rglob("*"), partial):
        _to_disk(path)
    if final.exists():
        # A rerun of the same step: the old folder leaves its name only when the new one is complete.
        retired = final.with_name(f".retired-{final.name}")
        final.replace(retired)
        partial.replace(final)
        shutil.rmtree(retired)
    else:
        partial.replace(final)
    _to_disk(final.parent)
    steps = sorted(steps_in(out))
    for step in steps[:-keep] if keep > 0 else []:
        if step != progress.best_step:
            shutil.rmtree(folder_of(out, step))


def _to_disk(path: Path) -> None:
    """Have a file or a folder's list of names on the disk, where the system can do that."""
    if path.is_dir() and os.name == "nt":
        return
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def steps_in(out: Path) -> list[int]:
    """Steps of the complete checkpoints of a run."""
    folder = out / "checkpoints"
    if not folder.is_dir():
        return []
    return [int(p.name.removeprefix("step-")) for p in folder.glob("step-*") if (p / "progress.json").is_file()]


def latest(out: Path) -> Path | None:
    """The newest complete checkpoint, or None."""
    steps = steps_in(out)
    return folder_of(out, max(steps)) if steps else None


def damage(folder: Path) -> list[str]:
    """What of a checkpoint is not as it was written; empty where all is well. Every process calls it and reads its share."""
    problems: list[str] = []
    try:
        expected = checksums.read_list(folder)
        names = parallel.share(sorted(expected))
        problems = checksums.differences(folder, {name: expected[name] for name in names})
    except ValueError as error:
        problems = [str(error)]
    return sorted(set(parallel.gather(problems)))


def newest_intact(out: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose files are what was written, and what is wrong with newer ones; every process calls it.

    Damaged checkpoints get the name ``damaged-step-NNNNNN``.

    Raises:
        CheckpointError: There are checkpoints, and none is intact.
    """
    said, damaged = [], []
    steps = sorted(steps_in(out), reverse=True)
    if any(seen != steps for seen in parallel.gather([steps])):
        # The run refuses this; nothing is to be judged or renamed before.
        return latest(out), []
    for step in steps:
        folder = folder_of(out, step)
        problems = damage(folder)
        if not problems:
            break
        damaged.append(folder)
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        said.append(f"the checkpoint {folder} is damaged: {problems[0]}{more}")
    else:
        if steps:
            raise CheckpointError(
                f"no checkpoint of {out} is intact: {'; '.join(said)}. Put the files back, or begin anew with another out="
            )
        return None, []
    with parallel.agreed():
        if parallel.rank() == 0:
            for bad in damaged:
                aside = bad.with_name(f"damaged-{bad.name}")
                shutil.rmtree(aside, ignore_errors=True)
                bad.replace(aside)
    return folder, said


def read_progress(folder: Path) -> Progress:
    """Where the run stood."""
    return Progress(**json.loads((folder / "progress.json").read_text()))


def read(folder: Path) -> tuple[Progress, dict[str, Any]]:
    """Progress and states of a checkpoint; tensors land on the CPU, nothing is unpickled but tensors and plain values."""
    progress = read_progress(folder)
    state: dict[str, Any] = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    return progress, state


def optimizer_state(policy: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimiser's ``state`` and ``param_groups`` by the names of parameters; tensors are parts where parameters are."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    return dict(get_optimizer_state_dict(policy, optimizer))


def restore_optimizer(folder: Path, state: Mapping[str, Any], policy: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Give an optimiser the state of a checkpoint, whatever number of processes wrote it and now reads it.

    Args:
        folder: The checkpoint.
        state: What `optimizer_state` gave; without ``state`` where the processes wrote their parts.
        policy: The optimiser's parameters, by name.
        optimizer: Fresh.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

    if (folder / SHARDS).is_dir():
        import torch.distributed.checkpoint as dcp

        own = optimizer_state(policy, optimizer)["state"]
        dcp.load(own, checkpoint_id=folder / SHARDS, no_dist=not dist.is_initialized())
        set_optimizer_state_dict(policy, optimizer, {**state, "state": own})
    else:
        set_optimizer_state_dict(policy, optimizer, dict(state), options=StateDictOptions(full_state_dict=True))
