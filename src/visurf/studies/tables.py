"""Results as tables of runs, cells, comparisons and gains: CSV and parquet. No torch."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from visurf.metrics.intervals import Interval
from visurf.studies.analysis import Cell, Comparison, cells, dig, interval, side_drops, start_cells
from visurf.studies.costs import UNITS
from visurf.studies.gains import gains_over_start

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


def cell_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for every metric of every test of every cell: runs that differ in their seed only, and each start.

    Columns: role, matching (of a start empty), cell, ``axis/NAME``, test, metric; mean and deviation over seeds, how many were
    done and how many failed; `low` and `high` of the 95 % interval over seeds and prompts, where there is one.
    """
    starts = [("start", "", cell) for cell in start_cells(results["runs"])]
    matchings = (m["name"] for m in results["study"]["matching"])
    known = [*starts, *(("run", name, cell) for name in matchings for cell in cells(results["runs"], name))]
    return [
        _cell_row(role, matching, cell, test, metric)
        for role, matching, cell in known
        for test in results["study"]["tests"]
        for metric in dict.fromkeys(name for run in cell.runs for name in dig(run, "tests", test, "summary") or ())
    ]


def _cell_row(role: str, matching: str, cell: Cell, test: str, metric: str) -> dict[str, Any]:
    mean, deviation = cell.mean("tests", test, "summary", metric) or (None, None)
    found = interval(cell, test, metric)
    return {
        "role": role,
        "matching": matching,
        "cell": cell.name if role == "start" else cell.label,
        **{f"axis/{axis}": value for axis, value in cell.axes.items()},
        "test": test,
        "metric": metric,
        "seeds": len(cell.runs),
        "failed": len(cell.failed),
        "mean": mean,
        "deviation": _known(deviation),
        "low": None if found is None else _known(found.low),
        "high": None if found is None else _known(found.high),
    }


def comparison_rows(found: Sequence[Comparison]) -> list[dict[str, Any]]:
    """A row for every comparison of the page.

    Columns: matching, test, metric; `first` and `second`, the cells, with the mean of each; their `difference`, second minus first,
    with `low` and `high` of its 95 % interval; `p`, and `corrected_p` over all rows; effect sizes `d` over prompts and `g` over
    seeds; pairs of seeds; a note.
    """
    return [
        {
            "matching": one.matching,
            "test": one.test,
            "metric": one.metric,
            "first": one.first,
            "second": one.second,
            "first_mean": one.found.first,
            "second_mean": one.found.second,
            "difference": one.found.difference.value,
            "low": _known(one.found.difference.low),
            "high": _known(one.found.difference.high),
            "p": one.found.p_value,
            "corrected_p": one.corrected,
            "d": _known(one.found.over_prompts),
            "g": _known(one.found.over_seeds),
            "seeds": one.found.seeds,
            "note": one.note,
        }
        for one in found
    ]


def gain_table(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for every group of prompts: the gain of a cell over its start, in the first metric, by difficulty and by length."""
    rows = []
    for matching in (m["name"] for m in results["study"]["matching"]):
        for test in results["study"]["tests"]:
            metric, found = gains_over_start(results, matching, test)
            for cell, kind, gain in found:
                about = {"matching": matching, "test": test, "metric": metric, "cell": cell, "by": kind, "group": gain.group}
                ends = {"low": _known(gain.low), "high": _known(gain.high)}
                rows.append({**about, "prompts": gain.prompts, "gain": gain.gain, **ends})
    return rows


def _known(value: float | None) -> float | None:
    """Nothing instead of NaN."""
    return None if value is None or math.isnan(value) else value


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
