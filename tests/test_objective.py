"""The pure functions of the objective: hand-computed tables, in double precision."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from visurf.objective import (
    Objective,
    kl_estimate,
    log_ratio,
    segment_mean,
    surrogate_loss,
    token_terms,
    token_weights,
    weighted_loss,
)

D = torch.float64


def tensor(*values):
    return torch.tensor(values, dtype=D)


# ratio, advantage, clip_low 0.2, clip_high 0.3 -> loss, d loss / d logprob, clipped
CLIP = [
    (1.0, 2.0, -2.0, -2.0, False),
    (1.0, -2.0, 2.0, 2.0, False),
    (1.25, 2.0, -2.5, -2.5, False),
    (1.5, 2.0, -2.6, 0.0, True),
    (1.5, -2.0, 3.0, 3.0, False),
    (0.5, 2.0, -1.0, -1.0, False),
    (0.5, -2.0, 1.6, 0.0, True),
    (0.85, -2.0, 1.7, 1.7, False),
    (1.5, 0.0, 0.0, 0.0, False),
]


@pytest.mark.parametrize(("ratio", "advantage", "loss", "slope", "clipped"), CLIP)
def test_clipping_by_hand(ratio, advantage, loss, slope, clipped):
    new = tensor(math.log(0.3) + math.log(ratio)).requires_grad_()
    terms = token_terms(new, tensor(math.log(0.3)), tensor(advantage), Objective(clip_low=0.2, clip_high=0.3))
    assert float(terms.loss.detach()) == pytest.approx(loss, abs=1e-12)
    assert float(torch.autograd.grad(terms.loss.sum(), new)[0]) == pytest.approx(slope, abs=1e-12)
    assert bool(terms.clipped) is clipped
    assert float(terms.ratio) == pytest.approx(ratio)
    assert float(terms.kl) == pytest.approx(-math.log(ratio))
    assert not terms.ratio.requires_grad
    assert not terms.kl.requires_grad


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [(3.0, -1.0, 2.0, 0.0), (1.5, -1.0, 1.5, 1.5), (3.0, 1.0, -1.2, 0.0), (0.5, 1.0, -0.5, -0.5)],
)
def test_the_cap_bounds_the_unclipped_branch_only(ratio, advantage, loss, slope):
    new = tensor(math.log(ratio)).requires_grad_()
    terms = token_terms(new, tensor(0.0), tensor(advantage), Objective(ratio_cap=2.0))
    assert float(terms.loss.detach()) == pytest.approx(loss, abs=1e-12)
    assert float(torch.autograd.grad(terms.loss.sum(), new)[0]) == pytest.approx(slope, abs=1e-12)


def test_without_old_logprobs_the_gradient_is_that_of_the_log_likelihood():
    new = tensor(-0.3, -2.0, -5.0).requires_grad_()
    advantages = tensor(1.0, -0.5, 3.0)
    terms = token_terms(new, None, advantages, Objective())
    torch.testing.assert_close(terms.ratio, torch.ones(3, dtype=D))
    assert not terms.clipped.any()
    assert float(terms.loss.sum().detach()) == pytest.approx(-3.5)
    torch.testing.assert_close(torch.autograd.grad(terms.loss.sum(), new)[0], -advantages)


def test_a_ratio_per_sequence_is_the_exponential_of_the_mean_log_ratio():
    member = torch.tensor([0, 0, 2])
    new = tensor(0.1, 0.3, -0.5).requires_grad_()
    old = tensor(0.0, 0.0, -0.1)
    terms = token_terms(new, old, tensor(1.0, 1.0, -1.0), Objective(ratio="sequence"), member=member, members=3)
    expected = [math.exp(0.2)] * 2 + [math.exp(-0.4)]
    assert terms.ratio.tolist() == pytest.approx(expected)
    assert terms.loss.detach().tolist() == pytest.approx([-1.2, -1.2, 0.8])
    assert terms.clipped.tolist() == [True, True, True]
    loose = Objective(ratio="sequence", clip_low=1.0, clip_high=1.0)
    free = token_terms(new, old, tensor(1.0, 1.0, -1.0), loose, member=member, members=3)
    gradient = torch.autograd.grad(free.loss.sum(), new)[0]
    # Two tokens share the first ratio: each moves it by half, and both losses move with it.
    assert gradient.tolist() == pytest.approx([-math.exp(0.2), -math.exp(0.2), math.exp(-0.4)])
    with pytest.raises(ValueError, match="member"):
        token_terms(new, old, old, Objective(ratio="sequence"))


def test_cispo_bounds_the_weight_and_keeps_every_gradient():
    new = tensor(math.log(0.6), math.log(0.1)).requires_grad_()
    settings = Objective(surrogate="cispo", clip_high=1.0)
    terms = token_terms(new, tensor(math.log(0.2), math.log(0.2)), tensor(2.0, -1.0), settings)
    assert terms.loss.detach().tolist() == pytest.approx([-2 * 2 * math.log(0.6), 0.5 * math.log(0.1)])
    assert torch.autograd.grad(terms.loss.sum(), new)[0].tolist() == pytest.approx([-4.0, 0.5])
    with pytest.raises(ValueError, match="log-probs"):
        surrogate_loss(tensor(1.0), tensor(1.0), settings)


def test_the_free_surrogate_never_clips():
    new = tensor(math.log(3.0)).requires_grad_()
    terms = token_terms(new, tensor(0.0), tensor(2.0), Objective(surrogate="free"))
    assert float(terms.loss.detach()) == pytest.approx(-6.0)
    assert float(torch.autograd.grad(terms.loss.sum(), new)[0]) == pytest.approx(-6.0)


def test_the_corrected_estimate_is_the_divergence_of_the_current_policy():
    """Tokens come from an older policy; weighing by the ratio gives value and gradient of the current policy's divergence."""
    old, reference = tensor(0.5, 0.3, 0.2), tensor(0.2, 0.5, 0.3)
    logits = tensor(0.5, -0.2, -1.0).requires_grad_()
    new = torch.log_softmax(logits, 0)
    estimate = (old * kl_estimate(new, reference.log(), ratio=log_ratio(new, old.log()).exp())).sum()
    exact = (new.exp() * (new - reference.log())).sum()
    assert float(estimate.detach()) == pytest.approx(float(exact.detach()))
    slopes = [torch.autograd.grad(v, logits, retain_graph=True)[0] for v in (estimate, exact)]
    torch.testing.assert_close(slopes[0], slopes[1])
    with pytest.raises(ValueError, match="k4"):
        kl_estimate(new, new, "k4")


