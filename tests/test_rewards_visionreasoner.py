"""VisionReasoner's rewards: tables computed by hand."""

import json
import math

import pytest

from visurf.rewards import visionreasoner as vr

TRUE_BOX, TRUE_POINT = (100, 100, 199, 199), (150, 150)


def objects(*pairs):
    return json.dumps([{"bbox_2d": list(b), "point_2d": list(p)} for b, p in pairs])


def completion(answer, thought="I see."):
    return f"<think>{thought}</think><answer>{answer}</answer>"


@pytest.mark.parametrize(
    ("box", "point", "expected"),
    [
        (TRUE_BOX, TRUE_POINT, 3),
        # 100 x 50 inclusive pixels of 100 x 100: IoU exactly 0.5 is not above it; mean difference 12.5; point inside.
        ((100, 100, 199, 149), (150, 149), 1),
        # One row more: IoU 0.51.
        ((100, 100, 199, 150), (150, 150), 2),
        # Mean coordinate difference 10 is not below 10; IoU is above 0.5.
        ((110, 110, 209, 209), (150, 150), 2),
        ((109, 110, 209, 209), (150, 150), 3),
        # The point is 30 away: not below.
        (TRUE_BOX, (180, 150), 2),
        (TRUE_BOX, (179, 150), 3),
        # A point outside the predicted box earns nothing, though it is inside the true one.
        ((100, 100, 149, 199), (150, 150), 0),
        ((math.nan, 100, 199, 199), (150, 150), 0),
    ],
)
def test_one_object(box, point, expected):
    assert vr.object_accuracy([box], [point], [TRUE_BOX], [TRUE_POINT]) == expected


def test_the_larger_count_divides_and_the_best_assignment_counts():
    far, far_point = (500, 500, 600, 600), (550, 550)
    both = [far, TRUE_BOX], [far_point, TRUE_POINT]
    assert vr.object_accuracy(*both, both[0][::-1], both[1][::-1]) == 3
    assert vr.object_accuracy([TRUE_BOX], [TRUE_POINT], *both) == 1.5
    assert vr.object_accuracy(*both, [TRUE_BOX], [TRUE_POINT]) == 1.5


def test_only_120_objects_of_a_side_count():
    boxes, points = (
        [(1000 + 200 * i, 0, 1100 + 200 * i, 100) for i in range(121)],
        [(1050 + 200 * i, 50) for i in range(121)],
    )
    assert vr.object_accuracy(boxes, points, boxes[:120], points[:120]) == 3
    assert vr.object_accuracy(boxes, points, boxes[120:], points[120:]) == 0


def test_structured_input_is_checked():
    with pytest.raises(ValueError, match="one point per box"):
        vr.object_accuracy([TRUE_BOX], [], [TRUE_BOX], [TRUE_POINT])
    with pytest.raises(ValueError, match="rows of 4"):
        vr.object_accuracy([(1, 2, 3)], [TRUE_POINT], [TRUE_BOX], [TRUE_POINT])


@pytest.mark.parametrize(
    ("answer", "truth", "published", "sound"),
    [
        ("[]", "[]", (0, 0), (2, 3)),
        ("[]", objects((TRUE_BOX, TRUE_POINT)), (0, 0), (0, 0)),
        (objects((TRUE_BOX, TRUE_POINT)), "[]", (2, 0), (2, 0)),
        (objects((TRUE_BOX, TRUE_POINT)), objects((TRUE_BOX, TRUE_POINT)), (2, 3), (2, 3)),
        ("{}", "[]", (0, 0), (0, 0)),
        ('""', "[]", (0, 0), (0, 0)),
        ("", "[]", (0, 0), (0, 0)),
        ("No object", "[]", (0, 0), (0, 0)),
    ],
)
def test_variants(answer, truth, published, sound):
    for variant, expected in (("published", published), ("paper", published), ("sound", sound)):
        score = vr.score(completion(answer), truth, variant=variant)
        assert (score["answer_format"], score["accuracy"]) == expected
        assert score["total"] == sum(expected) + 2


def test_an_empty_truth_pays_the_empty_list_more_than_a_hallucination_only_under_sound():
    scores = {
        variant: [vr.score(completion(a), "[]", variant=variant)["total"] for a in ("[]", objects((TRUE_BOX, TRUE_POINT)))]
        for variant in ("published", "sound")
    }
    assert scores == {"published": [2, 4], "sound": [7, 4]}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('[{"bbox_2d": [1, 2, 3, 4], "point_2d": [1, 2]}, {"bbox_2d": [1, 2, 3], "point_2d": [1, 2]}]', 1.5),
        ('[{"bbox_2d": ["a", "b", "c", "d"]}]', 1),
        # What comes after a broken element does not count, what came before does.
        ('[{"bbox_2d": [1, 2, 3, 4], "point_2d": [1, 2]}, 5, {"bbox_2d": [1, 2, 3, 4]}]', 2 / 3),
        ('["bbox_2d", {"bbox_2d": [1, 2, 3, 4]}]', 0),
        ('["other", {"bbox_2d": [1, 2, 3, 4]}]', 0.5),
        ('[["bbox_2d"], {"bbox_2d": [1, 2, 3, 4]}]', 0),
        ('{"bbox_2d": [1, 2, 3, 4], "point_2d": [1, 2]}', 0),
        ("5", 0),
        ("nonsense", 0),
    ],
)
def test_answer_format(answer, expected):
    assert vr.answer_format(completion(answer)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 1),
        ("a. b. a", 1),
        ("a. b. a. a", 0),
        ("a. a. b. b", 0),
        ("...", 1),
        (" a.a .b", 1),
        ("1.5 and 1.5 and 1.5 and 1", 0),
    ],
)
def test_non_repeat(text, expected):
    assert vr.non_repeat(text) == expected


@pytest.mark.parametrize(
    "truth", ["", "x", "5", "{}", '[{"bbox_2d": [1, 2, 3, 4]}]', '[{"bbox_2d": [1, 2, 3], "point_2d": [1, 2]}]', "[null]"]
)
def test_a_broken_truth_earns_nothing(truth):
    assert vr.accuracy(completion(objects((TRUE_BOX, TRUE_POINT))), truth) == 0


def test_integers_beyond_doubles_earn_nothing():
    huge = f'[{{"bbox_2d": [1{"0" * 400}, 1, 2, 3], "point_2d": [1, 2]}}]'
    assert vr.accuracy(completion(huge), objects((TRUE_BOX, TRUE_POINT))) == 0
