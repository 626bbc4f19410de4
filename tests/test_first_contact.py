"""Mistakes that people make who meet the project for the first time, and what they are told."""

import importlib
import json
import re
import shutil

import pytest
import torch
from PIL import Image

from visurf import parallel
from visurf.accounting import DEVICES
from visurf.cli import main
from visurf.config import Config, ConfigError, DataConfig, build, load_config, nested, parse_overrides
from visurf.config.hints import ELSEWHERE, paths
from visurf.data import describe, load_data
from visurf.devices import described, warn_of_processor
from visurf.doctor.estimates import machine_for
from visurf.doctor.timing import MEMORY
from visurf.mini.demo import RECIPE
from visurf.models import load_model
from visurf.models.loading import resolve
from visurf.naming import ELSEWHERE as METHODS
from visurf.paradigms import PARADIGMS
from visurf.preparation import prepare_model
from visurf.publishing import push
from visurf.sources import check_path, check_reachable
from visurf.stages import stages
from visurf.tasks import TASKS
from visurf.types import DataError


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes rows with these targets, and works in their folder."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (100, 80)).save(tmp_path / "a.png")

    def rows(*targets, name="data.jsonl"):
        lines = ({"id": i, "image": "a.png", "question": "the dog", "target": target} for i, target in enumerate(targets))
        (tmp_path / name).write_text("\n".join(map(json.dumps, lines)))
        return tmp_path / name

    return rows


BOX = [[10, 20, 30, 40]]


def test_init_writes_what_fits_one_gpu_and_all_parameters_only_when_asked(write, capsys):
    write(*[BOX] * 40)
    assert main(["init", "data.jsonl"]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-3:] == [
        "wrote data.yaml; an epoch is 2.5 steps: 40 rows / 16 prompts_per_step",
        "check it:   visurf check data.yaml",
        "then train: visurf train data.yaml",
    ]
    config = load_config("data.yaml")
    held = config.model
    assert (held.gradient_checkpointing, held.freeze_vision, held.lora.rank, held.lora.alpha) == (True, True, 64, 128)
    assert (held.max_pixels, config.optimizer.lr) == (1003520, 1e-5)
    assert main(["init", "data.jsonl", "--full", "--force"]) == 0
    config = load_config("data.yaml")
    held = config.model
    assert (held.gradient_checkpointing, held.freeze_vision, held.lora.rank, held.max_pixels) == (True, False, 0, 1003520)
    assert config.optimizer.lr == 1e-6
    for model, limit in (("mini", None), ("llava-hf/llava-onevision-qwen2-0.5b-ov-hf", None), ("x/SmolVLM", 1003520)):
        assert main(["init", "data.jsonl", "--model", model, "--force"]) == 0
        config = load_config("data.yaml")
        assert (config.model.max_pixels, config.model.lora.rank) == (limit, 0 if model == "mini" else 64)
        assert config.optimizer.lr == (1e-4 if model == "mini" else 1e-5)


def test_init_takes_settings_for_the_check_of_the_rows_and_for_the_recipe(write, capsys):
    write([[40, 20, 30, 40]], [])
    assert main(["init", "data.jsonl"]) == 2
    assert "set data.box_format=xywh" in capsys.readouterr().err
    assert main(["init", "data.jsonl", "data.box_format=xywh", "task.name=detection", "steps=7", "prompts_per_step=1"]) == 0
    printed = capsys.readouterr().out
    assert "2 samples, 1 of them without an object" in printed
    assert "an epoch is 2 steps: 2 rows / 1 prompts_per_step" in printed
    config = load_config("data.yaml")
    assert (config.data.box_format, config.task.name, config.steps, config.prompts_per_step) == ("xywh", "detection", 7, 1)
    assert load_data(config.data.train, config.data, TASKS["detection"]).samples[0].target.boxes == ((40, 20, 70, 60),)
    for change, said in (("data.box_fromat=xywh", "box_format"), ("data.train=x", "leave it out"), ("steps=0", "more than 0")):
        assert main(["init", "data.jsonl", "data.box_format=xywh", "--force", change]) == 2
        assert said in capsys.readouterr().err
    write([[400, 200, 900, 800]])
    assert main(["init", "data.jsonl", "--force"]) == 2
    assert "set data.frame=1000 or data.frame=unit" in capsys.readouterr().err
    assert main(["init", "data.jsonl", "--force", "data.frame=1000"]) == 0


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ([[0.1, 0.2, 0.5, 0.8]], "is less than a pixel; if these are fractions, set data.frame=unit"),
        ([10, 20, 50, 80], "one box is a list too: [[10, 20, 50, 80]]"),
        ({"boxes": [10, 20, 50, 80]}, "one box is a list too: [[10, 20, 50, 80]]"),
        ("cat", 'write {"class": "cat"}, or with "text"'),
    ],
)
def test_a_target_in_another_shape_is_told_the_right_one(write, target, said):
    with pytest.raises(DataError, match=re.escape(said)):
        load_data(str(write(BOX, target)), DataConfig(), TASKS["referring"])


