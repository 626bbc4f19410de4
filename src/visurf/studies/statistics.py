"""Means over seeds and prompts with intervals, paired tests, corrections for many of them, effect sizes. No torch.

A mean over seeds and prompts may be off because other seeds, and because other prompts, would have given something else. The error
of the seeds is judged by Student's t with one degree of freedom less than there are seeds: with few of them it is wide. That of the
prompts is judged likewise, by how they differ, or where a metric is no mean over prompts (ROC-AUC, AP) by resampled ones. The half
width of an interval is the root of the sum of the squares of both (Howe, J. Am. Stat. Assoc. 69 (1974)), and a p-value is the share
of cases in which an interval that ends at 0 misses, so the two always agree. Noise of the answers counts in both errors, so false
positives are rarer than nominal where it is large. With one seed the error of the prompts is all that is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from visurf.metrics.intervals import Interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

_LEVEL = 0.95
# What is smaller than this part of the numbers that it was computed from is rounding.
_ROUNDING = 1e-12
# No p-value is below this, nor below what the signs of so many prompts could say.
_LEAST = 1e-12


@dataclass(frozen=True)
class Error:
    """By how much a mean over seeds and prompts may be off.

    Attributes:
        of_seeds: Standard error that the spread over seeds gives; 0 for one seed, of which no spread is known.
        seeds: How many.
        of_prompts: Standard error that the spread over prompts gives.
        prompts: How many.
    """

    of_seeds: float
    seeds: int
    of_prompts: float
    prompts: int

    def half_width(self, outside: float = 1 - _LEVEL) -> float:
        """Of the interval that misses in such a share of cases; NaN for fewer than two prompts."""
        from scipy.special import stdtrit

        if self.prompts < 2:
            return math.nan
        seeds = float(stdtrit(self.seeds - 1, outside / 2)) * self.of_seeds if self.seeds > 1 else 0.0
        return math.hypot(seeds, float(stdtrit(self.prompts - 1, outside / 2)) * self.of_prompts)

    def p_value(self, value: float) -> float:
        """How often the interval around `value` that ends at 0 misses; 1 where there is no interval, never 0."""
        from scipy.optimize import brentq

        if value == 0 or not math.isfinite(value + self.half_width()):
            return 1.0
        least = max(_LEAST, 2.0 ** (1 - self.prompts))
        if self.half_width(least) <= abs(value):
            return least
        found = brentq(lambda power: self.half_width(10**power) - abs(value), math.log10(least), 0.0, xtol=1e-6)
        return float(10**found)


@dataclass(frozen=True)
class Measured:
    """A metric of runs on the same prompts.

    Attributes:
        means: (seeds,) its value for each run.
        shares: (prompts,) what each prompt adds to the mean over seeds, less what it would add if it were as the others; sums to 0.
            For a metric that is no mean: (resamples,) the mean over seeds on resampled prompts, NaN where it is undefined.
        applies: (prompts,) to which prompts the metric applies in any run; None for a metric that is no mean.
        prompts: How many there are.
        fraction: Whether it cannot leave [0, 1].
    """

    means: Array
    shares: Array
    applies: NDArray[np.bool_] | None
    prompts: int
    fraction: bool

    def interval(self) -> Interval:
        """The mean over seeds with its 95 % interval."""
        value, error = float(self.means.mean()), _error(self.means, self.shares, self.applies, self.prompts, _size(self))
        return _interval(value, error, (0.0, 1.0) if self.fraction else None)


@dataclass(frozen=True)
class Paired:
    """The second minus the first, on the same prompts and seeds.

    Attributes:
        first: Mean of the first over seeds.
        second: Of the second.
        difference: second - first with its interval over seeds and prompts.
        p_value: Two-sided, of the same distribution as the interval: below 0.05 where the 95 % interval excludes 0. Never 0.
        over_prompts: Mean difference of a prompt over the standard deviation of these differences (Cohen's d for pairs); for a
            ratio of sums, of what each prompt adds to it. NaN for no spread, and for a metric that is no mean over prompts.
        over_seeds: Mean difference of a seed over the standard deviation of these differences, shrunk for few seeds (Hedges);
            NaN for fewer than three seeds or no spread.
        seeds: Pairs of seeds; with one the p-value and the interval are about the choice of prompts only.
    """

    first: float
    second: float
    difference: Interval
    p_value: float
    over_prompts: float
    over_seeds: float
    seeds: int


def of_prompts(values: Array, per: Array | None = None) -> Measured:
    """A metric that is a mean over prompts, or a ratio of sums.

    Args:
        values: (seeds, prompts), NaN where the metric does not apply to the prompt.
        per: Likewise; the metric of a seed is then the sum of `values` over the sum of `per`.

    Raises:
        ValueError: No prompts, or shapes that differ.
    """
    if values.ndim != 2 or not values.size or (per is not None and per.shape != values.shape):
        raise ValueError(f"expected values of shape (seeds, prompts), got {values.shape}")
    known = ~np.isnan(values)
    above = np.where(known, values, 0.0)
    below = np.where(known, 1.0 if per is None else per, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        totals = below.sum(axis=1, keepdims=True)
        means = above.sum(axis=1, keepdims=True) / totals
        # To first order: the means themselves, but for the sums below that change with the prompts too.
        shares = ((above - means * below) / totals).mean(axis=0)
    applies: NDArray[np.bool_] = np.asarray(known.any(axis=0))
    return Measured(means[:, 0], shares, applies, values.shape[1], bool(((above >= 0) & (above <= below)).all()))


def of_resamples(values: Array, drawn: Array, prompts: int) -> Measured:
    """A metric that is no mean over prompts.

    Args:
        values: (seeds,) its value for each run.
        drawn: (seeds, resamples) the same on resampled prompts, for all runs the same ones; NaN where it is undefined.
        prompts: How many there are.

    Raises:
        ValueError: Shapes that differ.
    """
    if values.ndim != 1 or drawn.ndim != 2 or len(values) != len(drawn):
        raise ValueError(f"expected (seeds,) values and (seeds, resamples) on resampled prompts, got {values.shape}, {drawn.shape}")
    known = drawn[~np.isnan(drawn)]
    return Measured(values, drawn.mean(axis=0), None, prompts, bool(((known >= 0) & (known <= 1)).all()))


def over_seeds_and_prompts(values: Array, per: Array | None = None) -> Interval:
    """The mean over seeds of a metric with its interval over seeds and prompts; arguments and errors as `of_prompts`.

    Returns:
        With one seed the interval covers the choice of prompts only; without ends for a single prompt.
    """
    return of_prompts(values, per).interval()


def paired(first: Array, second: Array, per: tuple[Array | None, Array | None] = (None, None)) -> Paired:
    """Compare two lists of runs; row i of both has the same seed, and columns are the same prompts.

    Args:
        first: (seeds, prompts), NaN where the metric does not apply.
        second: Likewise.
        per: Denominators of both, see `of_prompts`.

    Raises:
        ValueError: Shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"expected the same seeds and prompts on both sides, got shapes {first.shape} and {second.shape}")
    return compare(of_prompts(first, per[0]), of_prompts(second, per[1]))


