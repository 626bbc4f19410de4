"""Means over seeds and prompts with intervals, paired tests, corrections for many of them, effect sizes. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from visurf.metrics.intervals import Interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

_LEVEL = 0.95


@dataclass(frozen=True)
class Paired:
    """The second minus the first, on the same prompts and seeds.

    Attributes:
        first: Mean of the first over seeds.
        second: Of the second.
        difference: second - first with its interval over seeds and prompts.
        p_value: Two-sided, never 0.
        over_prompts: Mean difference of a prompt over the standard deviation of these differences (Cohen's d for pairs).
        over_seeds: Mean difference of a seed over the standard deviation of these differences, shrunk for few seeds (Hedges);
            NaN for fewer than three seeds or no spread.
        seeds: Pairs of seeds.
    """

    first: float
    second: float
    difference: Interval
    p_value: float
    over_prompts: float
    over_seeds: float
    seeds: int


def over_seeds_and_prompts(values: Array, per: Array | None = None, *, resamples: int = 1000, seed: int = 0) -> Interval:
    """The mean over seeds of a metric, with an interval that resamples seeds and prompts, crossed.

    Args:
        values: (seeds, prompts), NaN where the metric does not apply to the prompt.
        per: Likewise; the metric of a seed is then the sum of `values` over the sum of `per`.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Returns:
        With one seed the interval covers the choice of prompts only.

    Raises:
        ValueError: No prompts, or shapes that differ.
    """
    means, drawn = _drawn(*_sums(values, per), resamples, seed)
    return _interval(float(means.mean()), drawn, values.shape[1])


def paired(
    first: Array,
    second: Array,
    per: tuple[Array | None, Array | None] = (None, None),
    *,
    resamples: int = 10000,
    seed: int = 0,
) -> Paired:
    """Compare two lists of runs; row i of both has the same seed, and columns are the same prompts.

    Both sides are resampled with the same seeds and the same prompts; the p-value is twice the smaller share of resampled
    differences on either side of 0. With few seeds resampling them tells little about further seeds, so the interval is
    too narrow for these; `over_seeds` shows the spread that was seen.

    Args:
        first: (seeds, prompts), NaN where the metric does not apply.
        second: Likewise.
        per: Denominators of both, see `over_seeds_and_prompts`.
        resamples: Of the bootstrap; p is at least 2 / (resamples + 1).
        seed: Of the bootstrap.

    Raises:
        ValueError: Shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"expected the same seeds and prompts on both sides, got shapes {first.shape} and {second.shape}")
    sides = [_drawn(*_sums(values, below), resamples, seed) for values, below in zip((first, second), per, strict=True)]
    (first_means, first_drawn), (second_means, second_drawn) = sides
    by_seed, drawn = second_means - first_means, second_drawn - first_drawn
    drawn = drawn[~np.isnan(drawn)]
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    p_value = min(1.0, 2 * (tail + 1) / (len(drawn) + 1))
    applies = ~np.isnan(first).all(axis=0) & ~np.isnan(second).all(axis=0)
    by_prompt = np.nanmean(second[:, applies], axis=0) - np.nanmean(first[:, applies], axis=0)
    seeds = len(by_seed)
    return Paired(
        float(first_means.mean()),
        float(second_means.mean()),
        _interval(float(by_seed.mean()), drawn, first.shape[1]),
        p_value,
        _standardised(by_prompt),
        _standardised(by_seed) * (1 - 3 / (4 * seeds - 5) if seeds > 2 else math.nan),
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


def _standardised(differences: Array) -> float:
    spread = float(differences.std(ddof=1)) if len(differences) > 1 else 0.0
    return float(differences.mean()) / spread if spread > 0 else math.nan


def _sums(values: Array, per: Array | None) -> tuple[Array, Array]:
    """Numerators and denominators, 0 and 0 where the metric does not apply."""
    if values.ndim != 2 or not values.size or (per is not None and per.shape != values.shape):
        raise ValueError(f"expected values of shape (seeds, prompts), got {values.shape}")
    applies = ~np.isnan(values)
    below = np.ones_like(values) if per is None else per
    return np.where(applies, values, 0.0), np.where(applies, below, 0.0)


def _drawn(above: Array, below: Array, resamples: int, seed: int) -> tuple[Array, Array]:
    """The metric of every seed, and its mean over resampled seeds on resampled prompts."""
    seeds, prompts = above.shape
    with np.errstate(divide="ignore", invalid="ignore"):
        means = above.sum(axis=1) / below.sum(axis=1)
        parts = []
        for start, size in _chunks(resamples, prompts):
            weights = _prompt_weights(prompts, size, seed, start)
            by_seed = (above @ weights) / (below @ weights)
            chosen = np.random.default_rng((seed, start, 1)).multinomial(seeds, np.full(seeds, 1 / seeds), size=size)
            parts.append((by_seed * chosen.T).sum(axis=0) / seeds)
    return means, np.concatenate(parts)


def _chunks(resamples: int, prompts: int) -> list[tuple[int, int]]:
    size = max(1, 2_000_000 // prompts)
    return [(start, min(size, resamples - start)) for start in range(0, resamples, size)]


@lru_cache(maxsize=16)
def _prompt_weights(prompts: int, size: int, seed: int, start: int) -> Array:
    """(prompts, size): how often each prompt is drawn in each resample."""
    generator = np.random.default_rng((seed, start, 0))
    drawn = generator.multinomial(prompts, np.full(prompts, 1 / prompts), size=size)
    return drawn.T.astype(np.float64)


def _interval(value: float, drawn: Array, n: int) -> Interval:
    defined = drawn[~np.isnan(drawn)]
    if not defined.size:
        return Interval(value, math.nan, math.nan, n, _LEVEL, 0)
    low, high = np.quantile(defined, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Interval(value, float(low), float(high), n, _LEVEL, len(defined))
