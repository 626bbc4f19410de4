"""docs/paradigms.md: its table is complete, its recipes train the embedded model, and its example is a paradigm."""

import json
import math
import re
from pathlib import Path

import pytest
import yaml

from visurf.config import load_config, merge, parse_overrides
from visurf.geometry import Frame
from visurf.mini.demo import RECIPE
from visurf.mini.world import SHIFTED, referring_samples
from visurf.paradigms import PARADIGMS
from visurf.tasks import TASKS
from visurf.training import train

PAGE = (Path(__file__).parents[1] / "docs" / "paradigms.md").read_text()
LINES = re.findall(r"^visurf train recipe.yaml (paradigm=.*)$", PAGE, re.MULTILINE)
FRAME = Frame((64.0, 64.0), (64, 64))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight scenes as a JSONL file; every second label comes with its reasoning."""
    folder = tmp_path_factory.mktemp("scenes")
    rows = []
    for index, sample in enumerate(referring_samples(SHIFTED, 8, 5)):
        sample.images[0].load().save(folder / f"{index}.png")
        target = {"boxes": sample.target.boxes, "points": sample.target.points} if sample.target.boxes else []
        row = {"id": index, "image": f"{index}.png", "question": sample.question, "target": target}
        if index % 2:
            answer = TASKS["referring"].label_text(sample.target, FRAME, True)
            row["response"] = f"<think>red circle row one column two</think>{answer}"
        rows.append(json.dumps(row))
    (folder / "rows.jsonl").write_text("\n".join(rows))
    return folder / "rows.jsonl"


def run(data, out, overrides):
    small = {
        "data": {"train": str(data), "validation": ""},
        "rollout": {"group_size": 2, "max_tokens": 24},
        "prompts_per_step": 2,
        "steps": 6 if "openvlthinker" in overrides.get("paradigm", "") else 2,
        "checkpoint": {"every": 0},
        "out": str(out),
        "threads": 1,
    }
    return train(load_config(RECIPE, merge(small, overrides)))


@pytest.mark.parametrize("line", LINES)
def test_every_recipe_of_the_page_trains(line, data, tmp_path):
    run(data, tmp_path / "run", parse_overrides(line.split()))
    rows = [json.loads(row) for row in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) in (2, 6)
    for row in rows:
        assert all(math.isfinite(v) for v in row.values() if isinstance(v, float)), row
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    seen = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert seen["paradigm"] == parse_overrides(line.split())["paradigm"]


def test_every_paradigm_has_its_row_and_its_recipe():
    table = PAGE.partition("## The table")[2].partition("## A recipe for each")[0]
    for name, paradigm in PARADIGMS.items():
        assert f"`{name}`" in table
        assert any(line.split()[0] == f"paradigm={name}" for line in LINES), name
        row = next(row for row in table.splitlines() if row.startswith("|") and f"`{name}`" in row)
        for hyperparameter in paradigm.mixing:
            assert f"`{hyperparameter}`" in row or name == "chord_mu", (name, hyperparameter)
    named = set(re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE))
    assert {n for cell in named for n in re.findall(r"`(\w+)`", cell)} == set(PARADIGMS)


def test_the_defaults_of_the_page_are_those_of_the_code():
    table = PAGE.partition("## The table")[2]
    for name in ("luffy", "chord", "srft", "hpt", "mifo", "trapo", "uft", "pear", "self_sft"):
        row = next(row for row in table.splitlines() if row.startswith(f"| `{name}`"))
        for hyperparameter, value in PARADIGMS[name].mixing.items():
            assert f"`{hyperparameter}` {value:g}" in row, (name, hyperparameter)


def test_a_paradigm_of_ones_own_trains(data, tmp_path):
    (tmp_path / "my_paradigm.py").write_text(re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1])
    result = run(data, tmp_path / "run", {"paradigm": f"{tmp_path / 'my_paradigm.py'}:HALF"})
    assert result.metrics["label/supervision"] == 0.5
