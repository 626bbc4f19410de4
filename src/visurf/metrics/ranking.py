"""Area under the ROC curve and average precision of scores against binary labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def _checked(labels: Sequence[Any], scores: Sequence[float]) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """One-dimensional labels of at most two classes and as many finite scores, or ValueError."""
    if len({isinstance(label, str) for label in labels}) > 1:
        raise ValueError("labels must be all numbers or all texts")
    classes, values = np.asarray(labels), np.asarray(scores)
    if classes.dtype.kind not in "biufU" or values.dtype.kind not in "biuf":
        raise ValueError("labels must be numbers or texts, and scores numbers")
    if classes.ndim != 1 or values.ndim != 1:
        raise ValueError(f"labels and scores must be one-dimensional, got shapes {classes.shape} and {values.shape}")
    if len(classes) != len(values):
        raise ValueError(f"{len(classes)} labels but {len(values)} scores; a failed sample needs a score too")
    if not len(classes):
        raise ValueError("no samples: a metric over nothing has no value")
    if not np.isfinite(values).all():
        raise ValueError("scores must be finite")
    if classes.dtype.kind == "f" and not (np.isfinite(classes).all() and (classes == np.floor(classes)).all()):
        raise ValueError("labels must be classes: whole numbers, booleans or texts")
    if len(np.unique(classes)) > 2:
        raise ValueError(f"labels must be binary, got {len(np.unique(classes))} classes")
    return classes, values.astype(np.float64)


def roc_auc(labels: Sequence[Any], scores: Sequence[float]) -> float:
    """Probability that a positive scores above a negative, ties counting one half; in [0, 1].

    Args:
        labels: Two classes; the larger (by number or by spelling) is positive.
        scores: One finite number per label; only exact equality is a tie.

    Returns:
        NaN where all labels are the same.

    Raises:
        ValueError: No samples, unequal lengths, more than two classes, or a score that is not finite.

    Source: agrees with scikit-learn's roc_auc_score; the Mann-Whitney statistic over positives x negatives.

    >>> roc_auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    classes, values = _checked(labels, scores)
    distinct = np.unique(classes)
    if len(distinct) == 1:
        return math.nan
    positive = classes == distinct[1]
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean_ranks = np.cumsum(counts) - (counts - 1) / 2
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    statistic = float(mean_ranks[inverse][positive].sum()) - n_positive * (n_positive + 1) / 2
    return statistic / (n_positive * n_negative)


def average_precision(labels: Sequence[Any], scores: Sequence[float]) -> float:
    """Sum over distinct thresholds, descending, of the step in recall times the precision there; in [0, 1].

    There is no interpolation, so this is not the area under a COCO curve.

    Args:
        labels: Positive where equal to 1.
        scores: One finite number per label; equal scores share one threshold.

    Returns:
        0 without a positive, as published.

    Raises:
        ValueError: As `roc_auc`; also for two classes of which neither is 1, since no class is known to be positive then.

    Source: agrees with scikit-learn's average_precision_score with its default positive label.

    >>> round(average_precision([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]), 4)
    0.8333
    """
    classes, values = _checked(labels, scores)
    positive = np.zeros(len(classes), dtype=bool) if classes.dtype.kind in "US" else classes == 1
    if len(np.unique(classes)) == 2 and not positive.any():
        raise ValueError(f"neither class of {np.unique(classes).tolist()} is 1, so none is positive")
    if not positive.any():
        return 0.0
    _, inverse = np.unique(-values, return_inverse=True)
    found = np.cumsum(np.bincount(inverse, weights=positive))
    seen = np.cumsum(np.bincount(inverse))
    return float((np.diff(found, prepend=0) * found / seen).sum() / found[-1])
