"""Targets of the tasks beyond boxes and points, read from JSONL."""

import json

import pytest
from PIL import Image

from visurf.config import DataConfig
from visurf.data import load_data
from visurf.tasks import TASKS
from visurf.types import Choice, DataError, Detections, Number, Objects, Points, Text


def read(folder, task, target, **more):
    Image.new("RGB", (100, 80)).save(folder / "a.png")
    path = folder / "d.jsonl"
    path.write_text(json.dumps({"id": 1, "image": "a.png", "question": "bus", "target": target, **more}) + "\n")
    return load_data(str(path), DataConfig(), TASKS[task]).samples[0].target


@pytest.mark.parametrize(
    ("task", "target", "expected"),
    [
        ("detection", [[1, 2, 3, 4]], Detections(((1.0, 2.0, 3.0, 4.0),), (1.0,))),
        ("detection", [], Detections()),
        ("anomaly", [], Objects((), ())),
        ("lesion", [[1, 2, 3, 4]], Objects(((1.0, 2.0, 3.0, 4.0),), ((2.0, 3.0),))),
        ("gui", {"points": [[5, 6]]}, Points(((5.0, 6.0),))),
        ("gui", {"points": [[5, 6]], "boxes": [[1, 2, 30, 40]]}, Points(((5.0, 6.0),), ((1.0, 2.0, 30.0, 40.0),))),
        ("multiple_choice", {"choice": "B", "options": ["cat", "dog"]}, Choice("B", ("cat", "dog"))),
        ("mathematics", {"choice": "A", "options": ["1"]}, Choice("A", ("1",))),
        ("mathematics", {"number": "1.20"}, Number("1.20")),
        ("yes_no", {"text": "no"}, Text("no")),
        ("yes_no", {"text": " Yes. "}, Text("yes")),
        ("anomaly_yes_no", {"class": "NO"}, Text("no")),
    ],
)
def test_targets(tmp_path, task, target, expected):
    assert read(tmp_path, task, target) == expected


@pytest.mark.parametrize(
    ("task", "target", "message"),
    [
        ("multiple_choice", {"choice": "C", "options": ["cat", "dog"]}, "expected choice to be one of A, B, got 'C'"),
        ("multiple_choice", {"choice": "A"}, "expected options"),
        ("multiple_choice", {"choice": "A", "options": ["cat", " "]}, "expected options"),
        ("multiple_choice", {"choice": "A", "options": ["cat"], "text": "cat"}, "exclude each other"),
        ("counting", {"number": 1, "options": ["cat"]}, "unknown key 'options'"),
        ("yes_no", {"text": "true"}, r"d\.jsonl:1: field target: task 'yes_no': expected yes or no, got 'true'"),
        ("anomaly_yes_no", {"class": "defect"}, r"d\.jsonl:1: field target: task 'anomaly_yes_no': expected yes or no"),
        ("counting", {"number": "1,5"}, r"expected a finite number, got '1,5'"),
        ("grounding", [], r"d\.jsonl:1: field target: task 'grounding': expected a box, got none"),
        ("gui", {"points": []}, r"task 'gui': expected at least one point, got none"),
        ("classification", {"class": "."}, r"task 'classification': expected the name of a class, got '\.'"),
        ("classification", {"class": "a </answer> b"}, "expected a text that fits between answer tags"),
        ("question_answering", {"text": "a </answer> b"}, "expected a text that fits between answer tags, got 'a </answer> b'"),
        ("mathematics", {"text": "</answer>"}, "expected a text that fits between answer tags"),
        ("lesion", {"text": "x"}, "task 'lesion' needs Objects or Masks, got Text"),
    ],
)
def test_broken_targets(tmp_path, task, target, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, task, target)


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"scoring": "ANLS"}, r"d\.jsonl:1: .* meta 'scoring': expected one of .* got 'ANLS'"),
        ({"scoring": "anls", "answers": "yes"}, r"d\.jsonl:1: .* meta 'answers': expected a list of texts, got 'yes'"),
        ({"scoring": "anls", "answers": [1]}, "meta 'answers': expected a list of texts"),
        ({"scoring": "anls", "answers": {"a": 1}}, "meta 'answers': expected a list of texts"),
        ({"scoring": "anls", "answers": ["a", None]}, "meta 'answers': expected a list of texts"),
        ({"scoring": "anls", "answers": ["", " "]}, "meta 'answers': expected a list of texts"),
    ],
)
def test_meta_that_no_reward_could_use(tmp_path, meta, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, "question_answering", {"text": "yes"}, meta=meta)


def test_meta_that_rewards_use(tmp_path):
    accepted = (["yes", "Yes"], ["yes", ""], [])
    for meta in (*({"scoring": "anls", "answers": a} for a in accepted), {"scoring": "anls"}, {"answers": "a note"}, {}):
        assert read(tmp_path, "question_answering", {"text": "yes"}, meta=meta) == Text("yes")


def test_a_label_of_its_own_reasoning_is_held_against_its_task_too(tmp_path):
    with pytest.raises(DataError, match="task 'grounding': expected a box, got none"):
        read(tmp_path, "grounding", [[1, 2, 3, 4]], response={"thinking": "none", "answer": []})
