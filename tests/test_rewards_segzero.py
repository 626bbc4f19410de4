"""Seg-Zero's rewards: tables computed by hand."""

import pytest

from visurf.rewards import segzero

TRUTH = "<box>(100,100),(199,199)</box><points>(110,110),(189,189)</points>"
BOX, POINTS = "[100, 100, 199, 199]", '"points_1": [110, 110], "points_2": [189, 189]'


def completion(answer, thought="I see."):
    return f"<think>{thought}</think><answer>{answer}</answer>"


def parts(answer, strict=False, truth=TRUTH, thought="I see."):
    return list(segzero.score(completion(answer, thought), truth, strict=strict).values())


@pytest.mark.parametrize(
    ("answer", "lenient", "strict"),
    [
        (f'{{"bbox": {BOX}, {POINTS}}}', [1, 1, 1, 1, 1, 5], [1, 1, 1, 1, 1, 5]),
        (f'{{"my_BBOX": {BOX}, {POINTS}}}', [1, 1, 1, 1, 1, 5], [1, 0, 0, 0, 0, 1]),
        # "point_1" has no final s: good enough for the lenient format, but not for its points.
        (f'{{"bbox": {BOX}, "point_1": [110, 110], "point_2": [189, 189]}}', [1, 1, 1, 1, 0, 4], [1, 0, 1, 1, 0, 3]),
        # The points are swapped: the better pairing counts.
        (f'{{"bbox": {BOX}, "points_1": [189, 189], "points_2": [110, 110]}}', [1, 1, 1, 1, 1, 5], [1, 1, 1, 1, 1, 5]),
        (f'{{"bbox": {BOX}, "points_1": "ab", "points_2": "cd"}}', [1, 1, 1, 1, 0, 4], [1, 0, 1, 1, 0, 3]),
        # Half the box: IoU 0.5 is not above; mean difference 12.5; the second point is outside.
        (f'{{"bbox": [100, 100, 199, 149], {POINTS}}}', [1, 1, 0, 0, 0, 2], [1, 1, 0, 0, 0, 2]),
        # A nested object ends the group at its own brace.
        (f'{{"a": {{"b": 1}}, "bbox": {BOX}, {POINTS}}}', [1, 0, 0, 0, 0, 1], [1, 0, 0, 0, 0, 1]),
        (f'{{"bbox": [1{"0" * 400}, 100, 199, 199], {POINTS}}}', [1, 1, 0, 0, 0, 2], [1, 1, 0, 0, 0, 2]),
        ("nothing", [1, 0, 0, 0, 0, 1], [1, 0, 0, 0, 0, 1]),
    ],
)
def test_parts(answer, lenient, strict):
    assert parts(answer) == lenient
    assert parts(answer, strict=True) == strict


def test_a_brace_group_in_the_thought_is_what_gets_read():
    assert parts(f'{{"bbox": {BOX}, {POINTS}}}', thought="{a}")[1:5] == [0, 0, 0, 0]
    assert parts(f'{{"bbox": {BOX}, {POINTS}}}', thought="{}")[1:5] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("box", "overlap"),
    [
        # One pixel wide over one pixel wide: equal boxes, and yet no overlap.
        ("[100, 100, 100, 199]", 0),
        ("[100, 100, 101, 199]", 0),
    ],
)
def test_thin_boxes(box, overlap):
    truth = TRUTH.replace("(199,199)</box>", "(100,199)</box>")
    assert parts(f'{{"bbox": {box}, {POINTS}}}', truth=truth)[2] == overlap


def test_points_are_truncated_toward_zero_and_read_from_digits():
    box = "[0, 0, 300, 300]"
    assert parts(f'{{"bbox": {box}, "points_1": [-0.9, 110], "points_2": ["189", "189"]}}')[4] == 1
    assert parts(f'{{"bbox": {box}, "points_1": [110, 110], "points_2": ["189.5", "189"]}}')[4] == 0
    assert parts(f'{{"bbox": {box}, "points_1": [110, 110], "points_2": [NaN, 189]}}')[4] == 0


@pytest.mark.parametrize("truth", ["", "<box>( 100,100),(199,199)</box>", "<box>(100.0,100),(199,199)</box>"])
def test_a_truth_without_the_pattern_earns_nothing(truth):
    assert parts(f'{{"bbox": {BOX}, {POINTS}}}', truth=truth) == [1, 1, 0, 0, 0, 2]
