"""Families from outside the package: the file of docs/adding-a-family.md, one that cannot share prompts, and broken promises."""

import dataclasses
import json
import math
import re
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image
from tokenizers import processors
from transformers import AutoConfig

from naive import gradients, load_plain, naive_logprobs, worst
from test_packing import TEMPERATURE, assert_equal, both_ways, bundles_of
from tiny import make_prompt, picture, widen
from visurf.config import load_config
from visurf.models import FAMILIES, load_model
from visurf.models.family import Family
from visurf.models.loading import check_sharing, family_of
from visurf.models.random_architectures import Architecture
from visurf.models.random_checkpoint import write_checkpoint
from visurf.packing import Bundle, build_row, plan
from visurf.policy import Policy
from visurf.rollout.local import Sampling, sample, stream
from visurf.training import train
from visurf.types import ImageRef, Objects, Sample

PAGE = Path(__file__).parents[1] / "docs" / "adding-a-family.md"


def mistral(ids):
    text = {"model_type": "mistral", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "sliding_window": None}
    vision = {"model_type": "pixtral", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 2, "head_dim": 16, "image_size": 64, "patch_size": 8}
    return {
        "text_config": text,
        "vision_config": vision,
        "image_token_index": ids("[IMG]"),
        "vision_feature_layer": -1,
        "spatial_merge_size": 2,
    }


MISTRAL3 = Architecture(
    model_type="mistral3",
    config=mistral,
    special=("<pad>", "<s>", "</s>", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"),
    end="</s>",
    chat_template=(
        "<s>{% for message in messages %}{% if message['role'] == 'user' %}[INST]{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}[IMG]{% else %}{{ part['text'] }}{% endif %}{% endfor %}[/INST]{% else %}"
        "{{ message['content'][0]['text'] }}</s>{% endif %}{% endfor %}"
    ),
    image_processor=("pixtral.image_processing_pil_pixtral", "PixtralImageProcessorPil", {"size": {"longest_edge": 64}}),
)


@pytest.fixture(scope="module")
def blocks():
    """The page's code, block by block."""
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def outside(tmp_path_factory, blocks):
    """(reference of the page's family, folder of a tiny random checkpoint of it)."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "mistral3.py").write_text("\n\n".join(blocks))
    write_checkpoint(f"{__file__}:MISTRAL3", folder / "model")
    network = load_plain(folder / "model")
    widen(network)
    network.save_pretrained(folder / "model")
    return f"{folder / 'mistral3.py'}:MISTRAL3", folder / "model"


def test_the_pages_family_writes_rows_of_features(outside):
    """Transformers' own processor for it cannot be imported without torchvision, so the text is written out here."""
    reference, folder = outside
    model = load_model(folder, family=reference)
    pictures = (picture(0, 60, 90), picture(1, 30, 16))
    prompt = model.encode_prompt(Sample("s", pictures, "find it", Objects()), "find it")
    # 60 x 90 is scaled to 42 x 64 and rounded up to squares of 16; 30 x 16 becomes 32 x 16.
    tall = "[IMG][IMG][IMG][IMG_BREAK]" * 3 + "[IMG][IMG][IMG][IMG_END]"
    assert model.tokenizer.decode(prompt.token_ids) == f"<s>[INST]{tall}[IMG][IMG][IMG_END]find it[/INST]"
    assert prompt.tensors["image_sizes"].tolist() == [[64, 48], [16, 32]]
    assert model.encode_completion("a dog")[-1] == model.tokenizer.convert_tokens_to_ids("</s>")


@pytest.mark.parametrize("written", [True, False])
def test_a_text_is_opened_once(outside, written):
    """By the chat template, or by the tokenizer where the template leaves it out."""
    reference, folder = outside
    model = load_model(folder, family=reference)
    model.tokenizer.bos_token = "<s>"
    opening = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", model.tokenizer.bos_token_id)])
    model.tokenizer.backend_tokenizer.post_processor = opening
    if not written:
        model.tokenizer.chat_template = model.tokenizer.chat_template.removeprefix("<s>")
    prompt = model.encode_prompt(Sample("s", (), "find it", Objects()), "find it")
    assert model.tokenizer.decode(prompt.token_ids) == "<s>[INST]find it[/INST]"
    assert model.tokenizer.bos_token_id not in model.encode_completion("a dog")


def test_the_pages_family_is_exact(outside):
    reference, folder = outside
    model, plain = load_model(folder, family=reference), load_plain(folder)
    # In the plain batch all images of all rows stand in one tensor; equal sizes need no padding there.
    for shapes in ([(1, 3, [5, 2, 0])], [(0, 3, [4]), (0, 2, [1, 1])]):
        assert_equal(*both_ways(model, plain, shapes, 10_000))
    bundles, _ = bundles_of(model, [(1, 3, [5, 2]), (2, 2, [3]), (1, 1, [4])])
    policy = Policy(model.network, temperature=1.0, banned=model.banned_ids)
    with torch.no_grad():
        together = policy(build_row(bundles, model.family, "cpu"))
        alone = torch.cat([policy(build_row([b], model.family, "cpu")) for b in bundles])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def recipe(tmp_path, folder, family, **changes):
    rows = []
    for index, size in enumerate([(90, 60), (40, 100)]):
        picture(index, *size).load().save(tmp_path / f"{index}.png")
        target = {"boxes": [[5, 6, 30, 40]]} if index else []
        rows.append({"id": index, "image": f"{index}.png", "question": f"thing {index}", "target": target})
    (tmp_path / "data.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return load_config(
        None,
        {
            "model": {"path": str(folder), "family": family},
            "data": {"train": str(tmp_path / "data.jsonl")},
            "rollout": {"group_size": 2, "max_tokens": 6},
            "optimizer": {"lr": 1e-3},
            "prompts_per_step": 2,
            "steps": 1,
            "out": str(tmp_path / "run"),
            "threads": 1,
            **changes,
        },
    )


def test_the_pages_family_trains_and_keeps_its_limits(outside, tmp_path):
    reference, folder = outside
    result = train(recipe(tmp_path, folder, reference))
    assert result.metrics["policy/grad_norm"] > 0
    assert all(math.isfinite(v) for v in result.metrics.values() if isinstance(v, float))
    assert type(load_plain(result.model)).__name__ == "Mistral3ForConditionalGeneration"
    prompt = load_model(folder, family=reference, max_pixels=32 * 32).encode_prompt(
        Sample("s", (ImageRef(Image.new("RGB", (90, 60))),), "x", Objects()), "x"
    )
    assert prompt.tensors["image_sizes"].tolist() == [[32, 32]]
    with pytest.raises(ValueError, match="never enlarges"):
        load_model(folder, family=reference, min_pixels=9)


def test_the_page_names_every_field():
    fields = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)
    assert sorted(fields) == sorted(f.name for f in dataclasses.fields(Family))