def test_the_divergence_is_reported_even_where_the_ratio_vanishes():
    terms = token_terms(torch.tensor([-200.0]), torch.tensor([0.0]), torch.tensor([1.0]), Objective())
    assert float(terms.ratio) == 0.0
    assert float(terms.kl) == 200.0


def test_segment_mean_leaves_empty_sequences_out():
    values = segment_mean(tensor(1.0, 3.0, 5.0), torch.tensor([0, 0, 2]), 3)
    assert values.tolist() == [2.0, 2.0, 5.0]


def test_kl_estimates_by_hand():
    new, ref = tensor(-1.0, -0.5, -20.0), tensor(-1.5, -0.5, -1.0)
    assert kl_estimate(new, ref, "k1").tolist() == [0.5, 0.0, -19.0]
    assert kl_estimate(new, ref, "abs").tolist() == [0.5, 0.0, 19.0]
    assert kl_estimate(new, ref, "mse").tolist() == [0.125, 0.0, 180.5]
    k3 = [math.exp(-0.5) + 0.5 - 1, 0.0, math.exp(19.0) - 19 - 1]
    assert kl_estimate(new, ref, "k3").tolist() == pytest.approx(k3)
    assert kl_estimate(new, ref, "k3_clamped").tolist() == pytest.approx([k3[0], 0.0, 10.0])


def test_k3_is_an_unbiased_estimate_of_the_divergence():
    policy, reference = tensor(0.7, 0.2, 0.1), tensor(0.2, 0.5, 0.3)
    exact = float((policy * (policy / reference).log()).sum())
    for kind in ("k1", "k3"):
        assert float((policy * kl_estimate(policy.log(), reference.log(), kind)).sum()) == pytest.approx(exact)


def test_token_weights_by_hand():
    lengths = torch.tensor([1, 3, 0])
    assert token_weights(lengths, "token", 8, 5).tolist() == [1 / 8] * 4
    assert token_weights(lengths, "sequence", 8, 5).tolist() == pytest.approx([1 / 5] + [1 / 15] * 3)
    assert token_weights(torch.tensor([0]), "token", 0, 1).tolist() == []


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.sampled_from(["token", "sequence"]))
def test_weights_of_a_whole_step_sum_to_one(lengths, average):
    weights = token_weights(torch.tensor(lengths), average, sum(lengths), len(lengths))
    assert float(weights.sum()) == pytest.approx(1.0)
    assert len(weights) == sum(lengths)


def test_the_loss_is_the_weighted_sum_of_clipped_term_and_kl():
    terms = token_terms(tensor(0.0, 0.0), None, tensor(2.0, -1.0), Objective())
    weights, kl = tensor(0.5, 0.25), tensor(4.0, 8.0)
    assert float(weighted_loss(terms, weights)) == pytest.approx(-0.75)
    assert float(weighted_loss(terms, weights, kl, kl_coefficient=0.1)) == pytest.approx(-0.75 + 0.4)
