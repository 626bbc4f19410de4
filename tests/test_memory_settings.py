"""Quantised bases and offloaded states: what is asked for, what is refused. Nothing here ran on a GPU."""

import dataclasses
import warnings

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy

from tiny import MIN_PIXELS, make_tokens, picture
from visurf import exporting, preparation, sharding
from visurf.config import Config, ConfigError, LoraConfig, ModelConfig, RolloutConfig, load_config
from visurf.config.limits import check_processes
from visurf.config.settings import ServersConfig
from visurf.doctor.at_hand import look
from visurf.doctor.examination import Choices, examine
from visurf.models import FAMILIES, load_model
from visurf.models.quantization import check_quantization, dtype_of, is_quantized, left_whole, quantization_config
from visurf.packing import Bundle, Scored, build_row
from visurf.preparation import add_adapters, make_placement
from visurf.rollout.transfer import merged
from visurf.training import train
from visurf.types import Objects, Sample

QUANTIZED = LoraConfig(rank=4, quantize="4bit")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model": {"lora": {"quantize": "4bit"}}}, "set model.lora.rank"),
        (
            {"model": {"lora": {"quantize": "4bit", "rank": 4}}, "rollout": {"engine": "vllm", "servers": {"push": "file"}}},
            "push=adapter",
        ),
        ({"model": {"offload": True}}, "needs parallel=fsdp2"),
        ({"model": {"lora": {"quantize": "3bit", "rank": 4}}}, "4bit"),
    ],
)
def test_what_cannot_work_is_refused_with_a_remedy(values, said):
    with pytest.raises(ConfigError, match=said):
        load_config(None, values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model": {"lora": {"quantize": "8bit", "rank": 4}}}, "parallel=ddp"),
        ({"rollout": {"cuda_graphs": "on", "whole_model": False}}, "whole_model=true"),
        ({"rollout": {"engine": "vllm", "servers": {"push": "nccl"}}}, "parallel=ddp"),
    ],
)
def test_what_processes_that_share_the_model_out_cannot_do_is_refused_to_them_alone(values, said, tmp_path, monkeypatch):
    """The 7B recipes say parallel=fsdp2, which is to mean nothing to one process."""
    config = load_config("visurf/mathvista_7b", values | {"out": str(tmp_path / "run")})
    assert config.parallel == "fsdp2"
    check_processes(config, 1)
    check_processes(dataclasses.replace(config, parallel="ddp"), 2)
    for run in (lambda: check_processes(config, 2), lambda: examine("r", config, Choices(processes=2))):
        with pytest.raises(ConfigError, match=said):
            run()
    monkeypatch.setattr("visurf.parallel.start", lambda timeout: (0, 2))
    with pytest.raises(ConfigError, match=said):
        train(config)


def test_what_can_work_is_taken():
    Config(model=ModelConfig(lora=QUANTIZED), rollout=RolloutConfig(engine="vllm", servers=ServersConfig(push="auto")))
    assert load_config(None, {"model": {"offload": True}, "parallel": "fsdp2"}).model.offload


def test_without_a_gpu_or_the_library_it_is_refused_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(preparation, "load_model", None)
    with pytest.raises(ValueError, match=r"needs a CUDA device.*quantize: none"):
        preparation.prepare_model(Config(model=ModelConfig(lora=QUANTIZED)), "mini")
    monkeypatch.setattr("visurf.models.quantization.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[quantize\]'"):
        check_quantization("8bit", torch.device("cuda"))
    check_quantization("none", torch.device("cpu"))
    monkeypatch.setattr("visurf.models.quantization.find_spec", lambda name: object())
    check_quantization("4bit", torch.device("cuda"))


def test_the_configuration_is_that_of_qlora():
    hollow = look(ModelConfig(path="Qwen/Qwen2.5-VL-3B-Instruct")).network
    four, eight = (quantization_config(bits, hollow) for bits in ("4bit", "8bit"))
    assert four.load_in_4bit
    assert not four.load_in_8bit
    assert (four.bnb_4bit_quant_type, four.bnb_4bit_use_double_quant) == ("nf4", True)
    assert four.bnb_4bit_compute_dtype is torch.bfloat16
    assert eight.load_in_8bit
    assert not eight.load_in_4bit
    assert eight.llm_int8_skip_modules == four.llm_int8_skip_modules == left_whole(hollow)
    assert quantization_config("none", hollow) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_the_language_models_layers_are_quantised_and_nothing_else(family, family_models):
    """By the very function with which transformers decides it."""
    from transformers.quantizers.quantizers_utils import should_convert_module

    network, tower = family_models[family][0].network, FAMILIES[family].vision_module
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    converted = [name for name in linear if should_convert_module(name, left_whole(network))]
    assert len(converted) == 14  # seven layers of two blocks
    assert {name.rpartition(".")[2] for name in converted} == set(LoraConfig().targets)
    assert not any(name.startswith(f"{tower}.") for name in converted)
    assert "lm_head" not in converted