def test_an_unknown_architecture_is_told_what_a_family_needs(outside):
    with pytest.raises(ValueError, match=r"'mistral3'.*qwen2_5_vl.*coordinates.*docs/adding-a-family\.md.*model\.family="):
        family_of("mistral3")
    with pytest.raises(ValueError, match="no model family for model_type 'mistral3'"):
        load_model(outside[1])


@pytest.fixture(scope="module")
def lonely(tmp_path_factory):
    """A family of a file that says it cannot share prompts, although its network is Qwen2.5-VL."""
    file = tmp_path_factory.mktemp("lonely") / "lonely.py"
    file.write_text(
        "from dataclasses import replace\nfrom visurf.models import FAMILIES\n"
        "LONELY = replace(FAMILIES['qwen2_5_vl'], name='lonely', unshared='its layers look both ways')\n"
        "INTERN = replace(FAMILIES['internvl'], name='intern', unshared='its layers look both ways')\n"
    )
    return f"{file}:LONELY", f"{file}:INTERN"


def quietly(folder, family):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_model(folder, family=family)


@pytest.mark.parametrize("which", [0, 1], ids=["three axes", "one axis"])
def test_an_unshared_family_is_exact_one_sequence_a_row(family_models, family_checkpoints, lonely, which):
    name = ("qwen2_5_vl", "internvl")[which]
    plain = family_models[name][1]
    model = quietly(family_checkpoints[name], lonely[which])
    bundles, _ = bundles_of(model, [(1, 3, [5, 2]), (0, 2, [4]), (2, 1, [3, 3])])
    rows = [build_row(r, model.family, "cpu") for r in plan(bundles, 10_000, shared=False)]
    assert [r.numbers for r in rows] == [[0], [1], [2], [3], [4]]
    assert all("visurf_layout" not in r.inputs for r in rows)
    policy = Policy(model.network, temperature=TEMPERATURE, banned=model.banned_ids)
    found = [policy(r) for r in rows]
    pairs = [(b.prompt, s.token_ids) for b in bundles for s in b.sequences]
    expected = naive_logprobs(plain, pairs, temperature=TEMPERATURE, banned=model.banned_ids)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
    for module, values in ((model.network, found), (plain, expected)):
        module.zero_grad(set_to_none=True)
        sum((i + 1) * v.sum() for i, v in enumerate(values)).backward()
    difference, tensor = worst(gradients(model.network), gradients(plain))
    assert difference < 1e-4, tensor
    plain.zero_grad(set_to_none=True)
    with pytest.raises(ValueError, match="one sequence"):
        build_row(bundles, model.family, "cpu")


