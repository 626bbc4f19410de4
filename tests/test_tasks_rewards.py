"""Rewards of every task under each variant, on cases worked out by hand."""

import importlib.util

import pytest

from test_tasks import sample_of
from visurf.geometry import Frame
from visurf.rewards import grading
from visurf.scoring import Scorer
from visurf.tasks import TASKS, RewardSettings
from visurf.types import Choice, Completion, DataError, Detections, Number, Objects, Points, Text

FRAME = Frame((1000.0, 1000.0), (1000, 1000))
needs_grading = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None or importlib.util.find_spec("mathruler") is None, reason="extra grading"
)


def rated(name, target, answer, variant="sound", think="<think>I see</think>"):
    task, sample = TASKS[name], sample_of(target, (1000, 1000))
    rate = Scorer(task, task.parts(RewardSettings(variant)))
    read = rate.read(Completion(f"{think}<answer>{answer}</answer>", (), None, None), sample, FRAME)
    return dict(rate.score(read, sample).parts)


def item(box, confidence):
    return f"{{'Position': {list(box)}, 'Confidence': {confidence}}}"


BOX, FAR = (100, 100, 200, 200), (300, 300, 400, 400)
FIVE = Detections(tuple(map(lambda i: (100.0, 100.0 + 150 * i, 200.0, 200.0 + 150 * i), range(5))), (1.0,) * 5)


@pytest.mark.parametrize(
    ("target", "answer", "variant", "iou", "confidence"),
    [
        (FIVE, f"[{item(BOX, 0.9)}]", "sound", 0.2, 0.9),
        (FIVE, f"[{item(BOX, 0.9)}]", "published", 0.2, 0.9),
        (FIVE, f"[{item(BOX, 0.9)}]", "paper", 1.0, 0.9),
        (Detections((BOX,), (1.0,)), f"[{item(BOX, 0.9)}, {item(FAR, 0.3)}]", "sound", 0.5, 0.8),
        (Detections(), "No Objects", "sound", 1.0, 1.0),
        (Detections(), "No Objects", "published", 0.0, 0.0),
        (Detections((BOX,), (1.0,)), "No Objects", "sound", 0.0, 0.0),
        (Detections((BOX,), (1.0,)), f"[{item(BOX, 1.5)}]", "sound", 0.0, 0.0),
        (Detections((BOX,), (1.0,)), f"[{item(BOX, 1.5)}]", "published", 1.0, 1.0),
        # Two true boxes that fall together in 0-1000 are one for the sound reward.
        (Detections((BOX, (100.1, 100, 200, 200)), (1.0, 1.0)), f"[{item(BOX, 1)}]", "sound", 1.0, 1.0),
        (Detections((BOX, (100.1, 100, 200, 200)), (1.0, 1.0)), f"[{item(BOX, 1)}]", "published", 0.5, 1.0),
    ],
)
def test_detection(target, answer, variant, iou, confidence):
    found = rated("detection", target, answer, variant)
    assert found == {"format": 1.0, "iou": pytest.approx(iou), "confidence": pytest.approx(confidence)}
    assert rated("detection", target, answer, variant, think="")["format"] == 0.0


@pytest.mark.parametrize(
    ("answer", "sound", "published"),
    [("golden_Retriever", 1, 1), ("g", 0, 1), ("not a golden retriever", 0, 1), ("The golden retriever.", 1, 1), ("poodle", 0, 0)],
)
def test_classification(answer, sound, published):
    target = Text("golden retriever")
    assert rated("classification", target, answer) == {"format": 1.0, "accuracy": sound}
    assert rated("classification", target, answer, "published")["accuracy"] == published
    assert rated("classification", target, answer, "paper")["accuracy"] == sound


@pytest.mark.parametrize(("label", "said"), [("Bengali caf\u00e9", "bengali cafe\u0301"), ("cafe\u0301", "CAF\u00c9")])
def test_accents_count_however_they_are_composed(label, said):
    for name in ("classification", "question_answering"):
        assert rated(name, Text(label), said)["accuracy"] == 1.0
    assert rated("classification", Text(label), said, "published")["accuracy"] == 0.0, "the released code compares code points"


