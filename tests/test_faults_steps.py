"""Steps that are not finite, and steps that memory does not suffice for."""

import json

import numpy as np
import pytest
import torch

from naive import gradients, worst
from replay import make_loop, optimise, replayed
from test_faults_checkpoints import same_run, tiny_run
from test_training import deterministic
from tiny import load_random
from visurf import checkpoint
from visurf.budgets import Budget, MemoryShortage, is_out_of_memory
from visurf.config import RolloutConfig
from visurf.diagnostics import Diagnostics
from visurf.mini.world import SHIFTED, referring_samples
from visurf.nonfinite import NonFiniteError
from visurf.paradigms import RLVR, SFT, VISURF
from visurf.policy import Policy
from visurf.training import train

HOST = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
)
DEVICE = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def spoil(monkeypatch, when, value=float("nan")):
    """Let the policy's training log-probs be `value` at the calls for which `when(number)` holds; the calls are counted."""
    forward, calls = Policy.forward, []

    def spoilt(self, row, **settings):
        found = forward(self, row, **settings)
        if torch.is_grad_enabled():
            calls.append(row)
            if when(len(calls)):
                found = found * 1.0
                found[0] = found[0] * value
        return found

    monkeypatch.setattr(Policy, "forward", spoilt)
    return calls


def snapshot(loop, optimizer):
    weights = [p.detach().clone() for p in loop.policy.parameters()]
    return weights, [v.clone() for state in optimizer.state.values() for v in state.values()]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_leaves_weights_and_optimiser_alone_and_the_schedule_goes_on(tiny, monkeypatch, value):
    loop = make_loop(tiny, SFT, inner_steps=2)
    optimizer = torch.optim.AdamW(loop.policy.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 10)
    samples = referring_samples(SHIFTED, 3, 1)
    assert loop.step(samples, 0, optimizer, schedule)["train/step_skipped"] == 0
    before, rate = snapshot(loop, optimizer), schedule.get_last_lr()
    calls = spoil(monkeypatch, lambda number: number == 1, value)
    metrics = loop.step(samples, 1, optimizer, schedule)
    assert calls
    assert metrics["train/step_skipped"] == 1
    assert {"loss", "gradient"} <= loop.learner.findings.kinds
    after = snapshot(loop, optimizer)
    assert all(torch.equal(a, b) for x, y in zip(before, after, strict=True) for a, b in zip(x, y, strict=True))
    assert schedule.last_epoch == 4
    assert schedule.get_last_lr() < rate
    monkeypatch.undo()
    assert loop.step(samples, 2, optimizer, schedule)["train/step_skipped"] == 0
    assert not all(torch.equal(a, b) for a, b in zip(before[0], loop.policy.parameters(), strict=True))


def test_a_gradient_alone_that_is_not_finite_skips_the_step(tiny):
    loop = make_loop(tiny, SFT)
    first = next(loop.policy.parameters())
    first.register_hook(lambda grad: grad * float("inf"))
    optimizer, schedule = optimise(loop, lr=1e-3)
    before = snapshot(loop, optimizer)[0]
    assert loop.step(referring_samples(SHIFTED, 2, 1), 0, optimizer, schedule)["train/step_skipped"] == 1
    assert loop.learner.findings.kinds == {"gradient"}
    assert all(torch.equal(a, b) for a, b in zip(before, loop.policy.parameters(), strict=True))


def test_rollouts_drawn_from_nothing_skip_the_step_even_where_none_is_trained(tiny):
    """All rewards are equal: nothing enters a row, and still the step must not count as a good one."""
    loop = make_loop(tiny, RLVR, rollout=RolloutConfig(group_size=3, max_tokens=4))
    with torch.no_grad():
        tiny.network.lm_head.weight[7] = float("nan")
    metrics = loop.step(referring_samples(SHIFTED, 2, 1), 0, *optimise(loop))
    assert metrics["train/step_skipped"] == 1
    assert loop.learner.findings.kinds == {"rollout log-probs"}
    assert loop.learner.findings.numbers == set(range(6))


def test_a_skipped_step_is_kept_in_the_run_folder_and_the_run_goes_on(tmp_path, monkeypatch):
    steps = []

    def report(event):
        if event["event"] == "step":
            steps.append(event["step"])

    spoil(monkeypatch, lambda number: len(steps) == 1)
    with pytest.warns(UserWarning, match="step 2 was skipped: its gradient and log-probs and loss not finite; see .*incidents"):
        train(tiny_run(tmp_path, paradigm="sft"), report)
    rows = deterministic(tmp_path / "metrics.jsonl")
    assert [row["train/step_skipped"] for row in rows] == [0, 1, 0, 0]
    # JSON has no NaN.
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    assert rows[1]["loss"] is None
    assert [p.name for p in (tmp_path / "incidents").iterdir()] == ["step-000002-nonfinite.jsonl"]
    kept = [json.loads(line) for line in (tmp_path / "incidents" / "step-000002-nonfinite.jsonl").read_text().splitlines()]
    assert len(kept) == 2
    for row in kept:
        assert row["nonfinite"] == ["gradient", "log-probs", "loss"]
        assert row["id"].startswith("5-")
        assert "bbox_2d" in row["members"][0]["text"] or row["members"][0]["text"]
        assert row["members"][0]["parts"]
        assert isinstance(row["members"][0]["reward"], float)
    assert sum(len(row["nonfinite_members"]) for row in kept) == 1


