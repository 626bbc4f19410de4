"""The estimate: sizes read off networks, what moves it, the advice; and what autograd really keeps."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import pytest
import torch

from visurf.config import Config, LoraConfig, ModelConfig, ObjectiveConfig, RolloutConfig, load_config, parse_overrides
from visurf.config.settings import ServersConfig
from visurf.doctor.at_hand import look
from visurf.doctor.estimates import Machine, check_resources, machine_for, work_of
from visurf.doctor.lengths import Lengths
from visurf.doctor.memory import MIB, _activations, _head, estimate, trained_parameters
from visurf.doctor.remedies import ADAPTERS, remedies
from visurf.doctor.shape import shape_of
from visurf.doctor.timing import device_named, processor_rate, step_time
from visurf.doctor.work import Precision, Work, precision_of
from visurf.models import FAMILIES
from visurf.packing import Bundle, Scored, build_row, plan
from visurf.speed.contenders import Visurf
from visurf.speed.shapes import SHAPES
from visurf.speed.workloads import workload_for

RESULTS = Path(__file__).parents[1] / "bench" / "results" / "memory-estimate.json"
WORK = Work(prompts=16, prompt=1024, patches=3600, completion=512, label=64, rollouts=8)


def published(name, **values):
    config = Config(model=ModelConfig(path=f"Qwen/{name}-Instruct", **values))
    at_hand = look(config.model)
    return config, shape_of(at_hand.network, at_hand.family.vision_module, config.model.lora), at_hand


def test_a_published_shape_is_read_off_a_hollow_network():
    _, shape, _ = published("Qwen2.5-VL-7B")
    assert (shape.hidden, shape.intermediate, shape.layers, shape.queries, shape.keys) == (3584, 18944, 28, 3584, 512)
    assert (shape.vision_hidden, shape.vision_intermediate, shape.vision_layers, shape.vision_gated) == (1280, 3420, 32, True)
    assert shape.embedding_parameters == shape.head_parameters == 152064 * 3584


@pytest.mark.parametrize("family", FAMILIES)
def test_every_familys_tower_is_understood(family, family_models):
    network = family_models[family][0].network
    shape = shape_of(network, FAMILIES[family].vision_module, LoraConfig(rank=4))
    assert (shape.hidden, shape.vision_hidden) == (64, 32)
    assert shape.vision_layers == 2
    assert shape.vision_intermediate == 64
    assert shape.vision_gated is (family == "qwen2_5_vl")
    assert shape.normed_heads is (family == "qwen3_vl")
    assert shape.adapters == 14  # seven layers of two blocks


def test_states_are_what_is_trained():
    config, shape, _ = published("Qwen2.5-VL-3B")
    found = estimate(shape, WORK, config, Precision(gpu=True, mixed=True))
    assert found.training["weights"] == 4 * shape.parameters
    assert found.training["moments"] == 8 * shape.parameters
    assert found.training["gradients"] == 4 * shape.parameters
    frozen = dataclasses.replace(config, model=dataclasses.replace(config.model, freeze_vision=True))
    assert trained_parameters(shape, frozen) == shape.parameters - shape.vision_parameters
    adapted, with_adapters, _ = published("Qwen2.5-VL-3B", lora=LoraConfig(rank=16))
    precision = precision_of(adapted, gpu=True)
    assert precision == Precision(2, 4, mixed=False, gpu=True)
    assert estimate(with_adapters, WORK, adapted, precision).training["weights"] == 2 * shape.parameters
    assert trained_parameters(with_adapters, adapted) == 16 * with_adapters.adapted
    kl = dataclasses.replace(config, objective=ObjectiveConfig(kl=0.04))
    assert estimate(shape, WORK, kl, Precision()).training["reference"] == 4 * shape.parameters


def test_settings_move_the_estimate_the_right_way():
    config, shape, _ = published("Qwen2.5-VL-3B")

    def peak(work=WORK, **values):
        return estimate(shape, work, dataclasses.replace(config, **values), Precision(gpu=True, mixed=True)).peak

    base = peak()
    assert peak(tokens_per_microbatch=6000) < base
    assert peak(model=dataclasses.replace(config.model, gradient_checkpointing=True)) < 0.9 * base
    assert peak(model=dataclasses.replace(config.model, freeze_vision=True)) < base
    assert peak(dataclasses.replace(WORK, prompt=1300, patches=4500)) > base
    sampling = estimate(shape, WORK, config, Precision(gpu=True)).sampling
    fewer = dataclasses.replace(config, rollout=RolloutConfig(token_budget=8192))
    assert estimate(shape, WORK, fewer, Precision(gpu=True)).sampling["keys of rollouts"] < sampling["keys of rollouts"]
    assert not estimate(shape, dataclasses.replace(WORK, rollouts=0), config, Precision(gpu=True)).sampling


@pytest.mark.parametrize(("checkpointing", "frozen"), [(False, False), (True, False), (False, True)])
def test_activations_are_those_that_autograd_keeps(checkpointing, frozen):
    """Counted by hooks on a packed row through the real policy, storage by storage."""
    side = Visurf(SHAPES["tiny"], workload_for("tiny"), torch.device("cpu"), 4096)
    network = side.policy.network
    settings = ModelConfig(gradient_checkpointing=checkpointing, freeze_vision=frozen)
    shape = shape_of(network, side.model.family.vision_module, LoraConfig())
    if checkpointing:
        network.gradient_checkpointing_enable({"use_reentrant": False})
    if frozen:
        network.get_submodule(side.model.family.vision_module).requires_grad_(False)
    side.policy.train()
    prompts = side.prompts(0)
    bundles = [
        Bundle(p, tuple(Scored(c.token_ids, 9 * i + j) for j, c in enumerate(g.completions)))
        for i, (p, g) in enumerate(zip(prompts, side.replayed(prompts), strict=True))
    ]
    (chosen,) = plan(bundles, 4096)
    row = build_row(chosen, side.model.family, "cpu")
    own = {p.untyped_storage().data_ptr() for p in side.policy.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        side.policy(row)
    patches = sum(len(p.tensors["pixel_values"]) for p in prompts)
    config = Config(model=settings)
    expected, _ = _activations(shape, row.length, patches, config, Precision())
    pixels = sum(p.tensors["pixel_values"].numel() * 4 for p in prompts)
    # Of the head's copies one stays until the backward pass.
    expected += _head(shape, len(row.targets), Precision()) / 4 + (0 if frozen else pixels)
    assert sum(kept.values()) / MIB == pytest.approx(expected / MIB, rel=0.12)


def test_the_advice_makes_it_fit():
    config, shape, _ = published("Qwen2.5-VL-3B")
    whole = estimate(shape, WORK, config, Precision(gpu=True, mixed=True)).peak
    small = remedies(shape, WORK, config, 0.99 * whole, gpu=True)
    assert small.startswith("tokens_per_microbatch=")
    assert "lora" in remedies(shape, WORK, config, 2.2e10, gpu=True)
    assert "fsdp2" in remedies(shape, WORK, config, 1e9, gpu=True)


def test_a_quantised_base_is_smaller_by_what_its_layers_lose():
    config, shape, _ = published("Qwen2.5-VL-7B", lora=LoraConfig(rank=64))
    four = dataclasses.replace(config, model=ModelConfig(path=config.model.path, lora=LoraConfig(rank=64, quantize="4bit")))
    precision = precision_of(four, gpu=True)
    plain, held = (estimate(shape, WORK, c, precision).training for c in (config, four))
    quantised = 28 * (2 * 3584 * 3584 + 2 * 512 * 3584 + 3 * 3584 * 18944)
    assert plain["weights"] - held["weights"] == pytest.approx(quantised * (2 - 0.5159), rel=1e-3)
    assert {n: v for n, v in plain.items() if n not in ("weights", "passing values")}.items() <= held.items()
    assert held["passing values"] >= plain["passing values"]
    device = device_named("H100")[1]
    times = [step_time(shape, WORK, c, precision, device) for c in (config, four)]
    assert times[1].decode > times[0].decode
    assert times[1].train > times[0].train


def test_states_are_shared_out_and_offloaded():
    config, shape, _ = published("Qwen2.5-VL-7B", gradient_checkpointing=True)
    precision = precision_of(config, gpu=True)
    shared = dataclasses.replace(config, parallel="fsdp2")
    one, four = (estimate(shape, WORK, shared, precision, n) for n in (1, 4))
    assert one == estimate(shape, WORK, config, precision, 4)  # ddp: each is whole
    for name in ("weights", "moments"):
        assert four.training[name] == one.training[name] / 4
    assert four.sampling["gathered layers"] == 2 * shape.parameters
    layerwise = dataclasses.replace(shared, rollout=RolloutConfig(whole_model=False))
    assert estimate(shape, WORK, layerwise, precision, 4).sampling["gathered layers"] < shape.parameters
    off = dataclasses.replace(layerwise, model=dataclasses.replace(config.model, offload=True))
    found = estimate(shape, WORK, off, precision, 4)
    assert found.training["weights"] == found.training["moments"] == found.training["gradients"] == 0
    assert found.peak < estimate(shape, WORK, layerwise, precision, 4).peak
    assert found.host["parts of the model"] == 4 * shape.parameters  # a quarter of 16 bytes each
    frozen = dataclasses.replace(off, model=dataclasses.replace(off.model, freeze_vision=True))
    assert estimate(shape, WORK, frozen, precision, 4).training["weights"] == 4 * shape.vision_parameters


def test_quantising_and_offloading_are_proposed_where_they_help():
    config, shape, _ = published("Qwen2.5-VL-7B", lora=LoraConfig(rank=16), gradient_checkpointing=True)
    small = Work(prompts=1, prompt=700, patches=2116, completion=128, label=64, rollouts=8)
    plain = estimate(shape, small, config, precision_of(config, gpu=True)).peak
    assert remedies(shape, small, config, 0.7 * plain, gpu=True) == "model.lora.quantize=4bit"
    assert "quantize" not in remedies(shape, small, config, 0.5 * plain, gpu=False)
    served = dataclasses.replace(config, rollout=RolloutConfig(engine="vllm", servers=ServersConfig(push="file")))
    assert "quantize" not in remedies(shape, small, served, 0.5 * plain, gpu=True)
    whole, whole_shape, _ = published("Qwen2.5-VL-7B")
    assert f"{ADAPTERS} model.lora.quantize=4bit" in remedies(whole_shape, small, whole, 1.3e10, gpu=True)
    full, shape, _ = published("Qwen2.5-VL-7B", gradient_checkpointing=True)
    full = dataclasses.replace(full, parallel="fsdp2")
    peak = estimate(shape, small, full, precision_of(full, gpu=True), 2).peak
    advice = remedies(shape, small, full, 0.5 * peak, gpu=True, processes=2)
    assert advice == "model.offload=true rollout.whole_model=false"
    load_config(None, parse_overrides(["parallel=fsdp2", *advice.split()]))


def test_the_table_of_released_models_is_up_to_date():
    script = RESULTS.parents[2] / "docs" / "generate_memory_table.py"
    spec = importlib.util.spec_from_file_location("generate_memory_table", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = script.with_name("memory.md").read_text().partition(module.BEGIN)[2].partition(module.END)[0].strip()
    assert found == module.tables().strip(), "run: python docs/generate_memory_table.py --write"
    rows = [line for line in found.splitlines() if line.startswith("| Qwen")]
    assert len(rows) == len(module.SETTINGS) * len(module.MODELS) * len(module.METHODS)
    assert all(line.endswith("| estimated by `visurf check` |") for line in rows)


def test_what_does_not_fit_is_an_error_and_what_fits_is_not(monkeypatch):
    monkeypatch.setattr("visurf.doctor.estimates.room_for", lambda out: (out, 10**12))  # the disk has a test of its own
    config, _, at_hand = published("Qwen2.5-VL-7B")
    lengths = [Lengths(1100, 900, 40, 3600, 4_000_000)]
    device = device_named("NVIDIA H100 80GB HBM3")
    gpu = Machine("H100", 80e9, 64e9, gpu=True, device=device[1])
    section = check_resources(config, at_hand, lengths, gpu, (100, 10**6))
    assert [f.level for f in section.findings] == ["error"]
    assert "lora" in section.findings[0].remedy
    adapted = dataclasses.replace(
        config, model=dataclasses.replace(config.model, lora=LoraConfig(rank=64), gradient_checkpointing=True)
    )
    assert check_resources(adapted, at_hand, lengths, gpu, (100, 10**6)).findings == []
    little = dataclasses.replace(gpu, host=1e9)
    assert [f.level for f in check_resources(adapted, at_hand, lengths, little, (100, 10**6)).findings] == ["warning"]
    nowhere = Machine("a GPU", None, None, gpu=True, device=None)
    said = check_resources(adapted, at_hand, [], nowhere, (0, 0))
    assert "one GPU of" in said.facts["smallest usual GPU"]
    assert len(said.not_made) == 2  # assumed lengths, unknown rates


def test_longest_for_memory_and_typical_for_time():
    lengths = [Lengths(n, n // 2, n // 10, 4 * n, 100) for n in (100, 200, 900)]
    longest, typical = (work_of(Config(), lengths, longest=value) for value in (True, False))
    assert (longest.prompt, longest.patches, longest.label) == (900, 3600, 90)
    assert (typical.prompt, typical.patches, typical.label) == (200, 800, 20)
    assert work_of(Config(paradigm="sft"), lengths, longest=True).rollouts == 0
    assert work_of(Config(paradigm="rlvr"), lengths, longest=True).label == 0


def test_time_scales_with_the_device_and_the_work():
    config, shape, _ = published("Qwen2.5-VL-3B")
    fast, slow = (device_named(name)[1] for name in ("H100", "L40S"))
    times = [step_time(shape, WORK, config, Precision(gpu=True, mixed=True), d) for d in (fast, slow)]
    assert times[0].total < times[1].total
    more = step_time(shape, dataclasses.replace(WORK, prompts=32), config, Precision(gpu=True, mixed=True), fast)
    assert more.train == pytest.approx(2 * times[0].train)
    assert step_time(shape, dataclasses.replace(WORK, rollouts=0), config, Precision(gpu=True), fast).decode == 0
    assert processor_rate(0.02).flops > 1e8


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match="H100"):
        machine_for("Abacus", 1, 1)
    assert machine_for("A100-SXM4-40GB", 1, 1).bytes == 40e9


def test_the_committed_measurements_are_within_their_bound():
    rows = json.loads(RESULTS.read_text())["rows"]
    assert len(rows) >= 8
    assert all(abs(row["estimated"] / row["measured"] - 1) <= 0.15 for row in rows)
