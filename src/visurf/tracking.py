"""Where a run's numbers go: metrics.jsonl always, TensorBoard and Weights & Biases when asked for."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from visurf.whole_files import finite_or_null


class Tracker:
    """Appends to metrics.jsonl and rollouts.jsonl, and forwards numbers to the trackers asked for."""

    def __init__(self, out: Path, names: Sequence[str], config: Mapping[str, Any], positions: tuple[int, int] = (0, 0)) -> None:
        """Open the logs.

        Args:
            out: The run folder.
            names: `tensorboard`, `wandb`.
            config: Shown by Weights & Biases.
            positions: Lengths of metrics.jsonl and rollouts.jsonl to go on from; what lies behind came from steps that
                will be done again.
        """
        out.mkdir(parents=True, exist_ok=True)
        self._files = []
        for name, position in zip(("metrics.jsonl", "rollouts.jsonl"), positions, strict=True):
            handle = (out / name).open("ab")
            if handle.tell() < position:
                lost = f"{out / name} has {handle.tell()} bytes, the checkpoint knows of {position}"
                warnings.warn(f"{lost}: lines of earlier steps are missing there", stacklevel=2)
                position = handle.tell()
            handle.truncate(position)
            handle.seek(position)
            self._files.append(handle)
        self._board: Any = None
        self._wandb: Any = None
        if "tensorboard" in names:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(out / "tensorboard"))
        if "wandb" in names:
            import hashlib

            import wandb

            # The same folder goes on as the same run; two folders of one name are two runs.
            run = f"{out.name}-{hashlib.blake2b(str(out.resolve()).encode(), digest_size=4).hexdigest()}"

            self._wandb = wandb.init(project="visurf", dir=str(out), name=out.name, config=dict(config), resume="allow", id=run)

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Write one line of metrics; a number that is not finite is null there."""
        metrics = finite_or_null(metrics)
        self._write(0, {"step": step, **metrics})
        numbers = {k: v for k, v in metrics.items() if isinstance(v, int | float)}
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)

    def rollouts(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write sampled groups."""
        for row in rows:
            self._write(1, row)

    def _write(self, index: int, row: Mapping[str, Any]) -> None:
        self._files[index].write((json.dumps(row, ensure_ascii=False) + "\n").encode())
        self._files[index].flush()

    @property
    def positions(self) -> tuple[int, int]:
        """Lengths of the two logs."""
        return self._files[0].tell(), self._files[1].tell()

    def to_disk(self) -> None:
        """Have the logs on the disk, before a checkpoint says how long they are."""
        for handle in self._files:
            os.fsync(handle.fileno())

    def close(self) -> None:
        """Flush and close everything."""
        for handle in self._files:
            handle.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()