@pytest.mark.parametrize("which", [0, 1], ids=["three axes", "one axis"])
def test_an_unshared_familys_rollouts_are_those_of_the_shared_one(family_models, family_checkpoints, lonely, which):
    name = ("qwen2_5_vl", "internvl")[which]
    shared, _ = family_models[name]
    model = quietly(family_checkpoints[name], lonely[which])
    prompts = [make_prompt(shared, i, i, 3) for i in range(3)]
    # An end that comes often: rollouts of one prompt end at different steps.
    ends = (*model.eos_ids, *range(300, 400))

    def rollouts(of, **settings):
        streams = [[stream(5, i, j) for j in range(3)] for i in range(3)]
        policy = Policy(of.network, temperature=TEMPERATURE, banned=of.banned_ids)
        return sample(policy, of.family, prompts, 3, Sampling(max_tokens=7, **settings), ends, streams)

    for settings in ({}, {"greedy": True}, {"top_p": 0.8}):
        mine, theirs = rollouts(model, **settings), rollouts(shared, **settings)
        assert [[(r.token_ids, r.truncated) for r in g] for g in mine] == [[(r.token_ids, r.truncated) for r in g] for g in theirs]
        for a, b in zip((r for g in mine for r in g), (r for g in theirs for r in g), strict=True):
            torch.testing.assert_close(torch.tensor(a.logprobs), torch.tensor(b.logprobs), atol=1e-5, rtol=1e-5)
    lengths = {len(r.token_ids) for g in rollouts(model) for r in g}
    assert len(lengths) > 1
    assert any(r.truncated for g in rollouts(model) for r in g) or max(lengths) < 7


def test_an_unshared_family_trains_and_says_what_it_costs(family_checkpoints, lonely, tmp_path):
    folder = family_checkpoints["qwen2_5_vl"]
    with pytest.warns(UserWarning, match=r"'lonely' cannot share prompts: its layers look both ways.*group_size times") as seen:
        alone = train(recipe(tmp_path, folder, lonely[0], paradigm="sft"))
    assert len([w for w in seen if "cannot share" in str(w.message)]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shared = train(recipe(tmp_path, folder, "", paradigm="sft", out=str(tmp_path / "shared")))
    for name in ("loss", "label/nll", "policy/grad_norm"):
        assert alone.metrics[name] == pytest.approx(shared.metrics[name], rel=1e-4)


def test_a_family_that_promises_to_share_and_does_not_is_stopped(family_checkpoints):
    """An outside network that never asks transformers' attention interface."""
    model = load_model(family_checkpoints["internvl"])
    model.network.set_attn_implementation("eager")
    bundles, _ = bundles_of(model, [(1, 3, [5, 2])])
    with pytest.raises(RuntimeError, match="layout reached 0 of 2 layers"):
        Policy(model.network, temperature=1.0, banned=())(build_row(bundles, model.family, "cpu"))


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8}, "sliding_attention"),
        ({"layer_types": ["linear_attention", "full_attention"]}, "linear_attention"),
        ({"layer_types": None, "sliding_window": 8}, "sliding_attention"),
        ({"attn_logit_softcapping": 50.0}, "soft-capped"),
    ],
)
def test_a_text_model_that_cannot_share_is_refused_when_loaded(family_checkpoints, changes, kind):
    config = AutoConfig.from_pretrained(family_checkpoints["internvl"])
    check_sharing(FAMILIES["internvl"], config)
    for name, value in changes.items():
        setattr(config.get_text_config(), name, value)
    with pytest.raises(ValueError, match=f"'internvl' shares prompts.*{kind}.*unshared"):
        check_sharing(FAMILIES["internvl"], config)


def test_a_prompt_alone_makes_a_row_for_an_unshared_family(family_models, lonely, family_checkpoints):
    model = quietly(family_checkpoints["internvl"], lonely[1])
    row = build_row([Bundle(make_prompt(model), ())], model.family, "cpu")
    assert not row.shared
    assert row.numbers == []
