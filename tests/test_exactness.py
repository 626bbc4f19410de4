"""Every family: packed rows that share a prompt against the plain padded forward, over random shapes."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForImageTextToText

from naive import naive_logprobs
from test_packing import GROUPS, TEMPERATURE, assert_equal, both_ways, bundles_of, packed_logprobs
from tiny import make_prompt, make_tokens
from visurf.models import FAMILIES, load_model
from visurf.packing import Bundle, Scored, build_row
from visurf.policy import Policy
from visurf.rollout.local import Sampling, sample, stream

# (images, words, lengths of the group's completions); equal lengths are equal completions.
NAMED = {
    "ragged": [(1, 3, [1, 7, 4])],
    "length one": [(1, 3, [1])],
    "empty": [(1, 3, [0, 6])],
    "no image": [(0, 3, [4, 2])],
    "two images": [(2, 2, [3, 8, 1])],
    "one group of one": [(1, 2, [5])],
    "identical": [(1, 2, [6, 6, 6])],
    "many groups": [(i % 3, i + 1, [i + 1, 2 * i + 1]) for i in range(5)],
}


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), report_multiple_bugs=False)
@given(shapes=GROUPS, budget=st.sampled_from([1, 60, 10_000]))
def test_random_shapes_equal_the_plain_forward(family_models, family, shapes, budget):
    assert_equal(*both_ways(*family_models[family], shapes, budget))


@pytest.mark.parametrize("family", FAMILIES)
def test_named_shapes_equal_the_plain_forward(family_models, family):
    for shapes in NAMED.values():
        assert_equal(*both_ways(*family_models[family], shapes, 10_000))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_comparison_can_see_the_image_and_the_words(family_models, family):
    model, plain = family_models[family]
    tokens = make_tokens(model, 6)
    first = naive_logprobs(plain, [(make_prompt(model, 0, 1, 3), tokens)])[0]
    for seed, images, words in ((1, 1, 3), (0, 0, 3), (0, 2, 3), (0, 1, 4)):
        other = naive_logprobs(plain, [(make_prompt(model, seed, images, words), tokens)])[0]
        assert float((first - other).detach().abs().max()) > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_changes_no_gradient(family_checkpoints, family_models, family):
    model = load_model(family_checkpoints[family])
    model.network.gradient_checkpointing_enable({"use_reentrant": False})
    model.network.train()
    policy = Policy(model.network, temperature=TEMPERATURE, banned=model.banned_ids)
    assert_equal(*both_ways(model, family_models[family][1], [(1, 3, [5, 2]), (0, 2, [4]), (2, 1, [3])], 10_000, policy))


@pytest.mark.parametrize("family", FAMILIES)
def test_sampled_log_probs_are_those_of_the_plain_forward(family_models, family):
    """Prefill and decode: one prompt with two images, one with one, one with none."""
    model, plain = family_models[family]
    prompts = [make_prompt(model, i, i, 3) for i in range(3)]
    policy = Policy(model.network, temperature=TEMPERATURE, banned=model.banned_ids)
    streams = [[stream(5, i, j) for j in range(3)] for i in range(3)]
    found = sample(policy, model.family, prompts, 3, Sampling(max_tokens=7), model.eos_ids, streams)
    pairs = [(p, r.token_ids) for p, rollouts in zip(prompts, found, strict=True) for r in rollouts]
    expected = naive_logprobs(plain, pairs, temperature=TEMPERATURE, banned=model.banned_ids)
    for rollout, theirs in zip((r for rollouts in found for r in rollouts), expected, strict=True):
        torch.testing.assert_close(torch.tensor(rollout.logprobs), theirs.detach(), atol=1e-5, rtol=1e-5)
    assert len({t for _, t in pairs}) > 3


def row_of(model, lengths=(3, 2)):
    sequences = tuple(Scored(make_tokens(model, n), i) for i, n in enumerate(lengths))
    return build_row([Bundle(make_prompt(model), sequences)], model.family, "cpu")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lengths", [(3, 2), (3,)])
def test_a_missing_layout_is_an_error(family_models, family, lengths):
    """Never plain attention in silence, not even for a row in which it would be right."""
    model, _ = family_models[family]
    policy = Policy(model.network, temperature=1.0, banned=model.banned_ids)
    row = row_of(model, lengths)
    del row.inputs["visurf_layout"]
    with pytest.raises(RuntimeError, match="no layout"):
        policy(row)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_layout_of_another_length_is_an_error(family_models, family):
    model, _ = family_models[family]
    policy = Policy(model.network, temperature=1.0, banned=model.banned_ids)
    row, other = row_of(model), row_of(model, (3, 2, 4))
    row.inputs["visurf_layout"] = other.inputs["visurf_layout"]
    with pytest.raises(ValueError, match=f"{row.length}.*{other.length}"):
        policy(row)


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_that_never_sees_the_layout_is_an_error(family_checkpoints, family):
    model = load_model(family_checkpoints[family])
    model.network.set_attn_implementation("sdpa")
    policy = Policy(model.network, temperature=1.0, banned=model.banned_ids)
    with pytest.raises(RuntimeError, match="layout reached 0 of 2 layers"):
        policy(row_of(model))


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_in_bfloat16_sharing_adds_no_error(family_checkpoints, family_models, family):
    """Both ways against float32: the packed forward is as far from it as the plain one, and neither is far."""
    model, plain = family_models[family]
    low = load_model(family_checkpoints[family], dtype=torch.bfloat16)
    plain_low = AutoModelForImageTextToText.from_pretrained(
        family_checkpoints[family], dtype=torch.bfloat16, attn_implementation="eager"
    ).eval()
    bundles, count = bundles_of(model, [(1, 3, [9, 7, 5, 3]), (0, 4, [8, 6]), (2, 2, [9, 4, 2]), (1, 1, [7, 7])])
    pairs = [(b.prompt, s.token_ids) for b in bundles for s in b.sequences]
    exact, naive = (torch.cat(naive_logprobs(n, pairs, banned=model.banned_ids)) for n in (plain, plain_low))
    policy = Policy(low.network, temperature=1.0, banned=low.banned_ids)
    packed = torch.cat(packed_logprobs(policy, low, bundles, count, 10_000))
    ours, theirs = ((v - exact).square().mean().sqrt() for v in (packed, naive))
    assert float(theirs) > 1e-4, "bfloat16 must differ from float32 at all"
    assert float(ours) < 1.3 * float(theirs)
    assert float((packed - exact).abs().max()) < 0.03
