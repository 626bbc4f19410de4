"""Rollouts in process: against transformers' generate, against the packed forward, and against chance."""

import numpy as np
import pytest
import torch
from scipy import stats

from drawing import bias_head, close, draw, policy_of, prompts_of
from naive import naive_logprobs
from tiny import make_prompt
from visurf.packing import Bundle, Scored, build_row
from visurf.rollout.local import Sampling, sample, stream
from visurf.rollout.sampling import inverse_cdf

KINDS = ("qwen2_5_vl", "qwen2_vl")
# Every test holds for decoding in changing and in fixed shapes.
pytestmark = pytest.mark.usefixtures("engine")


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_equals_transformers_generate(random_models, kind):
    model, plain = random_models[kind]
    prompts = prompts_of(model)
    mine = sample(policy_of(model), model.family, prompts, 1, Sampling(20, greedy=True), model.eos_ids)
    lengths = set()
    for prompt, (rollout,) in zip(prompts, mine, strict=True):
        ids = torch.tensor([prompt.token_ids])
        theirs = plain.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=ids.eq(plain.config.image_token_id).int(),
            **prompt.tensors,
            do_sample=False,
            max_new_tokens=20,
            suppress_tokens=list(model.banned_ids),
            eos_token_id=list(model.eos_ids),
        )
        assert rollout.token_ids == tuple(theirs[0, len(prompt.token_ids) :].tolist())
        lengths.add(rollout.token_ids)
    assert len(lengths) > 1, "prompts must matter, or equality means little"


