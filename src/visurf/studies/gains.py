"""Where runs gain over the model they began with: by difficulty of the question, by length of the answer. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from visurf.studies.analysis import Cell, asked_metrics, cells, dig, same_prompts, start_cells, start_of, values
from visurf.studies.columns import unpack
from visurf.studies.statistics import over_seeds_and_prompts

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Pass rates of the start: never, seldom, often, always right.
_RATES = ((-0.01, 0.0, "never"), (0.0, 0.5, "up to half"), (0.5, 0.999, "more than half"), (0.999, 1.0, "always"))


@dataclass(frozen=True)
class Gain:
    """The gain of a cell over its start on some of the prompts.

    Attributes:
        group: Which prompts, in words.
        prompts: How many.
        gain: Mean over prompts and seeds.
        low: Lower end of its 95 % interval over seeds and prompts.
        high: Upper end.
    """

    group: str
    prompts: int
    gain: float
    low: float
    high: float


def by_difficulty(cell: Cell, start: Cell, test: str, metric: str) -> list[Gain]:
    """Gains by the share of the start's sampled answers that were right; empty where it was not probed."""
    probed = dig(start.runs[0], "tests", test, "pass_rate") if start.runs else None
    if probed is None:
        return []
    rates = unpack(probed)
    groups = {f"{name} right": (rates > low) & (rates <= high) for low, high, name in _RATES}
    return _gains(cell, start, test, metric, groups)


def by_length(cell: Cell, start: Cell, test: str, metric: str) -> list[Gain]:
    """Gains by the length of the start's greedy answer, in thirds of the prompts; equal lengths stay together."""
    if not start.runs or dig(start.runs[0], "tests", test, "columns", "tokens") is None:
        return []
    found = values(start.runs[0], test, "tokens")
    assert found is not None
    lengths = found[0]
    cuts = np.unique([lengths.min() - 1, *np.quantile(lengths, [1 / 3, 2 / 3], method="lower"), lengths.max()])
    groups = {}
    for low, high in pairwise(cuts):
        chosen = (lengths > low) & (lengths <= high)
        if chosen.any():
            groups[f"{lengths[chosen].min():.0f} to {lengths[chosen].max():.0f} tokens"] = chosen
    return _gains(cell, start, test, metric, groups)


def _gains(cell: Cell, start: Cell, test: str, metric: str, groups: Mapping[str, NDArray[np.bool_]]) -> list[Gain]:
    before = values(start.runs[0], test, metric)
    after = [v for run in cell.runs if (v := values(run, test, metric)) is not None]
    # A ratio of sums has no gain of a prompt.
    if before is None or before[1] is not None or not after or not same_prompts((start.runs[0], *cell.runs), test):
        return []
    differences = np.stack([v for v, _ in after]) - before[0]
    found = []
    for name, chosen in groups.items():
        part = differences[:, chosen]
        part = part[:, ~np.isnan(part).all(axis=0)]
        if part.size:
            gain = over_seeds_and_prompts(part)
            found.append(Gain(name, part.shape[1], gain.value, gain.low, gain.high))
    return found


def gains_over_start(results: Mapping[str, Any], matching: str, test: str) -> tuple[str, list[tuple[str, str, Gain]]]:
    """The first metric of a test, and (cell, kind, gain) for every cell of a matching whose start was measured.

    Args:
        results: What results.json holds.
        matching: Its name.
        test: Its name.
    """
    known, starts = cells(results["runs"], matching), start_cells(results["runs"])
    metric = next(iter(asked_metrics(results["study"], [run for cell in known for run in cell.runs], test)), "")
    found: list[tuple[str, str, Gain]] = []
    for cell in known:
        start = start_of(cell, starts)
        if start is None or not cell.runs:
            continue
        for kind, gains in (("difficulty", by_difficulty), ("length", by_length)):
            found += [(cell.label, kind, gain) for gain in gains(cell, start, test, metric)]
    return metric, found
