"""Files and rows in other programs' layouts are told what reads them, and that does."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from visurf.answering import read_questions
from visurf.cli import main
from visurf.config import DataConfig, load_config
from visurf.data import load_data
from visurf.tasks import TASKS
from visurf.types import DataError

SCRIPT = Path(__file__).parents[1] / "examples" / "convert_rows.py"
COCO = {
    "images": [{"id": 0, "file_name": "a.png", "width": 64, "height": 64}],
    "categories": [{"id": 1, "name": "mug"}],
    "annotations": [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 2, 10, 20], "area": 200, "iscrowd": 0}],
}
ALPACA = {"instruction": "How many dogs?", "input": "", "output": "2", "images": ["a.png"]}
TURNS = [{"from": "human", "value": "<image>How many dogs?"}, {"from": "gpt", "value": "2"}]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    return tmp_path


def refusal(path, **config):
    with pytest.raises(DataError) as caught:
        load_data(str(path), DataConfig(**config), TASKS["referring"])
    return str(caught.value)


@pytest.mark.parametrize("field", ["messages", "conversations", "conversation", "instruction", "problem", "solution"])
def test_rows_of_another_program_are_told_the_layout_and_what_reads_them(place, field):
    Path("data.jsonl").write_text(json.dumps({"image": "a.png", field: "x"}))
    said = refusal("data.jsonl")
    assert said.startswith(f"data.jsonl:1: a row with '{field}' is in another program's layout; expected rows such as ")
    assert "docs/own-data.md" in said
    assert "examples/convert_rows.py rewrites such rows (docs/coming-from.md#your-rows)" in said
    assert ("data.format=visual_rft" in said) == (field in ("problem", "solution"))
    assert "COCO" not in said


@pytest.mark.parametrize(
    ("name", "text", "layout"),
    [
        ("coco.json", json.dumps(COCO), "coco"),
        ("pretty.json", json.dumps(COCO, indent=1), "coco"),
        ("my boxes.csv", "image,question,x1,y1,x2,y2\na.png,mug,1,2,11,22\n", "csv"),
        ("tabs.TSV", "image\tquestion\tx1\ty1\tx2\ty2\na.png\tmug\t1\t2\t11\t22\n", "csv"),
    ],
)
def test_the_command_that_init_tells_makes_rows_of_the_file(place, capsys, name, text, layout):
    Path(name).write_text(text)
    assert main(["init", name, "--model", "mini"]) == 2
    command = shlex.split(re.search(r"`(visurf data convert .*?)`", capsys.readouterr().err)[1])
    assert command[3] == layout
    assert main([*command[1:-2], ".", command[-1]]) == 0
    assert main(["init", command[-1], "--model", "mini"]) == 0
    config = load_config(Path(command[-1]).with_suffix(".yaml"))
    assert load_data(config.data.train, config.data, TASKS[config.task.name]).samples[0].target.boxes == ((1, 2, 11, 22),)


@pytest.mark.parametrize("on_bad_sample", ["error", "skip"])
def test_a_file_that_is_no_jsonl_as_a_whole_is_told_so_however_bad_rows_are_taken(place, on_bad_sample):
    row = {"id": 1, "image": "a.png", "question": "the mug", "target": [[1, 2, 11, 22]]}
    for text, said in (
        (json.dumps(row, indent=1), "this is one JSON object over several lines; write each object on one line (JSONL)"),
        (json.dumps([row]), "this is one JSON array; write one object per line (JSONL)"),
        ("[" + json.dumps(row), "this is one JSON array; write one object per line (JSONL)"),
        (json.dumps(COCO, indent=1), "this is COCO's layout; `visurf data convert coco"),
    ):
        Path("data.json").write_text(text)
        assert refusal("data.json", on_bad_sample=on_bad_sample).startswith(f"data.json: {said}")


def test_lines_are_rows_whatever_the_file_is_called(place):
    row = {"id": 1, "image": "a.png", "question": "the mug", "target": [[1, 2, 11, 22]]}
    for name, rows in (("rows.csv", [row]), ("rows.json", [row, row | {"id": 2}])):
        Path(name).write_text("\n".join(map(json.dumps, rows)))
        assert len(load_data(name, DataConfig(), TASKS["referring"]).samples) == len(rows)
    Path("rows.jsonl").write_text(json.dumps(row) + "\n{")
    assert refusal("rows.jsonl").startswith("rows.jsonl:2: not JSON")
    Path("rows.jsonl").write_text("{")
    assert refusal("rows.jsonl").startswith("rows.jsonl:1: not JSON")


def test_questions_for_a_model_are_told_the_same(place):
    Path("rows.jsonl").write_text(json.dumps(COCO, indent=1))
    with pytest.raises(DataError, match="this is COCO's layout"):
        read_questions(Path("rows.jsonl"), "", TASKS["referring"])


@pytest.mark.parametrize(
    ("rows", "pictures"),
    [
        ([ALPACA, ALPACA | {"instruction": "How many", "input": "dogs?"}], 1),
        ([{"conversation": TURNS}, {"conversations": TURNS}], 0),
    ],
)
def test_an_array_of_rows_of_another_program_is_told_the_script_and_the_script_reads_it(place, rows, pictures):
    Path("old.json").write_text(json.dumps(rows, indent=1))
    said = refusal("old.json")
    assert said.startswith(f"old.json: this is one JSON array; a row with {next(iter(rows[0]))!r} is in another program's layout")
    assert "examples/convert_rows.py rewrites such rows" in said
    command = [sys.executable, str(SCRIPT)]
    new = subprocess.run(command, input=Path("old.json").read_text(), capture_output=True, text=True, check=True).stdout
    Path("new.jsonl").write_text(new)
    samples = load_data("new.jsonl", DataConfig(), TASKS["question_answering"]).samples
    found = [(" ".join(s.question.split()), s.target.text, len(s.images)) for s in samples]
    assert found == [("How many dogs?", "2", pictures)] * 2
