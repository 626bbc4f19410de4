"""What a run writes to the disk, against what is free there: checkpoints, stages and the model at the end. Torch-free."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from visurf.config import Config
from visurf.doctor.memory import trained_parameters
from visurf.doctor.shape import Shape
from visurf.doctor.work import Precision
from visurf.stages import stages


@dataclass(frozen=True)
class Written:
    """Bytes that a run folder takes.

    Attributes:
        checkpoint: Of one checkpoint: what is trained, and its two moments; with adapters nothing else.
        checkpoints: How many there are at once at most, the one being written included.
        models: Of whole models: the final one, and those that later stages start from.
    """

    checkpoint: float
    checkpoints: int
    models: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.checkpoint * self.checkpoints + self.models


def written(shape: Shape, config: Config, precision: Precision) -> Written:
    """What a run writes.

    Args:
        shape: Of the model.
        config: The recipe: `checkpoint.every`, `checkpoint.keep`, stages, validations.
        precision: Of the numbers, which are written as they are held.
    """
    trained = trained_parameters(shape, config) * precision.trained
    weights = trained if config.model.lora.rank else shape.parameters * precision.weight
    staged = stages(config)
    ends = [stage.end for stage in staged]
    every = config.checkpoint.every
    steps = {*ends, *(range(every, ends[-1] + 1, every) if every else ())}
    best = int(bool(every and config.data.validation and config.evaluation.every))
    # The oldest is deleted only when the newest is complete.
    kept = min(len(steps), config.checkpoint.keep + 1) if config.checkpoint.keep > 0 else len(steps)
    return Written(float(weights + 2 * trained), kept + best, float(len(staged) * shape.parameters * precision.weight))


def room_for(out: Path) -> tuple[Path, int]:
    """The nearest folder of `out` that is there, and the bytes that a run can fill: what is free, and its own checkpoints."""
    place = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.is_dir())
    # A run that goes on deletes its old checkpoints as it writes new ones.
    own = sum(file.stat().st_size for file in (out / "checkpoints").rglob("*") if file.is_file())
    return place, shutil.disk_usage(place).free + own
