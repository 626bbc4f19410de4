"""Real processes: what several of them learn is what one learns, whatever shares they have and however the model lies on them."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import visurf
from naive import worst
from processes import STEPS, run_worlds
from visurf import parallel, replicas
from visurf.cli import main
from visurf.mini.demo import RECIPE
from visurf.models import FAMILIES
from visurf.models.random_checkpoint import write_checkpoint

# name -> how the steps are replayed. Together: every paradigm, unequal lengths, prompts without images, a reference, adapters.
REPLAYS = {
    "sft": {"paradigm": "sft"},
    "rlvr": {"paradigm": "rlvr", "objective": {"average": "sequence"}},
    "visurf": {"paradigm": "visurf", "settings": "checkpointed", "clip": 0.5},
    "sft_then_rlvr": {"paradigm": "sft_then_rlvr", "settings": "frozen", "objective": {"kl": 0.1}},
    "adapters": {"paradigm": "visurf", "settings": "adapters", "objective": {"kl": 0.1}, "clip": 0.3, "inner_steps": 2},
}
FAILING = """
import os
import signal

calls = 0

def mine(completion, sample):
    global calls
    calls += 1
    if os.environ["RANK"] == "1" and calls > 10:
        raise KeyError("gold")
    return 0.0

def stop(completion, sample):
    global calls
    calls += 1
    if os.environ["RANK"] == "1" and calls == 5:
        os.kill(os.getpid(), signal.SIGTERM)
    return 0.0
"""
SMALL = {
    "data": {"train": "world:shifted?count=40&seed=5"},
    "rollout": {"group_size": 3, "max_tokens": 16},
    "prompts_per_step": 3,
    "steps": 4,
    "checkpoint": {"every": 0},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the runs of all worlds lie."""
    return tmp_path_factory.mktemp("parallel")


@pytest.fixture(scope="module")
def found(checkpoints, folder):
    """Everything that one, two and three processes did."""
    checkpoint = str(checkpoints["qwen2_5_vl"])
    (folder / "failing.py").write_text(FAILING)

    def replays(modes, names=tuple(REPLAYS)):
        return {
            f"{name} {mode}": ("replay", {"checkpoint": checkpoint, "mode": mode, **REPLAYS[name]})
            for name in names
            for mode in modes
        }

    def run(name, **settings):
        return ("run", {"out": str(folder / name), **settings})

    def resumed(name, source, **settings):
        return run(name, resume=str(folder / source), **settings)

    for name, function in (("failing", "mine"), ("interrupted", "stop")):
        reward = {"frame": [256, 256], "functions": {"mine": f"{folder / 'failing.py'}:{function}"}}
        values = yaml.safe_load(RECIPE.read_text()) | SMALL | {"reward": reward, "out": str(folder / name)}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    adapters = {"paradigm": "sft_then_rlvr", "steps": 2, "model": {"lora": {"rank": 2}}, "evaluation": {"every": 0}}
    hinted = {"paradigm": "trapo", "steps": 2, "prompts_per_step": 3, "evaluation": {"every": 0}}
    half = {"paradigm": "visurf", "autocast": "on", "inner_steps": 2}
    rounded = {"paradigm": "sft", "steps": 1, "checkpoint": {"every": 1}, "evaluation": {"every": 0}, "parallel": "fsdp2"}
    two = {
        "helpers": ("helpers", {}),
        "early": ("sent_early", {"checkpoint": checkpoint}),
        **replays(("ddp", "fsdp2")),
        "ddp": run("ddp-2", steps=2),
        "fsdp2": run("fsdp2-2", steps=2, parallel="fsdp2"),
        "adapters": run("adapters-2", parallel="fsdp2", **adapters),
        "hinted": run("hinted-2", parallel="fsdp2", **hinted),
        "half": ("replay", {"checkpoint": checkpoint, "mode": "fsdp2", **half}),
        "offloaded": ("replay", {"checkpoint": checkpoint, "mode": "fsdp2", "offload": True, **REPLAYS["visurf"]}),
        "rounded adapters": run("rounded-adapters", **rounded, model={"autocast": "on", "lora": {"rank": 2}}),
        "rounded tower": run("rounded-tower", **rounded, model={"autocast": "on", "freeze_vision": True}),
        "failing": ("command", {"arguments": ["train", str(folder / "failing.yaml"), "--json"]}),
        "interrupted": ("command", {"arguments": ["train", str(folder / "interrupted.yaml"), "--json"]}),
    }
    three = {
        **replays(("ddp", "fsdp2"), tuple(REPLAYS)[:4]),
        "ddp": resumed("ddp-2-3", "ddp-2"),
        "fsdp2": resumed("fsdp2-2-3", "fsdp2-2", parallel="fsdp2", rollout={"whole_model": False}),
    }
    again = {"ddp": resumed("ddp-2-1", "ddp-2"), "fsdp2": resumed("fsdp2-2-1", "fsdp2-2")}
    first = {
        **replays(("ddp",)),
        "run": run("whole"),
        "adapters": run("adapters-1", **adapters),
        "hinted": run("hinted-1", **hinted),
    }
    first["half"] = ("replay", {"checkpoint": checkpoint, "mode": "ddp", **half})
    return run_worlds(folder, [(1, first), (2, two), (3, three), (1, again)])


