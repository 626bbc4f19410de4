"""Evaluations that fail, stages that end, runs that are asked again: nothing is lost, and nothing is done twice."""

import json
import shutil

import pytest
import torch

from replay import make_loop, replayed
from test_faults_checkpoints import same_run, tiny_run
from test_training import deterministic
from visurf import checkpoint, evaluation
from visurf.budgets import MemoryShortage
from visurf.config import ConfigError, ObjectiveConfig
from visurf.diagnostics import Diagnostics
from visurf.learner import Learner
from visurf.paradigms import VISURF
from visurf.policy import Policy
from visurf.training import Run, train

MEASURED = {"data": {"validation": "world:shifted?count=4&seed=6"}, "evaluation": {"every": 1}, "steps": 2}
SIDE = {"evaluation": {"every": 1, "side": {"easy": {"data": "world:clean?count=3&seed=8"}}}}
STAGES = {"paradigm": "sft_then_rlvr", **MEASURED}


def failing(monkeypatch, at):
    """The evaluation of one step, and no other, ends in an error."""
    records, calls = evaluation.records, []

    def broken(*arguments, **settings):
        calls.append(1)
        if len(calls) == at:
            raise RuntimeError("a picture went away")
        return records(*arguments, **settings)

    monkeypatch.setattr(evaluation, "records", broken)


def summary(out):
    """What does not vary from run to run; refuses what JSON does not have."""

    def refuse(name):
        raise ValueError(name)

    found = json.loads((out / "summary.json").read_text(), parse_constant=refuse)
    return {"steps": found["steps"], "validation": found["validation"]}


@pytest.mark.parametrize(
    ("changes", "at"),
    [(STAGES, 1), (STAGES, 2), ({**MEASURED, **SIDE}, 2), ({**MEASURED, **SIDE}, 3), ({**MEASURED, **SIDE}, 5)],
    ids=["between stages", "after the last step", "step 1", "side task of step 1", "side task of the last step"],
)
def test_an_evaluation_that_failed_is_made_up_for_when_the_run_goes_on(tmp_path, monkeypatch, changes, at):
    train(tiny_run(tmp_path / "whole", **changes))
    failing(monkeypatch, at)
    with pytest.raises(RuntimeError, match="went away"):
        train(tiny_run(tmp_path / "run", **changes))
    monkeypatch.undo()
    result = train(tiny_run(tmp_path / "run", **changes))
    same_run(tmp_path / "whole", tmp_path / "run")
    assert summary(tmp_path / "run") == summary(tmp_path / "whole")
    assert summary(tmp_path / "run")["validation"]["box_iou"] is not None
    assert (tmp_path / "run" / "validation.jsonl").read_text() == (tmp_path / "whole" / "validation.jsonl").read_text()

    def unasked(*arguments, **settings):
        raise AssertionError("evaluated once more")

    monkeypatch.setattr(evaluation, "records", unasked)
    again = train(tiny_run(tmp_path / "run", **changes))
    assert summary(tmp_path / "run") == summary(tmp_path / "whole")
    assert {k: v for k, v in again.validation.items() if v == v} == {k: v for k, v in result.validation.items() if v == v}
    assert again.metrics["loss"] == result.metrics["loss"]


def test_what_cannot_be_averaged_is_null_in_the_summary(tmp_path):
    changes = {**MEASURED, "data": {"validation": "world:shifted?count=3&seed=6&absent=0"}, "steps": 1}
    result = train(tiny_run(tmp_path / "run", **changes))
    assert result.validation["n_acc"] != result.validation["n_acc"]
    assert summary(tmp_path / "run")["validation"]["n_acc"] is None


def test_a_metric_that_no_evaluation_gives_is_refused_before_training(tmp_path):
    with pytest.raises(ConfigError, match=r"evaluation\.metric: task 'referring' has no 'gIoU'; did you mean 'giou'\?"):
        train(tiny_run(tmp_path / "run", evaluation={"metric": "gIoU"}))


def test_a_folder_in_which_a_run_began_counts_as_used(tmp_path):
    out = tmp_path / "run"
    train(tiny_run(out, steps=1))
    shutil.rmtree(out / "checkpoints")
    before = (out / "metrics.jsonl").read_bytes()
    with pytest.raises(ConfigError, match="holds a run already"):
        train(tiny_run(out, steps=1, checkpoint={"resume": "never"}))
    assert (out / "metrics.jsonl").read_bytes() == before


