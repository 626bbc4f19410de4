"""A run, at its end or a step, as a folder that others can load: model or adapters, recipe, prompt, card; uploaded when asked."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visurf import accounting
from visurf.config import load_config
from visurf.model_card import prompt_of, write_card

_NO_ADAPTERS = "it was trained without model.lora.rank; leave --adapter out"


def export_run(
    run: Path, out: Path | None = None, *, adapter: bool = False, records: Sequence[Path] = (), step: int | str = ""
) -> Path:
    """Write a run's model, or its adapters, beside its prompt and a card; the folder appears under its name when it is complete.

    Args:
        run: The folder of a run that has ended, or with `step` of any run.
        out: Where; None for `export` in the run folder, and `export-step-N` for a step. An earlier export there is replaced.
        adapter: The low-rank adapters alone.
        records: Files of records whose measures stand in the card.
        step: The model as a checkpoint has it: its step, or ``best`` for that of the best validation; empty for the run's end.

    Raises:
        ValueError: The run has not ended, has no such checkpoint or no adapters, or `out` holds something that is no export.
    """
    if not (run / "config.yaml").is_file() or not (step or (run / "summary.json").is_file()):
        raise ValueError(f"{run}: expected the folder of a run that has ended, with config.yaml and summary.json, or a --step")
    number = _step_of(run, step) if step else 0
    out = out or run / (f"export-step-{number:06d}" if number else "export")
    if out.exists() and not ((out / "README.md").is_file() and (out / "config.yaml").is_file()):
        raise ValueError(f"{out} exists and is no earlier export; choose another --out")
    source = run / ("adapter" if adapter else "model")
    if not number and not source.is_dir():
        raise ValueError(f"{run}: there is no {source.name} folder; {_NO_ADAPTERS if adapter else 'train the run to its end'}")
    # Before gigabytes are written: a file of records may be none.
    card = write_card(run, adapter=adapter, records=records, reached=_reached(run, number) if number else None)
    partial = out.with_name(f".partial-{out.name}")
    shutil.rmtree(partial, ignore_errors=True)
    if number:
        _write_step(run, number, partial, adapter=adapter)
    else:
        shutil.copytree(source, partial)
    shutil.copy(run / "config.yaml", partial / "config.yaml")
    (partial / "prompt.txt").write_text(prompt_of(load_config(run / "config.yaml")), encoding="utf-8")
    # peft writes an empty card of its own.
    (partial / "README.md").write_text(card, encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    partial.replace(out)
    return out


def _step_of(run: Path, step: int | str) -> int:
    """The number of a checkpoint that is there."""
    from visurf import checkpoint

    there = sorted(checkpoint.steps_in(run))
    listed = ", ".join(map(str, there)) or "none"
    if step == "best":
        last = checkpoint.latest(run)
        number = checkpoint.read_progress(last).best_step if last else -1
        if number < 0:
            raise ValueError(f"{run}: no best step is known; it needs data.validation and evaluation.every. Checkpoints: {listed}")
    elif str(step).isdecimal():
        number = int(step)
    else:
        raise ValueError(f"--step: expected a number or best, got {step!r}")
    if number not in there:
        raise ValueError(f"{run}: there is no checkpoint of step {number}; there are: {listed} (checkpoint.every, checkpoint.keep)")
    return number


def _reached(run: Path, number: int) -> dict[str, Any]:
    """What a run had come to at a checkpoint, as summary.json would say it."""
    from visurf import checkpoint
    from visurf.alarms import read_metrics

    progress = checkpoint.read_progress(checkpoint.folder_of(run, number))
    rows = read_metrics(run / "metrics.jsonl", progress.metrics_bytes)
    last = rows[-1] if rows and rows[-1]["step"] == number else {}
    scores = {name.removeprefix("validation/"): value for name, value in last.items() if name.startswith("validation/")}
    return {"steps": number, "seconds": progress.seconds, "validation": scores, "cost": accounting.totals(rows)}


def _write_step(run: Path, number: int, folder: Path, *, adapter: bool) -> None:
    """Write the model that a checkpoint holds."""
    from visurf import checkpoint
    from visurf.exporting import export
    from visurf.preparation import load_stage, start_of
    from visurf.stages import stages

    kept = checkpoint.folder_of(run, number)
    problems = checkpoint.damage(kept)
    if problems:
        raise ValueError(f"the checkpoint {kept} is damaged: {problems[0]}")
    config, progress = load_config(run / "config.yaml"), checkpoint.read_progress(kept)
    stage = stages(config)[progress.stage]
    if adapter and not stage.config.model.lora.rank:
        raise ValueError(f"{run}: there are no adapters; {_NO_ADAPTERS}")
    model, network = load_stage(stage.config, start_of(config, run, progress.stage), kept)
    if adapter:
        save: Any = network
        save.save_pretrained(folder)
    else:
        export(model, network, folder)


def push(folder: Path, name: str) -> str:
    """Upload an exported folder to the hub, to a repository that is made private if it is new.

    Args:
        folder: From `export_run`.
        name: ``user/repository``.

    Returns:
        The address.

    Raises:
        ValueError: The name is none of a repository.
        OSError: The hub cannot be reached or refuses.
    """
    if name.count("/") != 1 or not all(name.split("/")):
        raise ValueError(f"--push: expected user/repository, got {name!r}")
    from huggingface_hub import HfApi

    hub = HfApi()
    try:
        hub.create_repo(name, private=True, exist_ok=True)
        hub.upload_folder(folder_path=str(folder), repo_id=name, commit_message="visurf export")
    except Exception as error:  # of several libraries for HTTP each has errors of its own
        later = shlex.join(["hf", "upload", name, str(folder), "--private"])
        raise OSError(
            f"{folder} is complete, but was not uploaded ({type(error).__name__}: {error}). Upload it when the hub can be reached, "
            f"after `hf auth login`: {later}"
        ) from error
    return f"https://huggingface.co/{name}"
