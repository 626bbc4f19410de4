"""The command line as its users type it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from visurf.cli import main
from visurf.config import load_config
from visurf.data import load_data
from visurf.mini.demo import RECIPE
from visurf.tasks import TASKS


def visurf(*arguments, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-m", "visurf", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        **options,
    )


@pytest.fixture
def data(tmp_path):
    Image.new("RGB", (100, 80)).save(tmp_path / "a.png")
    rows = [{"id": i, "image": "a.png", "question": "the dog", "target": [[10, 20, 30, 40]] if i else []} for i in range(3)]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_help_is_quick_and_names_the_commands():
    began = time.perf_counter()
    done = visurf("--help")
    assert time.perf_counter() - began < 5
    assert done.returncode == 0
    for command in ("demo", "init", "train", "eval", "env"):
        assert f"  {command}" in done.stdout
    script = "import sys, visurf.cli; visurf.cli.build_parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_init_checks_the_data_and_writes_a_recipe_that_loads(data, capsys):
    assert main(["init", str(data), "--model", "mini"]) == 0
    assert "3 samples, 1 of them without an object; images up to 100 x 80" in capsys.readouterr().out
    config = load_config(data.with_suffix(".yaml"))
    assert (config.task.name, config.model.path, config.data.train, config.prompts_per_step) == ("referring", "mini", str(data), 3)
    # What the embedded model was taught: the question alone, and short answers.
    assert (config.task.prompt, config.rollout.max_tokens) == ("bare", 64)


@pytest.mark.parametrize(
    ("targets", "name"),
    [
        ([{"text": "red"}, {"text": "yes"}], "question_answering"),
        ([{"text": "Yes"}, {"text": "no."}], "yes_no"),
        ([{"class": "beagle"}, {"class": "pug"}], "classification"),
        ([{"class": "beagle"}, {"text": "pug"}], "question_answering"),
        ([{"number": 3}, {"number": "1,000"}], "counting"),
        ([{"number": 3}, {"number": -1.5}], "mathematics"),
        ([{"number": 3}, {"text": "x + 1"}], "mathematics"),
        ([{"choice": "B", "options": ["a", "b"]}] * 2, "multiple_choice"),
        ([{"points": [[3, 4]]}] * 2, "gui"),
        ([{"boxes": [[1, 2, 30, 40]]}, []], "referring"),
    ],
)
def test_init_chooses_the_task_that_asks_what_the_targets_answer(tmp_path, targets, name, capsys):
    Image.new("RGB", (100, 80)).save(tmp_path / "a.png")
    rows = [{"id": i, "image": "a.png", "question": f"question {i}", "target": t} for i, t in enumerate(targets)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(["init", str(tmp_path / "data.jsonl"), "--model", "some/model"]) == 0
    config = load_config(tmp_path / "data.yaml")
    assert config.task.name == name
    sample = load_data(config.data.train, config.data, TASKS[name]).samples[1]
    assert ("question 1" in TASKS[name].prompt(sample, config.task.prompt)) == (name != "classification")


@pytest.mark.parametrize("name", ["a #1", "b: x", "- 'c' \"d\"", "123", "\u00e9\u2028\U0001f600", "[e]", "*f", "g\nh: 1"])
def test_init_writes_a_recipe_whatever_its_files_are_called(data, name, capsys):
    named = data.parent / name / f"{name}.jsonl"
    named.parent.mkdir()
    data.rename(named)
    assert main(["init", str(named), "--images", str(data.parent), "--model", f"folder/{name}"]) == 0
    config = load_config(named.with_suffix(".yaml"))
    assert (config.data.train, config.data.images) == (str(named), str(data.parent))
    assert (config.model.path, config.out) == (f"folder/{name}", f"runs/{name}")


def test_init_overwrites_nothing_unless_asked_to(data, capsys):
    recipe = data.with_suffix(".yaml")
    recipe.write_text("steps: 7")
    assert main(["init", str(data), "--model", "mini"]) == 2
    assert "--force" in capsys.readouterr().err
    assert recipe.read_text() == "steps: 7"
    assert main(["init", str(data), "--model", "mini", "--force"]) == 0
    assert load_config(recipe).model.path == "mini"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "none.yaml"], "no recipe at none.yaml"),
        (["train", str(RECIPE), "optimiser.lr=1"], "unknown key 'optimiser.lr'; did you mean optimizer.lr"),
        (["train", str(RECIPE), "steps=many"], "steps: expected int, got 'many'"),
        (["train", str(RECIPE), "steps=0"], "steps: expected more than 0"),
        (["train", str(RECIPE), "paradigm=visurv"], "did you mean 'visurf'"),
        (["demo", "--paradigm", "grpo"], "unknown paradigm 'grpo'"),
        (["init", "none.jsonl"], "no such file"),
    ],
)
def test_a_mistake_is_answered_with_its_remedy(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_settings_may_stand_after_options(tmp_path):
    done = visurf("train", RECIPE, "--quiet", "steps=0")
    assert done.returncode == 2
    assert "steps: expected more than 0" in done.stderr
    assert visurf("train", RECIPE, "--loud").returncode == 2


def test_ctrl_c_writes_a_checkpoint_and_the_same_command_goes_on(tmp_path):
    out = tmp_path / "run"
    small = ["data.train=world:shifted?count=20", "data.validation=", "prompts_per_step=2", "rollout.group_size=2", "threads=1"]
    command = [sys.executable, "-m", "visurf", "train", str(RECIPE), "--json", f"out={out}", "steps=400", *small]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    for _ in range(3):
        assert json.loads(process.stdout.readline())["step"] > 0
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "the same command goes on" in errors
    (checkpoint,) = (out / "checkpoints").iterdir()
    step = int(checkpoint.name[-6:])
    assert len((out / "metrics.jsonl").read_text().splitlines()) == step
    done = visurf("train", RECIPE, "--json", f"out={out}", f"steps={step + 1}", *small)
    assert done.returncode == 0
    assert len((out / "metrics.jsonl").read_text().splitlines()) == step + 1


@pytest.mark.slow
def test_the_demo_writes_its_results_and_a_contact_sheet(tmp_path):
    done = visurf("demo", "--out", tmp_path, "--held-out", 24, "--quiet", "steps=2", "prompts_per_step=2", "threads=1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split() == ["paradigm", "gIoU", "N-acc", "box", "IoU", "thinking", "seconds"]
    found = json.loads((tmp_path / "results.json").read_text())
    assert list(found["results"]) == ["baseline", "sft", "rlvr", "sft_then_rlvr", "visurf"]
    for row in found["results"].values():
        assert {"giou", "n_acc", "box_iou", "seconds"} <= set(row)
        assert all(0 <= row[k] <= 1 for k in ("giou", "n_acc", "box_iou"))
    assert found["seeds"] == [0]
    sheet = Image.open(tmp_path / "contact_sheet.png")
    assert sheet.width > 1000
    assert len((tmp_path / "evaluations" / "visurf-seed0" / "records.jsonl").read_text().splitlines()) == 24


def test_eval_takes_a_limit_and_a_file_of_records_and_prints_json_without_nan(data, tmp_path, capsys):
    kept = ["--out", str(tmp_path / "out"), "--records", str(tmp_path / "kept.jsonl"), "--limit", "1", "--json"]
    assert main(["eval", "mini", str(data), *kept, "task.prompt=bare", "rollout.max_tokens=4"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1], parse_constant=pytest.fail)
    assert summary["samples"] == 1
    assert summary["t_acc"] is None, "the only sample holds no object"
    (row,) = [json.loads(line) for line in (tmp_path / "kept.jsonl").read_text().splitlines()]
    assert row["id"] == "0"
    assert len((tmp_path / "out" / "records.jsonl").read_text().splitlines()) == 1


def test_eval_draws_masks_where_there_are_true_ones_and_refuses_where_there_are_none(data, tmp_path, capsys):
    pytest.importorskip("cv2")
    small = ["--out", str(tmp_path / "out"), "task.prompt=bare", "threads=1"]
    assert main(["eval", "no/model", str(data), "--segment", "classical", *small]) == 2
    assert "sample '1' has no true mask" in capsys.readouterr().err
    assert main(["eval", "no/model", str(data), "--segment", "classical", "task.name=gui", *small]) == 2
    capsys.readouterr()
    found = []
    for more in ([], ["--segment", "classical"]):
        assert main(["eval", "mini", "world:shifted?count=6&seed=3&masks=1", "--json", "--force", *more, *small]) == 0
        found.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert found[0]["box_iou"] == found[1]["box_iou"]
    assert found[0]["giou"] != found[1]["giou"], "masks are compared, not boxes"


def test_what_a_row_keeps_under_the_name_mask_is_no_mask(data, tmp_path, capsys):
    rows = [json.loads(line) | {"meta": {"mask": "masks/a.png"}} for line in data.read_text().splitlines()]
    data.write_text("\n".join(map(json.dumps, rows)))
    small = ["--out", str(tmp_path / "out"), "--quiet", "task.prompt=bare", "rollout.max_tokens=4"]
    assert main(["eval", "mini", str(data), *small]) == 0
    assert "box_iou" in capsys.readouterr().out


def test_eval_writes_one_record_per_sample(data, tmp_path, capsys):
    out = tmp_path / "evaluation"
    assert main(["eval", "mini", str(data), "--out", str(out), "--json", "task.prompt=bare", "rollout.max_tokens=4"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["samples"] == 3
    records = [json.loads(line) for line in Path(out / "records.jsonl").read_text().splitlines()]
    assert [r["id"] for r in records] == ["0", "1", "2"]
    assert all(r["error"] == "no_answer" and r["measures"]["giou"] == 0 for r in records)
