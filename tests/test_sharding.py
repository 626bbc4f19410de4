"""The policy shared out, in a group of one process: what several would need minutes for."""

import pytest
import torch
import torch.distributed as dist

from replay import make_loop, optimise
from tiny import make_prompt
from visurf.config import RolloutConfig
from visurf.mini.world import SHIFTED, referring_samples
from visurf.models.family import VisionLanguageModel
from visurf.models.loading import load_model
from visurf.monitor import Monitor
from visurf.packing import Bundle, Scored
from visurf.paradigms import SFT, VISURF
from visurf.policy import Policy
from visurf.replicas import Replicas
from visurf.sharding import Shards
from visurf.side_tasks import SideTask, side_scores


@pytest.fixture
def alone():
    """A process group of one."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def shared_out(model, **settings):
    policy = Policy(model.network, temperature=1.0, banned=model.banned_ids)
    return policy, Shards(policy, model, **{"half": False, "whole_model": True, **settings})


@pytest.mark.parametrize("family", ["internvl", "llava_onevision", "qwen2_5_vl", "smolvlm"])
def test_a_frozen_tower_feeds_layers_that_are_gathered_in_bfloat16(alone, family_checkpoints, family):
    model = load_model(family_checkpoints[family])
    tower = model.network.get_submodule(model.family.vision_module).requires_grad_(False)
    loaded = {name: p.detach().clone() for name, p in tower.named_parameters()}
    policy, shards = shared_out(model, half=True)
    # Idle rows: of a step, of a pass without gradient.
    shards.begin(0)
    shards.missing = 1
    shards.finish()
    assert all(float(p.grad.full_tensor().abs().max()) == 0 for p in shards.trained)
    with torch.no_grad():
        shards._missing = lambda rows: 1
        with shards.passes(policy, 0):
            pass
    assert shards.tower.dtype == torch.bfloat16
    written = shards.weights(model.network)
    for name, tensor in loaded.items():
        assert torch.equal(written[f"{model.family.vision_module}.{name}"], tensor), name


@pytest.mark.parametrize(("records", "wanted", "found"), [(True, "auto", "auto"), (False, "auto", "off"), (False, "on", "on")])
def test_steps_of_a_shared_out_model_are_recorded_only_where_asked(tiny, monkeypatch, records, wanted, found):
    loop = make_loop(tiny, VISURF, rollout=RolloutConfig(cuda_graphs=wanted, group_size=2, max_tokens=4))
    loop.placement.records = records
    seen = []
    monkeypatch.setattr("visurf.loop.sample", lambda *a: seen.append(a[4].cuda_graphs) or [[]])
    loop.draw([make_prompt(tiny, 0)], 0, 0, 2)
    monkeypatch.setattr("visurf.evaluation.records", lambda *a, **k: seen.append(a[5].cuda_graphs) or [])
    monitor = Monitor(loop.config, loop.scorer.task, [], 1, lambda event: None)
    monkeypatch.setattr("visurf.evaluation.write_records", lambda *a: None)
    monkeypatch.setattr("visurf.evaluation.summarise", lambda *a: {})
    monkeypatch.setattr(type(loop.scorer.task), "values", lambda task, records: {task.headline: 0.0})
    monitor.evaluate(loop)
    side = SideTask("s", [], loop.scorer, "")
    side_scores([side], loop.config, loop)
    assert seen == [found] * 3
    assert (Shards.records, Replicas.records) == (False, True)


def test_a_step_computes_where_the_placement_says_not_where_the_parameters_lie(tiny, monkeypatch):
    """With model.offload the parts lie in host memory and are gathered on the GPU."""
    loop = make_loop(tiny, SFT)
    update = optimise(loop)
    monkeypatch.setattr(VisionLanguageModel, "device", property(lambda model: pytest.fail("asked for the parameters' place")))
    assert loop.step(referring_samples(SHIFTED, 2, 1), 0, *update)["train/step_skipped"] == 0
    loop.placement.device = torch.device("meta")
    row = loop.learner.row([Bundle(make_prompt(tiny, 0), (Scored((5, 6), 0),))])
    assert row.targets.device.type == row.inputs["input_ids"].device.type == "meta"