def test_boxes_in_fractions_are_read_where_that_is_said_and_one_pixel_is_a_box(write):
    data = load_data(str(write([[0.1, 0.2, 0.5, 0.8]])), DataConfig(frame="unit"), TASKS["referring"])
    assert data.samples[0].target.boxes == ((10, 16, 50, 64),)
    assert load_data(str(write([[0, 0, 1, 1]])), DataConfig(), TASKS["referring"]).samples[0].target.boxes == ((0, 0, 1, 1),)


def test_points_in_fractions_are_told_from_pixels(write):
    asked = {"points": [[0.3, 0.4]]}
    with pytest.raises(DataError, match=r"data\.jsonl:1: .*point \[0.3, 0.4\] is in the first pixel; .* set data.frame=unit"):
        load_data(str(write(asked)), DataConfig(), TASKS["gui"])
    assert load_data(str(write(asked)), DataConfig(frame="unit"), TASKS["gui"]).samples[0].target.points == ((30, 32),)
    for point in ([0.5, 0.5], [0, 1], [0.5, 1.5]):
        assert load_data(str(write({"points": [point]})), DataConfig(), TASKS["gui"]).samples[0].target.points == (tuple(point),)


def test_init_that_skips_bad_rows_finds_the_task_of_the_others(write, capsys):
    rows = write({"text": "seven"}, {"text": "eight"})
    rows.write_text(rows.read_text() + "\nno row\n")
    assert main(["init", "data.jsonl", "data.on_bad_sample=skip"]) == 0
    assert load_config("data.yaml").task.name == "question_answering"
    rows.write_text("no row\n")
    assert main(["init", "data.jsonl", "data.on_bad_sample=skip", "--force"]) == 2
    assert "no usable sample" in capsys.readouterr().err


def test_init_takes_any_answer_to_a_question(write, capsys):
    for answer in (".", "...", "7 a.m."):
        write({"text": answer})
        assert main(["init", "data.jsonl", "--force"]) == 0
        assert load_config("data.yaml").task.name == "question_answering"
    write({"class": "cat"}, {"text": "."})
    assert main(["init", "data.jsonl", "--force"]) == 0
    assert load_config("data.yaml").task.name == "question_answering"
    capsys.readouterr()
    for target, said in (
        ({"class": "."}, "task 'classification': expected the name of a class, got '.'"),
        ({"text": "<answer>5</answer>"}, "task 'question_answering': expected a text that fits between answer tags"),
    ):
        write(target)
        assert main(["init", "data.jsonl", "--force"]) == 2
        assert said in capsys.readouterr().err
    rows = write({"class": "cat"})
    rows.write_text(rows.read_text() + "\n[\n{")
    assert main(["init", "data.jsonl", "--force"]) == 2
    assert "data.jsonl:2: not JSON" in capsys.readouterr().err


