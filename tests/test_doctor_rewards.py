"""The probes: each finds the hole it was made for, and none is found in a sound reward."""

import dataclasses

import pytest
from PIL import Image

from visurf.doctor.attempts import Setting, deserved, near_miss, right, wrong
from visurf.doctor.probes import PROBES
from visurf.doctor.rewards import check_rewards
from visurf.geometry import Frame, box_iou
from visurf.scoring import Scorer
from visurf.tasks import TASKS, Part, RewardSettings
from visurf.types import Choice, Detections, ImageRef, Number, Objects, Points, Sample, Text

SIZE = (640, 480)
PICTURE = ImageRef(Image.new("RGB", SIZE))
ONE, TWO = ((60.0, 50.0, 180.0, 140.0),), ((20.0, 20.0, 120.0, 90.0), (300.0, 200.0, 400.0, 330.0))
OBJECTS = (Objects(ONE), Objects(TWO), Objects(), Objects(((400.0, 100.0, 440.0, 130.0),)), Objects(((10.0, 10.0, 600.0, 470.0),)))
TARGETS = {
    "referring": OBJECTS,
    "reasoning_segmentation": OBJECTS,
    "anomaly": OBJECTS,
    "lesion": OBJECTS,
    "detection": (Detections(ONE, (1.0,)), Detections(TWO, (1.0, 1.0)), Detections()),
    "grounding": (Objects(ONE), Objects(TWO[1:]), Objects(((10.0, 10.0, 600.0, 470.0),))),
    "gui": (Points(((120.0, 95.0),), ONE), Points(((320.0, 295.0),)), Points(((10.0, 10.0), (500.0, 400.0)))),
    "classification": (Text("golden retriever"), Text("siamese cat"), Text("pug")),
    "yes_no": (Text("yes"), Text("no")),
    "anomaly_yes_no": (Text("yes"), Text("no")),
    "mathematics": (Number("42"), Number("0.5"), Choice("B", ("one", "two", "three"))),
    "question_answering": (Text("a red car"), Text("12 cups"), Text("left")),
    "multiple_choice": (Choice("B", ("one", "two", "three")), Choice("A", ("x", "y"))),
    "counting": (Number("3"), Number("7")),
}


def samples_of(task):
    return [Sample(f"s{i}", (PICTURE,), "q", target) for i, target in enumerate(TARGETS[task])]


def probed(task, variant="sound", parts=None, frame=(640.0, 476.0), **options):
    scorer = Scorer(TASKS[task], {**TASKS[task].parts(RewardSettings(variant)), **(parts or {})}, **options)
    return check_rewards(
        samples_of(task), lambda s: Frame(frame, SIZE), scorer, lambda text: (0,) * len(text), deliberate=variant != "sound"
    )


def found(section):
    return {f.message.split(":")[0].split(" on ")[0]: f for f in section.findings}


def test_every_task_has_targets_here():
    assert set(TARGETS) == set(TASKS)


@pytest.mark.parametrize("frame", [(640.0, 476.0), (1000.0, 1000.0)])
@pytest.mark.parametrize("task", TASKS)
def test_no_hole_is_seen_in_a_sound_reward(task, frame):
    section = probed(task, frame=frame)
    assert section.findings == []
    (table,) = section.tables
    assert len(table.rows) == len(PROBES)
    tried = {row[0] for row in table.rows if row[1] != "does not apply"}
    assert {"no text at all", "empty answer", "label copied into the thinking part"} <= tried
    assert "wrong class with the right box" not in tried  # and its row says why
    assert all(row[-1] for row in table.rows)


UPSIDE = "the right answer earns no more than an honest wrong one"


@pytest.mark.parametrize(
    ("task", "variant", "holes"),
    [
        ("referring", "published", {UPSIDE}),
        ("detection", "published", {UPSIDE, "NaN confidence", "confidence below 0"}),
        ("detection", "paper", {UPSIDE, "confidence below 0", "one object of many"}),
        ("classification", "published", {"empty answer", "every class listed", "one letter of the class", "not the class"}),
        ("classification", "paper", set()),
        ("grounding", "published", {"corners swapped"}),
        ("grounding", "paper", set()),
        ("mathematics", "published", set()),
    ],
)
def test_the_holes_of_published_rewards_are_found(task, variant, holes):
    assert set(found(probed(task, variant))) == holes


def test_a_reward_that_text_can_stop_is_an_error_unless_it_abstains():
    assert found(probed("detection", "published"))["NaN confidence"].level == "error"
    assert found(probed("detection", "published", on_error="abstain"))["NaN confidence"].level == "warning"


def planted(function, about="accuracy", maximum=1.0):
    return {"planted": Part(function, maximum, about)}