def test_too_many_skipped_steps_in_a_row_stop_the_run_with_a_diagnosis_and_nothing_is_lost(tmp_path, monkeypatch):
    config = tiny_run(tmp_path, paradigm="sft", steps=6, optimizer={"max_skipped": 2}, checkpoint={"every": 0})
    steps = []

    def report(event):
        if event["event"] == "step":
            steps.append(event["step"])

    # One alone, then two in a row: only the latter stop.
    spoil(monkeypatch, lambda number: len(steps) in (0, 2, 3))
    said = r"2 steps in a row .*gradient, log-probs, loss.*samples \['5-\d+.*incidents; weights and optimiser are as they were"
    with pytest.warns(UserWarning, match="was skipped"), pytest.raises(NonFiniteError, match=said):
        train(config, report)
    assert steps == [1, 2, 3, 4]
    assert checkpoint.latest(tmp_path).name == "step-000004"
    assert checkpoint.read(checkpoint.latest(tmp_path))[0].skipped == 2
    monkeypatch.undo()
    train(config)
    rows = deterministic(tmp_path / "metrics.jsonl")
    assert [row["train/step_skipped"] for row in rows] == [1, 0, 1, 1, 0, 0]


def test_weights_that_are_spoilt_are_named(tmp_path, monkeypatch):
    from visurf import training

    prepare = training.load_stage

    def broken(*arguments):
        model, network = prepare(*arguments)
        with torch.no_grad():
            network.lm_head.weight[3] = float("nan")
        return model, network

    monkeypatch.setattr(training, "load_stage", broken)
    with (
        pytest.warns(UserWarning, match="was skipped"),
        pytest.raises(NonFiniteError, match=r"1 parameters hold .*no step can mend"),
    ):
        train(tiny_run(tmp_path, optimizer={"max_skipped": 1}))


def limited(monkeypatch, most, error):
    """Let memory run out for packed rows of more than `most` tokens: on a device in the backward pass, else in the forward."""
    forward, met = Policy.forward, []

    def fail(gradient):
        raise error

    def short(self, row, **settings):
        if row.length <= most:
            return forward(self, row, **settings)
        met.append(row.length)
        if error is not DEVICE or not torch.is_grad_enabled():
            raise error
        found = forward(self, row, **settings)
        found.register_hook(fail)
        return found

    monkeypatch.setattr(Policy, "forward", short)
    return met


@pytest.mark.parametrize("error", [HOST, DEVICE, MemoryError()], ids=["host", "device", "python"])
def test_where_memory_runs_out_the_step_is_repeated_in_smaller_rows(tiny, checkpoints, monkeypatch, caplog, error):
    whole = make_loop(load_random(checkpoints["qwen2_5_vl"]), RLVR, tokens_per_microbatch=400)
    plain, seen = Diagnostics(whole.model.device), Diagnostics(whole.model.device)
    learner = whole.learner
    expected = learner.update(learner.batch(*replayed(whole.model)), *optimise(whole), plain)
    loop = make_loop(tiny, RLVR, tokens_per_microbatch=400)
    met = limited(monkeypatch, 60, error)
    batch = loop.learner.fitted(lambda: loop.learner.batch(*replayed(tiny)))
    found = loop.learner.update(batch, *optimise(loop), seen)
    assert met
    assert loop.learner.budget.tokens == 50
    assert found == pytest.approx(expected, rel=1e-5)
    difference, name = worst(gradients(loop.model.network), gradients(whole.model.network))
    assert difference < 1e-5, name
    # What the failed attempts had counted does not count.
    assert {n: c for n, (_, c) in seen.sums.items()} == {n: c for n, (_, c) in plain.sums.items()}
    assert "memory ran out: tokens_per_microbatch is 50 from here on, it was 400; the step is repeated" in caplog.text


def test_a_sequence_that_does_not_fit_alone_ends_the_step_with_a_remedy(tiny, monkeypatch):
    loop = make_loop(tiny, RLVR, tokens_per_microbatch=400)
    before = snapshot(loop, optimise(loop)[0])[0]
    limited(monkeypatch, 5, DEVICE)
    with pytest.raises(MemoryShortage, match=r"single completion does not fit \(CUDA out of memory.*gradient_checkpointing: true"):
        loop.learner.update(loop.learner.batch(*replayed(tiny)), *optimise(loop, lr=1.0), Diagnostics(tiny.device))
    assert all(torch.equal(a, b) for a, b in zip(before, loop.policy.parameters(), strict=True))