def test_empty_detections_count_as_no_object(write):
    data = load_data(str(write(BOX, [], [])), DataConfig(), TASKS["detection"])
    assert describe(data)["no object"] == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("lr=1e-5", "did you mean optimizer.lr?"),
        ("max_pixels=4", "did you mean model.max_pixels?"),
        ("every=4", "did you mean evaluation.every or checkpoint.every or recording.every?"),
        ("learning_rate=1", "is set here with optimizer.lr"),
        ("optimizer.learning_rate=1", "is set here with optimizer.lr"),
        ("num_generations=8", "is set here with rollout.group_size"),
        ("epochs=3", "is set here with steps: epochs x rows / prompts_per_step"),
        ("paradigm=grpo", "unknown paradigm 'grpo'; here that is rlvr. Known: "),
        ("paradigm=Dr-GRPO", "here that is rlvr advantage.scale=none objective.average=constant. Known"),
        ("trackers=mlflow", "expected one of tensorboard, wandb, got 'mlflow'"),
    ],
)
def test_names_from_elsewhere_are_told_ours(change, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        stages(build(Config, parse_overrides([change])))


def test_what_hints_name_is_there():
    known = {path for listed in paths().values() for path in listed}
    for name, said in ELSEWHERE.items():
        keys = re.match(r"[\w.]+( and [\w.]+)?", said)[0].split(" and ")
        assert known.issuperset(keys), name
        assert name not in known
    for said in METHODS.values():
        name, *settings = said.split()
        assert name in PARADIGMS
        build(Config, parse_overrides(settings))


def test_one_tracker_needs_no_brackets():
    assert build(Config, parse_overrides(["trackers=wandb"])).trackers == ("wandb",)
    with pytest.raises(ConfigError, match="expected a list, got 'q_proj'"):
        build(Config, nested({"model.lora.targets": "q_proj"}))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--lr", "1e-5"], "settings are given as key=value, such as optimizer.lr=1e-5; did you mean optimizer.lr?"),
        (["--learning-rate=1e-5"], "what others call 'learning_rate' is set here with optimizer.lr"),
        (["--loud"], "unrecognized arguments: --loud; settings are given as key=value"),
    ],
)
def test_a_setting_given_as_an_option_is_told_its_form(given, said, capsys):
    with pytest.raises(SystemExit):
        main(["train", str(RECIPE), *given])
    assert said in capsys.readouterr().err


SMALL = ["rollout.max_tokens=4", "threads=1"]


@pytest.fixture
def run(tmp_path):
    """The folder of a run that has ended, whose recipe is not the default one."""
    folder = tmp_path / "mine" / "run"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("task: {name: detection}\nmodel: {path: gone}\n")
    shutil.copytree(resolve("mini"), folder / "model")
    return folder


def test_a_run_folder_is_a_model_with_its_own_recipe(write, run, tmp_path, capsys):
    write(BOX, [])
    assert main(["eval", str(run), "data.jsonl", "--quiet", *SMALL]) == 0
    assert "ap50" in capsys.readouterr().out, "a measure that detection has"
    (tmp_path / "other.yaml").write_text("task: {name: referring}")
    assert main(["eval", str(run), "data.jsonl", "--recipe", "other.yaml", "--quiet", "--force", *SMALL]) == 0
    assert "ap50" not in capsys.readouterr().out
    assert main(["predict", str(run), "a.png", "the dog", *SMALL]) == 3
    assert load_model(run).source == str(run)
    shutil.rmtree(run / "model")
    assert main(["eval", str(run), "data.jsonl", "--out", "new"]) == 2
    assert "this run has no model yet" in capsys.readouterr().err


class Asked(Exception):
    """Ends a command where it would ask the model."""


def test_every_command_that_asks_a_run_takes_its_recipe(write, run, tmp_path, monkeypatch):
    def stop(config, *rest, **options):
        raise Asked(config)

    for name in ("probing.probe", "distillation.distil", "training.evaluate", "answering.ask"):
        monkeypatch.setattr(f"visurf.{name}", stop)

    def config_of(*command):
        with pytest.raises(Asked) as asked:
            main(command)
        return asked.value.args[0]

    (run / "config.yaml").write_text("task: {name: detection}\ndata: {images: photos}\nrollout: {group_size: 5}\n")
    (tmp_path / "other.yaml").write_text("task: {name: counting}")
    write(BOX)
    commands = (
        ("probe", str(run), "data.jsonl"),
        ("data", "distil", str(run), "data.jsonl", "--out", "rows.jsonl"),
        ("eval", str(run), "data.jsonl"),
        ("predict", str(run), "a.png", "the dog"),
    )
    for command in commands:
        own = config_of(*command)
        assert (own.task.name, own.data.images, own.rollout.group_size) == ("detection", "photos", 5), command
        other = config_of(*command, "--recipe", "other.yaml", "seed=7")
        assert (other.task.name, other.data.images, other.seed) == ("counting", "", 7), command
        assert own.model.path == other.model.path == str(run / "model"), command


