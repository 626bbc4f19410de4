"""``visurf init``: look at a data file and write a short recipe for it."""

from __future__ import annotations

from pathlib import Path

from visurf.config import DataConfig
from visurf.data import load_data
from visurf.tasks import TASKS
from visurf.types import DataError, Objects

TEMPLATE = """\
# {count} samples{empty}; images up to {width} x {height} pixels.
# Run it:      visurf train {recipe}
# Measure it:  visurf eval {out}/model {data} --recipe {recipe}
model:
  path: {model}
data:
  train: {data}{images}
  # validation: a second file of the same layout, evaluated every evaluation.every steps
task:
  name: {task}
paradigm: visurf        # or sft, rlvr, sft_then_rlvr, luffy, ...: docs/paradigms.md
rollout:
  group_size: 8
  max_tokens: 512
optimizer:
  lr: 1.0e-6
steps: {steps}
prompts_per_step: {prompts}
out: {out}
"""


def write_recipe(data: Path, model: str, path: Path, images: Path | None = None) -> str:
    """Validate a JSONL file, choose its task, and write a recipe.

    Args:
        data: The JSONL file; every row is checked.
        model: Folder or hub name of the checkpoint.
        path: Where the recipe goes.
        images: Folder that image paths are relative to; None for the data's own.

    Returns:
        The recipe's text.

    Raises:
        DataError: A bad row, or targets that no single task takes.
    """
    problems = []
    for task in TASKS.values():
        try:
            found = load_data(str(data), DataConfig(images=str(images or "")), task)
            break
        except DataError as error:
            problems.append(error)
            if "needs" not in str(error):
                raise
    else:
        raise DataError(f"{data}: no task takes all of its targets; {problems[0]}")
    sizes = [sample.size for sample in found.samples]
    empty = sum(isinstance(s.target, Objects) and not s.target.boxes for s in found.samples)
    count = len(found.samples)
    prompts = min(16, count)
    text = TEMPLATE.format(
        count=count,
        empty=f", {empty} of them without an object" if empty else "",
        width=max(w for w, _ in sizes),
        height=max(h for _, h in sizes),
        recipe=path,
        data=data,
        images=f"\n  images: {images}" if images else "",
        model=model,
        task=task.name,
        steps=max(20, min(500, 3 * count // prompts)),
        prompts=prompts,
        out=Path("runs") / path.stem,
    )
    path.write_text(text)
    return text
