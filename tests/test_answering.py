"""visurf predict: one picture, folders and rows; what is drawn, and the exit codes."""

import json

import numpy as np
import pytest
from PIL import Image

from report_runs import HOSTILE, present
from visurf.answering import Answered, ask, read_questions
from visurf.cli import main
from visurf.cli.looking import harmless
from visurf.config import Config, DataConfig, RolloutConfig
from visurf.drawing import COLOURS, draw_answer
from visurf.rollout.local import Rollout, Sampling
from visurf.tasks import TASKS
from visurf.types import DataError, ImageRef, Objects, ParseError, Sample

SETTINGS = ("task.prompt=bare", "rollout.max_tokens=40", "threads=1")


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    samples = present(2)
    for index, sample in enumerate(samples):
        sample.images[0].load().save(folder / f"{index}.png")
    return folder, samples


def test_one_picture_is_answered_and_drawn(pictures, tmp_path, capsys):
    folder, samples = pictures
    out = tmp_path / "out" / "drawn.png"
    assert main(["predict", "mini", str(folder / "0.png"), samples[0].question, "--out", str(out), *SETTINGS]) == 0
    said = capsys.readouterr().out
    answer = json.loads(said.split("answer")[1].split("\n")[0])
    (box,) = answer["boxes"]
    assert all(abs(a - b) < 64 for a, b in zip(box, samples[0].target.boxes[0], strict=True))
    drawn = np.asarray(Image.open(out).convert("RGB"))
    # A scene of 64 pixels is enlarged five times; the frame's upper left corner has its colour.
    assert drawn.shape[1] == 320
    assert tuple(drawn[int(box[1] * 5), int(box[0] * 5)]) == COLOURS[0]


def test_an_answer_that_cannot_be_read_is_exit_code_3(pictures, capsys):
    folder, samples = pictures
    assert main(["predict", "mini", str(folder / "0.png"), samples[0].question, *SETTINGS[::2], "rollout.max_tokens=2"]) == 3
    assert "cannot be read" in capsys.readouterr().err


def test_folders_and_rows_give_one_line_each(pictures, tmp_path, capsys):
    folder, samples = pictures
    out = tmp_path / "out"
    assert main(["predict", "mini", str(folder), samples[0].question, "--out", str(out), *SETTINGS]) in (0, 3)
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["0.png", "1.png"]
    assert sorted(p.name for p in out.glob("*.png")) == ["000001.png", "000002.png"]
    asked = [{"id": i, "image": f"{i}.png", "question": s.question} for i, s in enumerate(samples)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, asked)))
    capsys.readouterr()
    # Without a question of its own the first setting stands where the question would.
    code = main(["predict", "mini", str(folder / "rows.jsonl"), *SETTINGS])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["id"], row["question"]) for row in rows] == [(str(i), s.question) for i, s in enumerate(samples)]
    assert code == (3 if any(row["error"] for row in rows) else 0)


def test_a_broken_picture_ends_no_folder(pictures, capsys):
    folder, samples = pictures
    (folder / "00-broken.png").write_bytes(b"no picture")
    assert main(["predict", "mini", str(folder), samples[0].question, *SETTINGS]) == 3
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["error"] == "unreadable_picture" for row in rows] == [False, True, False]
    assert main(["predict", "mini", str(folder / "00-broken.png"), "q", *SETTINGS]) == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("no json", r"rows\.jsonl:1: not JSON"),
        ("[]", "one JSON array"),
        ("3", "field image"),
        ('{"image": "a.png"}', "field question"),
        ('{"image": "../secret.png", "question": "q"}', "field image|outside|image"),
        ('{"image": "a.png", "question": "q", "options": "ab"}', "field options"),
        ("", "no rows"),
    ],
)
def test_rows_that_cannot_be_asked_are_named(tmp_path, row, message):
    (tmp_path / "rows.jsonl").write_text(row)
    with pytest.raises(DataError, match=message):
        read_questions(tmp_path / "rows.jsonl", "", TASKS["referring"])


def test_rows_may_begin_with_a_byte_order_mark_and_have_their_pictures_elsewhere(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "a.png")
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"image": "a.png", "question": "q"}), encoding="utf-8-sig")
    for data in (DataConfig(images=str(tmp_path / "photos")), DataConfig(root=str(tmp_path), images="photos")):
        (sample,) = read_questions(rows, "", TASKS["referring"], data)
        assert sample.size == (8, 8)
    (sample,) = read_questions(rows, "", TASKS["referring"])
    assert sample.images[0].name == str(tmp_path / "a.png")


def test_a_recipe_says_where_the_pictures_of_rows_are(pictures, tmp_path, capsys):
    folder, samples = pictures
    (tmp_path / "rows.jsonl").write_text(json.dumps({"image": "0.png", "question": samples[0].question}))
    assert main(["predict", "mini", str(tmp_path / "rows.jsonl"), f"data.images={folder}", *SETTINGS]) in (0, 3)
    (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert row["error"] != "unreadable_picture"


def test_every_task_can_be_asked(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"image": "a.png", "question": "q", "options": ["x", "y"]}))
    for task in TASKS.values():
        (sample,) = read_questions(tmp_path / "rows.jsonl", "", task)
        assert isinstance(sample.target, task.targets)
        assert task.prompt(sample)


def test_what_is_printed_cannot_command_a_terminal():
    assert "\x1b" not in harmless(HOSTILE[2])
    assert "\u202e" not in harmless(HOSTILE[2])
    assert harmless("a\nb") == "a\nb"


def test_masks_and_wrong_answers_are_drawn():
    picture = Image.new("RGB", (100, 80), (0, 0, 0))
    mask = np.zeros((80, 100), np.uint8)
    mask[10:20, 10:20] = 1
    drawn = np.asarray(draw_answer(picture, Objects(((50.0, 40.0, 30.0, 60.0),)), [mask]))
    assert tuple(drawn[15, 15]) == tuple(round(c / 2) for c in COLOURS[0])
    assert tuple(drawn[40, 30]) == COLOURS[0]  # a box with its corners the wrong way round
    assert np.asarray(picture).sum() == 0
    with pytest.raises(DataError, match="a mask of"):
        draw_answer(picture, None, [mask.T])
    found = Answered(Sample("1", (ImageRef(picture),), "q", Objects()), "x", None, ParseError("no_answer"))
    assert found.drawn().size == (400, 344)
    assert found.row()["error"] == "no_answer"


def test_settings_of_sampling_reach_the_sampler(tmp_path, monkeypatch):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    seen = []
    monkeypatch.setattr("visurf.rollout.local.sample", lambda *a: seen.append(a[4]) or [[Rollout((2,), (0.0,), False)]])
    config = Config(rollout=RolloutConfig(cuda_graphs="off", max_tokens=7, token_budget=99))
    task = TASKS["referring"]
    list(ask(config, task, read_questions(tmp_path / "a.png", "the cat", task)))
    assert seen == [Sampling(7, greedy=True, token_budget=99, cuda_graphs="off")]