@pytest.mark.parametrize("inside", ["model", ""])
@pytest.mark.parametrize("command", ["eval", "predict", "probe"])
def test_a_checkpoint_is_told_the_export(write, run, inside, command, capsys):
    write(BOX)
    kept = run / "checkpoints" / "step-000012"
    shutil.copytree(run / "model", kept / "model")
    (kept / "model" / "preprocessor_config.json").unlink()
    assert main([command, str(kept / inside), "data.jsonl"]) == 2
    assert f"a checkpoint, which a run goes on from; `visurf export {run} --step 12` makes a model" in capsys.readouterr().err
    with pytest.raises(ValueError, match="--step 12"):
        load_model(kept / inside)
    shutil.copy(run / "model" / "preprocessor_config.json", kept / "model")
    check_path(str(kept / "model"))


def test_eval_writes_over_an_evaluation_only_when_asked(write, capsys):
    write(BOX)
    asked = ["eval", "mini", "data.jsonl", "--quiet", *SMALL]
    assert main(asked) == 0
    assert main(asked) == 2
    assert "evaluation holds an evaluation already; name another folder with --out, or write over it with --force" in (
        capsys.readouterr().err
    )
    assert main([*asked, "--out", "second"]) == 0
    assert main([*asked, "--force"]) == 0


@pytest.mark.parametrize("name", ["./nomodel", "../nomodel", "/no/model", "a/b/c", "runs/nope", "mine/nope"])
def test_a_path_without_a_folder_never_asks_the_hub(write, run, name, capsys, monkeypatch):
    write(BOX)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *a, **k: pytest.fail("asked"))
    for command in (["eval", name, "data.jsonl"], ["predict", name, "a.png", "the dog"]):
        assert main(command) == 2
        assert f"{name}: no such folder; name a folder" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no such folder"):
        load_model(name)


def test_a_hub_that_is_not_reached_is_asked_once(monkeypatch, capsys):
    asked = []

    def refuse(self, name, **settings):
        asked.append(name)
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(OSError, match=r"no hub model reached: the hub was not .*`hf download owner/name`.*HF_HUB_OFFLINE=1"):
        check_reachable("owner/name")
    assert asked == ["owner/name"]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="HF_HUB_OFFLINE is set"):
        check_reachable("owner/name")
    with pytest.raises(OSError, match="it can be no name on the hub"):
        check_reachable("owner/na me")
    assert asked == ["owner/name"]


def test_the_device_is_said_and_a_large_model_on_a_processor_warned_of(monkeypatch):
    if not torch.cuda.is_available():
        assert described().startswith("CPU (")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.warns(UserWarning, match="1.6 billion parameters are trained on the CPU"):
        warn_of_processor(torch.nn.Linear(40_000, 40_000, device="meta"))
    warn_of_processor(torch.nn.Linear(4, 4))


def test_training_says_its_device_and_refuses_a_file_as_its_folder(write, tmp_path, capsys):
    write(BOX)
    small = ["data.train=data.jsonl", "prompts_per_step=1", "steps=1", "rollout.group_size=2", *SMALL]
    assert main(["train", str(RECIPE), *small, "out=run", "evaluation.every=0"]) == 0
    assert capsys.readouterr().err.startswith("device: ")
    (tmp_path / "file").write_text("")
    assert main(["train", str(RECIPE), *small, "out=file"]) == 2
    assert "out=file: a file is there" in capsys.readouterr().err


def test_an_upload_that_fails_says_how_to_make_up_for_it(tmp_path, monkeypatch):
    def fail(*arguments, **settings):
        # As errors of HTTP libraries, no OSError.
        raise LookupError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", fail)
    with pytest.raises(OSError, match=r"is complete, but was not uploaded .*hf upload me/mine .* --private"):
        push(tmp_path, "me/mine")


