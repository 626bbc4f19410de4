"""Side tasks: what the embedded model knows, asked before, during and after training."""

import json

import pytest

from visurf.config import ConfigError, DataConfig, load_config
from visurf.data import load_data
from visurf.geometry import Frame
from visurf.mini.demo import RECIPE
from visurf.mini.questions import KINDS, WORDS, parse
from visurf.side_tasks import before_of, side_tasks
from visurf.tasks import TASKS
from visurf.training import train
from visurf.types import DataError, ParseError, Text

TASK = "visurf.mini.questions:WORDS"
FRAME = Frame((64, 64), (64, 64))


def test_questions_are_those_of_the_pretraining_and_seeded():
    for kind in KINDS:
        first, again = (load_data(f"world:{kind}?count=30&seed=4", DataConfig(), WORDS).samples for _ in range(2))
        assert [(s.question, s.target) for s in first] == [(s.question, s.target) for s in again]
        assert len({s.id for s in first}) == 30
    asked = load_data("world:existence?count=200&seed=4", DataConfig(), WORDS).samples
    assert 70 < sum(s.target.text == "yes" for s in asked) < 130
    assert load_data("world:numbers?count=3&domain=shifted", DataConfig(), WORDS).samples[0].question == "how many shapes are there"


@pytest.mark.parametrize("source", ["world:colours?count=x", "world:colours?domain=mars", "world:colours?masks=1"])
def test_a_wrong_source_is_an_error(source):
    with pytest.raises(DataError, match="expected world:"):
        load_data(source, DataConfig(), WORDS)
    with pytest.raises(DataError, match="answers are words"):
        load_data("world:colours?count=2", DataConfig(), TASKS["referring"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("yes", "yes"),
        ("<answer> red </answer>", "red"),
        ("<think>red or blue</think>blue", "blue"),
        ("<think>red</think><answer>4</answer>", "4"),
        ("", None),
        ("<think>red</think>", None),
    ],
)
def test_answers_with_and_without_tags(text, expected):
    (sample,) = load_data("world:colours?count=1", DataConfig(), WORDS).samples
    found = parse(text, sample, FRAME)
    assert found == (ParseError("empty_answer") if expected is None else Text(expected))


def configuration(out, **changes):
    side = {"numbers": {"data": "world:numbers?count=6&seed=3", "task": TASK}, "same": "world:clean?count=3&seed=2"}
    values = {
        "data": {"train": "world:shifted?count=8&seed=1", "validation": "world:shifted?count=4&seed=6"},
        "evaluation": {"every": 2, "side": side},
        "checkpoint": {"every": 1},
        "rollout": {"group_size": 2},
        "prompts_per_step": 2,
        "steps": 4,
        "threads": 1,
        "out": str(out),
    }
    return load_config(RECIPE, {**values, **changes})


def rows(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k.startswith(("side/", "alarm/", "validation/"))} for row in lines]


def test_scores_before_during_and_after_also_when_a_run_goes_on(tmp_path):
    whole = tmp_path / "whole"
    train(configuration(whole))
    found = rows(whole)
    assert set(found[0]) == {"side/numbers/before", "side/same/before"}
    assert found[0]["side/numbers/before"] > 0.5
    assert set(before_of(found[0])) == {"numbers", "same"}
    assert before_of(found[1]) == {}
    assert not found[2]
    for row in (found[1], found[3]):
        assert row["side/numbers/drop"] == pytest.approx(found[0]["side/numbers/before"] - row["side/numbers"])
        assert {"side/same", "side/same/drop", "validation/giou"} <= set(row)
    parts, stopped = tmp_path / "parts", []

    def stop(event):
        if event["event"] == "step" and event["step"] == 3 and not stopped:
            stopped.append(True)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(configuration(parts), stop)
    train(configuration(parts))
    assert rows(parts) == found


def test_an_entry_that_cannot_work_is_refused(tmp_path):
    for side, message in (({"a": {"task": TASK}}, "expected a source"), ({"a": {"date": "x"}}, "did you mean 'data'")):
        with pytest.raises(ConfigError, match=message):
            side_tasks(configuration(tmp_path, evaluation={"side": side}))