@pytest.mark.parametrize("kind", KINDS)
def test_sampled_logprobs_equal_the_packed_and_the_plain_forward(random_models, kind):
    model, plain = random_models[kind]
    prompts = prompts_of(model)
    policy = policy_of(model, temperature=0.7)
    for prompt, rollouts in zip(prompts, draw(model, prompts, 3, temperature=0.7), strict=True):
        row = build_row([Bundle(prompt, tuple(Scored(r.token_ids, i) for i, r in enumerate(rollouts)))], model.family, "cpu")
        pairs = [(prompt, r.token_ids) for r in rollouts]
        with torch.no_grad():
            packed = policy(row)
            oracle = naive_logprobs(plain, pairs, temperature=0.7, banned=model.banned_ids)
        sampled = torch.tensor([v for r in rollouts for v in r.logprobs])
        torch.testing.assert_close(sampled, packed, atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(sampled, torch.cat(oracle), atol=2e-5, rtol=1e-5)


def test_order_and_batch_size_change_nothing(random_models):
    model, _ = random_models["qwen2_5_vl"]
    prompts = prompts_of(model)
    together = draw(model, prompts, 3)
    reverse = draw(model, prompts[::-1], 3)[::-1]
    alone = draw(model, prompts, 3, token_budget=1)
    for group, *others in zip(together, reverse, alone, strict=True):
        for other in others:
            for a, b in zip(group, other, strict=True):
                close(a, b)
    assert len({r.token_ids for group in together for r in group}) > 6, "rollouts must differ"


def test_another_seed_samples_otherwise(random_models):
    model, _ = random_models["qwen2_5_vl"]
    prompts = prompts_of(model)
    assert draw(model, prompts, 2, seed=1) != draw(model, prompts, 2, seed=2)


def test_banned_tokens_are_never_sampled(tiny):
    bias_head(tiny, dict.fromkeys(tiny.banned_ids, 1e4))
    prompts = prompts_of(tiny)
    greedy = sample(policy_of(tiny), tiny.family, prompts, 2, Sampling(8, greedy=True), tiny.eos_ids)
    for group in (*draw(tiny, prompts, 8, 8), *draw(tiny, prompts, 8, 8, top_p=0.5), *greedy):
        for rollout in group:
            assert not set(rollout.token_ids) & set(tiny.banned_ids)
            assert np.isfinite(rollout.logprobs).all()
    assert tiny.image_id in tiny.banned_ids


def test_the_end_of_turn_ends_and_nothing_else_does(tiny):
    prompts = prompts_of(tiny)
    bias_head(tiny, {tiny.end_of_turn: 1e4})
    for group in draw(tiny, prompts, 2, 9):
        for rollout in group:
            assert rollout.token_ids == (tiny.end_of_turn,)
            assert not rollout.truncated
            assert rollout.logprobs == pytest.approx((0.0,), abs=1e-6)
    bias_head(tiny, dict.fromkeys(tiny.eos_ids, -1e4))
    for group in draw(tiny, prompts, 2, 9):
        for rollout in group:
            assert len(rollout.token_ids) == len(rollout.logprobs) == 9
            assert rollout.truncated
            assert not set(rollout.token_ids) & set(tiny.eos_ids)


def test_a_turn_that_ends_on_the_last_token_is_not_truncated(tiny):
    bias_head(tiny, {tiny.end_of_turn: 1e4})
    ((rollout,),) = draw(tiny, prompts_of(tiny)[:1], 1, 1)
    assert rollout.token_ids == (tiny.end_of_turn,)
    assert not rollout.truncated


@pytest.mark.parametrize("bias", [3.0, 5.0])
def test_rows_that_leave_the_batch_change_nothing(tiny, bias):
    """About one row in five ends with every token, so prompts and members leave at different times."""
    bias_head(tiny, {tiny.end_of_turn: bias})
    prompts = prompts_of(tiny)
    together = draw(tiny, prompts, 5, 40)
    lengths = {len(r.token_ids) for group in together for r in group}
    assert len(lengths) > 5
    assert min(lengths) < 5
    policy = policy_of(tiny)
    for prompt, group in zip(prompts, together, strict=True):
        for j, rollout in enumerate(group):
            ((alone,),) = sample(policy, tiny.family, [prompt], 1, Sampling(40), tiny.eos_ids, [[stream(0, prompt.sample.id, j)]])
            close(rollout, alone)


def first_distribution(plain, prompt, model, temperature):
    """Probabilities of the first token, by the plain forward."""
    ids = torch.tensor([prompt.token_ids])
    with torch.no_grad():
        logits = plain(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=ids.eq(plain.config.image_token_id).int(),
            **prompt.tensors,
        ).logits[0, -1]
    logits = (logits.double() / temperature).index_fill(-1, torch.tensor(model.banned_ids), float("-inf"))
    return torch.softmax(logits, -1).numpy()


@pytest.mark.parametrize("temperature", [0.6, 1.4])
def test_first_tokens_follow_their_distribution(random_models, temperature):
    model, plain = random_models["qwen2_5_vl"]
    prompt = make_prompt(model)
    draws = 4000
    (rollouts,) = draw(model, [prompt], draws, 1, temperature=temperature)
    counts = np.bincount([r.token_ids[0] for r in rollouts], minlength=len(model.tokenizer))
    expected = draws * first_distribution(plain, prompt, model, temperature)
    often = expected >= 5
    observed = [*counts[often], counts[~often].sum()]
    wanted = [*expected[often], expected[~often].sum()]
    assert often.sum() > 5
    assert stats.chisquare(observed, wanted).pvalue > 1e-3


def test_top_p_keeps_the_smallest_set_with_that_probability(random_models):
    model, plain = random_models["qwen2_5_vl"]
    prompt = make_prompt(model)
    (rollouts,) = draw(model, [prompt], 2000, 1, top_p=0.5)
    p = first_distribution(plain, prompt, model, 1.0)
    order = np.argsort(-p)
    kept = set(order[: int(np.searchsorted(np.cumsum(p[order]), 0.5)) + 1].tolist())
    assert {r.token_ids[0] for r in rollouts} == kept


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_the_ends_of_the_unit_interval_draw_tokens_that_can_be_drawn(top_p):
    """Neither 0 nor the largest number below 1 may land on a token of probability 0."""
    p = torch.tensor([0.0, 0.3, 0.0, 0.3000001, 0.3, 1e-30, 0.0]) / 0.9000001
    uniform = torch.tensor([0.0, 1 - 2**-53, 0.5], dtype=torch.float64)
    drawn = inverse_cdf(p.log().expand(3, -1), uniform.unsqueeze(1), top_p).squeeze(1)
    assert drawn[0] == 1
    assert drawn[1] in ((4, 5) if top_p == 1 else (4,))
    assert drawn[2] == 3


def test_sampling_without_streams_is_an_error(random_models):
    model, _ = random_models["qwen2_5_vl"]
    with pytest.raises(ValueError, match="random stream"):
        sample(policy_of(model), model.family, prompts_of(model), 1, Sampling(2), model.eos_ids)


def test_streams_are_named_and_independent():
    assert stream(0, 1, "a", 2).random(4).tolist() == stream(0, 1, "a", 2).random(4).tolist()
    draws = np.stack([stream(0, step, name, j).random(200) for step in (0, 1) for name in ("a", "b") for j in (0, 1)])
    correlations = np.corrcoef(draws) - np.eye(len(draws))
    assert float(np.abs(correlations).max()) < 0.3
