"""Shared-prefix attention by every kernel against one plain softmax under a full mask."""

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from tiny import make_prompt, make_tokens
from visurf.attention import PackedLayout, dense, flex, kernels, merged, merged_cuda, ragged, register, vision_attention
from visurf.attention.ragged import attend_ragged
from visurf.packing import Bundle, Scored, build_row
from visurf.policy import Policy

HEADS, KV_HEADS, SIZE = 4, 2, 16


def layout_of(groups):
    """[(prompt length, completion lengths)] -> layout."""
    prompts, completions, at = [], [], 0
    for length, members in groups:
        prompts.append((at, length))
        at += length
        spans = []
        for count in members:
            spans.append((at, count))
            at += count
        completions.append(spans)
    return PackedLayout(prompts, completions, at, "cpu")


def plain(query, key, value, layout, scaling):
    """One softmax per position under the mask written out from the definition."""
    allowed = torch.zeros(layout.length, layout.length, dtype=torch.bool)
    for (start, length), members in zip(layout.prompts, layout.completions, strict=True):
        for i in range(start, start + length):
            allowed[i, start : i + 1] = True
        for first, count in members:
            for i in range(first, first + count):
                allowed[i, start : start + length] = True
                allowed[i, first : i + 1] = True
    key, value = (t.repeat_interleave(HEADS // KV_HEADS, dim=1) for t in (key, value))
    scores = (query @ key.transpose(-1, -2) * scaling).masked_fill(~allowed, float("-inf"))
    return (scores.softmax(-1) @ value).transpose(1, 2)


def tensors(length, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(1, length, n, SIZE, generator=generator).to(dtype) for n in (HEADS, KV_HEADS, KV_HEADS)]
    return [t.transpose(1, 2) for t in made], torch.randn(1, length, HEADS, SIZE, generator=generator).to(dtype)


def run(attend, layout, inputs, upstream, *, backward=True):
    inputs = [t.detach().clone().requires_grad_(backward) for t in inputs]
    out = attend(*inputs, layout, SIZE**-0.5)
    return [out.detach(), *(torch.autograd.grad(out, inputs, upstream) if backward else ())]


GROUPS = st.lists(st.tuples(st.integers(1, 20), st.lists(st.integers(0, 12), max_size=5)), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(groups=GROUPS)
def test_every_kernel_is_exact(groups):
    layout = layout_of(groups)
    inputs, upstream = tensors(layout.length)
    expected = run(plain, layout, inputs, upstream)
    for kernel in (merged.attend, dense.attend):
        for mine, theirs in zip(run(kernel, layout, inputs, upstream), expected, strict=True):
            torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("groups", [[(5, [3, 0, 4]), (7, [])], [(130, [2, 1])]])
def test_the_block_mask_of_flex_attention_is_the_same_attention(groups):
    layout = layout_of(groups)
    inputs, upstream = tensors(layout.length)
    found = run(flex.attend, layout, inputs, upstream, backward=False)[0]
    torch.testing.assert_close(found, run(plain, layout, inputs, upstream)[0], atol=2e-5, rtol=1e-5)


def test_half_precision_stays_within_its_own_rounding():
    layout = layout_of([(30, [5, 9, 1]), (12, [20])])
    inputs, upstream = tensors(layout.length, torch.bfloat16)
    exact = run(plain, layout, [t.double() for t in inputs], upstream.double())
    joined = run(merged.attend, layout, inputs, upstream)
    ordinary = run(plain, layout, inputs, upstream)
    for mine, theirs, truth in zip(joined, ordinary, exact, strict=True):
        scale = float(truth.abs().max())
        assert float((mine - truth).abs().max()) <= max(2 * float((theirs - truth).abs().max()), 0.01 * scale)


def test_large_scores_do_not_overflow():
    layout = layout_of([(9, [4, 2, 0, 7])])
    inputs, upstream = tensors(layout.length)
    inputs = [inputs[0] * 60, inputs[1] * 60, inputs[2]]
    expected = run(plain, layout, [t.double() for t in inputs], upstream.double())
    for mine, theirs in zip(run(merged.attend, layout, inputs, upstream), expected, strict=True):
        assert bool(mine.isfinite().all())
        torch.testing.assert_close(mine.double(), theirs, atol=1e-3, rtol=1e-3)


def test_bounds_of_a_row_for_kernels_that_take_cumulative_lengths():
    bounds = merged_cuda.bounds_of(layout_of([(5, [3, 0, 4]), (7, []), (2, [1])]))
    assert bounds.segments.tolist() == [0, 5, 8, 12, 19, 21, 22]
    assert bounds.longest == 7
    assert bounds.after.tolist() == [5, 6, 7, 8, 9, 10, 11, 21]
    assert bounds.before.tolist() == [0, 1, 2, 3, 4, 19, 20]
    assert (bounds.queries.tolist(), bounds.keys.tolist(), bounds.most) == ([0, 7, 8], [0, 5, 7], (7, 5))
    assert merged_cuda.bounds_of(layout_of([(4, [0])])).after.tolist() == []


@pytest.mark.parametrize("spans", [([(0, 3)], [[(4, 2)]], 6), ([(0, 3)], [[(2, 2)]], 4), ([(0, 3)], [[(3, 2)]], 6)])
def test_a_layout_that_does_not_cover_the_row_is_refused(spans):
    with pytest.raises(ValueError, match="span"):
        PackedLayout(*spans, "cpu")


def test_a_row_of_another_length_is_refused():
    inputs, _ = tensors(9)
    with pytest.raises(ValueError, match="expects 1 row of 10 tokens"):
        layout_of([(4, [6])]).attend(None, *inputs, 0.25, "auto")


@pytest.mark.parametrize("lengths", [[6, 6, 6], [3, 8, 3, 1, 8], [5]])
def test_ragged_attention_stays_inside_each_sequence(lengths):
    inputs, upstream = tensors(sum(lengths))
    inputs = [inputs[0], *(t.repeat_interleave(2, dim=1) for t in inputs[1:])]
    bounds = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0)

    def one_by_one(query, key, value):
        parts = [t.split(lengths, dim=2) for t in (query, key, value)]
        every = [torch.softmax(q @ k.transpose(-1, -2) * 0.3, -1) @ v for q, k, v in zip(*parts, strict=True)]
        return torch.cat(every, dim=2).transpose(1, 2)

    results = []
    for attend in (lambda *a: attend_ragged(*a, bounds, 0.3), one_by_one):
        made = [t.detach().clone().requires_grad_() for t in inputs]
        out = attend(*made)
        results.append([out.detach(), *torch.autograd.grad(out, made, upstream)])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_the_vision_tower_runs_its_images_and_windows_together(random_models, monkeypatch):
    calls = []
    monkeypatch.setattr("visurf.attention.attend_ragged", lambda *a: calls.append(len(a[3]) - 1) or attend_ragged(*a))
    model, _ = random_models["qwen2_5_vl"]
    prompts = [make_prompt(model, i, images=2) for i in range(3)]
    row = build_row([Bundle(p, (Scored(make_tokens(model, 4), i),)) for i, p in enumerate(prompts)], model.family, "cpu")
    Policy(model.network, temperature=1.0, banned=())(row)
    assert len(calls) == model.network.config.vision_config.depth
    assert min(calls) >= 6


@pytest.fixture
def fresh_choice():
    kernels._choose.cache_clear()
    yield
    kernels._choose.cache_clear()


def test_the_fastest_exact_kernel_is_chosen(fresh_choice):
    inputs, _ = tensors(4)
    assert kernels.choose("auto", *inputs[:2]) is merged.attend
    assert kernels.choose("dense", *inputs[:2]) is dense.attend


def test_a_kernel_that_is_wrong_or_missing_is_not_used(fresh_choice, monkeypatch, caplog):
    inputs, _ = tensors(4)
    right = merged.attend

    def causal_only(query, key, value, layout, scaling):
        return right(query, key, value, layout_of([(layout.length, [])]), scaling)

    monkeypatch.setattr(merged, "attend", causal_only)
    with caplog.at_level(logging.WARNING, "visurf"):
        assert kernels.choose("auto", *inputs[:2]) is dense.attend
    assert "differs from plain attention" in caplog.text
    with pytest.raises(RuntimeError, match=r"model\.attention=flex does not work on cpu"):
        kernels.choose("flex", *inputs[:2])


# Query heads, key heads and head size of Qwen2.5-VL 7B, Qwen3-VL 8B, LLaVA-OneVision 0.5B and Qwen2.5-VL 72B.
RELEASED = [(28, 4, 128), (32, 8, 128), (14, 2, 64), (64, 8, 128)]


@pytest.mark.parametrize("shape", RELEASED)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_right_kernel_passes_in_the_shapes_of_released_models(shape, dtype):
    assert kernels._disagreement(merged.attend, torch.device("cpu"), dtype, shape) is None


@pytest.mark.parametrize("shape", RELEASED)
def test_a_kernel_that_leaks_between_completions_fails_in_half_precision(shape):
    def leaking(query, key, value, layout, scaling):
        # The second completion sees the first.
        return merged.attend(query, key, value, layout_of([(7, [8]), (3, [2])]), scaling)

    assert "differs" in kernels._disagreement(leaking, torch.device("cpu"), torch.bfloat16, shape)


def test_a_kernel_that_gives_no_numbers_fails():
    def nothing(*arguments):
        return merged.attend(*arguments) * float("nan")

    assert "differs" in kernels._disagreement(nothing, torch.device("cpu"), torch.bfloat16, (4, 2, 16))


def varlen(query, key, value, bounds, keys, longest, longest_key, *, scale=None):
    """What torch's kernel for cumulative lengths computes, on a CPU."""
    assert longest == longest_key == int((bounds[1:] - bounds[:-1]).max())
    rows = [t.transpose(0, 1).unsqueeze(0) for t in (query, key, value)]
    return ragged._by_length(*rows, bounds, scale)[0]


def without_scale(query, key, value, bounds, keys, longest, longest_key, is_causal=False):
    """The kernel of torch 2.9."""


def too_old(*arguments, **named):
    raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.")


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        (varlen, ""),
        (without_scale, "TypeError"),
        (too_old, "only supports Ampere"),
        (lambda *a, **k: varlen(*a, **k) * 1.1, "differs"),
    ],
)
def test_the_vision_kernel_is_tried_once_and_its_failure_said(monkeypatch, caplog, kernel, said):
    monkeypatch.setattr(ragged, "_varlen_kernel", lambda: kernel)
    ragged._fuses.cache_clear()
    with caplog.at_level(logging.WARNING, "visurf"):
        found = [ragged._fuses(torch.device("cpu"), torch.bfloat16, 80) for _ in range(2)]
    ragged._fuses.cache_clear()
    assert found == [not said] * 2
    assert len(caplog.records) == bool(said)
    assert said in caplog.text


