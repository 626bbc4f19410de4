"""Every family through whole runs: each paradigm, adapters, a frozen vision tower, resume, and the model that is left."""

import json
import math

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from tiny import make_prompt
from visurf.config import load_config, merge
from visurf.models import FAMILIES, load_model
from visurf.packing import Bundle, Scored, build_row
from visurf.precision import autocast
from visurf.preparation import frozen_policy
from visurf.rollout.local import Sampling, sample
from visurf.training import evaluate, train

EVERY = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Photographs of different sizes; the second prompt has two, the third names nothing."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for index, sizes in enumerate([[(200, 120)], [(90, 160), (40, 30)], [(320, 240)]]):
        names = [f"{index}-{n}.png" for n in range(len(sizes))]
        for name, size in zip(names, sizes, strict=True):
            Image.effect_noise(size, 80).convert("RGB").save(folder / name)
        boxes = [] if index == 2 else [[5, 6, sizes[0][0] / 2, sizes[0][1] - 7]]
        rows.append({"id": index, "image": names, "question": f"every thing {index}", "target": boxes})
    file = folder / "data.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return file


def config_of(path, data, out, **changes):
    settings = {
        "model": {"path": str(path)},
        "data": {"train": str(data)},
        "rollout": {"group_size": 3, "max_tokens": 6},
        "reward": {"functions": {"length": f"{__file__}:length"}},
        "optimizer": {"lr": 1e-3},
        "prompts_per_step": 3,
        "steps": 1,
        "out": str(out),
        "threads": 1,
    }
    return load_config(None, merge(settings, changes))


def length(completion, sample):
    """Something that differs between rollouts of a random model, so that there is a gradient."""
    return float(sum(completion.token_ids) % 7)


def finite_rows(out):
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert all(math.isfinite(v) for row in rows for v in row.values() if isinstance(v, float))
    return rows


@EVERY
@pytest.mark.parametrize("paradigm", ["sft", "rlvr", "visurf", "sft_then_rlvr"])
def test_every_paradigm_takes_a_step(family_checkpoints, data, tmp_path, family, paradigm):
    steps = 2 if paradigm == "sft_then_rlvr" else 1
    result = train(config_of(family_checkpoints[family], data, tmp_path / "run", paradigm=paradigm, steps=steps))
    rows = finite_rows(tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(1, steps + 1))
    assert all(row["policy/grad_norm"] > 0 for row in rows)
    before = load_file(family_checkpoints[family] / "model.safetensors")
    after = load_file(result.model / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert any("visual" in n or "vision" in n for n in changed), "the vision tower is trained"
    assert len(changed) > 0.8 * len(before)


@EVERY
def test_adapters_and_a_frozen_vision_tower(family_checkpoints, data, tmp_path, family):
    """Adapters train alone and leave a merged model; freezing keeps the tower bit for bit; both evaluate afterwards."""
    folder = family_checkpoints[family]
    before = AutoModelForImageTextToText.from_pretrained(folder)
    tower = FAMILIES[family].vision_module
    for name, changes in (("lora", {"lora": {"rank": 2}}), ("frozen", {"freeze_vision": True})):
        result = train(config_of(folder, data, tmp_path / name, paradigm="visurf", model=changes))
        finite_rows(tmp_path / name)
        after = AutoModelForImageTextToText.from_pretrained(result.model).state_dict()
        changed = {n for n, value in before.state_dict().items() if not torch.equal(value, after[n])}
        assert changed
        assert not [n for n in changed if n.startswith(f"{tower}.")]
        if name == "lora":
            assert all(n.endswith("_proj.weight") for n in changed)
        else:
            assert any("embed_tokens" in n for n in changed)
    settings = {"model": {"path": str(result.model)}, "data": {"validation": str(data)}, "rollout": {"max_tokens": 6}}
    assert evaluate(load_config(None, settings))["samples"] == 3


@EVERY
def test_a_checkpoint_is_gone_on_from_bit_for_bit(family_checkpoints, data, tmp_path, family):
    """One step and then another equals two steps at once: every weight came back under its own name."""
    folder = family_checkpoints[family]
    whole = train(config_of(folder, data, tmp_path / "whole", steps=2))
    train(config_of(folder, data, tmp_path / "parts", steps=1))
    parts = train(config_of(folder, data, tmp_path / "parts", steps=2))
    first, second = (load_file(r.model / "model.safetensors") for r in (whole, parts))
    assert first.keys() == second.keys()
    assert [n for n in first if not torch.equal(first[n], second[n])] == []
    started = load_file(folder / "model.safetensors")
    assert sum(not torch.equal(first[n], started[n]) for n in first) > 0.8 * len(first)


@EVERY
@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_mixed_precision_scores_a_row_and_samples(family_checkpoints, family, dtype):
    """As on a GPU: parameters in float32, and a model that is only asked in bfloat16."""
    config = load_config(None, {"model": {"autocast": "on", "dtype": dtype, "path": str(family_checkpoints[family])}})
    model, policy = frozen_policy(config, config.model.path)
    assert {p.dtype for p in policy.parameters()} == {torch.bfloat16 if dtype == "auto" else torch.float32}
    prompt = make_prompt(model, 0)
    row = build_row([Bundle(prompt, (Scored(model.encode_completion("red is there"), 0),))], model.family, "cpu")
    with autocast(config, torch.device("cpu")), torch.no_grad():
        logprobs = policy(row)
        (rollouts,) = sample(policy, model.family, [prompt], 1, Sampling(4, greedy=True), model.eos_ids)
    assert logprobs.dtype == torch.float32
    assert bool(logprobs.isfinite().all())
    assert len(rollouts[0].token_ids) > 0


def test_image_features_of_smolvlm_have_the_type_of_its_embeddings(family_checkpoints):
    """transformers 5.17 puts them among the embeddings as they are."""
    network = load_model(family_checkpoints["smolvlm"]).network
    size = network.config.vision_config.hidden_size
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert network.model.connector(torch.zeros(1, 16, size)).dtype == torch.float32
