"""Box, click and GREC metrics against hand-computed values."""

import math

import numpy as np
import pytest

from visurf.metrics import (
    Overlap,
    box_accuracy,
    box_ious,
    click_accuracy,
    click_hits,
    grec_f1,
    grec_scores,
    mask_box_accuracy,
    mean_box_iou,
    thresholded_jaccard,
)

UNIT = (0.0, 0.0, 10.0, 10.0)
HALF = (0.0, 0.0, 10.0, 5.0)
MORE = (0.0, 0.0, 10.0, 6.0)
FAR = (50.0, 50.0, 60.0, 60.0)


def test_ious_count_failures():
    assert box_ious([UNIT, HALF, None, FAR], [UNIT] * 4).tolist() == [1.0, 0.5, 0.0, 0.0]
    assert mean_box_iou([UNIT, HALF, None, FAR], [UNIT] * 4) == 0.375


def test_box_accuracy_is_strict():
    assert box_accuracy([HALF], [UNIT]) == 0.0
    assert box_accuracy([MORE, HALF, None, UNIT], [UNIT] * 4) == 0.5
    assert box_accuracy([MORE], [UNIT], threshold=0.6) == 0.0


def test_mask_box_accuracy_uses_the_half_open_tight_box():
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[2:4, 3:5] = 1
    # The box with inclusive corners covers a quarter of the 2 x 2 pixels, the half-open one all of them.
    assert mask_box_accuracy([(3.0, 2.0, 5.0, 4.0)], [mask]) == 1.0
    assert mask_box_accuracy([(3.0, 2.0, 4.0, 3.0)], [mask]) == 0.0
    assert mask_box_accuracy([(3.0, 2.0, 5.0, 4.0), None], [mask, mask]) == 0.5
    with pytest.raises(ValueError, match="mask 1"):
        mask_box_accuracy([UNIT, UNIT], [mask, np.zeros((8, 8), dtype=np.uint8)])


def test_thresholded_jaccard():
    assert thresholded_jaccard([Overlap(65, 100)]) == 0.65
    assert thresholded_jaccard([Overlap(649, 1000)]) == 0.0
    assert thresholded_jaccard([Overlap(9, 10), Overlap(6, 10), Overlap(0, 0)]) == pytest.approx(0.3)


def test_clicks_on_the_border_hit_and_failures_miss():
    truth = [[UNIT], [UNIT], [UNIT], [UNIT, FAR]]
    points = [(10.0, 10.0), (10.001, 5.0), None, (55.0, 55.0)]
    assert click_hits(points, truth).tolist() == [True, False, False, True]
    assert click_accuracy(points, truth) == 0.5
    with pytest.raises(ValueError, match="sample 0 has no true box"):
        click_hits([(1.0, 1.0)], [[]])


@pytest.mark.parametrize(
    "metric", [mean_box_iou, box_accuracy, mask_box_accuracy, click_accuracy, lambda a, b: thresholded_jaccard(a)]
)
def test_nothing_is_an_error(metric):
    with pytest.raises(ValueError, match="no samples"):
        metric([], [])


@pytest.mark.parametrize("metric", [box_ious, click_hits])
def test_every_sample_needs_an_entry(metric):
    with pytest.raises(ValueError, match="None for a failed"):
        metric([None], [])


@pytest.mark.parametrize(
    ("predicted", "truth", "f1"),
    [
        ([], [], 1.0),
        ([UNIT], [], 0.0),
        ([], [UNIT], 0.0),
        ([UNIT, FAR], [FAR, UNIT], 1.0),
        ([UNIT, FAR, (80.0, 80.0, 90.0, 90.0)], [UNIT, FAR], 0.8),
        ([UNIT, UNIT], [UNIT], 2 / 3),
        ([HALF], [UNIT], 1.0),
        ([(0.0, 0.0, 10.0, 4.9)], [UNIT], 0.0),
        ([UNIT], [HALF, FAR], 2 / 3),
        # Each box counts once, on either side.
        ([UNIT, FAR], [UNIT, (0.0, 0.0, 10.0, 8.0)], 0.5),
        ([UNIT, (0.0, 0.0, 10.0, 8.0)], [UNIT, FAR], 0.5),
    ],
)
def test_grec_f1(predicted, truth, f1):
    assert grec_f1(predicted, truth) == pytest.approx(f1)


def test_grec_uses_the_generalised_iou():
    # IoU 174.24 / 337.76 = 0.516, and 15.68 of the enclosing 353.44 lie outside both: 0.516 - 0.044 < 0.5.
    first, second = (0.0, 0.0, 16.0, 16.0), (2.8, 2.8, 18.8, 18.8)
    assert box_ious([first], [second])[0] == pytest.approx(0.5159, abs=1e-4)
    assert grec_f1([first], [second]) == 0.0
    assert grec_f1([first], [second], threshold=0.47) == 1.0


def test_grec_matches_the_best_pair_first():
    # In order, the first prediction would take the first truth and leave the second one without a partner.
    a, b = (0.0, 0.0, 10.0, 10.0), (0.0, 0.0, 10.0, 7.0)
    assert grec_f1([b, a], [a, b]) == 1.0
    assert grec_f1([(0.0, 0.0, 10.0, 9.0), a], [a, (0.0, 0.0, 10.0, 4.6)]) == 1.0


def test_grec_scores_by_hand():
    samples = [([], []), ([UNIT], []), ([UNIT, FAR], [UNIT, FAR]), ([], [UNIT]), ([UNIT, HALF], [UNIT])]
    assert grec_scores(samples) == pytest.approx({"Pr@(F1=1)": 2 / 5, "N_acc": 1 / 2, "T_acc": 2 / 3})
    assert math.isnan(grec_scores([([], [])])["T_acc"])
    assert math.isnan(grec_scores([([], [UNIT])])["N_acc"])
    with pytest.raises(ValueError, match="no expressions"):
        grec_scores([])
