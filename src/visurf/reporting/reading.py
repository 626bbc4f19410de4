"""Run folders as a report sees them: read while they may still grow, and never written to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from visurf.plain_yaml import read_yaml
from visurf.provenance import INVOCATIONS
from visurf.types import DataError

METRICS, ROLLOUTS, CONFIG = "metrics.jsonl", "rollouts.jsonl", "config.yaml"


@dataclass(frozen=True)
class RunFolder:
    """What a run folder holds at one moment.

    Attributes:
        path: The folder.
        name: What the page calls it; names of several runs differ.
        config: Its resolved configuration; empty where there is none.
        starts: The lines of invocations.jsonl.
        metrics: One row per step, by step; of a step that was done again the last.
        groups: The lines of rollouts.jsonl, not parsed.
        seconds: Of the steps so far; 0 where unknown.
        finished: Whether summary.json says that the run came to its end.
        damaged: Complete lines that are no JSON object.
    """

    path: Path
    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    starts: Sequence[Mapping[str, Any]] = ()
    metrics: Sequence[Mapping[str, Any]] = ()
    groups: Sequence[bytes] = ()
    seconds: float = 0.0
    finished: bool = False
    damaged: int = 0


def complete_lines(path: Path) -> list[bytes]:
    """The lines of a file that end; a last one that is still being written is left for the next time."""
    if not path.is_file():
        return []
    data = path.read_bytes()
    return [line for line in data[: data.rfind(b"\n") + 1].split(b"\n") if line.strip()]


def parsed(line: bytes) -> dict[str, Any] | None:
    """A line as a JSON object, or None."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def read_run(path: Path, name: str = "") -> RunFolder:
    """Read a run folder.

    Raises:
        DataError: It holds neither metrics nor a configuration.
    """
    if not (path / METRICS).is_file() and not (path / CONFIG).is_file():
        raise DataError(f"{path}: expected a run folder with {METRICS}; `visurf train` makes one, its `out` says where")
    lines = complete_lines(path / METRICS)
    rows = [parsed(line) for line in lines]
    sound = [row for row in rows if row is not None and isinstance(row.get("step"), int)]
    starts = [row for line in complete_lines(path / INVOCATIONS) if (row := parsed(line)) is not None]
    return RunFolder(
        path,
        name or path.name,
        _config(path / CONFIG),
        starts,
        [row for _, row in sorted({row["step"]: row for row in sound}.items())],
        complete_lines(path / ROLLOUTS),
        sum(_number(row.get("time/step")) for row in sound),
        (path / "summary.json").is_file(),
        len(rows) - len(sound),
    )


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _config(path: Path) -> dict[str, Any]:
    """The configuration; empty where it is missing, half written or from another version's hand."""
    try:
        found = read_yaml(path.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """The run folders among some folders, or below them: a folder of runs, such as the demo's, stands for all in it.

    Raises:
        DataError: There is no run in one of them.
    """
    found: dict[Path, None] = {}
    for path in paths:
        below = [path] if (path / METRICS).is_file() or (path / CONFIG).is_file() else sorted(_below(path))
        if not below:
            raise DataError(f"{path}: expected a run folder, or a folder with some, but found no {METRICS} in or below it")
        found |= dict.fromkeys(below)
    return list(found)


def _below(path: Path) -> Iterator[Path]:
    for pattern in ("*", "*/*"):
        for file in path.glob(f"{pattern}/{METRICS}"):
            yield file.parent


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """A short name for each folder: as few of its last parts as tell it from the others.

    >>> distinct_names([Path("a/run"), Path("b/run"), Path("c")])
    ['a/run', 'b/run', 'c']
    """
    resolved = [path.resolve().parts for path in paths]
    names = []
    for parts in resolved:
        count = 1
        while count < len(parts) and sum(other[-count:] == parts[-count:] for other in resolved) > 1:
            count += 1
        names.append("/".join(parts[-count:]))
    return names


def stamp(paths: Sequence[Path]) -> tuple[tuple[int, int], ...]:
    """Sizes and times of the files that a page shows: it changes when they do."""
    found = []
    for path in paths:
        for name in (METRICS, ROLLOUTS, CONFIG, INVOCATIONS, "summary.json"):
            try:
                status = (path / name).stat()
            except OSError:
                found.append((-1, -1))
            else:
                found.append((status.st_size, status.st_mtime_ns))
    return tuple(found)
