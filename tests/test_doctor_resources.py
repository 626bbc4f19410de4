"""What `visurf check` says of several processes, prompts that are computed again, adapters and the disk."""

import dataclasses
import json
import random

import pytest
import torch
from PIL import Image

from visurf.cli import main
from visurf.config import Config, LoraConfig, ModelConfig, load_config, parse_overrides, shipped_recipes
from visurf.doctor.at_hand import look
from visurf.doctor.disk import room_for, written
from visurf.doctor.estimates import Machine, check_resources, seconds, work_of
from visurf.doctor.examination import Choices, examine
from visurf.doctor.lengths import Lengths
from visurf.doctor.memory import estimate
from visurf.doctor.remedies import ADAPTERS, remedies
from visurf.doctor.shape import shape_of
from visurf.doctor.timing import device_named, step_time
from visurf.doctor.work import Precision, Work, precision_of
from visurf.models.family import Prompt
from visurf.packing import Bundle, Scored, split

H100 = Machine("H100", 80e9, None, gpu=True, device=device_named("H100")[1])
# A picture of 4000 x 3000 pixels that nothing made smaller, as Qwen2.5-VL takes it.
PHOTO = Lengths(15301, 15251, 40, 61004, 1)


@pytest.fixture(autouse=True)
def _room(monkeypatch):
    monkeypatch.setattr("visurf.doctor.estimates.room_for", lambda out: (out, 10**13))


def resources(recipe, *overrides, processes=1, lengths=()):
    """The section for a recipe on GPUs."""
    config = load_config(recipe, parse_overrides(list(overrides))) if isinstance(recipe, str) else recipe
    machine = dataclasses.replace(H100, processes=processes)
    return check_resources(config, look(config.model), lengths, machine, (1, 1))


def shape_for(config):
    at_hand = look(config.model)
    return shape_of(at_hand.network, at_hand.family.vision_module, config.model.lora)


@pytest.mark.parametrize("name", [n for n in shipped_recipes() if n.endswith("_7b")])
def test_the_published_command_fits_eight_gpus(name):
    found = resources(name, processes=8)
    assert found.findings == []
    assert "of 8 that share the model" in found.facts["for"]


@pytest.mark.parametrize("name", [n for n in shipped_recipes() if n.endswith("-lora-1gpu")])
def test_a_recipe_for_one_gpu_may_have_its_base_quantised(name):
    assert load_config(name, {"model": {"lora": {"quantize": "4bit"}}}).parallel == "ddp"


def test_processes_that_share_nothing_are_told_so():
    found = resources("visurf/reasonseg_7b", "parallel=ddp", processes=8)
    said = [(f.level, f.remedy.split(",")[0]) for f in found.findings]
    assert said == [("warning", "parallel=fsdp2"), ("error", "parallel=fsdp2")]
    assert "of 8 each with the whole model" in found.facts["for"]
    assert resources("visurf/reasonseg_7b-lora-1gpu", processes=8).findings == []


def test_one_gpu_too_small_is_told_how_many_hold_it():
    (found,) = resources("visurf/reasonseg_7b").findings
    assert found.remedy == f"take 4 of them: torchrun --nproc-per-node 4, parallel=fsdp2 (here --gpus 4); or {ADAPTERS}"
    assert resources("visurf/reasonseg_7b", processes=4).findings == []


@pytest.mark.parametrize(("processes", "prompts"), [(1, 16), (2, 8), (3, 6), (8, 2), (16, 1), (40, 1)])
def test_processes_share_the_prompts_of_a_step(processes, prompts):
    assert work_of(Config(prompts_per_step=16), [], longest=True, processes=processes).prompts == prompts


def test_the_time_of_a_step_falls_with_the_processes():
    times = [resources("visurf/reasonseg_7b", processes=n).facts for n in (2, 8)]
    assert [facts["packed rows"].split()[0] for facts in times] == ["8", "2"]
    assert [facts["time of a step, roughly"].rpartition("training ")[2] for facts in times] == ["14 s)", "3.4 s)"]