def boxes_of(completion):
    return getattr(completion.answer, "boxes", None) or ()


HOLES = {
    "100 boxes": lambda c, s: min(len(boxes_of(c)), 100) * 0.05,
    "whole-image box": lambda c, s: 3.0 * any(b[2] - b[0] >= SIZE[0] - 4 for b in boxes_of(c)),
    "no text at all": lambda c, s: 8.0 * (not c.text),
    "nothing found, where something is": lambda c, s: 8.0 * ("<answer>[]" in c.text),
    "label copied into the thinking part": lambda c, s: 3.0 * ("bbox" in c.text.split("</think>")[0]),
    "jittered duplicates": lambda c, s: 6.0 * sum(max((box_iou(b, t) for t in s.target.boxes), default=0) for b in boxes_of(c)),
}


@pytest.mark.parametrize("name", HOLES)
def test_a_planted_hole_is_found_by_its_probe(name):
    section = probed("referring", parts=planted(HOLES[name]))
    assert name in found(section)
    assert found(section)[name].level == "warning"
    assert found(section)[name].samples  # with an example


def test_a_frame_mix_up_that_pays_is_found():
    def units_guessed(completion, sample):
        """Takes whichever reading of the numbers fits better, as rewards do that guess units from magnitudes."""
        frames = (Frame((640.0, 476.0), SIZE), Frame((1000.0, 1000.0), SIZE))
        read = [frames[1].decode_box(frames[0].encode_box(b)) for b in boxes_of(completion)] + list(boxes_of(completion))
        return 3.0 * max((box_iou(b, t) for b in read for t in sample.target.boxes), default=0)

    assert "0-1000 and pixels mixed up" in found(probed("referring", parts=planted(units_guessed)))
    assert "0-1000 and pixels mixed up" not in found(probed("referring"))


def test_a_reward_that_is_upside_down_is_an_error():
    def hallucination(completion, sample):
        return 9.0 * bool(boxes_of(completion)) * (not sample.target.boxes)

    finding = found(probed("referring", parts=planted(hallucination)))[UPSIDE]
    assert finding.level == "error"
    assert len(finding.samples) == 1


def test_a_function_that_raises_is_named():
    def fragile(completion, sample):
        return 1.0 / len(completion.text)

    finding = found(probed("counting", parts=planted(fragile)))["no text at all"]
    assert finding.level == "error"
    assert "division" in finding.message


@pytest.mark.parametrize("task", TASKS)
def test_right_deserves_all_and_wrong_nothing(task):
    names = tuple(t.text for t in TARGETS[task] if isinstance(t, Text))
    for sample in samples_of(task):
        setting = Setting(TASKS[task], sample, Frame((640.0, 476.0), SIZE), names if task == "classification" else ())
        answers = [TASKS[task].parse(text(setting), sample, setting.frame) for text in (right, wrong)]
        assert deserved(setting, answers[0]) == 1.0
        if not isinstance(sample.target, Objects | Detections) or sample.target.boxes == ():
            # A near miss of a large object is no better than the threshold allows; it is never the right answer.
            assert deserved(setting, answers[1]) == 0.0


@pytest.mark.parametrize("box", [ONE[0], (0.0, 0.0, 640.0, 480.0), (600.0, 440.0, 640.0, 480.0)])
def test_a_near_miss_stays_inside_and_misses(box):
    missed = near_miss(box, SIZE)
    assert 0.2 <= box_iou(box, missed) < 0.3
    assert missed[0] >= 0
    assert missed[1] >= 0
    assert missed[2] <= SIZE[0]
    assert missed[3] <= SIZE[1]


def test_the_segmenters_part_is_left_out_and_said():
    def explode(completion, sample):
        raise AssertionError

    section = probed("referring", parts={"mask_iou": Part(explode, 1.0, "accuracy")})
    assert section.findings == []
    assert "mask_iou" in section.not_made[0]
    assert dataclasses.asdict(section)["facts"]["samples probed"] == 5


def test_a_box_that_the_frame_cannot_express_is_not_held_against_the_reward():
    tiny = Objects(((1000.0, 1000.0, 1003.0, 1002.0),), ((1001.5, 1001.0),))
    picture = ImageRef(Image.new("RGB", (4000, 3000)))
    samples = [*samples_of("referring"), Sample("tiny", (picture,), "q", tiny)]
    scorer = Scorer(TASKS["referring"], TASKS["referring"].parts(RewardSettings("sound")))
    section = check_rewards(samples, lambda s: Frame((364.0, 280.0), s.size), scorer, lambda text: (0,), deliberate=False)
    assert section.findings == []
    assert section.facts["samples probed"] == 5
    assert section.not_made == ["probes on 1 sample with boxes too small for the model's frame"]
