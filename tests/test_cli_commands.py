"""The commands score and data as one types them: output and exit status."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from PIL import Image

from benchmark_miniatures import dump, mask_file, picture
from visurf.cli import WANTED, build_parser, environment, main, measuring
from visurf.cli.asking import asked_of_task
from visurf.cli.measuring import CONFIDENCES, CONVENTIONS
from visurf.metrics.detection import CONFIDENCE_SOURCES
from visurf.metrics.segmentation import SEGMENTATION_CONVENTIONS

EMPTY = "<think>I see</think><answer>[]</answer>"


@pytest.fixture
def completions(tmp_path):
    path = tmp_path / "completions.jsonl"
    rows = [{"id": f"r{i}", "completion": EMPTY, "target": "[]"} for i in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_score_writes_a_row_for_each(completions, tmp_path, capsys):
    out = tmp_path / "scores.jsonl"
    assert main(["score", "--reward", "visionreasoner", "--variant", "published", "--in", str(completions), "--out", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in rows] == ["r0", "r1", "r2"]
    assert {row["total"] for row in rows} == {2.0}
    assert capsys.readouterr().out.splitlines()[-1] == "3 rows scored"


def test_score_without_out_writes_rows_to_the_standard_output(completions, capsys):
    assert main(["score", "--reward", "visionreasoner", "--in", str(completions)]) == 0
    printed = capsys.readouterr()
    assert [json.loads(line)["total"] for line in printed.out.splitlines()] == [7.0] * 3
    assert "3 rows scored" in printed.err


def test_a_bad_row_is_exit_status_2_and_leaves_no_file(completions, tmp_path, capsys):
    completions.write_text(completions.read_text() + '{"id": 1}\n')
    out = tmp_path / "scores.jsonl"
    command = ["score", "--reward", "visionreasoner", "--in", str(completions), "--out", str(out)]
    assert main(command) == 2
    assert "completions.jsonl: line 4, field 'completion': expected text" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["completions.jsonl"]
    assert main([*command, "--on-bad-row", "skip"]) == 0
    assert len(out.read_text().splitlines()) == 3
    assert "1 bad rows skipped" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--reward", "visionreasoner"],
        ["--reward", "nothing", "--in", "FILE"],
        ["--reward", "segzero", "--variant", "sound", "--in", "FILE"],
        ["--reward", "no/such/file.py:f", "--in", "FILE"],
        ["--reward", "segzero", "--in", "FILE", "--time-limit", "0"],
        ["--reward", "segzero", "--in", "/no/such/file"],
        ["--fixture", "/no/such/segzero.json"],
        ["--fixture", "FILE"],
    ],
)
def test_wrong_usage_is_exit_status_2(completions, arguments, capsys):
    assert main(["score", *(str(completions) if a == "FILE" else a for a in arguments)]) == 2
    assert capsys.readouterr().err.startswith("visurf: ")


def test_fixture_counts_and_exit_status(tmp_path, capsys):
    path = tmp_path / "vlm_r1_aux.json"
    case = {"id": 7, "input": {"function": "clean_text", "text": "A."}, "expected": "a"}
    path.write_text(json.dumps({"cases": [case] * 2}))
    assert main(["score", "--fixture", str(path)]) == 0
    assert capsys.readouterr().out == "vlm_r1_aux: 2 of 2 agree\n"
    path.write_text(json.dumps({"cases": [case, {**case, "expected": "b"}]}))
    assert main(["score", "--fixture", str(path)]) == 1
    assert capsys.readouterr().out == "case 7: expected 'b', got 'a'\nvlm_r1_aux: 1 of 2 agree\n"


def test_a_missing_library_says_what_to_install(tmp_path, capsys, monkeypatch):
    path = tmp_path / "coco_map.json"
    case = {"image_ids": [1], "categories": [{"id": 1, "name": "a"}], "annotations": [], "detections": []}
    path.write_text(json.dumps({"cases": [{"id": 1, "input": case, "expected": {"coco": {}}}]}))
    for name in [n for n in sys.modules if n.partition(".")[0] == "pycocotools"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    assert main(["score", "--fixture", str(path)]) == 1
    assert "pip install -e '.[metrics]' in a clone" in capsys.readouterr().err


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (40, 30), "white").save(tmp_path / "images" / f"{name}.png")
    return tmp_path / "images"


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_data_convert_csv(pictures, tmp_path, capsys):
    table = tmp_path / "t.csv"
    table.write_text("image,question,x1,y1,x2,y2\na.png,mug,1,2,10,20\nb.png,mug,,,,\n")
    out = tmp_path / "out.jsonl"
    assert main(["data", "convert", "csv", str(table), "--images", str(pictures), str(out)]) == 0
    assert [row["target"] for row in rows_of(out)] == [{"boxes": [[1.0, 2.0, 10.0, 20.0]]}, []]
    assert f"2 rows, 1 of them without an object, in {out}" in capsys.readouterr().out
    assert main(["data", "convert", "csv", str(table), "--images", str(pictures), "--box-format", "xywh", str(out)]) == 0
    assert rows_of(out)[0]["target"] == {"boxes": [[1.0, 2.0, 11.0, 22.0]]}
    table.write_text("image,question,x1,y1,x2,y2\na.png,mug,1,2,100,20\nb.png,mug,,,,\n")
    command = ["data", "convert", "csv", str(table), "--images", str(pictures), str(out)]
    assert main(command) == 2
    assert "leaves its image" in capsys.readouterr().err
    assert main([*command, "--on-bad-row", "skip"]) == 0
    assert "skipped as bad: 1" in capsys.readouterr().out


def test_data_convert_yolo(pictures, tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "names.txt").write_text("mug\n")
    out = tmp_path / "out.jsonl"
    command = ["data", "convert", "yolo", str(pictures), str(tmp_path / "labels"), str(out), "--names", str(tmp_path / "names.txt")]
    assert main([*command, "--question", "the {category}"]) == 0
    assert [(row["question"], row["target"]) for row in rows_of(out)] == [
        ("the mug", {"boxes": [[10.0, 7.5, 30.0, 22.5]]}),
        ("the mug", []),
    ]
    assert main([*command, "--only-present"]) == 0
    assert len(rows_of(out)) == 1
    assert main([*command, "--absent", "0"]) == 0
    assert len(rows_of(out)) == 1
    with pytest.raises(SystemExit):
        main([*command, "--absent", "1", "--only-present"])


def test_data_convert_and_show_coco(pictures, tmp_path, capsys):
    truth = {
        "images": [{"id": i, "file_name": f"{n}.png", "width": 40, "height": 30} for i, n in enumerate("ab")],
        "categories": [{"id": 1, "name": "mug"}, {"id": 2, "name": "cup"}],
        "annotations": [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 2, 10, 20], "area": 200, "iscrowd": 0}],
    }
    annotations, out = tmp_path / "truth.json", tmp_path / "out.jsonl"
    annotations.write_text(json.dumps(truth))
    command = ["data", "convert", "coco", str(annotations), "--images", str(pictures), str(out)]
    assert main([*command, "--absent", "0"]) == 0
    assert [row["target"] for row in rows_of(out)] == [{"boxes": [[1.0, 2.0, 11.0, 22.0]]}]
    assert main([*command, "--absent", "-1", "--class", "mug"]) == 0
    assert [row["target"] == [] for row in rows_of(out)] == [False, True]
    truth["annotations"][0]["bbox"] = [1, 2, 0, 20]
    annotations.write_text(json.dumps(truth))
    capsys.readouterr()
    assert main(command) == 2
    said = capsys.readouterr().err
    assert said.count("--on-bad-row skip") == 1
    assert "box_format" not in said
    assert main([*command, "--on-bad-row", "skip"]) == 0


def test_data_show_a_real_sample(shared, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    place = shared / "samples" / "coco2017_subset"
    assert main(["data", "show", "coco", str(place), "--split", "val", "--sheet", str(sheet), "--check", "5"]) == 0
    printed = capsys.readouterr().out
    assert "val" in printed
    assert str(sheet) in printed
    assert Image.open(sheet).size[0] > 300


def test_data_show_refuses_unknown_names(tmp_path, capsys):
    assert main(["data", "show", "cocoo", str(tmp_path)]) == 2
    assert "did you mean 'coco'" in capsys.readouterr().err
    assert main(["data", "show", "coco", str(tmp_path), "--split", "nothing"]) == 2
    assert "unknown split" in capsys.readouterr().err
    assert main(["data", "show", "coco", str(tmp_path)]) == 2


def test_help_is_light_and_fits_a_screen():
    code = (
        "import sys; from visurf.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'numpy', 'PIL', 'torch', 'scipy', 'yaml', 'rich'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    *text, heavy = ran.stdout.splitlines()
    assert heavy == "[]"
    assert len(text) <= 24
    assert max(map(len, text)) <= 80


def test_the_help_groups_every_command_by_what_people_want():
    parser = build_parser()
    (commands,) = [a.choices for a in parser._actions if isinstance(a.choices, dict)]
    listed = [name for group in WANTED.values() for name in group]
    assert sorted(listed) == sorted(commands)
    shown = parser.format_help().splitlines()
    for want, group in WANTED.items():
        first = next(line for line in shown if line.startswith(want))
        assert first.split()[1] == next(iter(group))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_and_options(shell, capsys):
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("train", "export", "quiet", "push", "convert"):
        assert word in script, word


def test_bash_completes_with_the_script(tmp_path):
    pytest.importorskip("shtab")
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    made = subprocess.run([sys.executable, "-m", "visurf", "completion", "bash"], capture_output=True, text=True, check=True)
    (tmp_path / "visurf").write_text(made.stdout)
    ask = (
        'source "$1"; COMP_WORDS=(visurf "$2"); COMP_CWORD=1; found=$(complete -p visurf); found=${found##*-F }; '
        '${found%% *}; echo "${COMPREPLY[@]}"'
    )
    command = ["bash", "-c", ask, "bash", str(tmp_path / "visurf"), "exp"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["export"], done.stderr


def test_env_names_what_is_missing_and_what_it_is_for(capsys, monkeypatch):
    monkeypatch.setitem(environment.OPTIONAL, "no-such-package", "nothing")
    assert main(["env"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^torch +\d", shown, re.MULTILINE)
    assert "no-such-package        not installed (for: nothing)" in shown
    assert re.search(r"^devices +\S", shown, re.MULTILINE)


def test_eval_judges_predictions_on_a_benchmark(shared, tmp_path, capsys):
    pytest.importorskip("pycocotools")
    folder = shared / "samples" / "coco_val2014_100"
    results = folder / "instances_val2014_fakebbox100_results.json"
    asked = ["--benchmark", "coco", "--data", str(folder / "instances_val2014_100.json"), "--predictions", str(results)]
    assert main(["eval", *asked, "--records", str(tmp_path / "records.jsonl")]) == 0
    printed = capsys.readouterr().out
    assert "coco, val: 8000 samples" in printed
    assert "ap                     0.5046" in printed
    assert len((tmp_path / "records.jsonl").read_text().splitlines()) == 8000


@pytest.mark.parametrize("asked", [["mini"], ["--benchmark", "coco"], ["mini", "--benchmark", "coco", "--predictions", "x"]])
def test_eval_says_what_it_can_measure(asked, capsys):
    assert main(["eval", *asked]) == 2
    assert "judge what another program produced" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (["no/model", "data.jsonl", "--confidence", "constant"], "--confidence: only with --benchmark"),
        (["no/model", "data.jsonl", "--convention", "gres", "--split", "val"], "--split, --convention: only with --benchmark"),
        (["no/model", "data.jsonl", "--exist-check", "oracle"], "--exist-check: only"),
        (["no/model", "data.jsonl", "--option", "absent=1"], "--option: only"),
        (["no/model", "data.jsonl", "--frame", "1000"], "--frame: only"),
        (["no/model", "data.jsonl", "--data", "x"], "--data: only"),
        (["no/model", "data.jsonl", "--predictions", "x"], "--predictions: only"),
        (["no/model", "data.jsonl", "--limit", "-1"], "--limit takes 0 (all samples) or more"),
        (["no/model", "data.jsonl", "--benchmark", "coco", "--data", "x"], "data.jsonl: a benchmark brings its own samples"),
        (["no/model", "--benchmark", "coco", "--data", "x", "--frame", "1000"], "--frame: only with --predictions"),
        (["--benchmark", "coco", "--data", "x", "--predictions", "y", "--limit", "3", "--out", "z"], "--out, --limit: only with a"),
        (["--benchmark", "coco", "--data", "x", "--predictions", "y", "task.prompt=bare"], "key=value: only with a model"),
    ],
)
def test_eval_names_an_option_that_it_would_ignore(asked, named, capsys):
    assert main(["eval", *asked]) == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--convention", "gres"], "convention=gres: expected a task that compares masks, got 'detection'"),
        (["--segment", "classical"], "segment: expected a task whose answers can become masks, got 'detection'"),
        (["--option", "foo=1"], "the loader of 'coco' does not take one of ['foo']"),
    ],
)
@pytest.mark.parametrize("who", ["model", "predictions"])
def test_eval_refuses_what_does_not_fit_before_a_model_is_loaded(who, asked, said, tmp_path, capsys):
    pytest.importorskip("cv2")
    picture(tmp_path / "1.png")
    image = {"id": 1, "file_name": "1.png", "width": 64, "height": 48}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}
    truth = {"images": [image], "categories": [{"id": 1, "name": "bus"}], "annotations": [box]}
    where = ["--benchmark", "coco", "--data", str(dump(tmp_path / "t.json", truth))]
    (tmp_path / "p.json").write_text("[]")
    asking = ["no/model", "--out", str(tmp_path / "out"), *where]
    given = asking if who == "model" else [*where, "--predictions", str(tmp_path / "p.json")]
    assert main(["eval", *given, *asked]) == 2
    assert said in capsys.readouterr().err


def test_eval_refuses_what_only_detection_has(tmp_path, capsys):
    picture(tmp_path / "ISIC2018_Task1-2_Test_Input/ISIC_0000001.jpg")
    mask_file(tmp_path / "ISIC2018_Task1_Test_GroundTruth/ISIC_0000001_segmentation.png")
    where = ["no/model", "--out", str(tmp_path / "out"), "--benchmark", "isic2018", "--data", str(tmp_path), "--split", "test"]
    for asked in (["--confidence", "constant"], ["--exist-check", "oracle"]):
        assert main(["eval", *where, *asked]) == 2
        assert "expected task 'detection', got 'lesion'" in capsys.readouterr().err


def test_names_of_classes_behind_option_are_texts(monkeypatch, tmp_path, capsys):
    seen = []
    monkeypatch.setattr("visurf.predictions.evaluate_predictions", lambda *a, options, **k: seen.append(options))
    monkeypatch.setattr(measuring, "_show", lambda found, mode: None)
    asked = ["eval", "--benchmark", "real_iad", "--data", str(tmp_path), "--predictions", "p.jsonl"]
    for option in ("categories=yes", "json_folder=1e5", "absent=2"):
        asked += ["--option", option]
    assert main(asked) == 0
    assert seen == [{"categories": "yes", "json_folder": "1e5", "absent": 2}]
    for wrong, said in (("absent", "expected key=value, got 'absent'"), ("form=[", "'form=[': the value is not valid YAML")):
        assert main([*asked, "--option", wrong]) == 2
        assert said in capsys.readouterr().err


@pytest.fixture
def run_folder(checkpoints, tmp_path):
    """Makes a run of these settings whose model is a tiny random one."""

    def make(settings):
        folder = tmp_path / "run"
        folder.mkdir()
        (folder / "model").symlink_to(checkpoints["qwen2_5_vl"])
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        return folder

    return make


def test_a_run_is_asked_on_a_benchmark_of_another_task_as_that_asks(run_folder, tmp_path, capsys):
    settings = {"task": {"name": "yes_no", "prompt": "default"}, "reward": {"functions": {"mine": "nowhere.to.be:found"}}}
    run = run_folder({**settings, "model": {"path": "gone", "min_pixels": 512}, "rollout": {"max_tokens": 4}})
    picture(tmp_path / "ISIC2018_Task1-2_Test_Input/ISIC_0000001.jpg")
    mask_file(tmp_path / "ISIC2018_Task1_Test_GroundTruth/ISIC_0000001_segmentation.png")
    where = ["--benchmark", "isic2018", "--data", str(tmp_path), "--split", "test", "--out", str(tmp_path / "out")]
    assert main(["eval", str(run), *where, "--json"]) == 0
    said = "left out of the run's own recipe, which is for task 'yes_no', not 'lesion': task.prompt, reward.functions"
    assert json.loads(capsys.readouterr().out)["notes"]["settings"] == said
    assert json.loads((tmp_path / "out/summary.json").read_text())["notes"]["settings"] == said


DROPPED = "task.prompt, reward.weights, reward.segmenter"


@pytest.mark.parametrize(
    ("task", "changes", "prompt", "weights", "left_out"),
    [
        ("referring", [], "published", {"accuracy": 2}, ""),
        # These are asked and answered as the run was trained.
        ("reasoning_segmentation", [], "published", {"accuracy": 2}, ""),
        ("anomaly_yes_no", [], "", {}, DROPPED),
        ("anomaly_yes_no", ["task.prompt=bare"], "bare", {}, DROPPED),
        ("anomaly_yes_no", ["reward.weights.thinking_format=0"], "", {"thinking_format": 0}, DROPPED),
        ("", [], "published", {"accuracy": 2}, ""),
        ("", ["task.name=yes_no"], "", {}, DROPPED),
        ("elsewhere:TASK", [], "", {}, DROPPED),
    ],
)
def test_what_of_a_runs_recipe_holds_for_a_task(run_folder, task, changes, prompt, weights, left_out):
    reward = {"weights": {"accuracy": 2}, "segmenter": "classical", "frame": [100, 100]}
    run = run_folder({"task": {"name": "referring", "prompt": "published"}, "reward": reward, "threads": 3})
    options = argparse.Namespace(model=str(run), recipe=None, override=changes)
    config, told = asked_of_task(options, {"evaluation": {"limit": 7}}, task)
    assert (config.task.prompt, config.reward.weights) == (prompt, weights)
    assert told.endswith(left_out)
    assert bool(told) == bool(left_out)
    assert (config.threads, config.evaluation.limit, config.reward.frame) == (3, 7, (100, 100))
    assert config.model.path == str(run / "model")
    # A recipe that is named holds as it stands.
    options.recipe = str(run / "config.yaml")
    config, told = asked_of_task(options, {}, task)
    assert told == ""
    assert config.reward.segmenter == "classical"


def test_eval_draws_masks_of_predicted_boxes(tmp_path, capsys):
    pytest.importorskip("cv2")
    picture(tmp_path / "ISIC2018_Task1-2_Test_Input/ISIC_0000001.jpg")
    mask_file(tmp_path / "ISIC2018_Task1_Test_GroundTruth/ISIC_0000001_segmentation.png")
    objects = [{"bbox_2d": [x, 8, x + 20, 20], "point_2d": [x + 2, 10]} for x in (10, 40)]
    row = {"id": "ISIC_0000001", "completion": f"<answer>{json.dumps(objects)}</answer>"}
    (tmp_path / "p.jsonl").write_text(json.dumps(row))
    where = [
        "--benchmark",
        "isic2018",
        "--split",
        "test",
        "--data",
        str(tmp_path),
        "--predictions",
        str(tmp_path / "p.jsonl"),
        "--json",
    ]
    assert main(["eval", *where, "--segment", "classical"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert 0 < found["summary"]["metrics"]["giou"]["value"] < 1


def test_choices_of_the_command_line_are_those_of_the_metrics():
    assert tuple(CONFIDENCE_SOURCES) == CONFIDENCES
    assert tuple(SEGMENTATION_CONVENTIONS) == CONVENTIONS
    for option in ("--confidence", "--convention"):
        with pytest.raises(SystemExit):
            main(["eval", "mini", "--benchmark", "coco", "--data", "x", option, "foo"])


def test_a_mistyped_command_is_told_the_nearest_one(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["trian", "recipe.yaml"])
    assert ended.value.code == 2
    assert "unknown command 'trian'; did you mean 'train'?" in capsys.readouterr().err


def test_the_help_of_a_command_begins_with_the_command(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert capsys.readouterr().out.startswith("usage: visurf train ")


def test_output_that_nobody_reads_to_its_end_is_no_error():
    command = [sys.executable, "-m", "visurf", "recipes", "visurf/grefcoco_7b"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_choices_of_the_help_are_those_of_the_metrics():
    from visurf.metrics.detection import CONFIDENCE_SOURCES
    from visurf.metrics.segmentation import SEGMENTATION_CONVENTIONS

    assert set(measuring.CONFIDENCES) == set(CONFIDENCE_SOURCES)
    assert set(measuring.CONVENTIONS) == set(SEGMENTATION_CONVENTIONS)