def test_a_quantised_base_is_trained_and_never_merged_silently(checkpoints, tmp_path):
    """On bitsandbytes' own CPU kernels, past the check that asks for a GPU."""
    pytest.importorskip("bitsandbytes")
    model = load_model(checkpoints["qwen2_5_vl"], dtype=torch.bfloat16, quantize="4bit", min_pixels=MIN_PIXELS)
    held = {name for name, module in model.network.named_modules() if type(module).__name__ == "Linear4bit"}
    assert len(held) == 14
    network = add_adapters(model.network, QUANTIZED, model.family.vision_module)
    assert is_quantized(network)
    assert dtype_of(model.network) is torch.bfloat16
    assert all(p.dtype.is_floating_point for p in network.parameters() if p.requires_grad)
    network.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    policy = preparation.Policy(network, temperature=1.0, banned=model.banned_ids)
    policy.train()
    prompt = model.encode_prompt(Sample("a", (picture(1, 32, 32),), "", Objects()), "find red")
    row = build_row([Bundle(prompt, (Scored(make_tokens(model, 5, 0), 0),))], model.family, "cpu")
    policy(row).sum().backward()
    assert all(bool(p.grad.any()) for name, p in network.named_parameters() if "lora_B" in name)
    with pytest.raises(ValueError, match="push=adapter"), merged(network):
        pass
    with pytest.warns(UserWarning, match="differs a little"):
        exporting.export(model, network, tmp_path / "model")
    whole = load_model(tmp_path / "model", dtype=torch.bfloat16)
    plain = load_model(checkpoints["qwen2_5_vl"], dtype=torch.bfloat16)
    for name, parameter in whole.network.named_parameters():
        # New adapters add nothing: what is merged are the weights before they were quantised.
        assert torch.equal(parameter, plain.network.get_parameter(name)), name


def test_plain_adapters_are_merged_without_a_word(tiny, tmp_path):
    network = add_adapters(tiny.network, LoraConfig(rank=2), tiny.family.vision_module)
    assert not is_quantized(network)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        exporting.export(tiny, network, tmp_path / "model")


def test_weights_are_put_back_bit_by_bit_after_adapters_were_merged(tiny):
    network = add_adapters(tiny.network, LoraConfig(rank=2), tiny.family.vision_module)
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    with merged(network):
        assert any(not torch.equal(p, before[name]) for name, p in network.named_parameters())
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())


@pytest.mark.parametrize("offload", [False, True])
def test_offloading_reaches_torch(offload, monkeypatch):
    class Reached(Exception):
        pass

    def fully_shard(module, **settings):
        raise Reached(settings["offload_policy"])

    model = load_model("mini")
    monkeypatch.setattr(preparation, "is_sharded", lambda config: True)
    monkeypatch.setattr(sharding, "fully_shard", fully_shard)
    monkeypatch.setattr(sharding, "init_device_mesh", lambda *_: None)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    config = Config(model=ModelConfig(offload=offload), parallel="fsdp2")
    policy = preparation.Policy(model.network, temperature=1.0, banned=model.banned_ids)
    with pytest.raises(Reached) as found:
        make_placement(config, policy, model)
    chosen = found.value.args[0]
    assert type(chosen) is (CPUOffloadPolicy if offload else OffloadPolicy)
    # Pinned memory needs a GPU.
    assert not offload or chosen.pin_memory is False


def test_one_process_cannot_offload(tiny):
    policy = preparation.Policy(tiny.network, temperature=1.0, banned=tiny.banned_ids)
    with pytest.raises(ConfigError, match="needs several processes"):
        make_placement(Config(model=ModelConfig(offload=True), parallel="fsdp2"), policy, tiny)
