"""What a step says it computed: against the parameters and tokens that really went through the network."""

import dataclasses

import pytest
import torch
from torch import nn

from naive import load_plain
from replay import make_loop, optimise, replayed, update_gradient
from visurf import accounting
from visurf.attention.unread import part_left_out
from visurf.config import ObjectiveConfig
from visurf.costs import Meter, patch_values
from visurf.mini.world import SHIFTED, referring_samples
from visurf.models import load_model
from visurf.paradigms import RLVR, SFT, VISURF
from visurf.policy import Policy
from visurf.rollout.local import Sampling, sample, stream


def test_training_is_counted_by_the_rows_that_were_packed(tiny):
    loop = make_loop(tiny, RLVR)
    prompts, groups = replayed(tiny)
    update_gradient(loop, prompts, groups)
    carried = [
        (p, [c for c, a in zip(g.completions, g.advantages, strict=True) if a]) for p, g in zip(prompts, groups, strict=True)
    ]
    assert loop.learner.meter.trained.tokens == sum(len(p.token_ids) + sum(len(c.token_ids) - 1 for c in cs) for p, cs in carried)
    assert loop.learner.meter.trained.predicted == sum(len(c.token_ids) for _, cs in carried for c in cs)
    # Qwen's processor brings one line of values for each patch.
    assert loop.learner.meter.trained.patches == sum(len(p.tensors["pixel_values"]) for p in prompts if p.tensors)


def test_the_flops_of_a_step_are_two_or_six_for_each_parameter_that_a_token_meets(tiny):
    loop = make_loop(tiny, SFT)
    samples = referring_samples(SHIFTED, 3, 1)
    metrics = loop.step(samples, 0, *optimise(loop))
    tower = sum(p.numel() for p in tiny.network.model.visual.parameters())
    head, embedding = tiny.network.lm_head.weight, tiny.network.get_input_embeddings().weight
    text = sum(p.numel() for p in tiny.network.parameters()) - tower - embedding.numel() - (head is not embedding) * head.numel()
    prompts = [tiny.encode_prompt(s, s.question) for s in samples]
    patches = sum(len(p.tensors["pixel_values"]) for p in prompts)
    predicted = sum(len(c.token_ids) for g in loop.groups for c in g.completions)
    # The last layer's feed-forward part sees of a prompt its last token only, and of a completion all tokens but its last.
    spared = sum(p.numel() for p in tiny.network.get_decoder().layers[-1].mlp.parameters())
    read = sum(1 + sum(len(c.token_ids) - 1 for c in g.completions) for g in loop.groups)
    through = (text - spared) * metrics["train/tokens"] + spared * read + head.numel() * predicted + tower * patches
    assert metrics["flops/train"] == 6.0 * through
    assert metrics["flops/sample"] == metrics["flops/score"] == 0
    assert "rate/mfu" not in metrics  # nobody knows what a CPU could do


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_onevision"])
def test_the_last_feed_forward_part_is_counted_by_the_tokens_that_it_was_given(family_checkpoints, family):
    model = load_model(family_checkpoints[family])
    part, given = model.network.get_decoder().layers[-1].mlp, []
    part.gate_proj.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0][..., 0].numel()))
    loop = make_loop(model, RLVR)
    prompts, groups = replayed(model)
    update_gradient(loop, prompts, groups)
    meter = loop.learner.meter
    assert meter.parameters.read == sum(p.numel() for p in part.parameters())
    assert 0 < meter.trained.read < meter.trained.tokens
    assert meter.trained.read == sum(given)
    given.clear()
    streams = [[stream(5, i, j) for j in range(2)] for i in range(len(prompts))]
    drawn = sample(loop.policy, model.family, prompts, 2, Sampling(max_tokens=3), model.eos_ids, streams)
    meter.sample(prompts, drawn, shared=True)
    assert len(prompts) < meter.sampled.read < meter.sampled.tokens
    assert meter.sampled.read == sum(given)


def test_where_every_token_passes_through_all_layers_nothing_is_counted_apart(family_checkpoints):
    plain, model = load_plain(family_checkpoints["qwen2_5_vl"]), load_model(family_checkpoints["qwen2_5_vl"])
    whole = accounting.count_parameters(plain, model.family.vision_module, part_left_out(plain))
    parts = Meter.of(model, model.network, torch.device("cpu")).parameters
    assert whole.read == 0 < parts.read
    assert whole == dataclasses.replace(parts, text=parts.text + parts.read, read=0)


def test_sampling_and_passes_without_gradient_are_counted_apart(tiny):
    loop = make_loop(tiny, VISURF, inner_steps=2, objective=ObjectiveConfig(kl=0.1))
    loop.learner.reference = Policy(tiny.network, temperature=1.0, banned=tiny.banned_ids)
    metrics = loop.step(referring_samples(SHIFTED, 2, 1), 0, *optimise(loop))
    assert metrics["flops/sample"] > 0
    # With a KL term every sequence enters: two updates of forward and backward against two forward passes.
    assert metrics["flops/train"] == pytest.approx(3 * metrics["flops/score"])
    assert loop.learner.meter.trained.tokens == loop.learner.meter.scored.tokens == loop.learner.meter.sampled.tokens == 0


def test_utilisation_is_that_of_the_training_part_on_a_known_device(tiny, monkeypatch):
    monkeypatch.setitem(accounting.DEVICES, "CPU", accounting.Device(1e12, 1e11, "test"))
    metrics = make_step(tiny)
    assert metrics["rate/mfu"] == pytest.approx(metrics["flops/train"] / metrics["time/train"] / 1e12)


def make_step(model):
    loop = make_loop(model, SFT)
    return loop.step(referring_samples(SHIFTED, 2, 1), 0, *optimise(loop))


def test_a_step_has_every_part_of_its_time(tiny):
    metrics = make_step(tiny)
    parts = {name for name in metrics if name.startswith("time/")} - {"time/step"}
    assert parts == {"time/encode", "time/rollout", "time/reward", "time/train", "time/other"}
    assert sum(metrics[p] for p in parts) == pytest.approx(metrics["time/step"])


def test_adapters_and_a_frozen_tower_cost_less(tiny):
    full = Meter.of(tiny, tiny.network, torch.device("cpu"))
    assert (full.adapters, full.vision_trained, full.device) == (False, True, "CPU")
    full.trained.tokens, full.trained.patches = 10, 4
    frozen = dataclasses.replace(full, trained=dataclasses.replace(full.trained), adapters=True, vision_trained=False)
    count = full.parameters
    assert full.take(1.0)["flops/train"] == 6.0 * (count.text * 10 + count.vision * 4)
    assert frozen.take(1.0)["flops/train"] == 4.0 * count.text * 10 + 2.0 * count.vision * 4


def test_a_run_adds_its_steps_up():
    rows = [
        {"train/tokens": 5, "flops/train": 2.0, "time/step": 0.5, "loss": 1.0},
        {"train/tokens": 7, "flops/train": 3.0, "time/step": 1.0},
    ]
    assert accounting.totals(rows) == {"train/tokens": 12, "flops/train": 5.0, "time/step": 1.5}
    assert accounting.totals([]) == {}


@pytest.mark.parametrize(("size", "frames", "values"), [(14, 2, 1176), ([16, 8], None, 384), (None, None, 0)])
def test_a_patch_is_measured_by_the_configuration(size, frames, values):
    vision = nn.Module()
    if size is not None:
        vision.patch_size = size
    if frames is not None:
        vision.temporal_patch_size = frames
    config = nn.Module()
    config.vision_config = vision
    assert patch_values(config) == values