def test_rows_of_a_group_are_those_that_packing_makes():
    draw = random.Random(3)
    for _ in range(300):
        work = Work(1, draw.randint(5, 60), 1, draw.randint(1, 20), draw.choice([0, draw.randint(1, 40)]), draw.randint(1, 9))
        sizes = [work.completion] * work.rollouts + [work.label] * (work.label > 0)
        prompt = Prompt(None, (0,) * work.prompt, torch.zeros(1, work.prompt), 0, {}, None)
        bundle = Bundle(prompt, tuple(Scored((0,) * n, i) for i, n in enumerate(sizes)))
        budget = draw.randint(10, 200)
        pieces = split(bundle, budget)
        assert work.passes(budget) == len(pieces)
        assert work.computed(budget) == sum(piece.tokens for piece in pieces)


def test_photographs_that_share_no_row_are_a_warning():
    model = ModelConfig(path="Qwen/Qwen2.5-VL-3B-Instruct", lora=LoraConfig(rank=64), gradient_checkpointing=True)
    config = Config(model=model, prompts_per_step=4)
    (warning,) = resources(config, lengths=[PHOTO] * 4).findings
    assert "4 of 4 prompts" in warning.message
    assert "computed 4 times in each pass of training instead of once" in warning.message
    assert "model.max_pixels" in warning.remedy
    assert "tokens_per_microbatch=19428" in warning.remedy
    assert resources(dataclasses.replace(config, tokens_per_microbatch=19428), lengths=[PHOTO] * 4).findings == []
    small = Lengths(1300, 1250, 40, 5000, 1)
    assert resources(config, lengths=[small] * 4).findings == []
    # Long completions after a short prompt: the repeats cost little, and are said without a warning.
    little = resources("visurf/reasonseg_7b-lora-1gpu", lengths=[small] * 4)
    assert little.findings == []
    assert little.facts["a prompt is computed"].startswith("up to 3 times")


def test_prompts_that_are_computed_again_take_their_time():
    config = Config(model=ModelConfig(path="Qwen/Qwen2.5-VL-3B-Instruct"))
    work = Work(4, 15301, 61004, 512, 40, 8)

    def training(budget, **values):
        changed = dataclasses.replace(config, tokens_per_microbatch=budget, model=dataclasses.replace(config.model, **values))
        return step_time(shape_for(changed), work, changed, Precision(gpu=True, mixed=True), H100.device).train

    assert work.passes(16384) == 4
    assert 3 < training(16384) / training(work.group) < 4
    # Features of a tower that is not trained are computed once.
    adapted = training(16384, lora=LoraConfig(rank=64)) / training(work.group, lora=LoraConfig(rank=64))
    assert 2.5 < adapted < work.computed(16384) / work.group


@pytest.mark.parametrize("name", [n for n in shipped_recipes() if n.startswith("visurf/") and n.endswith("_7b")])
def test_a_shipped_recipe_that_trains_everything_cuts_no_group(name):
    config = load_config(name)
    assert work_of(config, [], longest=True).passes(config.tokens_per_microbatch) == 1


def test_what_is_proposed_costs_little_first_and_can_be_set():
    config = Config(model=ModelConfig(path="Qwen/Qwen2.5-VL-3B-Instruct"))
    shape, work, precision = shape_for(config), Work(16, 1024, 3600, 512, 64, 8), precision_of(config, gpu=True)
    peak = estimate(shape, work, config, precision).peak
    # The smallest row that cuts no group.
    assert remedies(shape, work, config, 0.99 * peak, gpu=True) == f"tokens_per_microbatch={work.group}"
    shared = estimate(shape, work, dataclasses.replace(config, parallel="fsdp2"), precision, 4).peak
    assert remedies(shape, work, config, 1.01 * shared, gpu=True, processes=4) == "parallel=fsdp2"
    # All that is proposed at once can be set at once.
    for processes in (1, 8):
        advice = remedies(shape, work, config, 1e9, gpu=True, processes=processes)
        settings = [word for word in advice.partition(" do not suffice")[0].split() if "=" in word]
        assert len({setting.partition("=")[0] for setting in settings}) == len(settings) > 5
        load_config(None, parse_overrides(settings))


def model_section(*overrides):
    config = load_config("visurf/reasonseg_7b", parse_overrides(["data.root=/nowhere", *overrides]))
    return next(s for s in examine("r", config, Choices(gpu="H100")).sections if s.name == "model")


