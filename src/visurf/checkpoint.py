"""Atomic checkpoints and exact resume.

A checkpoint is a folder ``checkpoints/step-NNNNNN`` that appears under its name only when it is complete. It holds the weights (or
adapters) in safetensors, the optimiser and schedule, and the positions of the run's logs. It says nothing of the number of
processes: optimiser states go by the names of parameters, and where the policy is shared out every process writes its parts of
them (torch's distributed checkpoints), from which any number of processes can take theirs. Random states need no place in it: data
order, rollouts and dropout are functions of seed and step.
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

from visurf import parallel


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        step: Optimiser batches done, over all stages.
        stage: Index of the stage that the next step belongs to.
        metrics_bytes: Length of metrics.jsonl.
        rollouts_bytes: Length of rollouts.jsonl.
        best: Best validation metric so far, or None.
        best_step: The step that reached it.
        seconds: Wall time spent so far.
    """

    step: int = 0
    stage: int = 0
    metrics_bytes: int = 0
    rollouts_bytes: int = 0
    best: float | None = None
    best_step: int = -1
    seconds: float = 0.0


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
    with parallel.agreed():
        if parallel.rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
    if shards is not None:
        import torch.distributed.checkpoint as dcp

        dcp.save(dict(shards), checkpoint_id=partial / SHARDS)
    with parallel.agreed():
        if parallel.rank() == 0:
            network.save_pretrained(partial / "model", state_dict=weights)
            torch.save(dict(state), partial / "state.pt")
            _complete(out, progress, partial, final, keep)


def _complete(out: Path, progress: Progress, partial: Path, final: Path, keep: int) -> None:
    """Give a checkpoint its name once everything is on the disk, and drop old ones."""
    (partial / "progress.json").write_text(json.dumps(asdict(progress)))
    for path in partial.rglob("*"):
        if path.is_file():
            with path.open("rb") as handle:
                os.fsync(handle.fileno())
    if final.exists():
        # A rerun of the same step: the old folder leaves its name only when the new one is complete.
        retired = final.with_name(f".retired-{final.name}")
        shutil.rmtree(retired, ignore_errors=True)
        final.replace(retired)
        partial.replace(final)
        shutil.rmtree(retired)
    else:
        partial.replace(final)
    steps = sorted(steps_in(out))
    for step in steps[:-keep] if keep > 0 else []:
        if step != progress.best_step:
            shutil.rmtree(folder_of(out, step))


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


def read(folder: Path) -> tuple[Progress, dict[str, Any]]:
    """Progress and states of a checkpoint; tensors land on the CPU, nothing is unpickled but tensors and plain values."""
    progress = Progress(**json.loads((folder / "progress.json").read_text()))
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