def test_the_longest_sequence_is_not_read_from_the_device_where_it_is_known(monkeypatch):
    seen = []
    monkeypatch.setattr(ragged, "_varlen_kernel", lambda: lambda *a, **k: seen.append(a[5]) or a[0])
    rows = [torch.zeros(1, 2, 5, 8)] * 3
    for longest in (7, None):
        ragged._fused(*rows, torch.tensor([0, 2, 5]), 1.0, longest)
    monkeypatch.setattr("visurf.attention.attend_ragged", lambda *a: seen.append(a[5]))
    vision_attention(None, *rows, None, cu_seq_lens_q=torch.tensor([0, 5]), max_length_q=11)
    assert seen == [7, 3, 11]


def test_a_function_is_compiled_for_more_lengths_than_torch_would_by_itself():
    made = []

    def backend(module, inputs):
        made.append(module)
        return module

    def double(rows):
        return rows * 2

    for length in range(1, 21):
        flex.compiled(double, backend=backend)(torch.zeros(length, 3))
    assert len(made) == 20


def test_a_trial_runs_apart_from_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        product = kernels.apart(lambda: torch.ones(2, 2) @ torch.ones(2, 2), torch.device("cpu"))
    assert product.dtype == torch.float32


def test_tensors_without_data_do_not_decide_for_real_ones(fresh_choice):
    with FakeTensorMode() as mode:
        inputs = [mode.from_tensor(t) for t in tensors(12)[0]]
        out = layout_of([(5, [3, 4])]).attend(None, *inputs, 0.25, "auto")
    assert out.shape == (1, 12, HEADS, SIZE)
    assert kernels.choose("auto", *tensors(4)[0][:2]) is merged.attend


def test_unknown_kernels_are_refused():
    with pytest.raises(ValueError, match="expected an attention kernel of auto, merged, flex, dense, got 'fast'"):
        register("fast")


def test_buckets_are_multiples_of_a_block_and_at_most_an_eighth_longer():
    for length in range(1, 20000, 37):
        padded = flex.bucket(length)
        assert padded % 128 == 0
        assert length <= padded < max(length * 1.125, length + 128)
