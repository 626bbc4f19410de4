"""Bootstrap intervals and the paired comparison of two runs.

Resampling is over samples, with a seeded generator: the same records give the same interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# Indices drawn at once: bounds the memory of 1,000 resamples of a large benchmark.
_CHUNK = 2_000_000


@dataclass(frozen=True)
class Interval:
    """A value with its bootstrap interval, in the unit of the value.

    Attributes:
        value: On all samples; NaN where nothing was measured.
        low: Lower end.
        high: Upper end.
        n: Samples that entered.
        level: Nominal coverage.
        resamples: Resamples on which the value was defined.
    """

    value: float
    low: float
    high: float
    n: int
    level: float = 0.95
    resamples: int = 0

    def __str__(self) -> str:
        """Value and interval with four digits."""
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True)
class PairedComparison:
    """The second record file minus the first, on the same samples.

    Attributes:
        first: Value of the first.
        second: Value of the second.
        difference: second - first, with its interval.
        p_value: Two-sided: twice the smaller share of resampled differences on either side of 0, never 0.
    """

    first: float
    second: float
    difference: Interval
    p_value: float


def bootstrap_interval(
    values: ArrayLike,
    *,
    denominators: ArrayLike | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a mean, or of a ratio of sums such as cIoU.

    Args:
        values: (samples,), finite.
        denominators: (samples,); the value is then sum(values) / sum(denominators) instead of the mean.
        level: Nominal coverage, in (0, 1).
        resamples: Number of resamples.
        seed: Of the generator.

    Returns:
        One sample, or equal samples, give an interval without width. NaN where the denominators sum to 0.

    Raises:
        ValueError: No samples, unequal lengths, or a value that is not finite.

    >>> bootstrap_interval([1.0, 1.0, 1.0])
    Interval(value=1.0, low=1.0, high=1.0, n=3, level=0.95, resamples=1000)
    """
    numerators, below = _columns(values, denominators)
    drawn = _resampled(np.stack([numerators, below]), resamples, seed)
    return _interval(_quotient(numerators.sum(), below.sum()), _quotient(drawn[:, 0], drawn[:, 1]), len(numerators), level)


def bootstrap_statistic(
    statistic: Callable[[NDArray[np.intp]], float], n: int, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Percentile bootstrap interval of anything that is no mean: ROC-AUC, average precision, AP.

    Args:
        statistic: From sample indices, with repetitions, to the value; NaN where it is undefined (one class drawn).
        n: Samples.
        level: Nominal coverage, in (0, 1).
        resamples: Number of resamples; those that give NaN are left out and not counted.
        seed: Of the generator.

    Raises:
        ValueError: No samples.
    """
    drawn = resampled_statistic(statistic, n, resamples=resamples, seed=seed)
    return _interval(statistic(np.arange(n)), drawn, n, level)


def resampled_statistic(
    statistic: Callable[[NDArray[np.intp]], float], n: int, *, resamples: int = 1000, seed: int = 0
) -> NDArray[np.float64]:
    """The values (resamples,) that `bootstrap_statistic` makes its interval of; for equal n and seed of the same resamples.

    Raises:
        ValueError: No samples.
    """
    if n < 1:
        raise ValueError("no samples: an interval over nothing has no value")
    generator = np.random.default_rng(seed)
    return np.array([statistic(generator.integers(n, size=n)) for _ in range(resamples)], dtype=np.float64)


def wilson_interval(successes: int, n: int, *, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share, in [0, 1]: keeps its width at 0 of n, where every bootstrap gives [0, 0].

    Raises:
        ValueError: No samples, or more successes than samples.

    Source: Wilson, J. Am. Stat. Assoc. 22 (1927).

    >>> print(wilson_interval(0, 100))
    0.0000 [0.0000, 0.0370]
    """
    from statistics import NormalDist

    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"expected 0 <= successes <= n and n > 0, got {successes} of {n}")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, shrink = successes / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(share, min(max(centre - half, 0.0), share), max(min(centre + half, 1.0), share), n, level)


def paired_bootstrap(
    first: Mapping[str, float | None],
    second: Mapping[str, float | None],
    *,
    denominators: tuple[Mapping[str, float], Mapping[str, float]] | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> PairedComparison:
    """Compare two runs on the same samples: both are resampled with the same indices.

    Args:
        first: Sample id to value; None where the metric does not apply to the sample.
        second: The same ids.
        denominators: Of both, for a ratio of sums such as cIoU.
        level: Nominal coverage, in (0, 1).
        resamples: Number of resamples.
        seed: Of the generator.

    Raises:
        ValueError: An id is missing on one side, the metric applies on one side only, or there are no samples.
    """
    _same_ids(set(first), set(second), "are in one run only")
    ids = sorted(key for key, value in first.items() if value is not None)
    _same_ids(set(ids), {key for key, value in second.items() if value is not None}, "have a value in one run only")
    sides: list[NDArray[np.float64]] = []
    for side, values in enumerate((first, second)):
        below = None if denominators is None else [denominators[side][key] for key in ids]
        sides.extend(_columns([float(values[key] or 0.0) for key in ids], below))
    sums = [column.sum() for column in sides]
    values_all = [_quotient(sums[0], sums[1]), _quotient(sums[2], sums[3])]
    drawn = _resampled(np.stack(sides), resamples, seed)
    differences = _quotient(drawn[:, 2], drawn[:, 3]) - _quotient(drawn[:, 0], drawn[:, 1])
    interval = _interval(values_all[1] - values_all[0], differences, len(ids), level)
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    p_value = min(1.0, 2 * (int(tail) + 1) / (resamples + 1))
    return PairedComparison(float(values_all[0]), float(values_all[1]), interval, p_value)


def _same_ids(first: set[str], second: set[str], what: str) -> None:
    odd = sorted(first ^ second, key=str)
    if odd:
        raise ValueError(f"{len(odd)} ids {what}, first {odd[0]!r}; a comparison needs the same samples on both sides")


def _columns(values: ArrayLike, denominators: ArrayLike | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    above = np.asarray(values, dtype=np.float64)
    below = np.ones_like(above) if denominators is None else np.asarray(denominators, dtype=np.float64)
    if above.ndim != 1 or above.shape != below.shape:
        raise ValueError(f"expected one value and one denominator per sample, got shapes {above.shape} and {below.shape}")
    if not above.size:
        raise ValueError("no samples: an interval over nothing has no value")
    if not (np.isfinite(above).all() and np.isfinite(below).all()):
        raise ValueError("values must be finite; a failed answer has a value, a metric that does not apply is left out")
    return above, below


def _resampled(columns: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """Sums (resamples, columns) of columns (columns, samples), all drawn with the same indices."""
    generator, n = np.random.default_rng(seed), columns.shape[1]
    rows = max(1, _CHUNK // n)
    parts = []
    for start in range(0, resamples, rows):
        indices = generator.integers(n, size=(min(rows, resamples - start), n))
        parts.append(np.stack([column[indices].sum(axis=1) for column in columns], axis=1))
    return np.concatenate(parts)


def _quotient(above: Any, below: Any) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.asarray(below) != 0, np.asarray(above, dtype=np.float64) / below, np.nan)


def _interval(value: Any, drawn: NDArray[np.float64], n: int, level: float) -> Interval:
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    defined = drawn[~np.isnan(drawn)]
    if not defined.size:
        return Interval(float(value), math.nan, math.nan, n, level, 0)
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high), n, level, len(defined))
