"""The small functions that tell paradigms apart, on two or three sequences by hand."""

import math

import numpy as np
import pytest
import torch

from visurf.mixing import (
    ForeignTokens,
    HintRequest,
    Moment,
    Outcome,
    add_to_hard,
    annealed,
    by_entropy,
    continued,
    gate,
    halves,
    imitate,
    imitate_solved,
    interpolate,
    most_uncertain,
    schedule,
    teach_each_hint_once,
    teach_hints,
    trusted,
    uncertain,
    where_needed,
)

D = torch.float64
# Two rollouts with their advantages, and the label.
BESIDE = Outcome((1.0, -1.0, 0.0), reached=(0.9, 0.2), hints=(0, 0), entropy=0.5)
MEMBER = Outcome((0.5, -1.0, 0.75), reached=(0.9, 0.2), hints=(0, 0), entropy=0.5)
NONE_RIGHT = Outcome((1.0, -1.0, 0.0), reached=(0.4, 0.2), hints=(0, 0))


def at(step=0, steps=10, **mixing):
    return Moment(step, steps, mixing)


def test_the_label_alone_is_imitated():
    found = imitate(Outcome((0.0,), reached=(), hints=()), at())
    assert (found.advantages, found.supervision) == ((0.0,), (1.0,))


def test_right_rollouts_alone_are_imitated():
    found = imitate_solved(BESIDE, at(success=0.5))
    assert (found.advantages, found.supervision) == ((1.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    assert imitate_solved(BESIDE, at(success=0.2)).advantages == (1.0, 1.0, 0.0)


def test_mu_rises_and_falls_by_half_a_cosine():
    settings = {"mu_peak": 0.9, "mu_valley": 0.05, "mu_warmup": 0, "mu_decay": 200}
    assert schedule(at(0, **settings)) == pytest.approx(0.9)
    assert schedule(at(50, **settings)) == pytest.approx(0.05 + 0.85 * (1 + math.sqrt(0.5)) / 2)
    assert schedule(at(100, **settings)) == pytest.approx(0.475)
    assert schedule(at(200, **settings)) == schedule(at(5000, **settings)) == 0.05
    assert schedule(at(0, mu_peak=0.3, mu_valley=0.1, mu_warmup=0, mu_decay=0)) == 0.1


def test_both_sides_are_interpolated_by_mu():
    found = interpolate(BESIDE, at(mu_peak=0.25, mu_valley=0.25, mu_warmup=0, mu_decay=1))
    assert (found.advantages, found.supervision) == ((0.75, -0.75, 0.0), (0.0, 0.0, 0.25))


def test_the_gate_chooses_one_side():
    settings = {"gate": 0.0, "success": 0.5, "supervision": 0.3}
    opened, closed = gate(BESIDE, at(**settings)), gate(NONE_RIGHT, at(**settings))
    assert (opened.advantages, opened.supervision) == ((1.0, -1.0, 0.0), (0.0, 0.0, 0.0))
    assert (closed.advantages, closed.supervision) == ((0.0, 0.0, 0.0), (0.0, 0.0, 0.3))
    assert gate(BESIDE, at(**settings | {"gate": 0.5})).supervision == (0.0, 0.0, 0.3), "the gate is inclusive"


def test_hard_prompts_get_their_label_beside_the_rollouts():
    settings = {"hard": 0.25, "success": 0.5, "supervision": 1.0}
    easy, hard = add_to_hard(BESIDE, at(**settings)), add_to_hard(NONE_RIGHT, at(**settings))
    assert easy.advantages == hard.advantages == (1.0, -1.0, 0.0)
    assert (easy.supervision, hard.supervision) == ((0.0, 0.0, 0.0), (0.0, 0.0, 1.0))


def test_entropy_weighs_label_and_right_rollouts_oppositely():
    found = by_entropy(MEMBER, at(supervision=0.5, right=0.1, wrong=1.0, success=0.5))
    assert found.advantages == pytest.approx((0.1 * math.exp(0.5), -1.0, 0.75)), "the label keeps its advantage"
    assert found.supervision == pytest.approx((0.0, 0.0, 0.5 * math.exp(-0.5)))


def test_hints_are_taught_and_a_shared_one_once():
    outcome = Outcome((1.0, 0.0, -1.0, 0.5), hints=(0, 3, 3, 6))
    assert teach_hints(outcome, at(supervision=0.001)).supervision == (0.0, 0.001, 0.001, 0.001)
    found = teach_each_hint_once(outcome, at(supervision=1.0))
    assert (found.advantages, found.supervision) == ((1.0, 0.0, -1.0, 0.5), (0.0, 0.5, 0.5, 1.0))


def tokens(*probabilities, member=None, entropy=None):
    member = torch.zeros(len(probabilities), dtype=torch.long) if member is None else torch.tensor(member)
    return ForeignTokens(torch.tensor(probabilities, dtype=D).log(), member, entropy)


def test_token_weights_by_hand():
    found = tokens(0.01, 0.1, 0.5, 1.0)
    assert uncertain(found, {}).tolist() == pytest.approx([0.0099, 0.09, 0.25, 0.0])
    assert trusted(found, {"alpha": 0.1}).tolist() == pytest.approx([0.1, 1.0, 1.0, 1.0])


def test_the_weight_of_a_token_is_the_discounted_likelihood_of_what_follows():
    # Sequence 4: p = .5, .2, .8; sequence 2: p = .1, .4. The weight of the last token is 1.
    found = continued(tokens(0.5, 0.2, 0.8, 0.1, 0.4, member=[4, 4, 4, 2, 2]), {"discount": 0.5, "floor": 0.0})
    expected = [0.2**0.5 * 0.8**0.25, 0.8**0.5, 1.0, 0.4**0.5, 1.0]
    assert found.tolist() == pytest.approx(expected)
    floored = continued(tokens(0.5, 0.2, 0.8, 0.1, 0.4, member=[4, 4, 4, 2, 2]), {"discount": 0.5, "floor": 0.65})
    assert floored.tolist() == pytest.approx([max(v, 0.65) for v in expected])


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 8, 13, 40])
def test_the_doubling_sum_equals_the_plain_one(length):
    generator = torch.Generator().manual_seed(length)
    logprobs = -torch.rand(2 * length + 3, generator=generator, dtype=D)
    member = torch.tensor([7] * length + [1] * 3 + [9] * length)
    found = continued(ForeignTokens(logprobs, member), {"discount": 0.9, "floor": 0.0})
    for t in range(len(member)):
        later = [0.9 ** (k - t) * float(logprobs[k]) for k in range(t + 1, len(member)) if member[k] == member[t]]
        assert float(found[t]) == pytest.approx(math.exp(sum(later)))


