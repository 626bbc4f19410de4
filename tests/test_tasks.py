"""Tasks: labels that read back as they were, and earn what a perfect answer without reasoning earns."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from visurf.control import Controls
from visurf.geometry import Frame, box_centre
from visurf.scoring import Scorer, label_completion
from visurf.tasks import TASKS, RewardSettings
from visurf.tasks.task import has_thinking
from visurf.types import Choice, Completion, Detections, ImageRef, Number, Objects, ParseError, Points, Sample, Text


class Blank:
    """An image of a given size that is never opened."""

    def __new__(cls, size):
        return ImageRef(Image.new("RGB", (1, 1)), _size=size)


@st.composite
def scenes(draw, empty=True):
    """An image size, a frame and a target of up to three boxes, tiny ones included, points missing at times."""
    width, height = draw(st.integers(8, 5000)), draw(st.integers(8, 5000))
    merged = st.integers(2, 60).map(lambda n: n * 28.0)
    extent = draw(st.one_of(st.just((1000.0, 1000.0)), st.tuples(merged, merged)))
    boxes = []
    for _ in range(draw(st.integers(0 if empty else 1, 3))):
        x1, y1 = draw(st.floats(0, width - 1)), draw(st.floats(0, height - 1))
        x2, y2 = draw(st.floats(x1 + 0.1, width)), draw(st.floats(y1 + 0.1, height))
        boxes.append((x1, y1, x2, y2))
    points = None
    if draw(st.booleans()):
        points = tuple((draw(st.floats(b[0], b[2])), draw(st.floats(b[1], b[3]))) for b in boxes)
    return Frame(extent, (width, height)), Objects(tuple(boxes), points)


def sample_of(target, size=(400, 300), response=None):
    return Sample("s", (Blank(size),), "the thing", target, response)


@settings(max_examples=300)
@given(scenes())
def test_a_referring_label_reads_back_as_the_target_rounded_to_the_frame(scene):
    frame, target = scene
    task = TASKS["referring"]
    text = task.label_text(target, frame, True)
    parsed = task.parse(text, sample_of(target, frame.image_size), frame)
    assert isinstance(parsed, Objects)
    assert len(parsed.boxes) == len(target.boxes)
    points = target.points or tuple(box_centre(b) for b in target.boxes)
    assert [frame.encode_box(b) for b in parsed.boxes] == [frame.encode_box(b) for b in target.boxes]
    assert [frame.encode_point(p) for p in parsed.points] == [frame.encode_point(p) for p in points]
    assert all(x1 < x2 and y1 < y2 for x1, y1, x2, y2 in parsed.boxes)
    assert task.label_text(parsed, frame, True) == text, "rendering the parsed label again gives the same text"


def test_labels_are_written_as_the_policy_writes():
    frame = Frame((1000.0, 1000.0), (100, 200))
    two = Objects(((10.0, 20.0, 30.0, 40.0), (0.0, 0.0, 100.0, 200.0)), ((20.0, 30.0), (1.0, 2.0)))
    text = TASKS["referring"].label_text(two, frame, True)
    assert text == (
        '<answer>[{"bbox_2d": [100,100,300,200], "point_2d": [200,150]}, '
        '{"bbox_2d": [0,0,1000,1000], "point_2d": [10,10]}]</answer>'
    )
    assert TASKS["referring"].label_text(Objects(), frame, True) == "<answer>[]</answer>"
    points = TASKS["gui"].label_text(Points(((20.0, 30.0), (1.0, 2.0))), frame, True)
    assert points == '<answer>[{"point_2d": [200,150]}, {"point_2d": [10,10]}]</answer>'


@settings(max_examples=200)
@given(scenes())
@pytest.mark.parametrize("variant", ["sound", "published"])
def test_a_referring_label_earns_the_maximum_without_the_eliminated_part(variant, scene):
    """Only where rounding to the frame costs less than the thresholds, which holds for objects of some units."""
    frame, target = scene
    # One unit of rounding must keep IoU above a half and the box within 10 of 840 pixels on both axes.
    if any((b[i + 2] - b[i]) / frame.image_size[i] * frame.extent[i] < 8 for b in target.boxes for i in (0, 1)):
        return
    if any(840 / e > 9 for e in frame.extent):
        return
    task = TASKS["referring"]
    sample = sample_of(target, frame.image_size)
    rate = Scorer(task, task.parts(RewardSettings(variant)))
    label = rate.read(label_completion(task, sample, frame, Controls()), sample, frame)
    score = rate.score_label(label, sample, Controls())
    best = sum(p.maximum for p in rate.parts.values() if p.about != "thinking")
    # A pair of identical objects repeats itself; the non-repetition part looks at full stops only, so it still pays.
    expected = best if target.boxes or variant == "sound" else best - 5
    assert score.total == pytest.approx(expected)
    full = rate.score_label(label, sample, Controls(eliminate=False))
    assert full.total == pytest.approx(expected + 1)


@settings(max_examples=150)
@given(scenes(empty=False))
def test_a_pointing_label_reads_back_and_hits(scene):
    frame, objects = scene
    task = TASKS["gui"]
    target = Points(objects.points or tuple(box_centre(b) for b in objects.boxes))
    sample = sample_of(target, frame.image_size)
    text = task.label_text(target, frame, True)
    parsed = task.parse(text, sample, frame)
    assert isinstance(parsed, Points)
    assert task.label_text(parsed, frame, True) == text
    rate = Scorer(task, task.parts(RewardSettings()))
    label = rate.read(label_completion(task, sample, frame, Controls()), sample, frame)
    assert rate.score_label(label, sample, Controls()).total == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("name", "target"), [("question_answering", Text("Kitchen table")), ("counting", Number("12")), ("counting", Number("1,200"))]
)
def test_short_labels_read_back_and_earn_their_part(name, target):
    task, frame = TASKS[name], Frame((1000.0, 1000.0), (400, 300))
    sample = sample_of(target)
    assert task.parse(task.label_text(target, frame, True), sample, frame) == target
    rate = Scorer(task, task.parts(RewardSettings()))
    label = rate.read(label_completion(task, sample, frame, Controls()), sample, frame)
    assert rate.score_label(label, sample, Controls()).total == 1.0
    assert rate.score_label(label, sample, Controls(eliminate=False)).total == 2.0
    raw = task.label_text(target, frame, False)
    assert raw != task.label_text(target, frame, True)


@pytest.mark.parametrize(
    ("name", "target", "right", "wrong"),
    [
        ("referring", Objects(((10.0, 10.0, 60.0, 60.0),)), Objects(((10.0, 10.0, 60.0, 60.0),)), Objects()),
        ("referring", Objects(), Objects(), Objects(((10.0, 10.0, 60.0, 60.0),))),
        ("gui", Points(((10.0, 10.0),)), Points(((12.0, 10.0),)), Points(((200.0, 10.0),))),
        ("gui", Points(((10.0, 10.0),), ((0.0, 0.0, 50.0, 50.0),)), Points(((49.0, 49.0),)), Points(((51.0, 10.0),))),
        ("question_answering", Text("Cat"), Text("cat."), Text("dog")),
        ("counting", Number("3"), Number("3.0"), Number("4")),
    ],
)
def test_judging_an_answer(name, target, right, wrong):
    task, sample = TASKS[name], sample_of(target)
    first = next(iter(task.judge(sample, right)))
    assert task.judge(sample, right)[first] == 1.0
    assert task.judge(sample, wrong)[first] == 0.0
    assert task.judge(sample, None)[first] == 0.0


def test_metrics_of_referring_by_hand():
    task = TASKS["referring"]
    box = ((0.0, 0.0, 100.0, 100.0),)
    half = ((0.0, 0.0, 100.0, 50.0),)
    pairs = [
        (Objects(box), Objects(half), "<think>x</think><answer>"),
        (Objects(box), Objects(), ""),
        (Objects(), Objects(), "<think> </think><answer>"),
        (Objects(), None, ""),
    ]
    records = [{"measures": {**task.judge(sample_of(t), a), "thinking": has_thinking(text)}} for t, a, text in pairs]
    assert task.values(records) == {
        "giou": 0.375,
        "ciou": 0.25,  # 5,000 of 10,000 pixels, then nothing of 10,000; right and unread "nothing" add none
        "n_acc": 0.5,
        "t_acc": 0.5,
        "box_iou": 0.25,
        "box_accuracy": 0.0,
        "pr@0.5": 0.5,
        "pr@0.7": 0.0,
        "pr@0.8": 0.0,
        "pr@0.9": 0.0,
    }
    assert [r["measures"]["thinking"] for r in records] == [True, False, False, False]


def test_a_second_box_halves_the_box_iou():
    box = (0.0, 0.0, 100.0, 100.0)
    said = Objects((box, (200.0, 200.0, 300.0, 300.0)))
    assert TASKS["referring"].judge(sample_of(Objects((box,))), said)["box_iou"] == 0.5


def test_prompts():
    task, sample = TASKS["referring"], sample_of(Objects())
    assert task.prompt(sample, "bare") == "the thing"
    assert task.prompt(sample, "Where is {question}?") == "Where is the thing?"
    assert '"the thing"' in task.prompt(sample)
    assert "{" not in task.prompt(sample, "bare")
    upper = Sample("u", (), "The {x} Thing.", Objects())
    assert 'find "the {x} thing" with' in task.prompt(upper)
    with pytest.raises(ValueError, match="explicit"):
        task.prompt(sample, "explicid")


def test_every_task_is_complete():
    for name, task in TASKS.items():
        assert task.name == name
        assert task.default_prompt in task.prompts
        slots = {"question", *task.slots}
        assert all(any(f"{{{slot}}}" in p for slot in slots) for p in task.prompts.values())
        assert task.headline in task.metrics
        assert set(task.prepare_question) <= set(task.prompts)
        parts = task.parts(RewardSettings())
        assert {p.about for p in parts.values()} >= {"thinking", "accuracy"}


@pytest.mark.parametrize("text", ["", "<answer>", "x" * 1000, "<think></think><answer>[1]</answer>"])
def test_every_part_of_every_task_stands_in_its_range(text):
    targets = {"referring": Objects(((1.0, 1.0, 5.0, 5.0),)), "gui": Points(((1.0, 1.0),))}
    targets |= dict.fromkeys(("question_answering", "classification", "yes_no", "anomaly_yes_no"), Text("yes"))
    targets |= {"counting": Number("1"), "mathematics": Number("1"), "multiple_choice": Choice("A", ("x", "y"))}
    targets |= dict.fromkeys(("reasoning_segmentation", "anomaly", "lesion", "grounding"), targets["referring"])
    targets |= {"detection": Detections(((1.0, 1.0, 5.0, 5.0),), (1.0,))}
    frame = Frame((1000.0, 1000.0), (400, 300))
    for name, task in TASKS.items():
        sample = sample_of(targets[name])
        rate = Scorer(task, task.parts(RewardSettings()))
        read = rate.read(Completion(text, (), None, None), sample, frame)
        assert isinstance(read.error, ParseError) is (read.answer is None)
        for part, value in rate.score(read, sample).parts.items():
            assert 0 <= value <= rate.parts[part].maximum, (name, part)


def test_thinking_counts_only_with_something_thought():
    assert has_thinking("<think>a</think><answer>b</answer>")
    assert not has_thinking("<think> \n</think><answer>b</answer>")
    assert not has_thinking("<answer>b</answer>")
    assert not has_thinking("<answer>b</answer><think>a</think>")
