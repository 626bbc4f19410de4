"""Where a model comes from: a folder, a run's folder, a name on the hub; what is neither is told before anything is loaded."""

from __future__ import annotations

import re
from pathlib import Path

_RUNS = "runs"
_SECONDS = 10.0
_STEP = re.compile(r"step-\d+")


def run_of(source: str | Path) -> Path | None:
    """The folder of a run, with its config.yaml, where the source names one and no folder in the hub's layout."""
    folder = Path(source)
    return folder if (folder / "config.yaml").is_file() and not (folder / "config.json").is_file() else None


def model_of(source: str) -> str:
    """The model that a source names: of a run's folder the model in it, else the source itself.

    Raises:
        ValueError: The run has no model yet, or the source is a checkpoint, or a path where no folder is.
    """
    run = run_of(source)
    if run is None:
        check_path(source)
        return source
    if not (run / "model").is_dir():
        raise ValueError(f"{run}: this run has no model yet; train it to its end, or `visurf export {run} --step best`")
    return str(run / "model")


def check_path(source: str) -> None:
    """Refuse what can only be a path, where no folder is, and a checkpoint, which has no processor.

    Raises:
        ValueError: There is no such folder, or it is a checkpoint.
    """
    path = Path(source).expanduser()
    kept = next((p for p in (path, *path.parents) if p.parent.name == "checkpoints" and _STEP.fullmatch(p.name)), None)
    if kept is not None and path.is_dir() and not (path / "preprocessor_config.json").is_file():
        export = f"`visurf export {kept.parent.parent} --step {int(kept.name.removeprefix('step-'))}`"
        raise ValueError(f"{source}: a checkpoint, which a run goes on from; {export} makes a model of it")
    if not path.is_dir() and (source.startswith(("/", ".", "~", f"{_RUNS}/")) or source.count("/") > 1 or _beside_runs(path)):
        raise ValueError(f"{source}: no such folder; name a folder in the hub's layout, a run's folder, a hub name, or mini")


def _beside_runs(path: Path) -> bool:
    """Whether the folder around a path holds runs, so that it can be no owner's name on the hub."""
    parent = path.parent
    return parent != Path() and parent.is_dir() and any(run_of(folder) is not None for folder in parent.iterdir())


def check_reachable(source: str) -> None:
    """Ask once whether a hub name can be had: transformers would ask five times for each file.

    Raises:
        OSError: It is neither a folder, nor in the hub's cache, nor on a hub that answers.
        ValueError: It can only be a path and no folder is there, or it is a checkpoint.
    """
    check_path(source)
    if Path(source).is_dir():
        return
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    reason = ""
    try:
        if isinstance(try_to_load_from_cache(source, "config.json"), str):
            return
        if HF_HUB_OFFLINE:
            reason = "HF_HUB_OFFLINE is set, and the model is not in the cache"
        else:
            HfApi().model_info(source, timeout=_SECONDS)
            return
    except RepositoryNotFoundError:
        reason = "the hub has none of that name, or wants `hf auth login` first"
    except HfHubHTTPError:
        # The hub answers: what it wants, such as a licence to be accepted, is said where the files are asked for.
        return
    except HFValidationError:
        reason = "it can be no name on the hub"
    except Exception as error:  # noqa: BLE001 - of several libraries for HTTP each has errors of its own
        reason = f"the hub was not reached ({type(error).__name__})"
    raise OSError(
        f"{source}: no such folder, and no hub model reached: {reason}. `hf download {source}` on a machine with network, then "
        "model.path=FOLDER; a model that is in the cache is found with HF_HUB_OFFLINE=1"
    )
