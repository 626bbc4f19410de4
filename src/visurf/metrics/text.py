"""Text metrics: accuracy, ChartQA's relaxed accuracy and DocVQA's ANLS. All are fractions in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

_Truth = TypeVar("_Truth")


@dataclass(frozen=True)
class Share:
    """How many of how many: correct answers and all answers."""

    correct: int
    total: int

    @property
    def fraction(self) -> float:
        """In [0, 1]; NaN of nothing."""
        return self.correct / self.total if self.total else math.nan


def accuracy(correct: Sequence[bool]) -> float:
    """Share of samples that are right; a failed answer is one that is wrong, never one that is missing.

    Raises:
        ValueError: There are no samples.

    >>> accuracy([True, False, False, True])
    0.5
    """
    if not len(correct):
        raise ValueError("no samples: a metric over nothing has no value")
    return sum(map(bool, correct)) / len(correct)


def grouped_accuracy(correct: Sequence[bool], groups: Sequence[Iterable[Hashable]]) -> dict[Hashable, Share]:
    """Right and all samples per group; a sample may belong to several, as with MathVista's skills.

    Raises:
        ValueError: The lengths differ.

    >>> grouped_accuracy([True, False], [["algebra"], ["algebra", "geometry"]])["algebra"].fraction
    0.5
    """
    if len(correct) != len(groups):
        raise ValueError(f"{len(correct)} verdicts for {len(groups)} samples")
    shares: dict[Hashable, Share] = {}
    for right, names in zip(correct, groups, strict=True):
        for name in set(names):
            old = shares.get(name, Share(0, 0))
            shares[name] = Share(old.correct + bool(right), old.total + 1)
    return shares


def edit_distance(first: str, second: str) -> int:
    """Levenshtein distance over code points: insertions, deletions and substitutions cost 1.

    Source: Hyyrö, "A bit-vector algorithm for computing Levenshtein and Damerau edit distances" (2003), with Python's
    integers as vectors of any length, so a text of thousands of characters costs milliseconds.

    >>> edit_distance("kitten", "sitting"), edit_distance("", "abc")
    (3, 3)
    """
    pattern, text = sorted((first, second), key=len)
    if not pattern:
        return len(text)
    positions: dict[str, int] = {}
    for index, character in enumerate(pattern):
        positions[character] = positions.get(character, 0) | 1 << index
    every, last = (1 << len(pattern)) - 1, 1 << (len(pattern) - 1)
    # Bit i of plus (minus): the distance grows (falls) by one from row i to row i + 1 of the current column.
    plus, minus, distance = every, 0, len(pattern)
    for character in text:
        equal = positions.get(character, 0)
        diagonal = (((equal & plus) + plus) ^ plus) | equal | minus
        across_plus = minus | (every & ~(diagonal | plus))
        across_minus = plus & diagonal
        distance += bool(across_plus & last) - bool(across_minus & last)
        across_plus = (across_plus << 1) | 1
        plus = every & ((across_minus << 1) | ~(diagonal | across_plus))
        minus = every & across_plus & diagonal
    return distance


def _chart_number(text: str) -> float | None:
    """The number a chart answer writes, a trailing percent sign meaning hundredths; None where it is none."""
    try:
        value = float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
    # "nan" and "inf" are words here: compared as numbers a truth "nan" could never be answered.
    return value if math.isfinite(value) else None


def relaxed_correct(prediction: str, truth: str, *, tolerance: float = 0.05) -> bool:
    """Whether a chart answer is right: numbers within a relative tolerance (inclusive), other texts up to case.

    A truth of zero is compared as text, and so is a number with a thousands separator or a unit. Surrounding whitespace
    counts in texts: trim the answer when parsing.

    Source: Masry et al., ChartQA (arXiv 2203.10244), section 5.1.

    >>> relaxed_correct("105", "100"), relaxed_correct("5.2%", "0.052"), relaxed_correct("yes", "Yes")
    (True, True, True)
    >>> relaxed_correct("106", "100"), relaxed_correct("0.0", "0"), relaxed_correct("1,000", "1000")
    (False, False, False)
    """
    predicted, true = _chart_number(prediction), _chart_number(truth)
    if predicted is not None and true:
        return abs(predicted - true) / abs(true) <= tolerance
    return prediction.lower() == truth.lower()


def relaxed_accuracy(predictions: Sequence[str | None], truths: Sequence[str], *, tolerance: float = 0.05) -> float:
    """ChartQA's relaxed accuracy: the share of `relaxed_correct` answers; None is a failed answer.

    Raises:
        ValueError: There are no samples, or the lengths differ.
    """
    return _mean(predictions, truths, lambda p, t: float(relaxed_correct(p, t, tolerance=tolerance)))


def anls_score(prediction: str, truths: Sequence[str], *, threshold: float = 0.5, keep_at_threshold: bool = True) -> float:
    """Similarity of one answer to the nearest accepted one: 1 - distance / longer length, or 0 below the threshold.

    Case and runs of whitespace do not count. Two empty texts are equal.

    Args:
        prediction: The answer.
        truths: Accepted answers, at least one.
        threshold: Of the similarity.
        keep_at_threshold: A similarity of exactly the threshold counts, as in the challenge's script; the paper's formula
            (distance < 0.5) drops it.

    Raises:
        ValueError: No accepted answer.

    Source: Biten et al., arXiv 1907.00490, Eq. 1; the Robust Reading Competition's script for DocVQA.

    >>> anls_score("Hello  wurld", ["hello world", "hi"])
    0.9090909090909091
    >>> anls_score("ab", ["ax"]), anls_score("ab", ["ax"], keep_at_threshold=False)
    (0.5, 0.0)
    """
    if not truths:
        raise ValueError("no accepted answer to compare with")
    similarities = []
    for truth in truths:
        a, b = (" ".join(text.lower().split()) for text in (prediction, truth))
        similarities.append(1 - edit_distance(a, b) / max(len(a), len(b), 1))
    best = max(similarities)
    return best if best > threshold or (keep_at_threshold and best == threshold) else 0.0


def anls(
    predictions: Sequence[str | None],
    truths: Sequence[Sequence[str]],
    *,
    threshold: float = 0.5,
    keep_at_threshold: bool = True,
) -> float:
    """DocVQA's average normalised Levenshtein similarity, a fraction; None is a failed answer and scores 0.

    Raises:
        ValueError: There are no samples, the lengths differ, or a sample has no accepted answer.
    """
    return _mean(predictions, truths, lambda p, t: anls_score(p, t, threshold=threshold, keep_at_threshold=keep_at_threshold))


def _mean(predictions: Sequence[str | None], truths: Sequence[_Truth], score: Callable[[str, _Truth], float]) -> float:
    if len(predictions) != len(truths):
        raise ValueError(f"{len(predictions)} predictions for {len(truths)} samples; give None for a failed answer")
    if not predictions:
        raise ValueError("no samples: a metric over nothing has no value")
    pairs = zip(predictions, truths, strict=True)
    return math.fsum(0.0 if p is None else score(p, t) for p, t in pairs) / len(predictions)
