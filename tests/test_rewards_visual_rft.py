"""Visual-RFT's rewards: tables computed by hand, for each variant."""

import math

import pytest

from visurf.rewards.visual_rft import classification, grounding
from visurf.rewards.visual_rft_detection import detection, detection_rewards, read_detections
from visurf.types import DataError

A, B, C = (100, 100, 200, 200), (300, 300, 400, 400), (500, 500, 600, 600)
VARIANTS = ("published", "paper", "sound")


def listed(*found):
    return str([{"Position": list(box), "Confidence": c} for box, c in found])


def completion(answer):
    return f"<think>I see.</think><answer>{answer}</answer>"


def rewards(answer, solution, variant):
    scores = detection(completion(answer), f"<answer>{solution}</answer>", variant=variant)
    return round(scores["iou"], 9), round(scores["confidence"], 9)


@pytest.mark.parametrize(
    ("answer", "solution", "published", "paper", "sound"),
    [
        (listed((A, 0.9)), listed((A, 1)), (1, 0.9), (1, 0.9), (1, 0.9)),
        # One good box among five truths: Eq. 6 divides by the one prediction.
        (listed((A, 0.9)), listed((A, 1), *[(B, 1)] * 4), (0.2, 0.9), (1, 0.9), (0.2, 0.9)),
        (listed((A, 0.9), (B, 0.3)), listed((A, 1)), (0.5, 0.8), (0.5, 0.8), (0.5, 0.8)),
        # IoU 0.5 is no match, 0.51 is.
        (listed(((100, 100, 200, 150), 0.7)), listed((A, 1)), (0, 0.3), (0, 0.3), (0, 0.3)),
        (listed(((100, 100, 200, 151), 0.7)), listed((A, 1)), (0.51, 0.7), (0.51, 0.7), (0.51, 0.7)),
        # Equal boxes count once, the first one.
        (listed((A, 0.2), (A, 0.9)), listed((A, 1)), (1, 0.2), (1, 0.2), (1, 0.2)),
        ("No Objects", "No Objects", (0, 0), (0, 0), (1, 1)),
        ("[]", "[]", (0, 0), (0, 0), (1, 1)),
        ("No Objects", listed((A, 1)), (0, 0), (0, 0), (0, 0)),
        (listed((A, 0.9)), "[]", (0, 0.1), (0, 0.1), (0, 0.1)),
        # Confidences that are none: clamped or let through, but a parse failure under sound.
        (listed((A, 1.5)), listed((A, 1)), (1, 1), (1, 1), (0, 0)),
        (listed((A, -0.5)), listed((A, 1)), (1, 0), (1, 0), (0, 0)),
        # A list that was cut off is repaired in the released code.
        (listed((A, 0.9), (B, 0.9))[:-20], listed((A, 1)), (1, 0.9), (1, 0.9), (0, 0)),
        # An answer over several lines is not seen by the released code.
        ("\n" + listed((A, 0.9)) + "\n", listed((A, 1)), (0, 0), (0, 0), (1, 0.9)),
        (listed((A, "high")), listed((A, 1)), (0, 0), (0, 0), (0, 0)),
    ],
)
def test_detection(answer, solution, published, paper, sound):
    assert [rewards(answer, solution, variant) for variant in VARIANTS] == [published, paper, sound]


def test_a_nan_confidence_poisons_the_published_total_only():
    text, solution = (
        completion("[{'Position': [100, 100, 200, 200], 'Confidence': NaN}]"),
        f"<answer>{listed((A, 1))}</answer>",
    )
    assert math.isnan(detection(text, solution, variant="published")["total"])
    assert detection(text, solution)["total"] == 1


def test_the_symbolic_stage_pays_everything_under_published_only():
    text, solution = completion("nothing"), f"<answer>{listed((A, 1))}</answer>"
    assert detection(text, solution, symbolic=True, variant="published")["total"] == 3
    assert detection(text, solution, symbolic=True, variant="paper")["total"] == 1
    assert detection(text, solution, symbolic=True)["total"] == 1


def test_matching_is_greedy_by_confidence():
    # The confident middle box takes the left truth although the other one only overlaps that.
    truths, middle, left = [A, (120, 100, 220, 200)], (110, 100, 210, 200), (95, 100, 195, 200)
    iou, confidence = detection_rewards([middle, left], [0.9, 0.4], truths)
    # middle on A 90/110; left on the other truth 75/125
    assert iou == pytest.approx((90 / 110 + 75 / 125) / 2)
    assert confidence == pytest.approx(0.65)
    iou, _ = detection_rewards([middle, left], [0.4, 0.9], truths)
    assert iou == pytest.approx((90 / 110 + 95 / 105) / 2)


