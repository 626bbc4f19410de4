"""Prompts of different lengths, and rollouts of them that draw the same numbers in any batch."""

import pytest
import torch

from tiny import make_prompt
from visurf.policy import Policy
from visurf.rollout.local import Sampling, sample, stream

SHAPES = ((1, 3), (0, 1), (2, 5), (1, 4))


def prompts_of(model, shapes=SHAPES):
    return [make_prompt(model, seed, images, words) for seed, (images, words) in enumerate(shapes)]


def policy_of(model, temperature=1.0):
    return Policy(model.network, temperature=temperature, banned=model.banned_ids).eval()


def streams_of(prompts, members, seed=0):
    return [[stream(seed, p.sample.id, j) for j in range(members)] for p in prompts]


def draw(model, prompts, members, max_tokens=12, *, seed=0, temperature=1.0, policy=None, **settings):
    """Sample with one stream per prompt and rollout, so that the same rollout draws the same numbers in any batch."""
    sampling = Sampling(max_tokens, **settings)
    policy = policy or policy_of(model, temperature)
    return sample(policy, model.family, prompts, members, sampling, model.eos_ids, streams_of(prompts, members, seed))


def bias_head(model, biases):
    """Give the network a head with a bias on some tokens."""
    old = model.network.lm_head
    head = torch.nn.Linear(old.in_features, old.out_features)
    with torch.no_grad():
        head.weight.copy_(old.weight)
        head.bias.zero_()
        for token, bias in biases.items():
            head.bias[token] = bias
    model.network.lm_head = head
    return model


def close(first, second):
    """The same tokens, and log-probs up to kernel rounding."""
    assert first.token_ids == second.token_ids
    assert first.truncated == second.truncated
    assert first.logprobs == pytest.approx(second.logprobs, abs=2e-5)