def test_what_a_lack_of_memory_advises_may_be_changed_and_what_may_not_is_named(tmp_path):
    out = tmp_path / "run"
    train(tiny_run(out, steps=1))
    train(tiny_run(out, steps=2, model={"gradient_checkpointing": True, "attention": "dense"}))
    assert [row["step"] for row in deterministic(out / "metrics.jsonl")] == [1, 2]
    with pytest.raises(ConfigError, match=r"holds a run with model\.lora\.rank: 0, asked is 4; "):
        train(tiny_run(out, steps=3, model={"lora": {"rank": 4}}))


def test_an_interruption_after_the_update_is_not_saved_as_the_step_before(tmp_path, monkeypatch):
    changes = {"steps": 3, "checkpoint": {"every": 0}}
    train(tiny_run(tmp_path / "whole", **changes))
    report, calls = Diagnostics.report, []

    def interrupted(self, *arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return report(self, *arguments)

    monkeypatch.setattr(Diagnostics, "report", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_run(tmp_path / "run", **changes))
    assert checkpoint.latest(tmp_path / "run") is None, "weights of step 2 under the name of step 1"
    monkeypatch.undo()
    train(tiny_run(tmp_path / "run", **changes))
    same_run(tmp_path / "whole", tmp_path / "run")


def test_a_schedule_that_went_on_is_not_saved_as_the_step_before(tmp_path, monkeypatch):
    """With two inner steps the first is skipped, and the second does not fit."""
    forward, rows = Policy.forward, []

    def spoilt(self, row, **settings):
        found = forward(self, row, **settings)
        if torch.is_grad_enabled():
            rows.append(1)
            if len(rows) == 3:
                return found * float("nan")
            if len(rows) == 4:
                raise MemoryShortage("nothing fits")
        return found

    monkeypatch.setattr(Policy, "forward", spoilt)
    with pytest.raises(MemoryShortage):
        train(tiny_run(tmp_path / "run", inner_steps=2, paradigm="sft", checkpoint={"every": 0}))
    assert checkpoint.latest(tmp_path / "run") is None


def test_after_a_lack_of_memory_the_network_trains_as_before(tiny, monkeypatch):
    loop = make_loop(tiny, VISURF, objective=ObjectiveConfig(kl=0.1), inner_steps=2)
    prompts, groups = replayed(tiny)
    loop.policy.train()
    row, calls = Learner.row, []

    def short(self, bundles):
        calls.append(1)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return row(self, bundles)

    monkeypatch.setattr(Learner, "row", short)
    with pytest.raises(torch.OutOfMemoryError):
        loop.learner.batch(prompts, groups)
    assert loop.policy.training


def test_a_sample_that_stands_twice_in_a_step_draws_other_rollouts(tmp_path):
    config = tiny_run(tmp_path, data={"train": "world:shifted?count=2&seed=5"}, prompts_per_step=5)
    samples = Run(config)._samples(0)
    assert sorted(sample.occurrence for sample in samples) == [0, 0, 1, 1, 2]
    assert len({(sample.id, sample.occurrence) for sample in samples}) == 5
    train(tiny_run(tmp_path, data={"train": "world:shifted?count=1&seed=5"}, steps=1, rollout={"temperature": 3.0}))
    rows = [json.loads(line) for line in (tmp_path / "rollouts.jsonl").read_text().splitlines()]
    texts = [[member["text"] for member in row["members"] if member["source"] == "policy"] for row in rows]
    assert len(texts) == 2
    assert texts[0] != texts[1]


def test_the_step_of_the_best_validation_has_a_checkpoint(tmp_path):
    changes = {**MEASURED, "steps": 5, "checkpoint": {"every": 50, "keep": 1}, "optimizer": {"lr": 0.01, "warmup_steps": 0}}
    train(tiny_run(tmp_path / "run", **changes))
    rows = deterministic(tmp_path / "run" / "metrics.jsonl")
    best = max(rows, key=lambda row: row["validation/giou"])["step"]
    assert best < 5, "the world must be one in which the end is not the best"
    assert sorted(checkpoint.steps_in(tmp_path / "run")) == [best, 5]