def test_a_class_without_a_name_is_a_broken_label():
    task, sample = TASKS["classification"], sample_of(Text(" "), (1000, 1000))
    part = task.parts(RewardSettings())["accuracy"]
    with pytest.raises(DataError, match="names no class"):
        part.function(Completion("<answer>x</answer>", (), None, None), sample)


@pytest.mark.parametrize(
    ("answer", "sound", "published"),
    [
        ("(100,150),(400,350)", 2, 2),
        ("(400,150),(700,350)", 1, 1),
        ("(400,350),(100,150)", 0, 2),
        ("(100,150),(400,350) (100,150),(400,350)", 0, 1),
        ("nowhere", 0, 0),
    ],
)
def test_grounding(answer, sound, published):
    target = Objects(((100.0, 150.0, 400.0, 350.0),))
    assert rated("grounding", target, answer) == {"format": 1.0, "accuracy": pytest.approx(sound)}
    assert rated("grounding", target, answer, "published")["accuracy"] == pytest.approx(published)


@pytest.mark.parametrize("variant", ["sound", "paper", "published"])
@pytest.mark.parametrize("digits", [10, 100, 160, 308, 5000])
def test_grounding_pays_nothing_for_numbers_beyond_any_frame(digits, variant):
    target = Objects(((0.0, 0.0, 400.0, 350.0),))
    assert rated("grounding", target, f"(0,0),({'9' * digits},{'9' * digits})", variant)["accuracy"] == 0.0
    assert rated("grounding", target, f"({'9' * digits},1),(3,0)", variant)["accuracy"] == 0.0


def test_grounding_pays_only_for_what_was_understood():
    task, sample = TASKS["grounding"], sample_of(Objects(((100.0, 150.0, 400.0, 350.0),)), (1000, 1000))
    unread = Completion("<answer>(100,150),(400,350)</answer>", (), None, None)
    for variant, value in (("sound", 0.0), ("paper", 0.0), ("published", 2.0)):
        assert task.parts(RewardSettings(variant))["accuracy"].function(unread, sample) == value


@pytest.mark.parametrize("confidence", ["NaN", "Infinity", "-Infinity"])
def test_a_confidence_that_is_no_number_ends_no_run_under_paper(confidence):
    target = Detections((tuple(map(float, BOX)),), (1.0,))
    for answer in (f"[{item(BOX, confidence)}]", f"[{item(BOX, 0.9)}, {item(FAR, confidence)}]"):
        found = rated("detection", target, answer, "paper")
        assert (found["iou"], found["confidence"]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("truth", "said", "right"),
    [
        ("10000000000", "10000000001", False),
        ("10,000,000,000", "10000000000", True),
        ("+5", "5", True),
        ("5", "5.0", True),
        ("0.1", "0.1000000000001", True),
    ],
)
def test_whole_numbers_are_compared_exactly(truth, said, right):
    assert rated("counting", Number(truth), said)["accuracy"] == float(right)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("classification", Text("a")),
        ("question_answering", Text("a")),
        ("multiple_choice", Choice("A", ("a\u00e9", "b"))),
        ("mathematics", Choice("A", ("a\u00e9", "b"))),
    ],
)
def test_a_text_far_longer_than_the_truth_is_not_normalised(name, target, monkeypatch):
    seen = []
    monkeypatch.setattr("unicodedata.normalize", lambda form, text: seen.append(len(text)) or text)
    assert rated(name, target, "a" + "\u0301\u0316" * 1000)["accuracy"] == 0.0
    assert max(seen, default=0) < 100
    assert rated(name, target, "a" + 100 * " " + "b")["accuracy"] == 0.0
    assert max(seen) > 100, "what may be the truth is"


