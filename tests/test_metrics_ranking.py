"""ROC-AUC and average precision against hand-computed values and, where it is installed, scikit-learn."""

import itertools
import math
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visurf.metrics import average_precision, roc_auc


@pytest.mark.parametrize(
    ("labels", "scores", "area", "precision"),
    [
        ([0, 1], [0.1, 0.9], 1.0, 1.0),
        ([1, 0], [0.1, 0.9], 0.0, 0.5),
        ([0, 1], [0.5, 0.5], 0.5, 0.5),
        ([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], 0.75, 5 / 6),
        ([0, 1, 1], [1, 1, 2], 0.75, 5 / 6),
        ([False, True], [0.1, 0.2], 1.0, 1.0),
        ([-1, 1], [0.1, 0.2], 1.0, 1.0),
        ([1, 0, 1, 0], [1e-300, 0, 1e300, 1e-308], 1.0, 1.0),
        ([0, 1, 1, 0], [0.30000000000000004, 0.3, 0.30000000000000004, 0.3], 0.5, 0.5),
        ([1, 1], [0.1, 0.2], math.nan, 1.0),
        ([0, 0], [0.1, 0.2], math.nan, 0.0),
    ],
)
def test_by_hand(labels, scores, area, precision):
    assert roc_auc(labels, scores) == pytest.approx(area, nan_ok=True)
    assert average_precision(labels, scores) == pytest.approx(precision)


def test_other_labels():
    assert roc_auc([5, 7], [0.1, 0.2]) == roc_auc(["a", "b"], [0.1, 0.2]) == 1.0
    # 1 is positive for the average precision, the larger label for the ROC.
    assert average_precision([1, 2], [0.9, 0.1]) == 1.0
    assert roc_auc([1, 2], [0.9, 0.1]) == 0.0
    for labels in ([5, 7], ["a", "b"]):
        with pytest.raises(ValueError, match="none is positive"):
            average_precision(labels, [0.1, 0.2])


@pytest.mark.parametrize("metric", [roc_auc, average_precision])
@pytest.mark.parametrize(
    ("labels", "scores"),
    [
        ([], []),
        ([0, 1, 2], [0.1, 0.2, 0.3]),
        ([0, 1], [0.1]),
        ([0, 1], [0.1, math.nan]),
        ([0, 1], [0.1, math.inf]),
        ([0, 1], [-math.inf, 0.1]),
        ([0, 1], [[0.9, 0.1], [0.2, 0.8]]),
        ([0, 1, math.nan], [0.1, 0.2, 0.3]),
        ([0.5, 1.0], [0.1, 0.2]),
        ([0, 1], ["0.1", "0.2"]),
        ([0, 1], [None, 0.2]),
        ([None, 1], [0.1, 0.2]),
        (["a", 1], [0.1, 0.2]),
    ],
)
def test_refused(metric, labels, scores):
    with pytest.raises(ValueError, match=r"."):
        metric(labels, scores)


examples = st.lists(st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.25, 0.5, 0.75])), min_size=1, max_size=15)


@given(examples)
def test_the_area_is_the_share_of_ordered_pairs(rows):
    positives, negatives = ([s for label, s in rows if label == side] for side in (1, 0))
    pairs = [(p > n) + (p == n) / 2 for p, n in itertools.product(positives, negatives)]
    expected = sum(pairs) / len(pairs) if pairs else math.nan
    labels, scores = zip(*rows, strict=True)
    assert roc_auc(labels, scores) == pytest.approx(expected, nan_ok=True)
    if pairs:
        assert roc_auc(labels, [-s for s in scores]) == pytest.approx(1 - expected)


@settings(deadline=None)
@given(examples)
def test_scikit_learn_agrees(rows):
    sklearn = pytest.importorskip("sklearn.metrics")
    labels, scores = zip(*rows, strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert roc_auc(labels, scores) == pytest.approx(sklearn.roc_auc_score(labels, scores), nan_ok=True)
        assert average_precision(labels, scores) == pytest.approx(sklearn.average_precision_score(labels, scores))
