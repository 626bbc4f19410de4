"""A finished run as a folder that others can load: model or adapters, recipe and card; uploaded only when asked."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from visurf.model_card import write_card


def export_run(run: Path, out: Path | None = None, *, adapter: bool = False, records: Sequence[Path] = ()) -> Path:
    """Copy a run's model, or its adapters, beside a card; the folder appears under its name when it is complete.

    Args:
        run: The folder of a run that has ended.
        out: Where; None for `export` in the run folder. An earlier export there is replaced.
        adapter: The low-rank adapters alone.
        records: Files of records whose measures stand in the card.

    Raises:
        ValueError: The run has not ended, has no adapters, or `out` holds something that is no export.
    """
    if not (run / "summary.json").is_file() or not (run / "config.yaml").is_file():
        raise ValueError(f"{run}: expected the folder of a run that has ended, with config.yaml and summary.json")
    source = run / ("adapter" if adapter else "model")
    if not source.is_dir():
        hint = "it was trained without model.lora.rank; leave --adapter out" if adapter else "run `visurf train` to its end"
        raise ValueError(f"{run}: there is no {source.name} folder; {hint}")
    out = out or run / "export"
    if out.exists() and not ((out / "README.md").is_file() and (out / "config.yaml").is_file()):
        raise ValueError(f"{out} exists and is no earlier export; choose another --out")
    card = write_card(run, adapter=adapter, records=records)
    partial = out.with_name(f".partial-{out.name}")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    shutil.copy(run / "config.yaml", partial / "config.yaml")
    # peft writes an empty card of its own.
    (partial / "README.md").write_text(card)
    shutil.rmtree(out, ignore_errors=True)
    partial.replace(out)
    return out


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
    hub.create_repo(name, private=True, exist_ok=True)
    hub.upload_folder(folder_path=str(folder), repo_id=name, commit_message="visurf export")
    return f"https://huggingface.co/{name}"
