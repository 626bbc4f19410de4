"""One optimiser step: its gradient against plain transformers, and what must not change it."""

import dataclasses
import math

import pytest
import torch

from naive import gradients, load_plain, naive_logprobs, worst
from replay import REPLAY, make_loop, optimise, replayed, update_gradient
from tiny import load_random
from visurf.config import ObjectiveConfig, OptimizerConfig, RolloutConfig
from visurf.diagnostics import Diagnostics
from visurf.learner import Batch
from visurf.mini.world import SHIFTED, referring_samples
from visurf.paradigms import RLVR, SFT, VISURF
from visurf.policy import Policy
from visurf.types import DataError, Objects, Sample


def oracle_gradient(plain, model, prompts, groups, weights, temperature=1.0):
    """Gradient of -sum of weight x log-prob, plain forward; one weight a sequence."""
    plain.zero_grad(set_to_none=True)
    pairs = [(p, c.token_ids) for p, g in zip(prompts, groups, strict=True) for c in g.completions]
    found = naive_logprobs(plain, pairs, temperature=temperature, banned=model.banned_ids)
    loss = -sum(w * v.sum() for w, v in zip(weights, found, strict=True))
    loss.backward()
    return float(loss.detach()), gradients(plain)


@pytest.fixture
def plain(checkpoints):
    return load_plain(checkpoints["qwen2_5_vl"])


def test_the_sft_gradient_is_that_of_the_negative_log_likelihood(tiny, plain):
    loop = make_loop(tiny, SFT)
    samples = referring_samples(SHIFTED, 6, 1)
    metrics = loop.step(samples, 0, *optimise(loop))
    prompts = [tiny.encode_prompt(s, s.question) for s in samples]
    pairs = [(p, c.token_ids) for p, g in zip(prompts, loop.groups, strict=True) for c in g.completions]
    assert len(pairs) == 6
    assert len({len(t) for _, t in pairs}) > 1
    found = torch.cat(naive_logprobs(plain, pairs, banned=tiny.banned_ids))
    nll = -found.mean()
    nll.backward()
    difference, name = worst(gradients(tiny.network), gradients(plain))
    assert difference < 1e-4, name
    assert metrics["label/nll"] == pytest.approx(float(nll.detach()), rel=1e-5)


def test_sft_stays_the_negative_log_likelihood_over_inner_steps(tiny):
    """The ratio is against the current policy: far from the start nothing is clipped."""
    loop = make_loop(tiny, SFT, inner_steps=3, optimizer=OptimizerConfig(max_grad_norm=1e12))
    samples = referring_samples(SHIFTED, 4, 3)
    before = loop.step(samples, 0, *optimise(loop, lr=3e-3))
    after = loop.step(samples, 1, *optimise(loop, lr=3e-3))
    assert before["label/clip_frac"] == after["label/clip_frac"] == 0
    assert after["label/nll"] < before["label/nll"] - 0.5


