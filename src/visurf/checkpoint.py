"""Atomic checkpoints and exact resume.

A checkpoint is a folder ``checkpoints/step-NNNNNN`` that appears under its name only when it is complete. It holds the weights (or
adapters) in safetensors, the optimiser and schedule, the random states, and the positions of the run's logs.
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


def folder_of(out: Path, step: int) -> Path:
    """The folder of a step's checkpoint."""
    return out / "checkpoints" / f"step-{step:06d}"


def save(out: Path, progress: Progress, network: Any, state: Mapping[str, Any], keep: int) -> Path:
    """Write a checkpoint atomically, then drop the oldest ones, never the best.

    Args:
        out: The run folder.
        progress: Saved as progress.json.
        network: Saved by its own `save_pretrained` (adapters only where it has them).
        state: Optimiser, schedule and random states: tensors and plain values.
        keep: How many to keep beside the best.
    """
    final = folder_of(out, progress.step)
    partial = final.with_name(f".partial-{final.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    network.save_pretrained(partial / "model")
    torch.save(dict(state), partial / "state.pt")
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
    return final


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


def random_states() -> dict[str, Any]:
    """All random states a run depends on; rollouts and data order are functions of the seed and need none."""
    states: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_random(states: Mapping[str, Any]) -> None:
    """Put the random states back."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
