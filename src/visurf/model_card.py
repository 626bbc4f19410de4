"""The card of a trained model, from what its run folder says: data, paradigm, measures with intervals, command, versions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from visurf import judging
from visurf.config import Config, load_config
from visurf.naming import look_up
from visurf.stages import stages
from visurf.tasks import TASKS, Task
from visurf.whole_files import read_rows

# What a run writes at each start, where it does.
INVOCATIONS = "invocations.jsonl"
PACKAGES = ("visurf", "torch", "transformers", "peft")


@dataclass(frozen=True)
class Measured:
    """One file of records: where it comes from, how many samples, and a line of the table for each metric."""

    name: str
    samples: int
    rows: tuple[tuple[str, str], ...]


def measure(task: Task, name: str, path: Path) -> Measured:
    """The measures of a file of records with 95 % bootstrap intervals over its samples.

    Raises:
        ValueError: The file cannot be read, or is no record file of `visurf eval`.
    """
    try:
        summary = judging.summary(task, read_rows(path))
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"{path}: {reason}; expected records.jsonl, which `visurf eval` writes into its --out folder") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected records.jsonl of `visurf eval`, one verdict a line; got {error!r}") from error
    rates = {"parse_failed": summary.parse_failure_rate, "truncated": summary.truncation_rate}
    rows = tuple((metric, str(interval)) for metric, interval in {**summary.metrics, **rates}.items())
    return Measured(name, summary.n, rows)


def write_card(run: Path, *, adapter: bool, records: Sequence[Path] = (), reached: Mapping[str, Any] | None = None) -> str:
    """The card, Markdown with the hub's YAML head.

    Args:
        run: The folder of a run.
        adapter: Whether it describes the adapters alone.
        records: Further files of records to measure; the run's own validation comes first where it was kept.
        reached: What the run had come to, as summary.json says it, for an earlier step than the last; None for the end.

    Raises:
        ValueError: A file of records is none.
    """
    config = load_config(run / "config.yaml")
    summary = reached or json.loads((run / "summary.json").read_text())
    # The records that a run keeps are those of its last evaluation.
    own = run / ("" if reached else "validation.jsonl")
    task = look_up(config.task.name, TASKS, "task")
    measured = [measure(task, config.data.validation, own)] if own.is_file() else []
    measured += [measure(task, f"`{path.parent.name}/{path.name}`", path) for path in records]
    parts = [
        _head(config, adapter),
        f"# {_safe(run.name)}\n",
        f"{_safe(config.model.path)}, post-trained on the task `{_safe(config.task.name)}` with the paradigm "
        f"`{_safe(config.paradigm)}` by [visurf](https://arxiv.org/abs/2510.10606). " + _form(config, adapter) + "\n",
        "## Training\n\n" + _table(_training(config, summary)),
        "## Measures\n\n" + _measures(measured, summary),
        "## How it was made\n\n" + _origin(run),
        "## Use\n\n" + _use(config, adapter),
        "## Limits\n\nLicence and limits are those of the base model and of the data. The measures above are all that was "
        "measured here; nothing else is claimed.\n",
    ]
    return "\n".join(parts)


def _safe(text: object) -> str:
    """Text from a recipe on one line, without what Markdown or HTML would act on."""
    return re.sub(r"[`<>|\[\]\r\n]", " ", str(text))


def _head(config: Config, adapter: bool) -> str:
    about: dict[str, Any] = {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "image-text-to-text",
        # The default paradigm has the library's name.
        "tags": list(dict.fromkeys(("visurf", config.paradigm, config.task.name))),
    }
    # The hub takes names of repositories only; a folder's path says nothing to others.
    if re.fullmatch(r"[\w.-]+/[\w.-]+", config.model.path) and not Path(config.model.path).exists():
        about["base_model"] = config.model.path
    return f"---\n{yaml.safe_dump(about, sort_keys=False)}---\n"


def _form(config: Config, adapter: bool) -> str:
    if adapter:
        held = "" if config.model.lora.quantize == "none" else f", held in {config.model.lora.quantize} while they were trained"
        return f"This folder holds low-rank adapters (rank {config.model.lora.rank}) for that model{held}."
    merged = " with the low-rank adapters merged" if config.model.lora.rank else ""
    bits = config.model.lora.quantize
    apart = f" They were trained on the base in {bits} and merged into its own weights: not exactly what was trained." * (
        bits != "none"
    )
    return f"This folder holds the whole model{merged}.{apart}"


def _training(config: Config, summary: Mapping[str, Any]) -> dict[str, object]:
    parts = "; ".join(f"{s.paradigm.name}: {s.end - s.first} steps" for s in stages(config))
    cost = summary.get("cost", {})
    rows: dict[str, object] = {
        "base model": config.model.path,
        "training data": config.data.train,
        "validation data": config.data.validation or "none",
        "stages": parts,
        "steps done": summary["steps"],
        "rollouts a prompt": config.rollout.group_size,
        "prompts a step": config.prompts_per_step,
        "learning rate": config.optimizer.lr,
        "reward": config.reward.variant,
        "seed": config.seed,
        "hours": f"{summary['seconds'] / 3600:.2f} on {cost.get('processes', 1)} process(es)",
    }
    if flops := sum(value for name, value in cost.items() if name.startswith("flops/")):
        rows["computed"] = f"{flops:.3g} FLOPs, {cost['train/tokens']:,.0f} tokens trained"
    return rows


def _table(rows: Mapping[str, object]) -> str:
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {_safe(value)} |\n" for name, value in rows.items())


def _measures(measured: Sequence[Measured], summary: Mapping[str, Any]) -> str:
    if not measured:
        last = summary.get("validation") or {}
        if not last:
            return "None were made during training, and no records were given.\n"
        return "Evaluation during the run, without intervals (its records were not kept):\n\n" + _table(
            {name: "none" if value is None else f"{value:.4f}" for name, value in last.items()}
        )
    text = "Fractions, greedy decoding, with 95 % bootstrap intervals over samples. One run: nothing here speaks of other seeds.\n"
    for one in measured:
        rows = "".join(f"| {name} | {value} |\n" for name, value in one.rows)
        text += f"\n{_safe(one.name)}, {one.samples} samples:\n\n| metric | value |\n|---|---|\n{rows}"
    return text


def _origin(run: Path) -> str:
    starts = read_rows(run / INVOCATIONS) if (run / INVOCATIONS).exists() else []
    commands = list(dict.fromkeys(start["command"] for start in starts)) or ["visurf train config.yaml"]
    text = "".join(f"    {_safe(command)}\n" for command in commands)
    text += "\nAll settings are in `config.yaml` beside this card; `visurf train config.yaml` repeats the run.\n\n"
    versions = starts[-1].get("versions") if starts else None
    when = "Versions" if versions else "Versions at the time of the export"
    return text + f"{when}: " + ", ".join(f"{name} {value}" for name, value in (versions or _installed()).items()) + ".\n"


def _installed() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def prompt_of(config: Config) -> str:
    """The prompt that a run was trained with, its slots such as ``{question}`` to be filled in."""
    task = look_up(config.task.name, TASKS, "task")
    prompt = config.task.prompt or task.default_prompt
    return task.prompts.get(prompt, prompt)


def _use(config: Config, adapter: bool) -> str:
    if adapter:
        load = (
            "from peft import PeftModel\nfrom transformers import AutoModelForImageTextToText\n\n"
            f'base = AutoModelForImageTextToText.from_pretrained("{_safe(config.model.path)}")\n'
            'model = PeftModel.from_pretrained(base, "FOLDER")\n'
        )
    else:
        load = (
            "from transformers import AutoModelForImageTextToText, AutoTokenizer\n\n"
            'model = AutoModelForImageTextToText.from_pretrained("FOLDER")\ntokenizer = AutoTokenizer.from_pretrained("FOLDER")\n'
        )
    asked = "\n".join(f"    {line}" for line in prompt_of(config).splitlines())
    return (
        f"```python\n{load}```\n\nIt was trained with this question, `{{question}}` filled in (`prompt.txt` holds it):\n\n{asked}\n"
    )
