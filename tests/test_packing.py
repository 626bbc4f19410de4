"""Packed rows that share a prompt against the plain padded forward: log-probs and gradients."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from naive import gradients, naive_logprobs, worst
from tiny import load_random, make_prompt, make_tokens
from visurf.config import LoraConfig
from visurf.packing import Bundle, Scored, build_row, plan, split
from visurf.policy import Policy
from visurf.preparation import add_adapters

TEMPERATURE = 0.8
KINDS = ("qwen2_5_vl", "qwen2_vl")


def bundles_of(model, shapes):
    """[(images, words, completion lengths)] -> bundles, numbered in order; the same length is the same completion."""
    bundles, number = [], 0
    for seed, (images, words, lengths) in enumerate(shapes):
        sequences = []
        for length in lengths:
            sequences.append(Scored(make_tokens(model, length, seed), number))
            number += 1
        bundles.append(Bundle(make_prompt(model, seed, images, words), tuple(sequences)))
    return bundles, number


def packed_logprobs(policy, model, bundles, count, budget):
    """Log-probs per sequence, in the order of their numbers, over as many rows as the budget asks for."""
    found = [torch.empty(0)] * count
    lengths = {s.number: len(s.token_ids) for b in bundles for s in b.sequences}
    for row in (build_row(b, model.family, model.device) for b in plan(bundles, budget)):
        for number, part in zip(row.numbers, policy(row).split([lengths[n] for n in row.numbers]), strict=True):
            found[number] = part
    return found


def coefficients(lengths, seed=1):
    """A different weight for every token, so that no two gradients can be mistaken for each other."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, generator=generator) for n in lengths]


def both_ways(model, plain, shapes, budget, policy=None):
    """Packed and oracle log-probs and gradients of one weighted sum of them."""
    bundles, count = bundles_of(model, shapes)
    policy = policy or Policy(model.network, temperature=TEMPERATURE, banned=model.banned_ids, head_bytes=7 * 4 * 113)
    pairs = [(b.prompt, s.token_ids) for b in bundles for s in b.sequences]
    weights = coefficients([len(t) for _, t in pairs])
    results = []
    for module, forward in (
        (policy.base(), lambda: packed_logprobs(policy, model, bundles, count, budget)),
        (plain, lambda: naive_logprobs(plain, pairs, temperature=TEMPERATURE, banned=model.banned_ids)),
    ):
        module.zero_grad(set_to_none=True)
        found = forward()
        loss = sum((w * v).sum() for w, v in zip(weights, found, strict=True))
        if loss.requires_grad:
            loss.backward()
        results += [[v.detach() for v in found], gradients(module)]
    return results


def assert_equal(packed, packed_gradient, oracle, oracle_gradient):
    for mine, theirs in zip(packed, oracle, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
    difference, name = worst(packed_gradient, oracle_gradient)
    assert difference < 1e-4, name


GROUPS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(1, 5), st.lists(st.integers(0, 9), min_size=1, max_size=4)), min_size=1, max_size=3
).filter(lambda groups: any(length for *_, lengths in groups for length in lengths))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shapes=GROUPS, budget=st.sampled_from([1, 40, 10_000]))
def test_packed_rows_equal_the_plain_forward(random_models, kind, shapes, budget):
    model, plain = random_models[kind]
    assert_equal(*both_ways(model, plain, shapes, budget))


@pytest.mark.parametrize(
    "shapes",
    [
        [(1, 3, [1])],
        [(1, 3, [1, 1, 5])],
        [(1, 3, [0, 6])],
        [(0, 3, [4, 2])],
        [(2, 2, [3, 8, 1])],
        [(0, 1, [3]), (2, 4, [5, 1])],
        [(1, 2, [6, 6, 6])],
        [(1, i + 1, [i + 1, 2 * i + 1]) for i in range(5)],
    ],
    ids=["one-token", "one-beside-longer", "empty", "no-image", "two-images", "text-beside-images", "identical", "many-groups"],
)
def test_named_shapes_equal_the_plain_forward(random_models, shapes):
    assert_equal(*both_ways(*random_models["qwen2_5_vl"], shapes, 10_000))


def test_the_comparison_can_see_a_change_of_context(random_models):
    """The outputs depend on the image, on the words and on earlier tokens, or equality would mean little."""
    model, plain = random_models["qwen2_5_vl"]
    tokens = make_tokens(model, 6)
    first = naive_logprobs(plain, [(make_prompt(model, 0, 1, 3), tokens)])[0]
    for seed, images, words in ((1, 1, 3), (0, 0, 3), (0, 1, 4)):
        other = naive_logprobs(plain, [(make_prompt(model, seed, images, words), tokens)])[0]
        assert float((first - other).detach().abs().max()) > 1e-2
    swapped = naive_logprobs(plain, [(make_prompt(model, 0, 1, 3), (tokens[1], tokens[0], *tokens[2:]))])[0]
    assert float((first[2:] - swapped[2:]).detach().abs().max()) > 1e-2


