"""Mask metrics against tables computed by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visurf.metrics import (
    SEGMENTATION_CONVENTIONS,
    Overlap,
    gres_report,
    gres_scores,
    lisa_scores,
    mask_overlap,
    overlap_iou,
    pixel_sums,
    seg_zero_scores,
    segmentation_scores,
    visionreasoner_scores,
    visual_rft_scores,
)

HIT_NONE = Overlap(0, 0, predicted_none=True, truth_none=True)
MISSED_NONE = Overlap(0, 30, predicted_none=False, truth_none=True)
CALLED_ABSENT = Overlap(0, 40, predicted_none=True, truth_none=False)
GOOD, FAIR = Overlap(80, 100), Overlap(70, 100)
EMPTY = Overlap(0, 0)


def test_mask_overlap_counts_and_ignores():
    prediction = np.array([[1, 1, 1], [0, 0, 0]])
    truth = np.array([[1, 0, 255], [1, 255, 0]])
    assert mask_overlap(prediction, truth) == Overlap(1, 3)
    assert mask_overlap(prediction, truth, ignore=None) == Overlap(2, 5)
    assert mask_overlap(prediction * 255, truth) == Overlap(1, 3), "a 0/255 mask is a mask"
    assert mask_overlap(prediction > 0, truth == 1, predicted_none=True, truth_none=True) == Overlap(1, 4, True, True)
    with pytest.raises(ValueError, match="shape"):
        mask_overlap(np.zeros((2, 3)), np.zeros((3, 2)))


@pytest.mark.parametrize("counts", [(-1, 3), (4, 3)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(ValueError, match="intersection"):
        Overlap(*counts)


# What one sample gives: the IoU it adds to gIoU, and what it adds to the two sums of cIoU.
@pytest.mark.parametrize(
    ("overlap", "iou", "sums"),
    [
        (HIT_NONE, 1.0, (0, 0)),
        (Overlap(0, 25, True, True), 1.0, (0, 0)),
        (MISSED_NONE, 0.0, (0, 30)),
        (Overlap(0, 0, False, True), 0.0, (0, 0)),
        (CALLED_ABSENT, 0.0, (0, 40)),
        (Overlap(20, 40, True, False), 0.0, (0, 40)),
        (GOOD, 0.8, (80, 100)),
        (Overlap(0, 50), 0.0, (0, 50)),
    ],
)
def test_one_sample(overlap, iou, sums):
    assert overlap_iou(overlap) == iou
    assert pixel_sums(overlap) == sums


def test_the_empty_union_rule_is_a_parameter():
    assert overlap_iou(EMPTY) == 1.0
    assert overlap_iou(EMPTY, empty_union=0.0) == 0.0
    assert segmentation_scores([EMPTY, GOOD])["gIoU"] == pytest.approx(0.9)
    assert segmentation_scores([EMPTY, GOOD], empty_union=0.0)["gIoU"] == pytest.approx(0.4)


def test_sound_scores_by_hand():
    scores = segmentation_scores([HIT_NONE, MISSED_NONE, CALLED_ABSENT, GOOD, FAIR], thresholds=(0.7, 0.8, 0.9))
    assert scores == pytest.approx(
        {
            "gIoU": (1 + 0 + 0 + 0.8 + 0.7) / 5,
            "cIoU": 150 / (30 + 40 + 100 + 100),
            "N_acc": 1 / 2,
            "T_acc": 2 / 3,
            "Pr@0.7": 2 / 3,
            "Pr@0.8": 1 / 3,
            "Pr@0.9": 0.0,
        }
    )


def test_what_has_no_denominator_is_nan_and_nothing_is_an_error():
    only_none = segmentation_scores([HIT_NONE])
    assert only_none["gIoU"] == 1.0
    assert only_none["N_acc"] == 1.0
    assert all(math.isnan(only_none[key]) for key in ("cIoU", "T_acc", "Pr@0.5"))
    assert math.isnan(segmentation_scores([GOOD])["N_acc"])
    with pytest.raises(ValueError, match="no samples"):
        segmentation_scores([])


def test_gres_is_percent_but_its_accuracies_are_fractions():
    scores = gres_scores([HIT_NONE, MISSED_NONE, CALLED_ABSENT, GOOD, FAIR])
    assert scores == pytest.approx(
        {
            "gIoU": 50.0,
            "cIoU": 100 * 150 / 270,
            "N_acc": 0.5,
            "T_acc": 2 / 3,
            "Pr@0.7": 200 / 3,
            "Pr@0.8": 100 / 3,
            "Pr@0.9": 0.0,
        }
    )


def test_gres_quirks():
    assert gres_scores([GOOD])["N_acc"] == gres_scores([GOOD])["T_acc"] == 0.0
    assert gres_scores([EMPTY])["gIoU"] == 0.0
    assert math.isnan(gres_scores([EMPTY])["cIoU"])
    for overlaps in ([], [HIT_NONE], [MISSED_NONE]):
        with pytest.raises(ZeroDivisionError):
            gres_scores(overlaps)


def test_gres_report_pools_two_sources():
    report = gres_report({"refcoco": [GOOD], "grefcoco": [FAIR, HIT_NONE]})
    assert set(report) == {"refcoco", "grefcoco", "full"}
    assert report["full"]["gIoU"] == pytest.approx(100 * 2.5 / 3)
    assert "N_acc" not in report["full"]
    assert set(gres_report({"grefcoco": [GOOD], "refcoco": []})) == {"grefcoco"}
    assert gres_report({}) == {}
    with pytest.raises(ValueError, match="other"):
        gres_report({"other": [GOOD]})


def test_the_conventions_by_hand():
    overlaps = [EMPTY, Overlap(3, 4), Overlap(0, 6)]
    assert lisa_scores(overlaps) == pytest.approx({"gIoU": (1 + 3 / 4.00001) / 3.00001, "cIoU": 3 / 10.0000000001}, abs=1e-12)
    assert seg_zero_scores(overlaps) == pytest.approx({"gIoU": 0.25})
    assert visionreasoner_scores(overlaps) == pytest.approx({"gIoU": 0.25, "cIoU": 0.3})
    assert visual_rft_scores(overlaps) == pytest.approx({"gIoU": 3 / 4.000001 / 3, "cIoU": 3 / 10.000001}, abs=1e-12)
    assert lisa_scores([Overlap(12, 12)])["gIoU"] < 1


def test_the_conventions_on_nothing():
    with pytest.raises(ValueError, match="no masks"):
        lisa_scores([])
    assert math.isnan(seg_zero_scores([])["gIoU"])
    assert math.isnan(visionreasoner_scores([])["gIoU"])
    assert visionreasoner_scores([])["cIoU"] == 0.0
    assert visual_rft_scores([]) == {"gIoU": 0.0, "cIoU": 0.0}
    assert visionreasoner_scores([EMPTY]) == {"gIoU": 0.0, "cIoU": 0.0}


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=20))
def test_every_convention_stays_in_range_and_ignores_order(counts):
    overlaps = [Overlap(i, i + extra) for i, extra in counts]
    for name, scores in SEGMENTATION_CONVENTIONS.items():
        forward, backward = scores(overlaps), scores(overlaps[::-1])
        top = 100 if name == "gres" else 1
        for key, value in forward.items():
            assert value == pytest.approx(backward[key], nan_ok=True)
            assert math.isnan(value) or -1e-9 <= value <= top + 1e-9