def test_the_most_uncertain_tokens_share_their_sequences_weight():
    entropy = torch.tensor([0.1, 0.9, 0.5, 0.3, 0.7, 0.2, 0.6], dtype=D)
    found = most_uncertain(tokens(*[0.5] * 7, member=[3, 3, 3, 3, 3, 0, 0], entropy=entropy), {"share": 0.4})
    # Two of five tokens, each 5 / 2; one of two (ceil of 0.8), 2 / 1.
    assert found.tolist() == pytest.approx([0.0, 2.5, 0.0, 0.0, 2.5, 0.0, 2.0])
    assert most_uncertain(tokens(0.5, 0.5, entropy=torch.zeros(2, dtype=D)), {"share": 1.0}).tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="entropies"):
        most_uncertain(tokens(0.5), {"share": 0.5})


class Fixed:
    """A generator whose binomial draws are their mean."""

    def binomial(self, n, p):
        self.p = p
        return round(n * p)


def request(step=0, steps=100, round=0, solved=(), length=11, random=None, **mixing):
    return HintRequest(round, solved, length, random or Fixed(), at(step, steps, **mixing))


def test_hints_shrink_with_the_steps_and_end():
    settings = {"hint_low": 0.05, "hint_high": 0.95, "hint_steps": 0.6}
    draws = Fixed()
    assert annealed(request(29, random=draws, **settings)) == 5, "half of the ten tokens before the label's end"
    assert draws.p == pytest.approx(0.5)
    assert annealed(request(0, random=draws, **settings)) > 5
    assert draws.p == pytest.approx(0.05 + 0.45 * (1 + math.cos(math.pi / 60)))
    assert annealed(request(60, **settings)) == annealed(request(99, **settings)) == 0
    lengths = {annealed(request(20, random=np.random.default_rng(s), **settings)) for s in range(50)}
    assert len(lengths) > 3, "the length is drawn"
    assert max(lengths) <= 10, "the label's end is never given"


def test_guidance_grows_while_too_few_rollouts_are_right():
    assert where_needed(request(round=0, length=20)) == 0
    assert where_needed(request(round=1, solved=(True, False, False, False), length=20)) == 5
    assert where_needed(request(round=1, solved=(True, True, False, False), length=20)) == 0
    assert where_needed(request(round=2, solved=(False,) * 3 + (True,) * 3, length=20)) == 10
    assert where_needed(request(round=2, solved=(False,) * 2 + (True,) * 4, length=20)) == 0
    assert where_needed(request(round=3, solved=(False,) + (True,) * 6, length=20)) == 20
    assert where_needed(request(round=3, solved=(True,) * 7, length=20)) == 0


@pytest.mark.parametrize("size", range(1, 20))
def test_rounds_hold_the_whole_group(size):
    assert sum(halves(size)) == size
    assert min(halves(size)) >= 1
    assert list(halves(size)) == sorted(halves(size), reverse=True)
