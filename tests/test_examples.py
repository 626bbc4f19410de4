"""Every example of docs/extending.md is complete: under 60 lines, and it trains as its head says."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from visurf.config import load_config
from visurf.data import load_data
from visurf.geometry import Frame
from visurf.mini.demo import RECIPE
from visurf.mixing import Moment, Outcome
from visurf.naming import load_object
from visurf.tasks import TASKS
from visurf.tasks.task import RewardSettings
from visurf.training import train
from visurf.types import Completion, ImageRef, Number, Objects, ParseError, Sample

ROOT = Path(__file__).parents[1]
SMALL = {
    "data": {"train": "world:shifted?count=4&seed=1", "validation": ""},
    "rollout": {"group_size": 2, "max_tokens": 8},
    "steps": 1,
    "prompts_per_step": 2,
    "threads": 1,
}


def example(name):
    return load_object(f"{ROOT / 'examples'}/{name}")


@pytest.mark.parametrize("name", ["reward", "task", "family", "paradigm"])
def test_an_example_is_short_and_stands_on_the_page(name):
    text = (ROOT / "examples" / f"{name}.py").read_text()
    assert len(text.splitlines()) < 60
    assert f'--8<-- "examples/{name}.py"' in (ROOT / "docs" / "extending.md").read_text()


def run(tmp_path, **changes):
    result = train(load_config(RECIPE, {**SMALL, "out": str(tmp_path / "run"), **changes}))
    rows = [json.loads(line) for line in (tmp_path / "run" / "rollouts.jsonl").read_text().splitlines()]
    return result.metrics, rows


def boxed(*boxes):
    return Objects(tuple(tuple(map(float, b)) for b in boxes))


def test_the_reward_is_paid_by_the_recipe(tmp_path):
    tight = example("reward.py:tight")
    sample = Sample("1", (ImageRef(Image.new("RGB", (50, 50))),), "the dog", boxed((0, 0, 10, 10)))
    assert tight(Completion("", (), boxed((0, 0, 20, 10)), None), sample) == 0.5
    assert tight(Completion("", (), boxed((0, 0, 5, 5)), None), sample) == 1.0
    assert tight(Completion("", (), None, ParseError("no_answer")), sample) == 0.0
    assert tight(Completion("", (), None, None), Sample("2", sample.images, "the cat", Objects())) is None
    reward = {"functions": {"tight": f"{ROOT}/examples/reward.py:tight"}, "weights": {"tight": 0.5}}
    _, rows = run(tmp_path, reward=reward)
    assert all("tight" in member["parts"] for row in rows for member in row["members"])


def test_the_task_reads_clocks(tmp_path):
    clock = example("task.py:CLOCK")
    sample = Sample("1", (), "What is the time?", Number("710"))
    frame = Frame((1000.0, 1000.0), (10, 10))
    label = clock.label_text(sample.target, frame, True)
    assert clock.parse(label, sample, frame) == sample.target
    assert clock.judge(sample, Number("710")) == {"close": 1.0}
    assert clock.judge(sample, Number("20")) == {"close": 0.5}  # half an hour, over twelve
    assert clock.judge(sample, Number("350")) == clock.judge(sample, None) == clock.judge(sample, Number("9999")) == {"close": 0.0}
    assert set(clock.parts(RewardSettings())) == {"thinking_format", "accuracy"}
    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).line((32, 32, 32, 4), "black", 3)
    image.save(tmp_path / "clock.png")
    row = {"id": 1, "image": "clock.png", "question": "What is the time?", "target": {"number": 0}}
    (tmp_path / "clocks.jsonl").write_text(json.dumps(row) + "\n")
    clocks = str(tmp_path / "clocks.jsonl")
    evaluated = {"evaluation": {"every": 1}, "data": {"train": clocks, "validation": clocks}}
    task = {"name": f"{ROOT}/examples/task.py:CLOCK", "prompt": "default"}
    metrics, rows = run(tmp_path, task=task, prompts_per_step=1, paradigm="visurf", **evaluated)
    assert {"validation/closeness", "validation/within_6_minutes"} <= set(metrics)
    assert [m["parts"]["accuracy"] for m in rows[0]["members"] if m["source"] == "label"] == [1.0]


def test_the_paradigm_teaches_what_rollouts_lack(tmp_path):
    tutor = example("paradigm.py:tutor")
    found = tutor(Outcome((0.7, -0.7, 0.0), (0.25, 0.75), (0, 0)), Moment(0, 10, {"supervision": 0.5}))
    assert found.advantages == (0.7, -0.7, 0.0)
    assert found.supervision == (0.0, 0.0, 0.125)
    metrics, rows = run(tmp_path, paradigm=f"{ROOT}/examples/paradigm.py:TUTOR")
    assert metrics["label/supervision"] >= 0
    assert all(len(row["members"]) == 3 for row in rows)


def test_the_family_is_that_of_its_page_whose_tests_train_it():
    page = (ROOT / "docs" / "adding-a-family.md").read_text()
    code = re.search(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)[1]
    assert (ROOT / "examples" / "family.py").read_text() == code
    assert example("family.py:MISTRAL3").model_types == ("mistral3",)


QUESTION, ANSWER = "<image>How many dogs?", "<think>two here</think><answer> 2 </answer>"
OLD_ROWS = {
    "messages": {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": [{"type": "text", "text": ANSWER}]},
        ],
        "images": ["a.png"],
    },
    "conversations": {
        "conversations": [{"from": "human", "value": f"{QUESTION}\n"}, {"from": "gpt", "value": "2"}],
        "image": "a.png",
    },
    "solution": {"problem": QUESTION, "solution": ANSWER, "images": ["a.png"]},
    "answer": {"problem": QUESTION, "answer": 2, "images": ["a.png"]},
}


def test_rows_of_other_libraries_are_converted(tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    command = [sys.executable, str(ROOT / "examples" / "convert_rows.py")]
    old = "".join(json.dumps(row) + "\n" for row in OLD_ROWS.values())
    (tmp_path / "rows.jsonl").write_text(subprocess.run(command, input=old, capture_output=True, text=True, check=True).stdout)
    config = load_config(None, {"data": {"train": str(tmp_path / "rows.jsonl")}, "task": {"name": "question_answering"}})
    samples = load_data(config.data.train, config.data, TASKS["question_answering"]).samples
    assert [(s.question, s.target.text, s.size) for s in samples] == [("How many dogs?", "2", (32, 32))] * 4
    twice = json.dumps({"messages": OLD_ROWS["messages"]["messages"] * 2, "image": "a.png"})
    refused = subprocess.run(command, input=twice, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "row 1: expected one question and one answer, got 4 turns" in refused.stderr


def test_the_page_shows_the_script_that_was_run():
    code = (ROOT / "examples" / "convert_rows.py").read_text().split('"""\n\n', 1)[1]
    assert f'```python title="examples/convert_rows.py"\n{code}```' in (ROOT / "docs" / "coming-from.md").read_text()