def replayed_worlds():
    for processes in (2, 3):
        for name in REPLAYS:
            for mode in ("ddp", "fsdp2"):
                if processes == 2 or name != "adapters":
                    yield pytest.param(processes, name, mode, id=f"{processes} {name} {mode}")


@pytest.mark.parametrize(("processes", "name", "mode"), replayed_worlds())
def test_every_gradient_and_the_final_parameters_are_those_of_one_process(found, processes, name, mode):
    one, several = found[1, f"{name} ddp"], found[processes, f"{name} {mode}"]
    assert len(several["gradients"]) == len(STEPS) * (2 if name == "sft_then_rlvr" else 1)
    for number, (mine, expected) in enumerate(zip(several["gradients"], one["gradients"], strict=True)):
        if not any(bool(v.any()) for v in expected.values()):
            assert not any(bool(v.any()) for v in mine.values()), number
            continue
        difference, tensor = worst(mine, expected)
        assert difference < 1e-5, (number, tensor)
    # Against the distance covered rounding of the parameters themselves counts; a mean instead of a sum would be off by half.
    difference, tensor = worst(several["moved"], one["moved"])
    assert difference < 1e-3, tensor
    ends = [{n: w["before"][n] + w["moved"][n] for n in w["moved"]} for w in (several, one)]
    assert worst(*ends)[0] < 1e-5
    assert several["rates"] == one["rates"]


def test_the_replayed_steps_are_worth_replaying(found):
    """Gradients everywhere but where the groups are flat: there they are zeros, not missing, and the schedule goes on."""
    for name in ("rlvr", "visurf"):
        one = found[1, f"{name} ddp"]
        sizes = [max(float(v.abs().max()) for v in step.values()) for step in one["gradients"]]
        assert [size > 0 for size in sizes] == [True, False, True]
        assert one["rates"] == sorted(set(one["rates"]), reverse=True)
    assert any("visual" in tensor for tensor in found[1, "visurf ddp"]["moved"])
    assert not any("visual" in tensor for tensor in found[1, "sft_then_rlvr ddp"]["moved"])
    assert all("lora" in tensor for tensor in found[1, "adapters ddp"]["moved"])


@pytest.mark.parametrize(("processes", "name", "mode"), replayed_worlds())
def test_metrics_are_those_of_all_processes(found, processes, name, mode):
    for mine, expected in zip(found[processes, f"{name} {mode}"]["metrics"], found[1, f"{name} ddp"]["metrics"], strict=True):
        # How often prompts repeat over rows depends on how many share one.
        for metrics in (mine, expected):
            for name in ("train/tokens", "flops/train", "flops/score"):
                metrics.pop(name, None)
        assert mine == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_sums_of_gradients_set_off_while_the_backward_pass_runs(found):
    early = found[2, "early"]
    assert early["sent"] > 3
    assert early["early"] >= early["sent"] - 1
    assert early["bytes"] == early["trained"]


def test_buckets_hold_consecutive_parameters_of_one_kind():
    shapes = [
        (4, torch.float32),
        (4, torch.float32),
        (9, torch.float32),
        (1, torch.bfloat16),
        (2, torch.bfloat16),
        (1, torch.float32),
    ]
    parameters = [torch.nn.Parameter(torch.zeros(n, dtype=kind)) for n, kind in shapes]
    parts = replicas.split(parameters, 32)
    assert [[p.numel() for p in part] for part in parts] == [[4, 4], [9], [1, 2], [1]]
    assert [p for part in parts for p in part] == parameters


def test_items_numbers_and_failures_come_together(found):
    helpers = found[2, "helpers"]
    assert helpers["shares"] == [[0, 2, 4, 6], [1, 3, 5]]
    assert helpers["rejoined"] == [0, 1, 2, 3, 4, 5, 6]
    assert helpers["total"] == [2.0, 1.0]
    assert helpers["said"] == [
        "OtherProcessError(\"process 1 of 2 failed: KeyError: 'the second process alone'\")",
        "KeyError('the second process alone')",
    ]


