"""What `visurf report` shows of some runs, gathered from their folders."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from visurf.config import Config, to_dict
from visurf.reporting.correlation import deception
from visurf.reporting.curves import curves
from visurf.reporting.groups import FILTERS, chosen_groups
from visurf.reporting.page import embedded, render
from visurf.reporting.reading import RunFolder, distinct_names, find_runs, read_run
from visurf.small_pictures import FOLDER
from visurf.types import DataError

# The page stays below 10 MB, whatever the runs hold.
LARGEST = 9_500_000
_LEAST_GROUPS = 500_000


def write_report(paths: Sequence[Path], out: Path) -> Path:
    """Write the report of some runs as one file.

    Args:
        paths: Run folders, or folders of run folders.
        out: The HTML file.

    Raises:
        DataError: There is no run.
    """
    text = render(report_data(find_runs(paths)), "visurf report")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(out)
    return out


def report_data(paths: Sequence[Path], *, watch: bool = False, largest: int = LARGEST) -> dict[str, Any]:
    """Everything the page shows.

    Args:
        paths: Run folders.
        watch: For a page that is served: pictures are named by their address instead of embedded.
        largest: Bytes of the page; groups are sampled so that it fits.

    Raises:
        DataError: The curves of so many runs do not leave room for anything else.
    """
    runs = [read_run(path, name) for path, name in zip(paths, distinct_names(paths), strict=True)]
    data: dict[str, Any] = {
        "kind": "report",
        "watch": watch,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "runs": [about(run) for run in runs],
        "curves": curves(runs),
        "deception": [deception(run) for run in runs],
        "filters": FILTERS,
    }
    left = largest - len(render(data, ""))
    if left < _LEAST_GROUPS:
        raise DataError(
            f"the curves of {len(runs)} runs alone fill the page of {largest / 1e6:.1f} MB; report fewer runs at a time"
        )
    budget = left
    while True:
        groups, counts = chosen_groups(runs, budget)
        pictures = {f"{g['run']}/{name}": _source(runs[g["run"]], g["run"], name, watch) for g in groups for name in g["pictures"]}
        found = {**data, "groups": groups, "counts": counts, "pictures": pictures}
        # Escaping makes texts longer by what only they know: measure, and take less where it was too much.
        size = len(embedded([groups, pictures]))
        if size <= left or not groups:
            return found
        budget = int(budget * min(0.9, left / size))


def about(run: RunFolder) -> dict[str, Any]:
    """A run in short: how it was started, with what, how far it got, and where its settings differ from the defaults."""
    last = run.starts[-1] if run.starts else {}
    held_out = {n: v for row in run.metrics for n, v in row.items() if n.startswith("validation/")}
    return {
        "name": run.name,
        "path": str(run.path),
        "paradigm": run.config.get("paradigm", ""),
        "seed": run.config.get("seed"),
        "steps": run.metrics[-1]["step"] if run.metrics else 0,
        "planned": _planned(run.config),
        "seconds": run.seconds,
        "finished": run.finished,
        "damaged": run.damaged,
        "starts": [{k: s.get(k) for k in ("time", "command", "step", "folder")} for s in run.starts],
        "machine": {k: last.get(k) for k in ("device", "machine", "processors", "processes") if k in last},
        "versions": dict(last.get("versions") or {}),
        "settings": changed(run.config),
        "first": _numbers(run.metrics[0]) if run.metrics else {},
        "last": _numbers(run.metrics[-1]) | _numbers(held_out) if run.metrics else {},
    }


def _planned(config: Mapping[str, Any]) -> int:
    """Steps of the whole run; explicit stages bring their own."""
    stages = config.get("stages") or ()
    return int(sum(stage.get("steps", 0) for stage in stages) if stages else config.get("steps", 0))


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {n: v for n, v in row.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def changed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted settings that differ from the defaults, and those that name what a run is about."""
    if not config:
        return {}
    plain, always = _flat(to_dict(Config())), ("model.path", "data.train", "data.validation", "task.name", "paradigm", "seed")
    return {name: value for name, value in _flat(config).items() if name in always or plain.get(name, ...) != value}


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = list(value) if isinstance(value, tuple) else value
    return found


def _source(run: RunFolder, index: int, name: str, watch: bool) -> str | None:
    """What a picture element shows: the picture itself, or its address on the server; None where it has gone."""
    if watch:
        return f"picture/{index}/{name}"
    return picture_data(run.path / FOLDER / name)


def picture_data(path: Path) -> str | None:
    """A small picture as a data address; None where there is none."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


__all__ = ["LARGEST", "about", "changed", "picture_data", "report_data", "write_report"]
