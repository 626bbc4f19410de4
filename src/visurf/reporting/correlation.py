"""Does the reward mean what it should? Training reward against held-out accuracy, and the alarms that the run raised."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from visurf.reporting.curves import numbers
from visurf.reporting.reading import RunFolder
from visurf.tasks import TASKS

# Fewer evaluations than this say nothing about a trend.
FEWEST = 4


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation, ties by mean ranks, in [-1, 1]; None for fewer than `FEWEST` pairs or a constant side.

    >>> rank_correlation([1, 2, 3, 4], [10, 20, 40, 30])
    0.8
    """
    if len(first) != len(second):
        raise ValueError(f"expected pairs, got {len(first)} and {len(second)} values")
    if len(first) < FEWEST or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    from scipy.stats import spearmanr

    return round(float(spearmanr(first, second).statistic), 12)


def held_out_metrics(run: RunFolder) -> list[str]:
    """The held-out metrics of a run, its task's headline first."""
    names = dict.fromkeys(n for row in run.metrics for n in row if n.startswith("validation/") and numbers(run, n))
    chosen = (run.config.get("evaluation") or {}).get("metric") or ""
    task = TASKS.get(str((run.config.get("task") or {}).get("name", "")))
    first = f"validation/{chosen or (task.headline if task else '')}"
    about = ("validation/samples", "validation/parse_failed", "validation/truncated")
    rest = [name for name in names if name != first and name not in about]
    return ([first] if first in names else []) + rest


def between_evaluations(values: Mapping[int, float], steps: Sequence[int]) -> list[float | None]:
    """Mean of a metric over the steps since the previous evaluation, for each evaluation; None where it has no value there."""
    found: list[float | None] = []
    before = 0
    for step in steps:
        inside = [value for at, value in values.items() if before < at <= step]
        found.append(math.fsum(inside) / len(inside) if inside else None)
        before = step
    return found


def deception(run: RunFolder) -> dict[str, Any]:
    """The panel of one run: rewards and held-out metrics at the evaluations, their rank correlations, the run's alarms.

    `correlation` maps each reward part to a number for each held-out metric, in the order of `metrics`.
    """
    metrics = held_out_metrics(run)
    held = {name: numbers(run, name) for name in metrics}
    steps = sorted({step for values in held.values() for step in values})
    parts = dict.fromkeys(n for row in run.metrics for n in row if n.startswith("reward/"))
    rewards = {name: between_evaluations(numbers(run, name), steps) for name in parts}
    accuracy = {name: [values.get(step) for step in steps] for name, values in held.items()}
    correlation = {part: [_paired(values, accuracy[name]) for name in metrics] for part, values in rewards.items()}
    return {
        "steps": steps,
        "metrics": metrics,
        "accuracy": accuracy,
        "rewards": rewards,
        "correlation": correlation,
        "fewest": FEWEST,
        "alarms": alarms(run),
    }


def _paired(first: Sequence[float | None], second: Sequence[float | None]) -> float | None:
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    return rank_correlation([a for a, _ in pairs], [b for _, b in pairs])


def alarms(run: RunFolder) -> list[dict[str, Any]]:
    """Every alarm that the run's metrics know, and the steps at which it was raised."""
    names = dict.fromkeys(name for row in run.metrics for name in row if name.startswith("alarm/"))
    return [{"name": name, "steps": [row["step"] for row in run.metrics if row.get(name)]} for name in names]
