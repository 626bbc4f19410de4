"""The smooth rewards: values computed by hand."""

import math

import numpy as np
import pytest

from visurf.rewards import shaping


def test_box_overlap():
    assert shaping.box_overlap([(0, 0, 1, 1)], [(0, 0, 1, 1)]) == 1
    # Generalised IoU -1/3.
    assert shaping.box_overlap([(0, 0, 1, 1)], [(2, 0, 3, 1)]) == pytest.approx(1 / 3)
    assert shaping.box_overlap([(5, 5, 6, 6), (0, 0, 1, 1)], [(0, 0, 1, 1), (5, 5, 6, 6)]) == 1
    assert shaping.box_overlap([(0, 0, 1, 1)], [(0, 0, 1, 1)] * 2) == 0.5
    assert shaping.box_overlap([], []) == 1
    assert shaping.box_overlap([(0, 0, 1, 1)], []) == 0
    assert shaping.box_overlap([], [(0, 0, 1, 1)]) == 0
    for box in ((0, 0, math.nan, 1), (1, 0, 0, 1), (0, 0, 1)):
        with pytest.raises(ValueError, match="finite box"):
            shaping.box_overlap([box], [(0, 0, 1, 1)])


def test_point_closeness():
    assert shaping.point_closeness([(0, 0)], [(3, 4)], scale=5) == pytest.approx(math.exp(-1))
    assert shaping.point_closeness([(9, 9), (0, 0)], [(0, 0), (9, 9)], scale=1) == 1
    assert shaping.point_closeness([], [], scale=1) == 1
    assert shaping.point_closeness([(0, 0)], [], scale=1) == 0
    with pytest.raises(ValueError, match="positive scale"):
        shaping.point_closeness([], [], scale=0)
    with pytest.raises(ValueError, match="finite"):
        shaping.point_closeness([(math.inf, 0)], [(0, 0)], scale=1)


def test_mask_iou():
    true = np.array([[1, 1, 0, 255]], dtype=np.uint8)
    assert shaping.mask_iou(np.array([[1, 0, 1, 1]]), true) == pytest.approx(1 / 3)
    assert shaping.mask_iou(np.array([[True, True, False, True]]), true) == 1
    assert shaping.mask_iou(np.zeros((2, 2)), np.zeros((2, 2), dtype=np.uint8)) == 1
    assert shaping.mask_iou(np.ones((2, 2)), np.zeros((2, 2), dtype=np.uint8)) == 0
    with pytest.raises(ValueError, match="one shape"):
        shaping.mask_iou(np.zeros((2, 2)), np.zeros((2, 3), dtype=np.uint8))


def test_length_penalty():
    assert [shaping.length_penalty(n, free=100, limit=200) for n in (0, 100, 125, 200, 999)] == [0, 0, -0.25, -1, -1]
    with pytest.raises(ValueError, match="free < limit"):
        shaping.length_penalty(1, free=2, limit=2)


def test_repetition_penalty():
    assert shaping.repetition_penalty("") == 0
    assert shaping.repetition_penalty("a b c d e f a b c d e f") == pytest.approx(-1 / 7)
    assert shaping.repetition_penalty("x X x", words=1) == pytest.approx(-2 / 3)
    with pytest.raises(ValueError, match="at least one"):
        shaping.repetition_penalty("a", words=0)