@pytest.mark.parametrize(("paradigm", "good"), [("rlvr", False), ("sft_then_rlvr", False), ("visurf", True), ("sft", True)])
def test_a_group_of_one_is_refused_where_it_teaches_nothing(paradigm, good):
    config = build(Config, {"paradigm": paradigm, "rollout": {"group_size": 1}})
    if good:
        stages(config)
        return
    with pytest.raises(ConfigError, match="'rlvr' compares rollouts with each other and learns nothing from a group of 1"):
        stages(config)


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_a_missing_tracker_says_what_to_install(name, capsys, monkeypatch):
    def fail(*arguments, **settings):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib.import_module("visurf.training"), "train", fail)
    assert main(["train", str(RECIPE), f"trackers={name}"]) == 1
    assert "pip install -e '.[report]'" in capsys.readouterr().err


def test_a_part_of_what_torchrun_sets_is_told_torchrun(monkeypatch):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(ValueError, match="torchrun --nproc_per_node N"):
        parallel.start()


def test_converting_refuses_a_picture_folder_that_is_not_there(tmp_path, capsys):
    (tmp_path / "t.json").write_text(json.dumps({"images": [], "categories": [], "annotations": []}))
    assert main(["data", "convert", "coco", str(tmp_path / "t.json"), str(tmp_path / "o.jsonl"), "--images", "nofolder"]) == 2
    assert "nofolder: no such folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--html", "/nope/x.html"], "there is no folder /nope"),
        (["--gpu", "foo"], "RTX 4090, RTX 3090; for another give --gpu-memory GB"),
        (["--gpu", "A100 80 GB"], "--gpu A100 80 GB: expected one of H200, "),
        (["--gpu", "80GB"], "--gpu 80GB: expected one of H200, "),
        (["--gpu", "PCIe"], "--gpu PCIe: expected one of H200, "),
        (["--gpu-memory", "0"], "--gpu-memory takes more than 0 GB"),
    ],
)
def test_check_looks_at_its_options_before_anything_else(given, said, capsys, monkeypatch):
    monkeypatch.setattr("visurf.doctor.examination.examine", lambda *a: pytest.fail("checked"))
    assert main(["check", "demo", *given]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "name", "size"),
    [
        ("4090", "RTX 4090", 24e9),
        ("a6000", "RTX A6000", 48e9),
        ("B200", "NVIDIA B200", 180e9),
        ("H100", "H100", 80e9),
        ("h100", "H100", 80e9),
        ("h100 pcie", "H100 PCIe", 80e9),
        ("a100-sxm4-40gb", "A100-SXM4-40GB", 40e9),
        ("NVIDIA A100-SXM4-80GB", "A100-SXM4-80GB", 80e9),
    ],
)
def test_check_knows_usual_devices_by_short_names(asked, name, size):
    found = machine_for(asked, 0, 0)
    assert (found.name, found.bytes, found.device) == (name, size, DEVICES[name])
    assert set(MEMORY) == set(DEVICES)


def test_check_knows_any_device_by_its_memory(monkeypatch):
    found = machine_for("", 0, 0, 2, 20.5)
    assert (found.name, found.bytes, found.device, found.processes) == ("a GPU of 20.5 GB", 20.5e9, None, 2)
    seen = []
    monkeypatch.setattr("visurf.doctor.examination.examine", lambda recipe, config, choices, *a: seen.append(choices) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["check", "demo", "--gpu-memory", "20.5"])
    assert (seen[0].gpu, seen[0].memory) == ("", 20.5)


def test_settings_that_cannot_work_name_what_can(tmp_path):
    with pytest.raises(ConfigError, match=r"optimizer\.lr: expected at most 1, got 10.0"):
        build(Config, nested({"optimizer.lr": 10}))
    config = build(Config, nested({"model.lora.rank": 4, "model.lora.targets": ["foo"]}))
    with pytest.raises(ConfigError, match=r"is called foo; it has down_proj, gate_proj.*v_proj"):
        prepare_model(config, "mini")
    with pytest.raises(ValueError, match=r"model\.max_pixels: expected 256 or more, the pixels of one merged patch, got 100"):
        load_model("mini", max_pixels=100)
