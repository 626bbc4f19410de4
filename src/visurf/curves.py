"""A run at its evaluations: held-out accuracy beside the mean of every reward since the evaluation before. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Curve:
    """A run at its evaluations.

    Attributes:
        steps: Of the evaluations.
        accuracy: Held-out accuracy.
        error: Largest standard error of one accuracy, by the number of validation samples.
        thinking: Share of validation answers that reason; empty where it was not measured.
        began: That share before the first step; NaN where it was not measured.
        rewards: Part, or `total` -> mean since the evaluation before; NaN where there was none, as in a supervised stage.
        noise: Part, or `total` -> standard error of one such mean.
    """

    steps: tuple[int, ...]
    accuracy: tuple[float, ...]
    error: float
    thinking: tuple[float, ...]
    began: float
    rewards: Mapping[str, tuple[float, ...]]
    noise: Mapping[str, float]

    def rewarded(self, count: int) -> Curve:
        """The evaluations, of the first `count`, since when there has been a reward without a gap, with the parts of all of them.

        A run of stages has a reward in its reinforced stages only, and a supervised stage between two of them changes the model in
        ways that no reward led to.
        """
        total = self.rewards.get("total", ())[:count]
        start = next((i + 1 for i in reversed(range(len(total))) if math.isnan(total[i])), 0) if total else count
        inside = {name: values[start:count] for name, values in self.rewards.items()}
        return Curve(
            self.steps[start:count],
            self.accuracy[start:count],
            self.error,
            self.thinking[start:count],
            self.began,
            {name: values for name, values in inside.items() if values and not any(map(math.isnan, values))},
            self.noise,
        )


@dataclass
class _Part:
    """One reward part: its finished means, and the steps since the last evaluation, summed up.

    The sum is exact, so that equal rewards have equal means, whatever their order.
    """

    means: list[float]
    squares: float = 0.0
    pairs: int = 0
    total: Fraction = field(default_factory=Fraction)
    count: int = 0
    last: float = math.nan
    differences: float = 0.0
    between: float = 0.0
    seams: int = 0

    def add(self, value: float) -> None:
        # Neighbours differ by noise, hardly by what is learnt.
        square = 0.0 if math.isnan(self.last) else (value - self.last) ** 2 / 2
        if self.count:
            self.differences += square
        elif not math.isnan(self.last):
            self.between, self.seams = self.between + square, self.seams + 1
        self.total, self.count, self.last = self.total + Fraction(value), self.count + 1, value

    def close(self) -> None:
        self.means.append(float(self.total / self.count) if self.count else math.nan)
        self.squares += self.differences / max(self.count, 1)
        self.pairs += max(self.count - 1, 0)
        self.last = self.last if self.count else math.nan
        self.total, self.count, self.differences = Fraction(), 0, 0.0

    def noise(self) -> float:
        if self.pairs:
            return math.sqrt(self.squares / self.pairs)
        # An evaluation at every step: neighbours have one between them.
        return math.sqrt(self.between / self.seams) if self.seams else 0.0


class CurveReader:
    """Reads a run step by step; what it keeps grows with the evaluations, not with the steps."""

    def __init__(self, accuracy: str) -> None:
        """Begin with a run that has no step; `accuracy` is the name of the validation metric, such as ``giou``."""
        self._name = f"validation/{accuracy}"
        self._steps: list[int] = []
        self._accuracy: list[float] = []
        self._thinking: list[float] = []
        self._began = math.nan
        self._fewest = math.inf
        self._parts: dict[str, _Part] = {}

    def read(self, row: Row) -> bool:
        """Take one row of metrics.jsonl in; returns whether it is an evaluation. Values that are not finite count as not there."""
        for name, value in row.items():
            if name.startswith("reward/") and _finite(value):
                part = name.removeprefix("reward/")
                if part not in self._parts:
                    self._parts[part] = _Part([math.nan] * len(self._steps))
                self._parts[part].add(float(value))
        if _finite(row.get("before/thinking")):
            self._began = float(row["before/thinking"])
        if not _finite(row.get(self._name)):
            return False
        self._steps.append(int(row["step"]))
        self._accuracy.append(float(row[self._name]))
        if _finite(row.get("validation/thinking")):
            self._thinking.append(float(row["validation/thinking"]))
        self._fewest = min(self._fewest, row.get("validation/samples", 0))
        for each in self._parts.values():
            each.close()
        return True

    def curve(self) -> Curve:
        """What was read so far."""
        error = 0.5 / math.sqrt(max(1.0, self._fewest if self._steps else 1.0))
        parts = {name: self._parts[name] for name in sorted(self._parts)}
        rewards = {name: tuple(p.means) for name, p in parts.items() if p.means}
        thinking = tuple(self._thinking) if len(self._thinking) == len(self._steps) else ()
        noise = {name: part.noise() for name, part in parts.items()}
        return Curve(tuple(self._steps), tuple(self._accuracy), error, thinking, self._began, rewards, noise)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def read_curve(rows: Sequence[Row], accuracy: str) -> Curve:
    """The curve of a whole run.

    Args:
        rows: Of a metrics.jsonl, in order.
        accuracy: Name of the validation metric, such as ``giou``.
    """
    reader = CurveReader(accuracy)
    for row in rows:
        reader.read(row)
    return reader.curve()


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation, ties sharing their mean rank; NaN for fewer than three values, equal ones, or NaN among them.

    >>> rank_correlation([1, 2, 3, 4], [1, 3, 2, 9])
    0.8
    """
    if len(first) < 3 or any(math.isnan(value) for value in (*first, *second)):
        return math.nan
    a, b = _ranks(first), _ranks(second)
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return round(float((a * b).sum()) / scale, 12) if scale else math.nan


def _ranks(values: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Ranks from 1, (N,) float64. SciPy has them, but importing its statistics costs a run 20 MiB."""
    _, places, counts = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    ranks: np.ndarray[Any, np.dtype[np.float64]] = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return ranks