@pytest.mark.parametrize(("overrides", "warned"), [((), False), (("model.lora.rank=64",), True), (tuple(ADAPTERS.split()), False)])
def test_adapters_with_the_learning_rate_of_full_training_are_a_warning(overrides, warned):
    assert [f.remedy for f in model_section(*overrides).findings] == ["set optimizer.lr=1e-5"] * warned


def test_the_learning_rate_of_every_stage_counts():
    stages = 'stages=[{paradigm: sft, steps: 1, override: {"optimizer.lr": 1e-6}}]'
    assert len(model_section(*ADAPTERS.split(), stages).findings) == 1


def test_what_a_full_7b_model_writes():
    config = load_config("visurf/reasonseg_7b")
    shape, precision = shape_for(config), precision_of(config, gpu=True)
    found = written(shape, config, precision)
    assert found.checkpoint == 12 * shape.parameters
    assert found.checkpoints == 3  # two that are kept, and the one that is being written
    assert found.models == 4 * shape.parameters

    def count(*overrides):
        return written(shape, load_config("visurf/reasonseg_7b", parse_overrides(list(overrides))), precision).checkpoints

    assert count("data.validation=v.jsonl", "evaluation.every=50") == 4
    assert count("checkpoint.keep=0", "steps=220") == 5  # 50, 100, 150, 200 and the end
    assert count("checkpoint.every=0", "data.validation=v.jsonl", "evaluation.every=50") == 1
    assert written(shape, load_config("visurf/reasonseg_7b", {"paradigm": "sft_then_rlvr"}), precision).models == 2 * found.models
    adapted = load_config("visurf/reasonseg_7b-lora-1gpu")
    assert 1e9 < written(shape_for(adapted), adapted, precision_of(adapted, gpu=True)).checkpoint < 3e9


def test_a_checkpoint_is_as_large_as_it_is_said_to_be(tmp_path):
    out = tmp_path / "run"
    changes = ["steps=1", "evaluation.every=0", "data.validation=", "prompts_per_step=1", "data.train=world:shifted?count=4&seed=1"]
    assert main(["train", "demo", *changes, f"out={out}"]) == 0
    config = load_config("demo", {"steps": 1})
    expected = written(shape_for(config), config, precision_of(config, gpu=False)).checkpoint
    size = sum(f.stat().st_size for f in (out / "checkpoints" / "step-000001").rglob("*") if f.is_file())
    assert size == pytest.approx(expected, rel=0.1)
    assert room_for(out)[0] == out


def test_too_little_room_on_the_disk_is_a_warning(monkeypatch, tmp_path):
    monkeypatch.setattr("visurf.doctor.estimates.room_for", lambda out: (tmp_path, 3 * 10**11))
    (found,) = resources("visurf/reasonseg_7b", processes=8).findings
    assert found.level == "warning"
    assert str(tmp_path) in found.message
    assert "checkpoint.keep" in found.remedy
    assert resources("visurf/reasonseg_7b", "checkpoint.keep=1", processes=8).findings == []


def test_a_run_that_goes_on_may_fill_its_own_checkpoints(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.disk_usage", lambda place: dataclasses.make_dataclass("Usage", ["free"])(100))
    assert room_for(tmp_path / "a" / "b") == (tmp_path, 100)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "x").write_bytes(b"1234567")
    assert room_for(tmp_path) == (tmp_path, 107)


def test_the_embedded_model_says_what_it_reads(tmp_path, capsys):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    row = {"id": 1, "image": "a.png", "question": "find it", "target": {"boxes": [[8, 10, 40, 50]]}}
    (tmp_path / "d.jsonl").write_text(json.dumps(row))
    main(["check", "demo", f"data.train={tmp_path / 'd.jsonl'}", "data.validation=", "--prompts", "0"])
    assert "rendered scenes of 64 x 64 pixels" in " ".join(capsys.readouterr().out.split())


def test_seconds_have_no_exponent():
    assert [seconds(v) for v in (0.123, 9.94, 100.4, 119)] == ["0.12 s", "9.9 s", "100 s", "119 s"]
