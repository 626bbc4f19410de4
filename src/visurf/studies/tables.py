"""Results as one table, a row a run: CSV and parquet. No torch."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from visurf.metrics.intervals import Interval
from visurf.studies.analysis import Cell, interval, side_drops
from visurf.studies.costs import UNITS

_FIRST = ("role", "name", "matching", "status", "stage", "error")


def rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One flat row for every run, those that failed too.

    Columns: what the run is; ``axis/NAME``; ``chosen/SETTING``; steps and costs in every unit; ``test/TEST/METRIC`` with ``_low``
    and ``_high`` of its 95 % interval over prompts; ``side/TASK/METRIC`` after training, with ``_before`` and ``_drop``;
    ``alarm/KIND``, the step of the first alarm.
    """
    return [_row(run) for run in results["runs"]]


def _row(run: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {name: run.get(name, "") for name in _FIRST}
    row["matching"] = "; ".join(run.get("matching", ()))
    row |= {f"axis/{axis}": value for axis, value in run["axes"].items()}
    row |= {f"chosen/{name}": value for name, value in run.get("chosen", {}).items()}
    row["steps"] = run.get("steps")
    row |= {unit: run.get("costs", {}).get(unit) for unit in UNITS}
    for test, measured in (run.get("tests") or {}).items():
        for metric, value in measured["summary"].items():
            row[f"test/{test}/{metric}"] = value
            found: Interval | None = interval(Cell({}, (run,)), test, metric) if metric in measured["columns"] else None
            if found is not None:
                row |= {f"test/{test}/{metric}_low": found.low, f"test/{test}/{metric}_high": found.high}
    for name, (before, after) in side_drops(run).items():
        row |= {f"side/{name}": after, f"side/{name}_before": before, f"side/{name}_drop": before - after}
    for kind, alarm in (run.get("alarms") or {}).items():
        row[f"alarm/{kind}"] = alarm["step"]
    return row


def write_csv(path: Path, table: Sequence[Mapping[str, Any]]) -> None:
    """All columns of all rows; what a row lacks is empty."""
    names = list(dict.fromkeys(name for row in table for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(table)


def write_parquet(path: Path, table: Sequence[Mapping[str, Any]]) -> None:
    """The same table with types.

    Raises:
        ImportError: pyarrow is not installed.
    """
    import pyarrow
    import pyarrow.parquet

    names = list(dict.fromkeys(name for row in table for name in row))
    columns = {name: _typed([row.get(name) for row in table]) for name in names}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def _typed(column: Sequence[Any]) -> list[Any]:
    """A column of one type: numbers where all are, else text."""
    given = [v for v in column if v is not None]
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in given):
        return [None if v is None else float(v) for v in column]
    return [None if v is None else str(v) for v in column]