@pytest.mark.parametrize("average", ["token", "sequence"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_gradient_is_the_advantage_weighted_likelihood_of_the_whole_step(tiny, plain, average, temperature):
    """Sequences of advantage 0 are left out of the rows and still count in the scale."""
    rollout = RolloutConfig(temperature=temperature)
    loop = make_loop(tiny, RLVR, objective=ObjectiveConfig(average=average), rollout=rollout, tokens_per_microbatch=30)
    prompts, groups = replayed(tiny)
    _, carried, found = update_gradient(loop, prompts, groups)
    members = [(c, a) for g in groups for c, a in zip(g.completions, g.advantages, strict=True)]
    assert len(members) == 10
    assert carried == 8
    tokens = sum(len(c.token_ids) for c, _ in members)
    weights = [a / tokens if average == "token" else a / (len(c.token_ids) * len(members)) for c, a in members]
    _, expected = oracle_gradient(plain, tiny, prompts, groups, weights, temperature)
    difference, name = worst(found, expected)
    assert difference < 1e-4, name


@pytest.mark.parametrize("average", ["token", "sequence"])
@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_any_split_into_microbatches_gives_the_same_gradient(tiny, average, ratio):
    results = []
    for budget in (1, 40, 100_000):
        objective = ObjectiveConfig(average=average, ratio=ratio)
        loop = make_loop(tiny, VISURF, objective=objective, tokens_per_microbatch=budget)
        prompts, groups = replayed(tiny, label=True)
        rows = loop.learner.planned(loop.learner.batch(prompts, groups))
        results.append((len(rows), *update_gradient(loop, prompts, groups)))
    assert [r[0] for r in results] == sorted({r[0] for r in results}, reverse=True), "the splits must differ"
    assert results[-1][0] == 1
    for other in results[:-1]:
        assert other[1] == pytest.approx(results[-1][1], rel=1e-5)
        difference, name = worst(other[3], results[-1][3])
        assert difference < 1e-5, name


@pytest.mark.parametrize("average", ["token", "sequence"])
def test_processes_add_up_to_the_gradient_of_one(tiny, average, monkeypatch):
    """Shares of a step under the scale of the whole; the sum over processes is simulated."""
    loop = make_loop(tiny, RLVR, objective=ObjectiveConfig(average=average))
    prompts, groups = replayed(tiny)
    loss, _, whole = update_gradient(loop, prompts, groups)
    tokens = float(sum(len(c.token_ids) for g in groups for c in g.completions))
    everything = [tokens, 10.0, 0.0, 0.0, tokens, 10.0]
    monkeypatch.setattr("visurf.weighing.parallel.total", lambda values: everything)
    shares = [update_gradient(loop, prompts[i:j], groups[i:j]) for i, j in ((0, 1), (1, 3))]
    assert sum(s[0] for s in shares) == pytest.approx(loss, rel=1e-5)
    difference, name = worst({n: shares[0][2][n] + shares[1][2][n] for n in whole}, whole)
    assert difference < 1e-5, name


def test_a_label_of_advantage_zero_shrinks_the_gradient_by_its_share(tiny):
    """Visurf's objective given the same advantages is rlvr's x G / (G + 1)."""
    sequence = ObjectiveConfig(average="sequence")
    shapes = [(1, 3, (5, 9, 2, 7), (0.5, -1.5, 2.0, 1.0)), (0, 2, (12, 3, 7, 4), (0.25, 1.0, -0.5, -0.75))]
    with_label = [(i, w, (*n, 6), (*a, 0.0)) for i, w, n, a in shapes]
    loss, _, rlvr = update_gradient(make_loop(tiny, RLVR, objective=sequence), *replayed(tiny, shapes))
    loop = make_loop(tiny, VISURF, objective=sequence)
    shrunk, carried, visurf = update_gradient(loop, *replayed(tiny, with_label, label=True))
    assert carried == 8
    assert shrunk == pytest.approx(loss * 4 / 5, rel=1e-5)
    difference, name = worst(visurf, {n: v * 4 / 5 for n, v in rlvr.items()})
    assert difference < 1e-5, name


def test_a_step_of_flat_groups_still_steps_without_gradient(tiny):
    loop = make_loop(tiny, RLVR, rollout=RolloutConfig(group_size=3, max_tokens=3))
    samples = referring_samples(SHIFTED, 2, 3)
    before = {n: p.detach().clone() for n, p in tiny.network.named_parameters()}
    optimizer = torch.optim.SGD(loop.policy.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=10)
    metrics = loop.step(samples, 0, optimizer, schedule)
    assert metrics["group/zero_variance"] == 1.0
    assert metrics["train/skipped"] == 1.0
    assert metrics["loss"] == 0.0
    assert metrics["policy/grad_norm"] == 0.0
    assert schedule.last_epoch == 1
    for name, parameter in tiny.network.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name
        assert torch.equal(parameter, before[name]), name


def test_inner_steps_measure_the_ratio_against_the_sampling_policy(tiny):
    loop = make_loop(tiny, RLVR, inner_steps=2)
    prompts, groups = replayed(tiny)
    batch = loop.learner.batch(prompts, groups)
    assert batch.old is not None
    loop.policy.eval()
    assert [len(v) for v in batch.old] == batch.lengths.tolist()
    loop_once = make_loop(tiny, RLVR)
    first = update_gradient(loop_once, prompts, groups)[2]
    loop.learner.update(batch, *optimise(loop), Diagnostics(tiny.device))
    assert worst(gradients(tiny.network), first)[0] < 1e-4
    with torch.no_grad():
        for parameter in tiny.network.parameters():
            parameter.mul_(1.3)
    seen = Diagnostics(tiny.device)
    loop.learner.update(batch, *optimise(loop), seen)
    assert seen.sums["policy/clip_frac"][0] > 0, "after a large move something is clipped"


@pytest.mark.parametrize("on_label", [False, True])
def test_the_kl_term_covers_rollouts_and_labels_only_where_asked(tiny, checkpoints, on_label):
    """Advantages are 0, so the whole gradient is the KL term's, checked against autograd through the plain forward."""
    other = load_random(checkpoints["qwen2_5_vl"])
    with torch.no_grad():
        for parameter in other.network.parameters():
            parameter.mul_(1.05)
    reference = Policy(other.network.requires_grad_(False), temperature=1.0, banned=other.banned_ids)
    objective = ObjectiveConfig(kl=0.3, kl_on_label=on_label)
    loop = make_loop(tiny, VISURF, reference, objective=objective)
    shapes = [(i, w, n, (0.0,) * len(n)) for i, w, n, _ in REPLAY]
    prompts, groups = replayed(tiny, shapes, label=True)
    _, carried, found = update_gradient(loop, prompts, groups)
    assert carried == 10
    plain = load_plain(checkpoints["qwen2_5_vl"])
    members = [(p, c) for p, g in zip(prompts, groups, strict=True) for c in g.completions]
    pairs = [(p, c.token_ids) for p, c in members]
    current = naive_logprobs(plain, pairs, banned=tiny.banned_ids)
    with torch.no_grad():
        plain_reference = load_plain(checkpoints["qwen2_5_vl"])
        plain_reference.load_state_dict(other.network.state_dict())
        ref = naive_logprobs(plain_reference, pairs, banned=tiny.banned_ids)
    tokens = sum(len(t) for _, t in pairs)
    loss = sum(
        ((r - v).exp() - (r - v) - 1).sum() * 0.3 / tokens
        for (_, c), v, r in zip(members, current, ref, strict=True)
        if on_label or c.source == "policy"
    )
    loss.backward()
    difference, name = worst(found, gradients(plain))
    assert difference < 1e-3, name


def test_gradients_are_clipped_to_the_norm(tiny):
    loop = make_loop(tiny, RLVR, optimizer=OptimizerConfig(max_grad_norm=0.01))
    _, _, found = update_gradient(loop, *replayed(tiny))
    assert math.sqrt(sum(float(v.double().square().sum()) for v in found.values())) == pytest.approx(0.01, rel=1e-3)


def test_a_whole_step_samples_scores_and_updates(mini):
    """With the embedded model: rollouts, the label last, finite metrics, and the same step again is the same step."""
    loop = make_loop(mini, VISURF, rollout=RolloutConfig(group_size=3, max_tokens=48))
    samples = referring_samples(SHIFTED, 3, 5)
    first = loop.step(samples, 7, *optimise(loop))
    groups = loop.groups
    again = loop.step(samples, 7, *optimise(loop))
    assert [[c.text for c in g.completions] for g in groups] == [[c.text for c in g.completions] for g in loop.groups]
    assert first["loss"] == pytest.approx(again["loss"], rel=1e-6, abs=1e-9)
    for group in groups:
        assert [c.source for c in group.completions] == ["policy"] * 3 + ["label"]
        assert sum(group.advantages) == pytest.approx(0, abs=1e-9)
        assert all(c.answer is not None for c in group.completions if c.source == "label")
    assert all(math.isfinite(v) for v in first.values())
    mini.network.zero_grad(set_to_none=True)
    mini.network.eval()


def test_the_batch_keeps_the_order_of_groups_and_members(tiny):
    loop = make_loop(tiny, RLVR, tokens_per_microbatch=35)
    prompts, groups = replayed(tiny)
    batch = Batch(prompts, groups, torch.tensor([len(c.token_ids) for g in groups for c in g.completions]))
    found = loop.learner.logprobs(loop.policy, batch)
    expected = [
        loop.learner.logprobs(
            loop.policy, Batch([p], [dataclasses.replace(g, completions=(c,), advantages=(1.0,))], torch.tensor([len(c.token_ids)]))
        )[0]
        for p, g in zip(prompts, groups, strict=True)
        for c in g.completions
    ]
    for mine, alone in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, alone, atol=2e-5, rtol=1e-5)


def test_a_label_with_a_token_the_policy_may_not_write_is_refused(tiny):
    """Its log-prob would be minus infinity and so would the loss."""
    sample = referring_samples(SHIFTED, 1, 3)[0]
    sample = Sample("broken", sample.images, sample.question, Objects(), response="<think><|image_pad|></think><answer>[]</answer>")
    loop = make_loop(tiny, SFT)
    with pytest.raises(DataError, match="broken"):
        loop.step([sample], 0, *optimise(loop))