def texts(run):
    rows = [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]
    return [(row["step"], row["id"], [m["text"] for m in row["members"]]) for row in rows]


def deterministic(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in row.items() if not k.startswith(("time/", "rate/", "flops/", "train/tokens", "paradigm"))} for row in rows
    ]


def same_as_one_process(run, one):
    assert texts(run) == texts(one)
    for mine, expected in zip(deterministic(run), deterministic(one), strict=True):
        assert mine == pytest.approx(expected, rel=1e-3, abs=1e-5)
    ends, whole = (load_file(folder / "model" / "model.safetensors") for folder in (run, one))
    assert ends.keys() == whole.keys()
    start = load_file(Path(visurf.__file__).parent / "mini" / "checkpoint" / "model.safetensors")
    moved = [{n: weights[n] - start[n].float() for n in weights} for weights in (ends, whole)]
    assert worst(*moved)[0] < 0.02
    assert {p.name for p in (run / "model").iterdir()} == {p.name for p in (one / "model").iterdir()}


@pytest.mark.parametrize("name", ["ddp-2-1", "ddp-2-3", "fsdp2-2-1", "fsdp2-2-3"])
def test_a_run_goes_on_with_another_number_of_processes(found, folder, name):
    """What two processes began, one or three end as one does from the start: texts, metrics, weights."""
    mode, _, processes = name.split("-")
    assert found[2, mode] == [None] * 2
    assert found[int(processes), mode] == [None] * int(processes)
    same_as_one_process(folder / name, folder / "whole")


def test_rounds_of_sampling_are_the_same_where_a_process_has_nothing_to_sample(found, folder):
    assert found[2, "hinted"] == [None, None]
    assert texts(folder / "hinted-2") == texts(folder / "hinted-1")


def test_stages_and_adapters_of_a_shared_out_model_are_exported_as_those_of_one_process(found, folder):
    assert found[2, "adapters"] == [None, None]
    for name in ("stages/1/model.safetensors", "model/model.safetensors", "adapter/adapter_model.safetensors"):
        two, one = (load_file(folder / f"adapters-{processes}" / name) for processes in (2, 1))
        assert two.keys() == one.keys()
        assert worst({n: v.float() for n, v in two.items()}, {n: v.float() for n, v in one.items()})[0] < 1e-3, name


def test_layers_gathered_in_bfloat16_point_the_same_way(found):
    """Parameters are rounded before a layer instead of in it."""
    for two, one in zip(found[2, "half"]["gradients"], found[1, "half"]["gradients"], strict=True):
        flat = [torch.cat([v.flatten().double() for v in step.values()]) for step in (two, one)]
        assert float(flat[0].norm()) == pytest.approx(float(flat[1].norm()), rel=0.05)
        assert float(flat[0] @ flat[1]) >= 0.99 * float(flat[0].norm() * flat[1].norm())


@pytest.mark.parametrize("name", ["rounded-adapters/model", "rounded-tower/model", "rounded-tower/checkpoints/step-000001/model"])
def test_a_tower_that_computes_in_bfloat16_leaves_what_is_written_in_float32(found, folder, name):
    assert found[2, "rounded adapters"] == found[2, "rounded tower"] == [None, None]
    assert {v.dtype for v in load_file(folder / name / "model.safetensors").values()} == {torch.float32}
    assert json.loads((folder / name / "config.json").read_text())["dtype"] == "float32"


def test_states_in_host_memory_change_no_gradient(found):
    """On CPUs nothing moves, but torch runs its own path for it; `test_memory_settings` sees the policy passed on."""
    for mine, expected in zip(found[2, "offloaded"]["gradients"], found[1, "visurf ddp"]["gradients"], strict=True):
        if any(bool(v.any()) for v in expected.values()):
            assert worst(mine, expected)[0] < 1e-5
    assert worst(found[2, "offloaded"]["moved"], found[1, "visurf ddp"]["moved"])[0] < 1e-3


def test_the_states_of_a_shared_out_optimiser_are_written_by_all_processes(found, folder):
    parts = folder / "fsdp2-2" / "checkpoints" / "step-000002" / "optimizer"
    assert {p.name for p in parts.glob("*.distcp")} == {"__0_0.distcp", "__1_0.distcp"}
    assert not (folder / "ddp-2" / "checkpoints" / "step-000002" / "optimizer").exists()


