"""Runs killed in the middle of what they do, and runs asked to end: nothing is lost, done twice or left out."""

import json
import signal

import pytest
import torch
import yaml

from killing import KILLED, run_job, settings
from test_training import deterministic, same_weights
from visurf import checkpoint
from visurf.cli import main
from visurf.config import load_config, to_dict
from visurf.mini.demo import RECIPE

STEPS = 6
# Two lives end in a checkpoint: before its state is written, and before it gets its name.
LIVES = [
    ("rollout", 8),
    ("saving", 0),
    ("reward", 13),
    ("backward", 5),
    ("saving", 1),
    ("optimiser", 3),
    ("logging", 2),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("killed")


@pytest.fixture(scope="module")
def told(folder):
    """What became of the lives of the run that was killed; another one was left alone."""
    jobs = [{"out": str(folder / "whole"), "steps": STEPS, "lives": []}]
    jobs.append({"out": str(folder / "killed"), "steps": STEPS, "lives": LIVES})
    return run_job(folder, jobs)[1]


def test_every_life_but_the_last_was_killed_where_it_should(told):
    assert [(life["moment"], life["count"]) for life in told] == [*LIVES, (None, 0)]
    assert [life["code"] for life in told] == [KILLED] * len(LIVES) + [0]
    # Steps were really lost, and done again.
    done = [life["lines"] for life in told]
    assert max(done[:-1]) > 0
    assert sum(done) > STEPS


def test_the_killed_run_ends_with_the_same_weights_bit_by_bit(told, folder):
    assert same_weights(folder / "whole" / "model", folder / "killed" / "model")
    a, b = (checkpoint.read(checkpoint.latest(folder / name))[1] for name in ("whole", "killed"))
    assert a["schedule"] == b["schedule"]
    states = [[v for p in s["optimizer"]["state"].values() for v in p.values()] for s in (a, b)]
    assert len(states[0]) == len(states[1]) > 0
    assert all(torch.equal(x, y) for x, y in zip(*states, strict=True))


def test_no_step_is_missing_and_none_was_done_twice(told, folder):
    for name in ("metrics.jsonl", "rollouts.jsonl"):
        assert deterministic(folder / "killed" / name) == deterministic(folder / "whole" / name)
    assert [row["step"] for row in deterministic(folder / "killed" / "metrics.jsonl")] == list(range(1, STEPS + 1))
    assert sorted(p.name for p in (folder / "killed" / "checkpoints").iterdir()) == sorted(
        p.name for p in (folder / "whole" / "checkpoints").iterdir()
    )


STOPPING = """
import os, signal

calls = 0

def mine(completion, sample):
    global calls
    calls += 1
    if calls == {at}:
        os.kill(os.getpid(), signal.{name})
    return 0.0
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_the_run_after_the_step_in_hand_and_says_how_to_go_on(tmp_path, capsys, name):
    # Eight completions a step are scored: the signal comes in the third step.
    (tmp_path / "mine.py").write_text(STOPPING.format(at=18, name=name))
    values = to_dict(load_config(RECIPE, {**settings(tmp_path / "run", 5), "checkpoint": {"every": 0}, "evaluation": {"every": 0}}))
    values["reward"]["functions"] = {"mine": f"{tmp_path / 'mine.py'}:mine"}
    recipe = tmp_path / "my recipe.yaml"
    recipe.write_text(yaml.safe_dump(values))
    before = signal.getsignal(signal.SIGTERM)
    assert main(["train", str(recipe), "--quiet"]) == 130
    assert f"goes on where it stood: visurf train '{recipe}' --quiet" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 3
    assert checkpoint.latest(tmp_path / "run") == tmp_path / "run" / "checkpoints" / "step-000003"
    assert main(["train", str(recipe), "--quiet"]) == 0
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5]
