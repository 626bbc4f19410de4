"""Group advantages: hand-computed values and what must hold for any group."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visurf.advantages import group_advantages, is_flat, normalise_then_sum, split_advantages, spread
from visurf.control import smooth

REWARDS = st.lists(st.floats(-10, 10, allow_nan=False).map(lambda v: round(v, 3)), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("rewards", "options", "expected"),
    [
        ([1.0, 3.0], {"eps": 0.0}, [-math.sqrt(0.5), math.sqrt(0.5)]),
        ([1.0, 3.0], {"ddof": 0, "eps": 0.0}, [-1.0, 1.0]),
        ([0.0, 0.0, 3.0], {"ddof": 0, "eps": 0.0}, [-math.sqrt(0.5), -math.sqrt(0.5), math.sqrt(2.0)]),
        ([1.0, 3.0], {"ddof": 0, "eps": 1.0}, [-0.5, 0.5]),
        ([1.0, 3.0], {"scale": "none"}, [-1.0, 1.0]),
        ([1.0, 3.0], {"scale": "batch", "batch_std": 4.0, "eps": 0.0}, [-0.25, 0.25]),
        ([2.5], {}, [0.0]),
        ([7.0, 7.0, 7.0], {"eps": 0.0}, [0.0, 0.0, 0.0]),
    ],
)
def test_by_hand(rewards, options, expected):
    assert group_advantages(rewards, **options) == pytest.approx(expected, abs=1e-12)


def test_the_default_is_the_sample_deviation_with_a_small_constant():
    assert group_advantages([0.0, 1.0])[1] == pytest.approx(0.5 / (math.sqrt(0.5) + 1e-6), rel=1e-12)


@given(REWARDS)
def test_they_sum_to_zero_and_keep_the_order(rewards):
    advantages = group_advantages(rewards)
    assert sum(advantages) == pytest.approx(0, abs=1e-9)
    assert np.all(np.diff(np.array(advantages)[np.argsort(rewards)]) >= 0)


@given(REWARDS, st.randoms(use_true_random=False))
def test_permuting_a_group_permutes_them(rewards, random):
    order = list(range(len(rewards)))
    random.shuffle(order)
    shuffled = group_advantages([rewards[i] for i in order])
    assert shuffled == pytest.approx([group_advantages(rewards)[i] for i in order], abs=1e-9)


@given(REWARDS.filter(lambda r: not is_flat(r)), st.floats(0.1, 10), st.floats(-5, 5))
def test_shift_and_scale_of_rewards_change_nothing(rewards, factor, shift):
    moved = group_advantages([factor * r + shift for r in rewards], eps=0)
    assert moved == pytest.approx(group_advantages(rewards, eps=0), rel=1e-5, abs=1e-5)


@given(st.floats(-100, 100), st.integers(1, 9))
def test_a_flat_group_gets_exactly_zero(reward, size):
    assert group_advantages([reward] * size, eps=0) == (0.0,) * size


def test_rounding_does_not_make_a_flat_group():
    assert group_advantages([0.1 + 0.2, 0.3], eps=0) == (0.0, 0.0)
    assert is_flat([1e6, 1e6 + 1e-7])
    assert not is_flat([0.0, 1e-9])
    assert is_flat([3.0])


@given(REWARDS.filter(lambda r: len(r) > 1 and not is_flat(r)))
def test_a_smoothed_label_stretches_the_rollouts_by_a_known_factor(rewards):
    """The smoothed value joins the set: rlvr's advantages x sqrt(G / (G - 1)) at ddof 1 and eps 0."""
    label, fired = smooth(rewards, max(rewards))
    assert fired
    *stretched, of_label = group_advantages([*rewards, label], eps=0)
    size = len(rewards)
    expected = [a * math.sqrt(size / (size - 1)) for a in group_advantages(rewards, eps=0)]
    assert stretched == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert of_label == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("rewards", "options", "message"),
    [
        ([], {}, "at least one"),
        ([1.0, math.nan], {}, "finite"),
        ([math.inf, 1.0], {}, "finite"),
        ([1.0, 2.0], {"scale": "batch"}, "batch_std"),
    ],
)
def test_what_has_no_advantage_is_an_error(rewards, options, message):
    with pytest.raises(ValueError, match=message):
        group_advantages(rewards, **options)


def test_spread_by_hand():
    assert spread([1.0, 3.0]) == pytest.approx(math.sqrt(2))
    assert spread([1.0, 3.0], ddof=0) == 1.0
    assert spread([1.0]) == 0.0


def test_a_group_of_one_may_keep_its_reward():
    assert group_advantages([3.0], eps=0.5, single="reward") == (2.0,)
    assert group_advantages([3.0], single="zero") == (0.0,)
    assert group_advantages([3.0, 3.0], single="reward") == (0.0, 0.0)


def test_parts_are_normalised_before_they_are_summed():
    """A part with a hundredth of the other's spread counts as much; an abstaining row is in no mean."""
    parts = [[0.0, 0.01], [1.0, 0.0], [None, None], [0.0, 0.0], [1.0, 0.01], [5.0, None]]
    found = normalise_then_sum(parts, [1.0, 1.0], 3, eps=0.0)
    assert found[2] == 0.0
    assert found[0] == pytest.approx(found[1])
    assert sum(found) == pytest.approx(0.0, abs=1e-9)
    assert spread([f for i, f in enumerate(found) if i != 2]) == pytest.approx(1.0)
    assert normalise_then_sum([[None]], [1.0], 1) == [0.0]


def test_a_mixed_group_is_measured_against_its_own_members():
    found = split_advantages([0.0, 2.0, 5.0], [True, True, False], eps=0.0)
    assert found == pytest.approx([-math.sqrt(0.5), math.sqrt(0.5), 4 / math.sqrt(2)])
    assert split_advantages([0.0, 2.0, 5.0], [True, True, False], scale="none") == (-1.0, 1.0, 4.0)
    assert split_advantages([1.0, 1.0, 3.0], [True, True, False], eps=0.0) == (0.0, 0.0, 2.0)
    assert split_advantages([4.0, 1.0], [True, False], eps=0.0) == (4.0, 1.0)
    with pytest.raises(ValueError, match="on-policy"):
        split_advantages([1.0], [False])
