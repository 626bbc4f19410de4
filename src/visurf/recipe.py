"""``visurf init``: look at a data file and write a short recipe for it."""

from __future__ import annotations

import json
import math
import re
import shlex
from pathlib import Path

import yaml

from visurf.config import DataConfig
from visurf.data import DataSet, load_data, numbered_lines
from visurf.tasks import TASKS, Task
from visurf.tasks.answers import normalise
from visurf.tasks.yes_no import OPTIONS
from visurf.types import Choice, DataError, Number, Objects, Text

TEMPLATE = """\
# {count} samples{empty}; images up to {width} x {height} pixels.
# Run it:      {train_command}
# Measure it:  {eval_command}
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


def write_recipe(data: Path, model: str, path: Path, images: Path | None = None, *, force: bool = False) -> str:
    """Validate a JSONL file, choose its task, and write a recipe.

    Args:
        data: The JSONL file; every row is checked.
        model: Folder or hub name of the checkpoint.
        path: Where the recipe goes.
        images: Folder that image paths are relative to; None for the data's own.
        force: Write over a file that is there.

    Returns:
        The recipe's text.

    Raises:
        DataError: A bad row, or targets that no single task takes.
        ValueError: There is a file already.
    """
    if path.exists() and not force:
        raise ValueError(f"{path} is there already; name another place with --out, or write over it with --force")
    task, found = choose_task(data, DataConfig(images=str(images or "")))
    sizes = [sample.size for sample in found.samples]
    empty = sum(isinstance(s.target, Objects) and not s.target.boxes for s in found.samples)
    count = len(found.samples)
    prompts = min(16, count)
    out = Path("runs") / path.stem
    text = TEMPLATE.format(
        count=count,
        empty=f", {empty} of them without an object" if empty else "",
        width=max(w for w, _ in sizes),
        height=max(h for _, h in sizes),
        train_command=_command("train", path),
        eval_command=_command("eval", out / "model", data, "--recipe", path),
        data=_scalar(data),
        images=f"\n  images: {_scalar(images)}" if images else "",
        model=_scalar(model),
        task=task.name,
        steps=max(20, min(500, 3 * count // prompts)),
        prompts=prompts,
        out=_scalar(out),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return text


def choose_task(data: Path, config: DataConfig) -> tuple[Task, DataSet]:
    """The task whose prompt asks what the rows' targets answer, and the samples.

    Of answers in words those with the key `text` answer the row's own question; `class` names what the picture shows.

    Raises:
        DataError: A bad row, or targets that no single task takes.
    """
    problems = []
    for task in TASKS.values():
        try:
            found = load_data(str(data), config, task)
            break
        except DataError as error:
            problems.append(error)
            if "needs" not in str(error):
                raise
    else:
        raise DataError(f"{data}: no task takes all of its targets; {problems[0]}")
    targets = [sample.target for sample in found.samples]
    texts = [t for t in targets if isinstance(t, Text)]
    numbers = [t.value for t in targets if isinstance(t, Number)]
    if len(texts) == len(targets):
        asked = any("text" in json.loads(line)["target"] for _, line in numbered_lines(data))
        name = "question_answering" if asked else "classification"
        task = TASKS["yes_no" if all(normalise(t.text) in OPTIONS for t in texts) else name]
    elif len(numbers) == len(targets) and all(v >= 0 and v.is_integer() for v in numbers):
        task = TASKS["counting"]
    elif all(isinstance(t, Choice) for t in targets):
        task = TASKS["multiple_choice"]
    return task, found


def _scalar(value: object) -> str:
    """A text as YAML, in quotes where it needs them."""
    written: str = yaml.safe_dump(str(value), width=math.inf, allow_unicode=True)
    return written.removesuffix("\n").removesuffix("\n...")


def _command(*words: object) -> str:
    """A command as it can be typed, on one line of a comment whatever its paths are called."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", "?", shlex.join(["visurf", *map(str, words)]))
