"""Rollouts that begin with a part of the label."""

import dataclasses

import numpy as np
import pytest
import torch

from replay import make_loop
from visurf.config import ObjectiveConfig, RolloutConfig
from visurf.geometry import Frame
from visurf.hinting import in_rounds, with_hint
from visurf.mini.world import SHIFTED, referring_samples
from visurf.mixing import Hints, Moment, all_at_once, halves, where_needed
from visurf.models.family import Prompt
from visurf.paradigms import TRAPO, UFT
from visurf.rollout.local import Rollout
from visurf.types import Completion, Group, Objects, Sample, Score

LABEL = Completion("", (1, 2, 3, 4, 5, 6, 7, 8), None, None, source="label")


class FakeSampler:
    """Writes 100, 101, ... after whatever it is given; right is what the test says."""

    def __init__(self, right):
        self.right, self.asked = iter(right), []

    def draw(self, prompts, number, first, members):
        self.asked.append((len(prompts), first, members, [p.token_ids[len(BASE.token_ids) :] for p in prompts]))
        return [[Rollout((100 + j,), (-0.5,), False) for j in range(first, first + members)] for _ in prompts]

    def complete(self, rollout, hint=()):
        return Completion("", (*hint, *rollout.token_ids), None, None, logprobs=rollout.logprobs, hint=len(hint))

    def solved(self, prompt, label, completion):
        return next(self.right)


BASE = Prompt(Sample("a", (), "", Objects()), (50, 51), torch.zeros(3, 2, dtype=torch.long), 2, {}, Frame((1.0, 1.0), (1, 1)))


def rounds(right, prompts=1, size=8):
    sampler, hints = FakeSampler(right), Hints(halves, where_needed)
    streams = [np.random.default_rng(i) for i in range(prompts)]
    found = in_rounds(sampler, hints, size, [BASE] * prompts, [LABEL] * prompts, streams, 3, Moment(0, 10, TRAPO.mixing))
    return sampler, found


def test_a_hint_continues_the_prompts_positions():
    found = with_hint(BASE, (7, 8, 9))
    assert found.token_ids == (50, 51, 7, 8, 9)
    assert found.position_ids.tolist() == [[0, 0, 2, 3, 4]] * 3
    assert found.next_position == 5


def test_a_policy_that_fails_is_guided_more_and_more():
    sampler, (found,) = rounds([False] * 7)
    assert [(members, hint) for _, _, members, (hint,) in sampler.asked] == [(4, ()), (2, (1, 2)), (1, (1, 2, 3, 4))]
    assert [c.hint for c in found] == [0, 0, 0, 0, 2, 2, 4, 8]
    assert found[5].token_ids == (1, 2, 105)
    assert found[7].token_ids == LABEL.token_ids, "the last is the label itself"
    assert found[7].logprobs == ()


def test_a_policy_that_succeeds_is_left_alone():
    sampler, (found,) = rounds([True] * 7)
    assert [c.hint for c in found] == [0] * 8
    assert [c.token_ids[-1] for c in found] == [100 + j for j in range(8)], "every rollout has its own number"
    assert [first for _, first, _, _ in sampler.asked] == [0, 4, 6, 7]


def test_prompts_are_guided_each_by_its_own_success():
    # Round by round: four rollouts of each prompt, then two, then one.
    right = [True] * 4 + [False] * 4 + [True] * 2 + [False] * 2 + [True] + [False]
    sampler, found = rounds(right, prompts=2)
    assert [c.hint for c in found[0]] == [0] * 8
    assert [c.hint for c in found[1]] == [0, 0, 0, 0, 2, 2, 4, 8]
    assert [asked for asked, *_ in sampler.asked] == [2, 2, 2, 1], "who was given the whole label is not sampled"


def test_the_log_probs_of_sampling_are_those_of_the_training_forward(mini):
    """The prompt with a hint behind it continues as the whole completion does."""
    paradigm = dataclasses.replace(UFT, hints=Hints(all_at_once, lambda request: 3))
    loop = make_loop(mini, paradigm, rollout=RolloutConfig(group_size=3, max_tokens=12))
    samples = referring_samples(SHIFTED, 2, 5)
    prompts = [mini.encode_prompt(s, s.question) for s in samples]
    labels = loop.labels(prompts)
    found = loop.sample(prompts, labels, 0, Moment(0, 10, loop.mixing))
    scores = (Score({}, 0.0),) * 3
    groups = [Group(s, tuple(c), scores, (1.0, 2.0, 3.0), (1.0,) * 3) for s, c in zip(samples, found, strict=True)]
    forward = loop.learner.logprobs(loop.policy, loop.learner.batch(prompts, groups))
    completions = [c for g in found for c in g]
    assert {c.hint for c in completions} == {3}
    for completion, label_ids, values in zip(completions, [y.token_ids for y in labels for _ in range(3)], forward, strict=True):
        assert completion.token_ids[:3] == label_ids[:3]
        assert len(completion.logprobs) == len(completion.token_ids) - 3
        torch.testing.assert_close(values[3:], torch.tensor(completion.logprobs), atol=2e-4, rtol=1e-4)


def test_rounds_draw_what_one_round_would(mini):
    """A rollout's random stream goes by its number in the group."""
    loop = make_loop(mini, UFT, rollout=RolloutConfig(group_size=3, max_tokens=8))
    prompts = [mini.encode_prompt(s, s.question) for s in referring_samples(SHIFTED, 2, 5)]
    whole = loop.draw(prompts, 4, 0, 3)
    parts = [a + b for a, b in zip(loop.draw(prompts, 4, 0, 1), loop.draw(prompts, 4, 1, 2), strict=True)]
    assert [[r.token_ids for r in g] for g in whole] == [[r.token_ids for r in g] for g in parts]
    assert len({r.token_ids for r in whole[0]}) > 1


@pytest.mark.parametrize("paradigm", [UFT, TRAPO])
def test_a_guided_step_is_the_same_step_again(mini, paradigm):
    loop = make_loop(mini, paradigm, rollout=RolloutConfig(group_size=4, max_tokens=24), objective=ObjectiveConfig(), steps=10)
    samples = referring_samples(SHIFTED, 3, 5)
    optimizer = torch.optim.SGD(loop.policy.parameters(), lr=0.0)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0, 1)
    first = loop.step(samples, 1, optimizer, schedule)
    groups = loop.groups
    again = loop.step(samples, 1, optimizer, schedule)
    assert [[c.token_ids for c in g.completions] for g in groups] == [[c.token_ids for c in g.completions] for g in loop.groups]
    assert first["loss"] == pytest.approx(again["loss"], rel=1e-5, abs=1e-8)
    assert first["rollout/hint"] == sum(c.hint for g in groups for c in g.completions) / 12 > 0
    assert first["label/nll"] > 0, "the hints are what is supervised"
    assert all(c.source == "policy" for g in groups for c in g.completions)
    mini.network.zero_grad(set_to_none=True)
    mini.network.eval()