def compare(first: Measured, second: Measured) -> Paired:
    """The second minus the first, seed by seed and prompt by prompt.

    Raises:
        ValueError: Not the same seeds, prompts or resamples.
    """
    sides = [(len(m.means), len(m.shares), m.prompts, m.applies is None) for m in (first, second)]
    if sides[0] != sides[1]:
        raise ValueError(f"expected the same seeds and prompts on both sides, got {sides[0]} and {sides[1]}")
    applies = None if first.applies is None or second.applies is None else first.applies | second.applies
    by_seed, size = second.means - first.means, max(_size(first), _size(second))
    error = _error(by_seed, second.shares - first.shares, applies, first.prompts, size)
    value, seeds = _unrounded(float(by_seed.mean()), size), len(by_seed)
    of_prompt = math.nan if applies is None else error.of_prompts * math.sqrt(error.prompts)
    of_seed = error.of_seeds * math.sqrt(seeds)
    return Paired(
        float(first.means.mean()),
        float(second.means.mean()),
        _interval(value, error, (-1.0, 1.0) if first.fraction and second.fraction else None),
        error.p_value(value),
        value / of_prompt if of_prompt > 0 else math.nan,
        value / of_seed * (1 - 3 / (4 * seeds - 5)) if seeds > 2 and of_seed > 0 else math.nan,
        seeds,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected so that the chance of any false discovery among all of them keeps its bound.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979).

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    found, least = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        found[index] = least
    return found


def _size(measured: Measured) -> float:
    """How large its numbers are, for what is rounding beside them."""
    return float(np.abs(measured.means).max())


def _unrounded(value: float, size: float) -> float:
    return 0.0 if abs(value) <= _ROUNDING * size else value


def _error(means: Array, shares: Array, applies: NDArray[np.bool_] | None, prompts: int, size: float) -> Error:
    seeds = len(means)
    of_seeds = _unrounded(float(means.std(ddof=1)), size) / math.sqrt(seeds) if seeds > 1 else 0.0
    if applies is None:
        drawn = shares[~np.isnan(shares)]
        return Error(of_seeds, seeds, _unrounded(float(drawn.std(ddof=1)), size) if len(drawn) > 1 else math.nan, prompts)
    count = int(applies.sum())
    spread = count * float(shares[applies].std(ddof=1)) if count > 1 else math.nan
    return Error(of_seeds, seeds, _unrounded(spread, size) / math.sqrt(max(count, 1)), count)


def _interval(value: float, error: Error, bounds: tuple[float, float] | None) -> Interval:
    low, high = value - error.half_width(), value + error.half_width()
    if bounds is not None:
        # What cannot be need not be covered.
        low, high = max(low, bounds[0]), min(high, bounds[1])
    return Interval(value, low, high, error.prompts, _LEVEL)