def test_an_optimiser_that_does_not_fit_says_so(tiny, monkeypatch):
    loop = make_loop(tiny, SFT)
    optimizer, schedule = optimise(loop)
    monkeypatch.setattr(optimizer, "step", lambda: (_ for _ in ()).throw(DEVICE))
    with pytest.raises(MemoryShortage, match=r"the optimiser's states do not fit .*Train adapters"):
        loop.step(referring_samples(SHIFTED, 2, 1), 0, optimizer, schedule)
    assert loop.learner.updating


def test_a_run_goes_on_with_the_smaller_budget(tmp_path, monkeypatch):
    steps = []
    config = tiny_run(tmp_path / "run", tokens_per_microbatch=300, steps=3)
    limited(monkeypatch, 100, HOST)
    train(config, lambda event: steps.append(event["step"]) if event["event"] == "step" else None)
    rows = deterministic(tmp_path / "run" / "metrics.jsonl")
    assert steps == [1, 2, 3]
    assert rows[-1]["memory/tokens_per_microbatch"] in (150, 75)
    assert checkpoint.read(checkpoint.latest(tmp_path / "run"))[0].halvings == [
        1 if rows[-1]["memory/tokens_per_microbatch"] == 150 else 2,
        0,
    ]


def test_a_rollout_that_memory_does_not_suffice_for_is_repeated_with_the_same_draws(tiny, monkeypatch):
    from visurf import loop as module

    settings = {"rollout": RolloutConfig(group_size=3, max_tokens=6, token_budget=4000)}
    loop = make_loop(tiny, VISURF, **settings)
    prompts = [tiny.encode_prompt(s, s.question) for s in referring_samples(SHIFTED, 4, 1)]
    expected = loop.draw(prompts, 5, 0, 3)
    sample, budgets = module.sample, []

    def short(policy, family, prompts, members, sampling, eos, streams):
        budgets.append(sampling.token_budget)
        found = sample(policy, family, prompts, members, sampling, eos, streams)
        if sampling.token_budget > 60:
            raise DEVICE
        return found

    monkeypatch.setattr(module, "sample", short)
    found = loop.draw(prompts, 5, 0, 3)
    assert budgets == [4000, 125, 62, 31]
    assert [[r.token_ids for r in g] for g in found] == [[r.token_ids for r in g] for g in expected]
    logprobs = [[v for g in side for r in g for v in r.logprobs] for side in (found, expected)]
    np.testing.assert_allclose(*logprobs, atol=1e-5)
    assert loop.policy.training
    assert loop.incidents()["memory/token_budget"] == 31


def test_one_prompt_whose_rollouts_do_not_fit_ends_with_a_remedy(tiny, monkeypatch):
    from visurf import loop as module

    loop = make_loop(tiny, VISURF, rollout=RolloutConfig(group_size=3, max_tokens=6, token_budget=4000))
    prompts = [tiny.encode_prompt(s, s.question) for s in referring_samples(SHIFTED, 2, 1)]
    monkeypatch.setattr(module, "sample", lambda *_: (_ for _ in ()).throw(HOST))
    with pytest.raises(MemoryShortage, match=r"one prompt with its rollouts does not fit .*Lower rollout.max_tokens"):
        loop.draw(prompts, 0, 0, 3)


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
    assert not is_out_of_memory(ValueError("can't allocate memory"))
    budget = Budget("tokens_per_microbatch", 8)
    with pytest.raises(ZeroDivisionError):
        budget.fitted(lambda: 1 / 0, lambda: 8, "it", "Rest.", together=True)
    assert budget.tokens == 8


def test_steps_that_end_in_an_error_before_the_update_lose_nothing(tmp_path, monkeypatch):
    """One sequence does not fit in the third step: the second is saved, and the run ends as if nothing had been."""
    train(tiny_run(tmp_path / "whole", checkpoint={"every": 0}))
    steps = []
    forward = Policy.forward

    def short(self, row, **settings):
        if torch.is_grad_enabled() and len(steps) == 2:
            raise DEVICE
        return forward(self, row, **settings)

    monkeypatch.setattr(Policy, "forward", short)
    with pytest.raises(MemoryShortage):
        train(tiny_run(tmp_path / "run", checkpoint={"every": 0}), lambda e: steps.append(e) if e["event"] == "step" else None)
    assert checkpoint.latest(tmp_path / "run").name == "step-000002"
    monkeypatch.undo()
    train(tiny_run(tmp_path / "run", checkpoint={"every": 0}))
    same_run(tmp_path / "whole", tmp_path / "run")
