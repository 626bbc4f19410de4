"""Frames, overlaps and masks: hand-computed values and round trips."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visurf.geometry import (
    Frame,
    box_iou,
    generalised_iou,
    inside,
    mask_box,
    mask_point,
    pairwise_iou,
    scale_boxes,
    scale_points,
    union_areas,
    union_boxes_mask,
    union_iou,
)

SIZES = st.tuples(st.integers(4, 6000), st.integers(4, 6000))
EXTENTS = st.one_of(
    st.just((1000.0, 1000.0)), st.tuples(st.integers(2, 90).map(lambda n: n * 28.0), st.integers(2, 90).map(lambda n: n * 28.0))
)


@st.composite
def boxes(draw, width, height):
    """A box inside an image, down to a hundredth of a pixel."""
    x1, y1 = (draw(st.floats(0, size - 0.02)) for size in (width, height))
    x2, y2 = (min(draw(st.floats(low + 0.01, size)), size) for low, size in ((x1, width), (y1, height)))
    return x1, y1, x2, y2


@settings(max_examples=400)
@given(st.data(), SIZES, EXTENTS)
def test_encoding_is_never_degenerate_stays_in_the_frame_and_is_stable(data, size, extent):
    frame = Frame(extent, size)
    box = data.draw(boxes(*size))
    encoded = frame.encode_box(box)
    assert encoded[0] < encoded[2]
    assert encoded[1] < encoded[3]
    assert all(0 <= v <= e for v, e in zip(encoded, (*extent, *extent), strict=True))
    decoded = frame.decode_box(encoded)
    assert frame.encode_box(decoded) == encoded
    bound = frame.rounding_bound()
    for value, back, limit in zip(box, decoded, (*bound, *bound), strict=True):
        assert abs(value - back) <= limit * (1 + 1e-9)


@given(st.data(), SIZES, EXTENTS)
def test_points_round_trip_within_half_a_unit(data, size, extent):
    frame = Frame(extent, size)
    point = tuple(data.draw(st.floats(0, s)) for s in size)
    encoded = frame.encode_point(point)
    decoded = frame.decode_point(encoded)
    assert frame.encode_point(decoded) == encoded
    for value, back, side, reach in zip(point, decoded, size, extent, strict=True):
        assert abs(value - back) <= 0.5 * side / reach * (1 + 1e-9) + 1e-9


def test_encoding_by_hand():
    pixels = Frame((56.0, 84.0), (100, 200))
    assert pixels.encode_point((50.0, 100.0)) == (28, 42)
    assert pixels.decode_point((28, 42)) == (50.0, 100.0)
    assert pixels.encode_box((99.9, 199.9, 100.0, 200.0)) == (55, 83, 56, 84)
    thousand = Frame((1000.0, 1000.0), (1000, 1000))
    assert thousand.encode_box((500.1, 499.6, 500.4, 499.9)) == (500, 499, 501, 500), "widened to the side it lies on"
    assert thousand.encode_box((0.0, 0.0, 0.2, 0.4)) == (0, 0, 1, 1)
    assert Frame((1000.0, 1000.0), (640, 480)).encode_point((-5.0, 481.0)) == (0, 1000)
    assert Frame((10.0, 10.0), (20, 20)).encode_point((3.0, 5.0)) == (2, 3), "halves round up"


@pytest.mark.parametrize(
    ("first", "second", "plain", "inclusive"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1.0, 1.0),
        ((0, 0, 10, 10), (10, 0, 20, 10), 0.0, 11 / 231),
        ((0, 0, 10, 10), (5, 0, 15, 10), 1 / 3, 66 / 176),
        ((0, 0, 10, 10), (30, 30, 40, 40), 0.0, 0.0),
        ((0, 0, 0, 0), (0, 0, 0, 0), 0.0, 1.0),
    ],
)
def test_iou_by_hand(first, second, plain, inclusive):
    assert box_iou(first, second) == pytest.approx(plain)
    assert pairwise_iou([first], [second], inclusive=True)[0, 0] == pytest.approx(inclusive)


def test_no_boxes_give_an_empty_table():
    assert pairwise_iou([], [(0, 0, 1, 1)]).shape == (0, 1)


def test_generalised_iou_by_hand():
    assert generalised_iou((0, 0, 2, 2), (0, 0, 2, 2)) == pytest.approx(1.0)
    assert generalised_iou((0, 0, 1, 1), (9, 9, 10, 10)) == pytest.approx(-0.98)


def test_scaling():
    assert scale_boxes([(10, 20, 30, 40)], (100, 200), (840, 840)) == ((84.0, 84.0, 252.0, 168.0),)
    assert scale_points([(50, 50)], (100, 200), (1, 1)) == ((0.5, 0.25),)
    assert inside((1, 1), (0, 0, 1, 1))
    assert not inside((1.1, 1), (0, 0, 1, 1))


def test_masks():
    mask = np.zeros((6, 8), dtype=np.uint8)
    assert mask_box(mask) is None
    assert mask_point(mask) is None
    mask[1:4, 2:7] = 1
    mask[0, 0] = 255
    assert mask_box(mask) == (2.0, 1.0, 7.0, 4.0)
    x, y = mask_point(mask)
    assert (y, 3.5 <= x <= 5.5) == (2.5, True)
    whole = np.ones((5, 5), dtype=np.uint8)
    assert mask_point(whole) == (2.5, 2.5)


@given(st.lists(st.tuples(*[st.integers(0, 12)] * 4), max_size=4), st.lists(st.tuples(*[st.integers(0, 12)] * 4), max_size=4))
def test_the_union_of_whole_pixel_boxes_equals_counting_pixels(first, second):
    sides = [[(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in group] for group in (first, second)]
    masks = [union_boxes_mask(s, (12, 12)) for s in sides]
    if sides[0] and sides[1]:
        union = (masks[0] | masks[1]).sum()
        expected = (masks[0] & masks[1]).sum() / union if union else 0.0
    else:
        expected = float(not sides[0] and not sides[1])
    assert union_iou(sides[0], sides[1], (12, 12)) == pytest.approx(expected)


def test_boxes_outside_the_image_do_not_count():
    assert union_iou([(0, 0, 10, 10)], [(0, 0, 30, 10)], (10, 10)) == 1.0
    assert math.isclose(union_iou([(-10, 0, 5, 10)], [(0, 0, 10, 10)], (10, 10)), 0.5)


def areas_by_cells(first, second, size):
    """The same by marking every cell between two borders for every box."""
    width, height = size
    sides = [[(max(b[0], 0), max(b[1], 0), min(b[2], width), min(b[3], height)) for b in boxes] for boxes in (first, second)]
    xs = np.unique([v for boxes in sides for b in boxes for v in (b[0], b[2])])
    ys = np.unique([v for boxes in sides for b in boxes for v in (b[1], b[3])])
    cells = np.outer(np.diff(ys), np.diff(xs))
    x, y = (xs[:-1] + xs[1:]) / 2, (ys[:-1] + ys[1:]) / 2
    covered = [np.zeros(cells.shape, dtype=bool) for _ in sides]
    for cover, boxes in zip(covered, sides, strict=True):
        for b in boxes:
            cover |= np.outer((b[1] <= y) & (y < b[3]), (b[0] <= x) & (x < b[2]))
    return cells[covered[0] & covered[1]].sum(), cells[covered[0] | covered[1]].sum()


COORDINATES = st.tuples(*[st.floats(-3, 13) | st.integers(-3, 13)] * 4)


@given(st.lists(COORDINATES, max_size=6), st.lists(COORDINATES, max_size=6))
def test_the_areas_of_unions_equal_those_of_all_cells(first, second):
    assert union_areas(first, second, (10, 8)) == pytest.approx(areas_by_cells(first, second, (10, 8)), abs=1e-9)


def test_thousands_of_boxes_have_a_union():
    # All cells between their borders would be gigabytes.
    boxes = [(i, i, i + 1, i + 1) for i in range(8000)]
    assert union_areas(boxes, [(0, 0, 8000, 8000)], (8000, 8000)) == (8000.0, 8000.0 * 8000)
    assert union_areas(boxes, boxes[:-1], (8000, 8000)) == (7999.0, 8000.0)
