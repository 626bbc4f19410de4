"""Whole runs through the public entry points: resume, failures, paradigms, adapters, trackers."""

import dataclasses
import json
import math
import os
import random
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from visurf import checkpoint
from visurf.config import ConfigError, load_config
from visurf.groups import with_advantages
from visurf.mini.demo import RECIPE
from visurf.models.random_checkpoint import write_checkpoint
from visurf.scoring import RewardError
from visurf.stages import stages
from visurf.training import evaluate, train

# A few steps of the demo: small, but every part of a run takes part.
SMALL = {
    "data": {"train": "world:shifted?count=40&seed=5", "validation": "world:shifted?count=12&seed=6"},
    "rollout": {"group_size": 4},
    "prompts_per_step": 4,
    "steps": 6,
    "checkpoint": {"every": 2},
    "evaluation": {"every": 3},
    "threads": 1,
}
VARYING = ("time/", "rate/")


def small(out, **changes):
    from visurf.config import merge

    return load_config(RECIPE, merge(merge(SMALL, {"out": str(out)}), changes))


def deterministic(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(VARYING)} for row in rows]


def same_weights(first, second):
    a, b = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    train(small(out))
    return out


def test_a_run_leaves_everything_it_promises(uninterrupted):
    names = {p.name for p in uninterrupted.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "rollouts.jsonl", "checkpoints", "model", "summary.json"} <= names
    assert load_config(uninterrupted / "config.yaml") == small(uninterrupted)
    rows = deterministic(uninterrupted / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert {"reward/total", "label/advantage", "label/smoothed", "group/zero_variance", "policy/grad_norm", "loss"} <= set(rows[0])
    assert "validation/giou" in rows[2]
    started = {name.removeprefix("before/"): value for name, value in rows[0].items() if name.startswith("before/")}
    assert set(started) == {name.removeprefix("validation/") for name in rows[2] if name.startswith("validation/")}
    assert not any(name.startswith("before/") for row in rows[1:] for name in row)
    assert json.loads((uninterrupted / "summary.json").read_text())["before"] == pytest.approx(started)
    group = json.loads((uninterrupted / "rollouts.jsonl").read_text().splitlines()[0])
    assert [m["source"] for m in group["members"]] == ["policy"] * 4 + ["label"]
    assert set(group["members"][0]["parts"]) == {"thinking_format", "answer_format", "accuracy", "non_repeat"}
    assert sum(m["advantage"] for m in group["members"]) == pytest.approx(0, abs=1e-9)


def test_another_run_in_the_same_folder_is_kept_out_and_one_that_failed_leaves_it_free(tmp_path):
    out, heard = tmp_path / "run", []

    def intrude(event):
        if event["event"] == "step" and not heard:
            heard.append(event["step"])
            with pytest.raises(ConfigError, match=r"another run \(process \d+\) is at work in this folder.*another out="):
                train(small(out, steps=2))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(small(out, steps=2), intrude)
    assert train(small(out, steps=2)).metrics
    assert heard == [1]


def test_a_run_is_read_when_no_other_can_change_it_any_more(tmp_path, monkeypatch):
    """One that ended between another's reading and its beginning would be trained a second time."""
    out, read, heard = tmp_path / "run", checkpoint.newest_intact, []

    def intrude(folder):
        found = read(folder)
        if not heard:
            heard.append(found)
            with pytest.raises(ConfigError, match="is at work in this folder"):
                train(small(out, steps=2))
        return found

    monkeypatch.setattr(checkpoint, "newest_intact", intrude)
    train(small(out, steps=2))
    assert len(heard) == 1


def test_the_final_model_loads_in_plain_transformers(uninterrupted):
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    network, report = AutoModelForImageTextToText.from_pretrained(uninterrupted / "model", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert type(network).__name__ == "Qwen2_5_VLForConditionalGeneration"
    assert AutoTokenizer.from_pretrained(uninterrupted / "model").chat_template


@pytest.mark.parametrize("change", [{"paradigm": "rlvr"}, {"optimizer": {"lr": 0.5}}, {"data": {"train": "world:clean?count=40"}}])
def test_a_run_is_not_gone_on_with_other_settings(uninterrupted, change):

    with pytest.raises(ConfigError, match=rf"holds a run with {next(iter(change))}[.\w]*: .*choose another out="):
        train(small(uninterrupted, **change))


KILLER = textwrap.dedent(
    """
    import os, signal
    from pathlib import Path

    calls = 0


    def killer(completion, sample):
        # In the middle of a step: some members of its groups are scored, others not.
        global calls
        calls += 1
        marker = Path(os.environ["MARKER"])
        if calls == int(os.environ["AT"]) and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return 0.0
    """
)


@pytest.mark.parametrize(("paradigm", "killed_at"), [("visurf", 67), ("sft_then_rlvr", 30)])
def test_a_run_killed_in_the_middle_of_a_step_resumes_bit_identically(tmp_path, paradigm, killed_at):
    (tmp_path / "killer.py").write_text(KILLER)
    changes = {"reward": {"functions": {"killer": f"{tmp_path / 'killer.py'}:killer"}}, "paradigm": paradigm}
    changes |= {"model": {"lora": {"rank": 2, "dropout": 0.1}}} if paradigm == "sft_then_rlvr" else {}
    script = (
        "import sys, json; sys.path.insert(0, sys.argv[1]); from test_training import small; from visurf.training import train;"
    )
    script += "train(small(sys.argv[2], **json.loads(sys.argv[3])))"
    here = os.path.dirname(__file__)

    def run(out, at):
        environment = {**os.environ, "MARKER": str(tmp_path / "marker"), "AT": str(at), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", script, here, str(out), json.dumps(changes)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    whole = run(tmp_path / "whole", -1)
    assert whole.returncode == 0, whole.stderr
    killed = run(tmp_path / "killed", killed_at)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = len((tmp_path / "killed" / "metrics.jsonl").read_text().splitlines())
    assert 0 < done < 6
    resumed = run(tmp_path / "killed", killed_at)
    assert resumed.returncode == 0, resumed.stderr
    assert same_weights(tmp_path / "whole" / "model", tmp_path / "killed" / "model")
    for name in ("metrics.jsonl", "rollouts.jsonl"):
        assert deterministic(tmp_path / "whole" / name) == deterministic(tmp_path / "killed" / name)


def test_a_finished_run_is_left_as_it_is(uninterrupted):
    before = (uninterrupted / "metrics.jsonl").read_bytes()
    train(small(uninterrupted))
    assert (uninterrupted / "metrics.jsonl").read_bytes() == before


def test_a_used_folder_is_refused_when_resume_is_off(uninterrupted):
    from visurf.config import ConfigError

    with pytest.raises(ConfigError, match="holds a run already"):
        train(small(uninterrupted, checkpoint={"resume": "never"}))


def test_an_exception_in_a_reward_names_its_sample_and_loses_nothing(tmp_path):
    (tmp_path / "broken.py").write_text(
        "calls = 0\n\n\ndef broken(completion, sample):\n    global calls\n    calls += 1\n"
        "    if calls == 90:\n        raise KeyError('gold')\n    return 0.0\n"
    )
    config = small(tmp_path / "run", reward={"functions": {"mine": f"{tmp_path / 'broken.py'}:broken"}}, checkpoint={"every": 0})
    with pytest.raises(RewardError, match=r"reward 'mine' raised KeyError\('gold'\) on sample '5-\d+', completion '.*bbox_2d"):
        train(config)
    steps = len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert steps > 0
    assert (tmp_path / "run" / "checkpoints" / f"step-{steps:06d}" / "progress.json").is_file()
    (tmp_path / "broken.py").write_text("def broken(completion, sample):\n    return 0.0\n")
    train(config)
    assert [r["step"] for r in deterministic(tmp_path / "run" / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_a_failing_reward_can_abstain_and_is_counted(tmp_path):
    (tmp_path / "broken.py").write_text("def broken(completion, sample):\n    return float('nan')\n")
    reward = {"functions": {"mine": f"{tmp_path / 'broken.py'}:broken"}, "on_error": "abstain"}
    result = train(small(tmp_path / "run", reward=reward, steps=1))
    assert result.metrics["abstained/mine"] == 1.0
    assert "reward/mine" not in result.metrics


def rise(tmp_path, absent, of="reward/total"):
    """By how much 20 steps of the demo's recipe on the same 16 prompts raise the mean reward, last three against first three."""
    data = {"train": f"world:shifted?count=16&seed=5&absent={absent}", "validation": ""}
    train(load_config(RECIPE, {"data": data, "steps": 20, "out": str(tmp_path / "run"), "threads": 1, "seed": 3}))
    rewards = [row[of] for row in deterministic(tmp_path / "run" / "metrics.jsonl")]
    return sum(rewards[-3:]) / 3 - sum(rewards[:3]) / 3


def negated(groups, *arguments, **settings):
    done = with_advantages(groups, *arguments, **settings)
    return [dataclasses.replace(g, advantages=tuple(-a for a in g.advantages)) for g in done]


def shuffled(groups, *arguments, **settings):
    done = with_advantages(groups, *arguments, **settings)
    order = random.Random(0)
    return [dataclasses.replace(g, advantages=tuple(order.sample(g.advantages, len(g.advantages)))) for g in done]


@pytest.mark.slow
def test_twenty_steps_raise_the_mean_reward(tmp_path):
    assert rise(tmp_path, absent=0) > 0.35


@pytest.mark.slow
@pytest.mark.parametrize("broken", [negated, shuffled])
def test_a_broken_sign_or_a_shuffled_group_would_not_raise_it(tmp_path, monkeypatch, broken):
    monkeypatch.setattr("visurf.loop.with_advantages", broken)
    assert rise(tmp_path, absent=0) < 0.35


@pytest.mark.slow
@pytest.mark.parametrize("dropped", [False, True])
def test_only_the_label_teaches_to_say_that_nothing_is_there(tmp_path, monkeypatch, dropped):
    if dropped:
        monkeypatch.setattr("visurf.loop.Loop.labels", lambda self, prompts: [None for _ in prompts])
    found = rise(tmp_path, absent=1, of="reward/accuracy")
    assert found == 0 if dropped else found > 0.5


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
@pytest.mark.parametrize("paradigm", ["sft", "rlvr", "visurf", "sft_then_rlvr"])
def test_every_paradigm_runs_on_photographs_of_different_sizes(tmp_path, family, paradigm):
    model = write_checkpoint(family, tmp_path / "model")
    rows = []
    for index, size in enumerate([(200, 120), (90, 160), (320, 240), (57, 61)]):
        Image.effect_noise(size, 80).convert("RGB").save(tmp_path / f"{index}.jpg")
        boxes = [] if index == 3 else [[5, 6, size[0] / 2, size[1] - 7]]
        rows.append({"id": index, "image": f"{index}.jpg", "question": f"every thing {index}", "target": boxes})
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in rows))
    config = load_config(
        None,
        {
            "model": {"path": str(model)},
            "data": {"train": str(data), "validation": str(data)},
            "rollout": {"group_size": 3, "max_tokens": 12},
            "optimizer": {"lr": 1e-3},
            "paradigm": paradigm,
            "prompts_per_step": 4,
            "steps": 2,
            "inner_steps": 2,
            "objective": {"kl": 0.01},
            "out": str(tmp_path / "run"),
            "threads": 1,
        },
    )
    result = train(config)
    for row in deterministic(tmp_path / "run" / "metrics.jsonl"):
        assert all(math.isfinite(v) for v in row.values() if isinstance(v, float)), row
    assert result.metrics["policy/grad_norm"] >= 0
    summary = evaluate(
        load_config(None, {"model": {"path": str(result.model)}, "data": {"validation": str(data)}, "rollout": {"max_tokens": 12}}),
        tmp_path / "eval",
    )
    assert summary["samples"] == 4
    assert len((tmp_path / "eval" / "records.jsonl").read_text().splitlines()) == 4


def test_stages_share_the_steps_and_may_override():
    config = load_config(None, {"paradigm": "sft_then_rlvr", "steps": 5})
    assert [(s.paradigm.name, s.first, s.end) for s in stages(config)] == [("sft", 0, 3), ("rlvr", 3, 5)]
    listed = [{"paradigm": "sft", "steps": 2, "override": {"optimizer.lr": 1e-3}}, {"paradigm": "visurf", "steps": 4}]
    found = stages(load_config(None, {"stages": listed}))
    assert [(s.first, s.end, s.config.optimizer.lr) for s in found] == [(0, 2, 1e-3), (2, 6, 1e-6)]


def test_trackers_write_when_asked(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    train(small(tmp_path / "run", steps=1, trackers=["tensorboard", "wandb"]))
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))