@pytest.mark.parametrize("name", ["referring", "reasoning_segmentation", "anomaly", "lesion"])
def test_boxes_and_points(name):
    one = '[{"bbox_2d": [100, 100, 200, 200], "point_2d": [150, 150]}]'
    target = Objects((BOX,))
    assert rated(name, target, one) == {"thinking_format": 1.0, "answer_format": 2.0, "accuracy": 3.0, "non_repeat": 1.0}
    assert rated(name, target, "[]")["accuracy"] == rated(name, target, "[]")["answer_format"] == 0.0
    assert rated(name, Objects(), "[]")["accuracy"] == 3.0
    assert rated(name, Objects(), "[]", "published")["accuracy"] == 0.0
    assert rated(name, Objects(), one)["accuracy"] == 0.0


def test_gui():
    target = Points(((150.0, 150.0),), (BOX,))
    assert rated("gui", target, '[{"point_2d": [199, 101]}]') == {"thinking_format": 1.0, "answer_format": 1.0, "accuracy": 1.0}
    assert rated("gui", target, '[{"point_2d": [201, 101]}]')["accuracy"] == 0.0
    assert rated("gui", target, '[{"point_2d": [150, 150]}, {"point_2d": [1, 1]}]')["accuracy"] == 0.5
    assert rated("gui", target, "top left")["answer_format"] == 0.0


@pytest.mark.parametrize(
    ("name", "target", "right", "wrong"),
    [
        ("yes_no", Text("yes"), "Yes.", "no"),
        ("anomaly_yes_no", Text("no"), "no", "yes"),
        ("multiple_choice", Choice("B", ("cat", "dog")), "(B)", "A"),
        ("multiple_choice", Choice("B", ("cat", "dog")), "Dog", "cat"),
        ("counting", Number("1200"), "1,200", "1201"),
        ("question_answering", Text("Kitchen table"), "kitchen_table.", "table"),
        ("mathematics", Number("5"), "5.0", "6"),
        ("mathematics", Choice("A", ("30", "45")), "A", "B"),
    ],
)
def test_words_and_numbers(name, target, right, wrong):
    assert rated(name, target, right) == {"thinking_format": 1.0, "accuracy": 1.0}
    assert rated(name, target, wrong)["accuracy"] == 0.0


def test_question_answering_is_scored_as_its_data_set_says():
    task = TASKS["question_answering"]
    part = task.parts(RewardSettings())["accuracy"]

    def earned(truth, said, **meta):
        sample = sample_of(Text(truth))
        sample = type(sample)(sample.id, sample.images, sample.question, sample.target, meta=meta)
        return part.function(Completion("", (), Text(said), None), sample)

    assert earned("100", "105") == 0.0
    assert earned("100", "105", scoring="relaxed") == 1.0
    assert earned("100", "106", scoring="relaxed") == 0.0
    assert earned("first", "hello wurld", scoring="anls", answers=("hello world", "hi")) == pytest.approx(10 / 11)
    assert earned("hello", "goodbye", scoring="anls") == 0.0
    with pytest.raises(DataError, match="scoring"):
        earned("x", "x", scoring="anls2")


@needs_grading
def test_mathematics_by_symbolic_libraries():
    assert rated("mathematics", Number("0.5"), r"\frac{1}{2}")["accuracy"] == 1.0
    assert rated("mathematics", Text(r"\frac{\sqrt{2}}{2}"), r"\frac{1}{\sqrt{2}}")["accuracy"] == 1.0
    assert rated("mathematics", Text(r"\frac{1}{3}"), r"\frac{1}{2}")["accuracy"] == 0.0
    assert rated("mathematics", Text("0.5"), r"\frac{1}{2}", "published")["accuracy"] == 1.0
    grading.stop()


def test_a_comparison_that_takes_too_long_abstains(monkeypatch):
    def slow(*_, **__):
        raise grading.GradingTimeout("too long")

    monkeypatch.setattr(grading, "ask", slow)
    assert rated("mathematics", Text("x"), "y")["accuracy"] is None
    assert rated("mathematics", Text("x"), "y", "published")["accuracy"] is None
