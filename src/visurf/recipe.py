"""``visurf init``: look at a data file and write a short recipe for it."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from visurf.config import Config, DataConfig, build, merge
from visurf.data import DataSet, load_data, numbered_lines
from visurf.naming import look_up
from visurf.tasks import TASKS, Task
from visurf.tasks.answers import normalise
from visurf.tasks.yes_no import OPTIONS
from visurf.types import Choice, DataError, Detections, Number, Objects, Text

HEADER = """\
# {count} samples{empty}; images up to {width} x {height} pixels.
# Check it:    {check_command}
# Run it:      {train_command}
# Measure it:  {eval_command}
"""
# What stands before a key of the recipe.
REMARKS = {
    "data": "# data.validation: a second file of the same layout, evaluated every evaluation.every steps",
    "paradigm": "# or sft, rlvr, sft_then_rlvr, luffy, ...: docs/paradigms.md",
}
# Without them a model of 3B and more fits no usual GPU (docs/memory.md); rank, alpha and learning rate as in the shipped recipes
# for one GPU, pixels as in the examples of Qwen's own model cards: 1280 features of a picture.
SPARING = {"gradient_checkpointing": True, "max_pixels": 1280 * 28 * 28}
ADAPTERS = {"freeze_vision": True, "lora": {"rank": 64, "alpha": 128}}
ADAPTER_RATE, FULL_RATE = 1e-5, 1e-6
# The embedded model was taught the bare question and short answers, and its rate is a tiny model's (visurf/mini/demo.yaml).
MINI_RATE, MINI_TOKENS = 1e-4, 64


@dataclass(frozen=True)
class Written:
    """A recipe that was written.

    Attributes:
        text: What stands in its file.
        samples: Rows of the data.
        prompts: Of one step.
    """

    text: str
    samples: int
    prompts: int

    @property
    def epoch(self) -> str:
        """How many steps go through all rows once, in words."""
        steps = self.samples / self.prompts
        return f"an epoch is {steps:.4g} step{'' if steps == 1 else 's'}: {self.samples} rows / {self.prompts} prompts_per_step"


def write_recipe(
    data: Path,
    model: str,
    path: Path,
    images: Path | None = None,
    changes: Mapping[str, Any] | None = None,
    *,
    full: bool = False,
    force: bool = False,
) -> Written:
    """Validate a JSONL file, choose its task, and write a recipe.

    Args:
        data: The JSONL file; every row is checked.
        model: Folder or hub name of the checkpoint.
        path: Where the recipe goes.
        images: Folder that image paths are relative to; None for the data's own.
        changes: Settings of the user's own, nested; those of `data` hold for the check of the rows too.
        full: Train all parameters, instead of adapters where the model is not the embedded one.
        force: Write over a file that is there.

    Raises:
        ConfigError: A change that no recipe can have.
        DataError: A bad row, or targets that no single task takes.
        ValueError: There is a file already.
    """
    if path.exists() and not force:
        raise ValueError(f"{path} is there already; name another place with --out, or write over it with --force")
    changes = changes or {}
    if "train" in (changes.get("data") or {}):
        raise ValueError(f"data.train: {data} is what the recipe trains on; leave it out")
    asked = {"model": {"path": model}, "data": {"train": str(data)} | ({"images": str(images)} if images else {})}
    config = build(Config, merge(asked, changes))
    named = config.task.name if "name" in changes.get("task", {}) else ""
    task, found = choose_task(data, config.data, named)
    sizes = [sample.size for sample in found.samples]
    empty = sum(isinstance(s.target, Objects | Detections) and not s.target.boxes for s in found.samples)
    count = len(found.samples)
    prompts = int(changes.get("prompts_per_step", min(16, count)))
    out = Path("runs") / path.stem
    mini = config.model.path == "mini"
    values = {
        "model": asked["model"] | _held(config.model.path, full=full),
        "data": asked["data"],
        "task": {"name": task.name} | ({"prompt": "bare"} if mini and "bare" in task.prompts else {}),
        "paradigm": "visurf",
        "rollout": {"group_size": 8, "max_tokens": MINI_TOKENS if mini else 512},
        "optimizer": {"lr": MINI_RATE if mini else FULL_RATE if full else ADAPTER_RATE},
        "steps": max(20, min(500, 3 * count // prompts)),
        "prompts_per_step": prompts,
        "out": str(out),
    }
    values = merge(values, changes)
    out = Path(build(Config, values).out)
    header = HEADER.format(
        count=count,
        empty=f", {empty} of them without an object" if empty else "",
        width=max(w for w, _ in sizes),
        height=max(h for _, h in sizes),
        check_command=_command("check", path),
        train_command=_command("train", path),
        eval_command=_command("eval", out, "TEST.jsonl"),
    )
    written = Written("", count, prompts)
    remarks = {**REMARKS, "steps": f"# {written.epoch}"}
    lines = [f"{remarks[key]}\n{_yaml({key: value})}" if key in remarks else _yaml({key: value}) for key, value in values.items()]
    written = replace(written, text=header + "".join(lines))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(written.text, encoding="utf-8")
    return written


def _held(model: str, *, full: bool) -> dict[str, Any]:
    """How a model of billions of parameters is held so that it fits one GPU; the embedded one needs none of it."""
    if model == "mini":
        return {}
    # The tiles of LLaVA-OneVision are part of the checkpoint: its image processor has no limit of pixels.
    limited = {name: value for name, value in SPARING.items() if name != "max_pixels" or "llava" not in _kind(model)}
    return limited if full else limited | ADAPTERS


def _kind(model: str) -> str:
    """What a folder's config.json says it is, or else its name."""
    try:
        kind = str(json.loads((Path(model) / "config.json").read_bytes())["model_type"])
    except (OSError, ValueError, KeyError, TypeError):
        kind = model
    return kind.casefold()