def test_positions_continue_where_the_plain_forward_has_them(random_models):
    for model, plain in random_models.values():
        prompt = make_prompt(model, 0, 2, 3)
        ids = torch.tensor([(*prompt.token_ids, *make_tokens(model, 4))])
        positions, _ = plain.model.get_rope_index(
            ids,
            mm_token_type_ids=ids.eq(plain.config.image_token_id).int(),
            image_grid_thw=prompt.tensors["image_grid_thw"],
            attention_mask=torch.ones_like(ids),
        )
        row = build_row([Bundle(prompt, (Scored(tuple(ids[0, -4:].tolist()), 0),))], model.family, "cpu")
        torch.testing.assert_close(row.inputs["position_ids"], positions[..., :-1])


def test_a_missing_layout_is_an_error(tiny):
    tiny.network.set_attn_implementation("sdpa")
    policy = Policy(tiny.network, temperature=1.0, banned=())
    row = build_row([Bundle(make_prompt(tiny), (Scored(make_tokens(tiny, 3), 0),))], tiny.family, "cpu")
    with pytest.raises(RuntimeError, match="layout reached 0 of 2 layers"):
        policy(row)


def test_gradient_checkpointing_changes_no_gradient(checkpoints, random_models):
    model = load_random(checkpoints["qwen2_5_vl"])
    model.network.gradient_checkpointing_enable({"use_reentrant": False})
    model.network.train()
    policy = Policy(model.network, temperature=TEMPERATURE, banned=model.banned_ids)
    _, plain = random_models["qwen2_5_vl"]
    assert_equal(*both_ways(model, plain, [(1, 3, [5, 2]), (0, 2, [4])], 10_000, policy))


def test_adapters_train_through_packed_rows(checkpoints, random_models):
    """LoRA's gradients equal those of the same adapters over the plain padded forward."""
    networks = []
    reference, plain = random_models["qwen2_5_vl"]
    model = load_random(checkpoints["qwen2_5_vl"])
    for base in (model.network, type(plain)(plain.config)):
        if base is not model.network:
            base.load_state_dict(plain.state_dict())
            base.eval()
            base.set_attn_implementation("eager")
        adapted = add_adapters(base, LoraConfig(rank=4, alpha=8), model.family.vision_module)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_" in name:
                    parameter.normal_(0, 0.2, generator=generator)
        networks.append(adapted)
    policy = Policy(networks[0], temperature=TEMPERATURE, banned=model.banned_ids)
    packed, found, oracle, expected = both_ways(model, networks[1].get_base_model(), [(1, 3, [5, 2, 1])], 10_000, policy)
    trained = [n for n in expected if "lora_" in n]
    assert trained
    assert all(float(expected[n].norm()) > 0 for n in trained)
    assert_equal(packed, found, oracle, expected)
    base_row = build_row([Bundle(make_prompt(model), (Scored(make_tokens(model, 3), 0),))], model.family, "cpu")
    plain_policy = Policy(reference.network, temperature=TEMPERATURE, banned=model.banned_ids)
    assert float((policy(base_row) - plain_policy(base_row)).detach().abs().max()) > 1e-2, "the adapters must act"


def test_banned_tokens_have_no_probability(random_models):
    model, _ = random_models["qwen2_5_vl"]
    tokens = (model.banned_ids[0], *make_tokens(model, 2))
    policy = Policy(model.network, temperature=1.0, banned=model.banned_ids)
    row = build_row([Bundle(make_prompt(model), (Scored(tokens, 0),))], model.family, "cpu")
    with torch.no_grad():
        assert float(policy(row)[0]) == float("-inf")


def test_rows_respect_the_budget_and_lose_nothing(random_models):
    model, _ = random_models["qwen2_5_vl"]
    shapes = [(1, 2, [9, 8, 7, 3, 1]), (0, 4, [5, 5]), (2, 1, [2]), (1, 5, [9, 9, 9])]
    bundles, count = bundles_of(model, shapes)
    longest = max(len(b.prompt.token_ids) + max(len(s.token_ids) for s in b.sequences) for b in bundles)
    for budget in (longest, longest + 15, 1000):
        rows = plan(bundles, budget)
        assert all(sum(b.tokens for b in row) <= budget for row in rows)
        assert sorted(s.number for row in rows for b in row for s in b.sequences) == list(range(count))
    pieces = split(bundles[0], 1)
    assert [len(p.sequences) for p in pieces] == [1] * 5
    assert plan([Bundle(bundles[0].prompt, ())], 100) == []


def test_a_shared_prompt_stands_in_its_row_once(random_models):
    model, _ = random_models["qwen2_5_vl"]
    bundles, _ = bundles_of(model, [(1, 3, [4, 4, 4, 4])])
    row = build_row(bundles, model.family, "cpu")
    assert row.length == len(bundles[0].prompt.token_ids) + 4 * 3
    assert row.inputs["image_grid_thw"].shape[0] == 1


def test_pieces_of_the_head_are_computed_again_in_the_arithmetic_of_the_forward(tiny):
    """The backward pass stands outside autocast; what it computes anew must not."""
    policy = Policy(tiny.network, temperature=1.0, banned=tiny.banned_ids, head_bytes=7 * 4 * 113)
    row = build_row([Bundle(make_prompt(tiny, 0), (Scored(make_tokens(tiny, 20), 0),))], tiny.family, "cpu")
    seen = []
    policy.base().lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        logprobs = policy(row)
    forward = len(seen)
    assert forward > 1
    logprobs.sum().backward()
    assert seen == [torch.bfloat16] * (2 * forward)