def test_a_process_that_fails_ends_all_and_the_last_step_is_kept(found, folder):
    """Only the first process shows steps; it repeats what the failed one says, which the others do not."""
    (first, shown, said), (second, nothing, reason) = found[2, "failing"]
    assert (first, second) == (1, 1)
    assert nothing == ""
    assert reason.startswith("visurf: reward 'mine' raised KeyError('gold') on sample")
    assert said.startswith("visurf: process 1 of 2 failed: RewardError: reward 'mine' raised KeyError('gold') on sample")
    steps = len((folder / "failing" / "metrics.jsonl").read_text().splitlines())
    assert steps == len(shown.splitlines()) > 0
    assert (folder / "failing" / "checkpoints" / f"step-{steps:06d}" / "progress.json").is_file()


def test_a_signal_to_one_process_ends_all_after_the_step_in_hand(found, folder):
    (first, _, said), (second, _, nothing) = found[2, "interrupted"]
    assert (first, second) == (130, 130)
    assert said.startswith("\nvisurf: interrupted; the same command goes on where it stood: visurf train ")
    assert nothing == ""
    steps = len((folder / "interrupted" / "metrics.jsonl").read_text().splitlines())
    assert 0 < steps < SMALL["steps"]
    assert (folder / "interrupted" / "checkpoints" / f"step-{steps:06d}" / "progress.json").is_file()


@pytest.mark.slow
def test_gradients_of_every_family_are_those_of_one_process(tmp_path):
    """Vision towers and projectors differ in what they are made of, and in what a row without an image leaves out."""
    worlds: dict[int, dict] = {1: {}, 2: {}}
    for family in FAMILIES:
        write_checkpoint(family, tmp_path / family)
        for processes, mode in ((1, "ddp"), (2, "ddp"), (2, "fsdp2")):
            settings = {"checkpoint": str(tmp_path / family), "mode": mode, "paradigm": "visurf", "min_pixels": None}
            worlds[processes][f"{family} {mode}"] = ("replay", settings)
    found = run_worlds(tmp_path, list(worlds.items()))
    for name in worlds[2]:
        pairs = zip(found[2, name]["gradients"], found[1, f"{name.split()[0]} ddp"]["gradients"], strict=True)
        compared = [worst(mine, expected)[0] for mine, expected in pairs if any(bool(v.any()) for v in expected.values())]
        assert len(compared) == 2
        assert max(compared) < 1e-5, name


def test_a_process_that_did_not_fail_says_nothing_unless_it_is_the_first(monkeypatch, capsys, tmp_path):
    def train(config, report):
        raise parallel.OtherProcessError("process 1 of 3 failed: gold")

    monkeypatch.setattr("visurf.training.train", train)
    for rank, said in (("0", "visurf: process 1 of 3 failed: gold"), ("2", "")):
        monkeypatch.setenv("RANK", rank)
        assert main(["train", str(RECIPE), f"out={tmp_path}"]) == 1
        assert capsys.readouterr().err.startswith(said)
        assert said or capsys.readouterr().err == ""


def test_the_commands_of_the_page_for_two_nodes_train_as_one_process(tmp_path):
    """Two agents that meet on the loopback interface, each with one process that holds a part of the model."""
    values = yaml.safe_load(RECIPE.read_text()) | SMALL | {"steps": 2, "evaluation": {"every": 0}}
    for name in ("run", "one"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values | {"out": str(tmp_path / name)}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    environment |= {"PYTHONPATH": str(Path(visurf.__file__).parents[1]), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    page = (Path(__file__).parents[1] / "docs" / "scaling.md").read_text().splitlines()
    own = {"$": "", "torchrun": f"{sys.executable} -m torch.distributed.run", "29500": str(port), "data.yaml": "run.yaml"}
    commands = [
        " ".join(own.get(word, word) for word in line.split()).split()
        for line in page
        if line.startswith("$ torchrun") and "127.0.0.1" in line
    ]
    assert len(commands) == 2
    nodes = [
        subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for command in commands
    ]
    try:
        said = [node.communicate(timeout=300) for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], said
    assert [out.decode() for out, _ in said] == [f"model in {tmp_path / 'run' / 'model'}\n", ""]
    single = [sys.executable, "-m", "visurf", "train", "one.yaml"]
    subprocess.run(single, env=environment, cwd=tmp_path, capture_output=True, timeout=300, check=True)
    same_as_one_process(tmp_path / "run", tmp_path / "one")


def test_one_process_needs_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert parallel.start() == (0, 1)
    assert parallel.total([1.0, 2.0]) == [1.0, 2.0]
    assert parallel.gather([1]) == parallel.rejoin([1]) == [1]
    assert parallel.share([1, 2]) == [1, 2]
    assert not parallel.several()
    with pytest.raises(KeyError), parallel.agreed():
        raise KeyError