def choose_task(data: Path, config: DataConfig, named: str = "") -> tuple[Task, DataSet]:
    """The task whose prompt asks what the rows' targets answer, and the samples.

    Of answers in words those with the key `text` answer the row's own question; `class` names what the picture shows.

    Args:
        data: The JSONL file.
        config: Its layout.
        named: The task, where it is known.

    Raises:
        DataError: A bad row, or targets that no single task, or not the named one, takes.
    """
    if named:
        task = look_up(named, TASKS, "task")
        return task, load_data(str(data), config, task)
    problems = []
    for task in _tried(Path(config.root, data)):
        try:
            found = load_data(str(data), config, task)
            break
        except DataError as error:
            problems.append(error)
            # Where bad rows are skipped, rows that a task does not take are all skipped.
            if "needs" not in str(error) and not (config.on_bad_sample == "skip" and "no usable sample" in str(error)):
                raise
    else:
        raise DataError(f"{data}: no task takes all of its targets; {problems[0]}")
    targets = [sample.target for sample in found.samples]
    texts = [t for t in targets if isinstance(t, Text)]
    numbers = [t.value for t in targets if isinstance(t, Number)]
    if len(texts) == len(targets):
        task = TASKS["yes_no"] if all(normalise(t.text) in OPTIONS for t in texts) else task
    elif len(numbers) == len(targets) and all(v >= 0 and v.is_integer() for v in numbers):
        task = TASKS["counting"]
    elif all(isinstance(t, Choice) for t in targets):
        task = TASKS["multiple_choice"]
    return task, found


def _tried(rows: Path) -> Iterator[Task]:
    """The tasks in the order in which they are tried; what is no row at all is told by the first."""
    for task in TASKS.values():
        # Not every answer in words can be the name of a class: a lone stop is none.
        if task.name == "classification" and any("text" in target for target in _targets(rows)):
            yield TASKS["question_answering"]
        yield task


def _targets(rows: Path) -> Iterator[Mapping[str, Any]]:
    """The targets that are objects, of the rows that are rows."""
    for _, line in numbered_lines(rows):
        with suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("target"), dict):
                yield row["target"]


def _yaml(values: Mapping[str, Any]) -> str:
    """Values as a block of YAML, a long text on one line."""
    written: str = yaml.safe_dump(dict(values), width=math.inf, allow_unicode=True, sort_keys=False)
    return written


def _command(*words: object) -> str:
    """A command as it can be typed, on one line of a comment whatever its paths are called."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", "?", shlex.join(["visurf", *map(str, words)]))
