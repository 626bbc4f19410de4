"""The reward controls, each alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visurf.control import eliminate, smooth, total
from visurf.types import Score

TOTALS = st.lists(st.floats(0, 7), min_size=1, max_size=8)


@given(TOTALS, st.floats(0, 7))
def test_smoothing_fires_exactly_where_a_rollout_reaches_the_label(rollouts, label):
    reward, fired = smooth(rollouts, label)
    assert fired is (max(rollouts) >= label)
    assert reward == pytest.approx(sum(rollouts) / len(rollouts) if fired else label)


def test_a_tie_smooths():
    assert smooth([6.0, 0.0], 6.0) == (3.0, True)
    assert smooth([5.999, 0.0], 6.0) == (6.0, False)


def test_without_rollouts_there_is_nothing_to_smooth():
    assert smooth([], 0.0) == (0.0, False)


def test_accuracy_may_decide_and_the_total_still_replaces():
    """A rollout of equal accuracy but lower total smooths under `accuracy` only, and the other way round."""
    assert smooth([4.0, 2.0], 6.0, ([3.0, 1.0], 3.0)) == (3.0, True)
    assert smooth([4.0, 2.0], 6.0) == (6.0, False)
    assert smooth([6.5, 2.0], 6.0, ([2.0, 1.0], 3.0)) == (6.0, False)
    assert smooth([6.5, 2.0], 6.0) == (4.25, True)


def test_eliminate_pays_thinking_nothing_or_in_full():
    score = Score({"thinking_format": 0.0, "answer_format": 2.0, "extra": None}, 2.0)
    weights = {"thinking_format": 0.5, "answer_format": 2.0}
    on = eliminate(score, {"thinking_format": 1.0}, weights, on=True)
    off = eliminate(score, {"thinking_format": 1.0}, weights, on=False)
    assert (on.parts["thinking_format"], on.total) == (0.0, 4.0)
    assert (off.parts["thinking_format"], off.total) == (1.0, 4.5)
    assert on.parts["extra"] is None
    assert score.total == 2.0


def test_eliminate_takes_back_what_a_part_paid():
    score = Score({"thinking_format": 1.0, "accuracy": 3.0}, 4.0)
    assert eliminate(score, {"thinking_format": 1.0}, {}, on=True).total == 3.0


def test_total_weighs_and_leaves_out_what_abstained():
    assert total({"a": 1.0, "b": 2.0, "c": None}, {"b": 0.5}) == 2.0
    assert total({}, {}) == 0.0
