"""Pictures of results: means with intervals, curves over steps, gains by difficulty. Needs matplotlib."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visurf.studies.analysis import Cell, asked_metrics, cells, interval, start_cells, start_of
from visurf.studies.gains import by_difficulty
from visurf.studies.page import start_label


def draw(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write PNG files: one a matching and test, one with curves, one a test with gains by difficulty, where there are such.

    Args:
        results: What results.json holds.
        folder: Where they go.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    study, runs = results["study"], results["runs"]
    starts, written = start_cells(runs), []

    def save(figure: Figure, name: str) -> None:
        figure.savefig(folder / f"{name}.png", dpi=120, bbox_inches="tight")
        written.append(folder / f"{name}.png")

    for matching in (m["name"] for m in study["matching"]):
        known = [cell for cell in cells(runs, matching) if cell.runs]
        for test in study["tests"]:
            names = asked_metrics(study, runs, test)
            if not known or not names:
                continue
            figure = Figure(figsize=(3.2 * len(names) + 2, 0.35 * (len(known) + len(starts)) + 1.2))
            for axis, metric in zip(figure.subplots(1, len(names), squeeze=False, sharey=True)[0], names, strict=True):
                _intervals(axis, [*starts, *known], len(starts), test, metric)
            save(figure, f"{matching.replace(' ', '-')}-{test}")
    everyone = [cell for m in study["matching"][:1] for cell in cells(runs, m["name"]) if cell.runs]
    for test in study["tests"]:
        metric = next(iter(asked_metrics(study, runs, test)), "")
        gained = {c.label: by_difficulty(c, s, test, metric) for c in everyone if (s := start_of(c, starts)) is not None}
        if any(gained.values()):
            figure = Figure(figsize=(6, 3.5))
            _gains(figure.subplots(), gained, metric)
            save(figure, f"difficulty-{test}")
    curves = sorted({n for c in everyone for r in c.runs for n in r.get("curves") or {} if n.startswith(("validation/", "side/"))})
    shown = [n for n in curves if n.count("/") == 1 and n != "validation/samples"]
    if shown:
        figure = Figure(figsize=(5, 2.4 * len(shown)))
        for axis, name in zip(figure.subplots(len(shown), 1, squeeze=False)[:, 0], shown, strict=True):
            _curves(axis, everyone, name)
        save(figure, "curves")
    return written


def _intervals(axis: Any, shown: list[Cell], starts: int, test: str, metric: str) -> None:
    for place, cell in enumerate(shown):
        found = interval(cell, test, metric)
        mean = cell.mean("tests", test, "summary", metric)
        value = mean[0] if mean is not None else math.nan
        spread = None if found is None else [[max(value - found.low, 0.0)], [max(found.high - value, 0.0)]]
        axis.errorbar(
            [value], [-place], xerr=spread, fmt="o" if place >= starts else "s", capsize=3, color="C0" if place >= starts else "0.5"
        )
    axis.set_yticks([-i for i in range(len(shown))], [c.label if i >= starts else start_label(c) for i, c in enumerate(shown)])
    axis.set_title(metric, fontsize=10)
    axis.grid(axis="x", alpha=0.3)


def _gains(axis: Any, gained: Mapping[str, Any], metric: str) -> None:
    for label, gains in gained.items():
        if gains:
            ends = [[g.gain - g.low for g in gains], [g.high - g.gain for g in gains]]
            axis.errorbar([g.group for g in gains], [g.gain for g in gains], yerr=ends, marker="o", capsize=3, label=label)
    axis.axhline(0, color="0.5", linewidth=0.8)
    axis.set_ylabel(f"gain in {metric}")
    axis.legend(fontsize=8)


def _curves(axis: Any, shown: list[Cell], name: str) -> None:
    for number, cell in enumerate(shown):
        for first, run in enumerate(r for r in cell.runs if (r.get("curves") or {}).get(name)):
            steps, heights = zip(*run["curves"][name], strict=True)
            axis.plot(steps, heights, color=f"C{number % 10}", alpha=0.6, label=None if first else cell.label)
    axis.set_ylabel(name, fontsize=8)
    axis.legend(fontsize=7)
