"""The last layer's feed-forward part sees only the tokens whose output is read."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from test_packing import TEMPERATURE
from tiny import make_prompt, make_tokens
from visurf.attention.unread import part_left_out, skip_unread
from visurf.models import FAMILIES, load_model
from visurf.packing import Bundle, Scored, build_row
from visurf.policy import Policy
from visurf.rollout.local import Sampling, sample, stream

SHARING = [name for name in FAMILIES if not FAMILIES[name].unshared]
LENGTHS = (5, 3)


class Counter:
    """Rows that each call of the last layer's feed-forward part, and of the one before it, was given."""

    def __init__(self, network):
        self.last, self.other = [], []
        *_, before, last = network.get_decoder().layers
        for layer, seen in ((before, self.other), (last, self.last)):
            linear = next(m for m in layer.mlp.modules() if isinstance(m, nn.Linear))
            linear.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0].shape[1]))


def a_row(model):
    sequences = tuple(Scored(make_tokens(model, n), i) for i, n in enumerate(LENGTHS))
    bundles = [Bundle(make_prompt(model), sequences), Bundle(make_prompt(model, 1, 0, 4), (Scored(make_tokens(model, 1), 2),))]
    return build_row(bundles, model.family, "cpu")


@pytest.mark.parametrize("family", SHARING)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_only_what_is_read_is_computed_in_the_last_layer(family_checkpoints, family, checkpointing):
    model = load_model(family_checkpoints[family])
    if checkpointing:
        model.network.gradient_checkpointing_enable({"use_reentrant": False})
    model.network.train()
    counter, row = Counter(model.network), a_row(model)
    # Two last tokens of prompts, and all tokens of completions but their own last.
    read = 2 + sum(n - 1 for n in LENGTHS)
    assert row.length > read + 4
    policy = Policy(model.network, temperature=TEMPERATURE, banned=model.banned_ids)
    policy(row).sum().backward()
    assert counter.last == [read] * (1 + checkpointing)
    assert counter.other == [row.length] * (1 + checkpointing)
    assert part_left_out(model.network) is model.network.get_decoder().layers[-1].mlp


@pytest.mark.parametrize("family", SHARING)
def test_a_prompt_that_is_only_sampled_from_is_read_at_its_end(family_checkpoints, family):
    model = load_model(family_checkpoints[family])
    counter = Counter(model.network)
    prompts = [make_prompt(model), make_prompt(model, 1, 0, 4)]
    policy = Policy(model.network, temperature=TEMPERATURE, banned=model.banned_ids)
    streams = [[stream(5, i, j) for j in range(2)] for i in range(2)]
    sample(policy, model.family, prompts, 2, Sampling(max_tokens=3), model.eos_ids, streams)
    assert counter.last[0] == 2
    assert counter.other[0] == sum(len(p.token_ids) for p in prompts)
    assert counter.last[1:] == counter.other[1:]  # decoding


def test_the_plain_forward_computes_everything(family_checkpoints):
    model = load_model(family_checkpoints["qwen2_5_vl"])
    counter = Counter(model.network)
    model.network(input_ids=torch.tensor([[5, 6, 7, 8]]))
    assert counter.last == counter.other == [4]


def test_copies_of_a_network_stay_apart(family_checkpoints):
    model = load_model(family_checkpoints["qwen2_5_vl"])
    twin, row = copy.deepcopy(model.network), a_row(model)
    hooks = [next(iter(n.get_decoder().layers[-1].mlp._forward_hooks.values())).__self__ for n in (model.network, twin)]
    assert hooks[0] is not hooks[1]
    policies = [Policy(n, temperature=TEMPERATURE, banned=model.banned_ids) for n in (model.network, twin)]
    assert torch.equal(*(p(row) for p in policies))
    # Whoever leaves the layout out in the middle of a pass does not disturb the next one.
    hooks[1].at = torch.tensor([0])
    assert torch.equal(*(p(row) for p in policies))


def test_a_mixture_of_experts_is_left_alone():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.weights = nn.Linear(4, 2), nn.Parameter(torch.ones(2, 4))

    layer = nn.Module()
    layer.mlp, layer.self_attn = Experts(), nn.Identity()
    network = SimpleNamespace(get_decoder=lambda: SimpleNamespace(layers=[layer]))
    skip_unread(network)
    assert part_left_out(network) is None
    assert not layer.self_attn._forward_pre_hooks
    assert not layer.mlp._forward_hooks