def test_structured_rewards_check_their_input():
    with pytest.raises(ValueError, match="1 boxes but 0"):
        detection_rewards([A], [], [A])
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        detection_rewards([A], [math.nan], [A])
    assert detection_rewards([], [], []) == (1, 1)
    assert detection_rewards([], [], [], variant="published") == (0, 0)
    assert detection_rewards([], [], [A]) == (0, 0)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("nothing", "not JSON"),
        ("{}", "no list"),
        ("[5]", "no list"),
        ("[{'Position': [1, 2, 3], 'Confidence': 1}]", "Position"),
        ("[{'Position': [1, 2, 3, NaN], 'Confidence': 1}]", "Position"),
        ("[{'Position': [1, 2, 3, 4]}]", "Confidence"),
        ("[{'Position': [1, 2, 3, 4], 'Confidence': true}]", "Confidence"),
        ("[{'Position': [1, 2, 3, 4], 'Confidence': 1.01}]", "Confidence"),
        ("[{'Position': [1, 2, 3, 4], 'Confidence': Infinity}]", "Confidence"),
    ],
)
def test_strict_reading(answer, message):
    with pytest.raises(DataError, match=message):
        read_detections(completion(answer))
    with pytest.raises(DataError, match="no <answer>"):
        read_detections(answer)


def test_a_broken_label_is_a_data_error_under_sound():
    for solution in ("garbage", "<answer>[5]</answer>"):
        with pytest.raises(DataError):
            detection(completion("[]"), solution)
        assert detection(completion("[]"), solution, variant="published")["total"] == 1
    with pytest.raises(DataError):
        grounding(completion("(1,1),(2,2)"), "no box")
    with pytest.raises(DataError):
        classification(completion("cat"), "<answer> </answer>")


@pytest.mark.parametrize(
    ("answer", "solution", "published", "sound"),
    [
        ("golden_retriever", "Golden Retriever", 1, 1),
        ("the Golden  Retriever.", "golden retriever", 1, 1),
        ("goldenretriever", "golden retriever", 1, 0),
        ("", "cat", 1, 0),
        ("a", "cat", 1, 0),
        ("cat or dog or bird", "cat", 1, 0),
        ("not a cat", "cat", 1, 0),
        ("caterpillar", "cat", 1, 0),
        ("dog", "cat", 0, 0),
        # Only ordinary spaces are deleted.
        ("golden\tretriever", "golden retriever", 0, 1),
        ("golden\nretriever", "golden retriever", 0, 1),
        ("A", "a", 1, 1),
    ],
)
def test_classification(answer, solution, published, sound):
    scores = [classification(completion(answer), f"<answer>{solution}</answer>", variant=v) for v in VARIANTS]
    assert scores == [published, sound, sound]


def test_classification_without_tags():
    assert classification("it is a cat", "cat", variant="published") == 1
    assert classification("cat", "cat") == 0
    assert classification(completion("cat"), "cat") == 1
    assert classification(completion("dog"), "cat", symbolic=True, variant="published") == 1
    assert classification(completion("dog"), "cat", symbolic=True) == 0


@pytest.mark.parametrize(
    ("answer", "published", "sound"),
    [
        ("(100,150),(400,350)", 2, 2),
        ("( 100 , 150 ) , ( 400 , 350 )", 2, 2),
        # Next to it, touching: no overlap, and nothing between.
        ("(400,150),(700,350)", 1, 1),
        # Swapped corners: no overlap, but a negative gap fills the enclosing box twice.
        ("(400,350),(100,150)", 2, 0),
        # Two equal boxes are read as the empty box of their first corners.
        ("(100,150),(400,350) (100,150),(400,350)", 1, 0),
        ("[100, 150, 400, 350]", 0, 0),
        ("", 0, 0),
    ],
)
def test_grounding(answer, published, sound):
    solution = "<answer>(100,150),(400,350)</answer>"
    scores = [grounding(completion(answer), solution, variant=v) for v in VARIANTS]
    assert scores == pytest.approx([published, sound, sound])


def test_equal_texts_earn_full_marks_under_published_even_without_a_box():
    assert grounding(completion("no box"), "<answer>no box</answer>", variant="published") == 2
    assert grounding("", "", variant="published") == 2
    assert grounding("", "", symbolic=True, variant="published") == 1
