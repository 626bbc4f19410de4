"""Labels of every task: they read back as the target rounded to its frame, and earn the maximum without the thinking part."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from test_tasks import sample_of, scenes
from visurf.control import Controls
from visurf.geometry import Frame
from visurf.scoring import Scorer, label_completion
from visurf.tasks import TASKS, RewardSettings
from visurf.tasks.segmentation import objects_of
from visurf.types import Choice, Detections, Masks, Number, Objects, ParseError, Text

THOUSAND = (1000.0, 1000.0)


def earned(task, sample, frame, variant="sound"):
    """What the label earns, and what it could at most, both without the thinking part."""
    rate = Scorer(task, task.parts(RewardSettings(variant)))
    label = rate.read(label_completion(task, sample, frame, Controls()), sample, frame)
    assert label.error is None
    return rate.score_label(label, sample, Controls()).total, sum(p.maximum for p in rate.parts.values() if p.about != "thinking")


@settings(max_examples=200, deadline=None)
@given(scenes(), st.integers(0, 100))
def test_a_detection_label_reads_back_and_earns_the_maximum(scene, percent):
    frame, objects = scene
    task, own = TASKS["detection"], Frame(THOUSAND, frame.image_size)
    target = Detections(objects.boxes, (percent / 100,) * len(objects.boxes))
    sample = sample_of(target, frame.image_size)
    text = task.label_text(target, frame, True)
    parsed = task.parse(text, sample, frame)
    assert [own.encode_box(b) for b in parsed.boxes] == [own.encode_box(b) for b in target.boxes]
    assert parsed.confidences == target.confidences
    assert task.label_text(parsed, frame, True) == text
    total, best = earned(task, sample_of(Detections(objects.boxes, (1.0,) * len(objects.boxes)), frame.image_size), frame)
    assert total == pytest.approx(best) == 2


def test_detection_labels_are_written_as_published():
    frame = Frame((640.0, 480.0), (640, 480))
    task = TASKS["detection"]
    two = Detections(((64.0, 48.0, 320.0, 240.0), (0.0, 0.0, 640.0, 480.0)), (1.0, 0.25))
    expected = (
        "<answer>[{'Position': [100, 100, 500, 500], 'Confidence': 1.00}, "
        "{'Position': [0, 0, 1000, 1000], 'Confidence': 0.25}]</answer>"
    )
    assert task.label_text(two, frame, True) == expected
    assert task.label_text(Detections(), frame, True) == "<answer>No Objects</answer>"
    assert task.label_text(Detections(), frame, False) == "<answer>[]</answer>"
    assert task.label_text(two, frame, False) != expected
    for text in ("No Objects", "no objects.", "[]"):
        assert task.parse(f"<answer>{text}</answer>", sample_of(two), frame) == Detections()


@settings(max_examples=200, deadline=None)
@given(scenes(empty=False))
@pytest.mark.parametrize("variant", ["sound", "published"])
def test_a_grounding_label_reads_back_and_earns_the_maximum(variant, scene):
    frame, objects = scene
    task, own = TASKS["grounding"], Frame(THOUSAND, frame.image_size)
    sample = sample_of(objects, frame.image_size)
    text = task.label_text(objects, frame, True)
    parsed = task.parse(text, sample, frame)
    assert [own.encode_box(b) for b in parsed.boxes] == [own.encode_box(objects.boxes[0])]
    assert task.label_text(parsed, frame, True) == text
    total, best = earned(task, sample, frame, variant)
    assert total == pytest.approx(best) == 2


def test_grounding_needs_a_box():
    frame = Frame((640.0, 480.0), (640, 480))
    assert (
        TASKS["grounding"].label_text(Objects(((64.0, 48.0, 320.0, 240.0),)), frame, True) == "<answer>(100,100),(500,500)</answer>"
    )
    with pytest.raises(ValueError, match="needs a true box"):
        TASKS["grounding"].label_text(Objects(), frame, True)


@pytest.mark.parametrize("name", ["referring", "reasoning_segmentation", "anomaly", "lesion"])
@settings(max_examples=60, deadline=None)
@given(scenes(empty=False))
def test_a_label_of_boxes_reads_back(name, scene):
    frame, target = scene
    task = TASKS[name]
    text = task.label_text(target, frame, True)
    parsed = task.parse(text, sample_of(target, frame.image_size), frame)
    assert [frame.encode_box(b) for b in parsed.boxes] == [frame.encode_box(b) for b in target.boxes]
    assert task.label_text(parsed, frame, True) == text


@pytest.mark.parametrize("name", ["referring", "reasoning_segmentation", "anomaly", "lesion"])
@pytest.mark.parametrize("variant", ["sound", "published"])
def test_a_label_of_masks_is_their_boxes_and_earns_the_maximum(name, variant):
    one, two = np.zeros((300, 400), np.uint8), np.zeros((300, 400), np.uint8)
    one[50:150, 60:200] = 1
    one[140:150, 60:200] = 255
    two[200:280, 10:90] = 1
    target, frame = Masks((one, two)), Frame((840.0, 840.0), (400, 300))
    assert objects_of(target).boxes == ((60.0, 50.0, 200.0, 140.0), (10.0, 200.0, 90.0, 280.0))
    task, sample = TASKS[name], sample_of(target)
    parsed = task.parse(task.label_text(target, frame, True), sample, frame)
    assert [frame.encode_box(b) for b in parsed.boxes] == [frame.encode_box(b) for b in objects_of(target).boxes]
    total, best = earned(task, sample, frame, variant)
    assert total == best == 6


def test_masks_without_object_are_an_empty_list():
    target, frame = Masks((np.full((300, 400), 255, np.uint8),)), Frame(THOUSAND, (400, 300))
    assert TASKS["anomaly"].label_text(target, frame, True) == "<answer>[]</answer>"
    assert earned(TASKS["anomaly"], sample_of(target), frame) == (6, 6)
    assert earned(TASKS["anomaly"], sample_of(target), frame, "published")[0] == 1, "the published reward pays [] nothing"


@pytest.mark.parametrize(
    ("name", "target", "written"),
    [
        ("classification", Text("Golden Retriever"), "Golden Retriever"),
        ("question_answering", Text("14%"), "14%"),
        ("multiple_choice", Choice("B", ("one", "two")), "B"),
        ("yes_no", Text("yes"), "yes"),
        ("anomaly_yes_no", Text("no"), "no"),
        ("counting", Number("12"), "12"),
        ("mathematics", Number("1.20"), "1.20"),
        ("mathematics", Choice("A", ("30", "45")), "A"),
        ("mathematics", Text("[0, 2, 0]"), "[0, 2, 0]"),
    ],
)
def test_labels_of_words_read_back_and_earn_the_maximum(name, target, written):
    task, sample, frame = TASKS[name], sample_of(target), Frame(THOUSAND, (400, 300))
    text = task.label_text(target, frame, True)
    assert text == f"<answer>{written}</answer>"
    assert task.parse(text, sample, frame) == target
    assert task.label_text(target, frame, False) != text
    assert earned(task, sample, frame) == (1, 1)


@given(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="<"), min_size=1).filter(lambda t: t.strip()))
def test_any_text_reads_back(text):
    task, target = TASKS["question_answering"], Text(text.strip())
    frame = Frame(THOUSAND, (400, 300))
    assert task.parse(task.label_text(target, frame, True), sample_of(target), frame) == target


@given(st.lists(st.text("abc XYZ", min_size=3).filter(lambda t: t.strip()), min_size=2, max_size=6, unique=True), st.integers(0, 5))
def test_any_option_reads_back(options, index):
    target = Choice(chr(ord("A") + index % len(options)), tuple(options))
    frame = Frame(THOUSAND, (400, 300))
    for name in ("multiple_choice", "mathematics"):
        assert TASKS[name].parse(TASKS[name].label_text(target, frame, True), sample_of(target), frame) == target


@pytest.mark.parametrize(
    ("name", "answer", "reason"),
    [
        ("detection", None, "no_answer"),
        ("detection", "a bus", "not_detections"),
        ("detection", "[{'Position': [1, 2, 3, 4], 'Confidence': 1.5}]", "not_detections"),
        ("detection", "[{'Position': [1, 2, 3, 4], 'Confidence': NaN}]", "not_detections"),
        ("detection", "[{'Position': [3, 2, 1, 4], 'Confidence': 1}]", "degenerate_box"),
        ("grounding", None, "no_answer"),
        ("grounding", "[1, 2, 3, 4]", "no_box"),
        ("grounding", "(1,2),(3,4) (1,2),(3,4)", "several_boxes"),
        ("grounding", "(3,2),(1,4)", "degenerate_box"),
        ("grounding", f"(1,2),({'9' * 400},4)", "bad_box"),
        ("yes_no", "maybe", "not_yes_or_no"),
        ("anomaly_yes_no", "", "empty_answer"),
        ("multiple_choice", "C", "not_an_option"),
        ("mathematics", "", "empty_answer"),
    ],
)
def test_every_parse_error(name, answer, reason):
    targets = {"multiple_choice": Choice("A", ("x", "y")), "mathematics": Number("1")}
    text = "nothing" if answer is None else f"<answer>{answer}</answer>"
    found = TASKS[name].parse(text, sample_of(targets.get(name, Text("yes"))), Frame(THOUSAND, (400, 300)))
    assert isinstance(found, ParseError)
    assert found.reason == reason


def test_what_is_no_plain_number_stays_text_in_mathematics():
    found = TASKS["mathematics"].parse(r"<answer>\frac{1}{2}</answer>", sample_of(Number("0.5")), Frame(THOUSAND, (400, 300)))
    assert found == Text(r"\frac{1}{2}")


def test_gui_reads_points_with_boxes():
    frame, sample = Frame(THOUSAND, (400, 300)), sample_of(Text(""))
    both = TASKS["gui"].parse('<answer>[{"bbox_2d": [100,100,200,200], "point_2d": [150,150]}]</answer>', sample, frame)
    assert both.points == ((60.0, 45.0),)
    assert both.boxes == ((40.0, 30.0, 80.0, 60.0),)
    assert TASKS["gui"].parse("<answer>[150, 150]</answer>", sample, frame).boxes is None
