"""Every family: prompts as transformers' own processors write them, exact boundaries, frames, limits, and writing back."""

import dataclasses
import importlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

from naive import batch_tensors, load_plain
from tiny import make_prompt, make_tokens, picture
from visurf.config import ConfigError, load_config
from visurf.geometry import Frame
from visurf.models import FAMILIES, load_model, random_checkpoint, save_model
from visurf.models.random_architectures import ARCHITECTURES
from visurf.models.random_checkpoint import write_checkpoint
from visurf.preparation import prepare_model
from visurf.types import DataError, ImageRef, Objects, Sample

EVERY = pytest.mark.parametrize("family", FAMILIES)
PROCESSORS = {
    "qwen2_vl": "Qwen2VLProcessor",
    "qwen2_5_vl": "Qwen2_5_VLProcessor",
    "qwen3_vl": "Qwen3VLProcessor",
    "internvl": "InternVLProcessor",
    "smolvlm": "SmolVLMProcessor",
    "llava_onevision": "LlavaOnevisionProcessor",
}
# Width and height of a prompt's images: wide, tall, tiny, several of different sizes, none.
IMAGES = [[(60, 90)], [(200, 30), (40, 41)], [], [(7, 300)], [(1, 1)], [(20, 20), (30, 31), (90, 10)]]


def own_processor(family, model, folder, monkeypatch):
    """The family's processor of transformers, without the part for videos, which needs torchvision."""
    module = importlib.import_module(f"transformers.models.{family}.processing_{family}")
    if family == "smolvlm":
        monkeypatch.setattr(module, "num2words", object())  # asked for by the constructor, used for videos only
    base = getattr(module, PROCESSORS[family])

    class WithoutVideos(base):
        @classmethod
        def get_attributes(cls):
            return [name for name in super().get_attributes() if name != "video_processor"]

    file = folder / "processor_config.json"
    settings = {k: v for k, v in json.loads(file.read_text()).items() if k != "processor_class"} if file.is_file() else {}
    return WithoutVideos(image_processor=model.image_processor, tokenizer=model.tokenizer, video_processor=None, **settings)


def messages(images, text):
    return [{"role": "user", "content": [*({"type": "image"} for _ in images), {"type": "text", "text": text}]}]


def sample_of(images, text="find the dog"):
    pictures = tuple(ImageRef(picture(7 * i, w, h).load()) for i, (w, h) in enumerate(images))
    return Sample("s1", pictures, text, Objects())


def test_every_family_has_a_tiny_architecture():
    assert list(ARCHITECTURES) == list(FAMILIES)


@EVERY
@pytest.mark.parametrize("sizes", IMAGES, ids=str)
def test_a_prompt_is_what_the_own_processor_of_the_family_makes(family_models, family_checkpoints, family, sizes, monkeypatch):
    model, _ = family_models[family]
    processor = own_processor(family, model, family_checkpoints[family], monkeypatch)
    sample = sample_of(sizes)
    rendered = model.tokenizer.apply_chat_template(messages(sizes, sample.question), add_generation_prompt=True, tokenize=False)
    expected = processor(text=[rendered], images=[[i.load() for i in sample.images]] if sizes else None, return_tensors="pt")
    prompt = model.encode_prompt(sample, sample.question)
    assert list(prompt.token_ids) == expected["input_ids"][0].tolist()
    for name, tensor in prompt.tensors.items():
        assert torch.equal(tensor, expected[name].to(tensor.dtype)), name
    assert bool(prompt.tensors) == bool(sizes)
    assert prompt.position_ids.shape[1] == len(prompt.token_ids)
    assert prompt.next_position == int(prompt.position_ids.max()) + 1


@EVERY
@torch.no_grad()
def test_features_and_placeholders_agree_on_random_sizes(family_models, family):
    """The network itself raises where they do not; several prompts of different sizes in one row of tensors."""
    model, plain = family_models[family]
    rng = np.random.default_rng(3)
    prompts = []
    for count in (1, 0, 2, 1, 1, 3):
        sizes = [tuple(int(v) for v in rng.integers(1, 400, 2)) for _ in range(count)]
        sizes = [(w, h) if max(w, h) < 100 * min(w, h) else (w, w) for w, h in sizes]  # beyond 200:1 Qwen's processor refuses
        prompts.append(model.encode_prompt(sample_of(sizes), "?"))
    merged = model.family.merge_tensors([p.tensors for p in prompts])
    ids = torch.tensor([[t for p in prompts for t in p.token_ids]])
    kinds = {"mm_token_type_ids": ids.eq(model.image_id).int()} if hasattr(model.network.model, "get_rope_index") else {}
    together = model.network.model(input_ids=ids, use_cache=False, **merged, **kinds).last_hidden_state
    assert bool(together.isfinite().all())
    separate = batch_tensors(plain, prompts)
    assert sum(v.numel() for v in merged.values()) <= sum(v.numel() for v in separate.values())
    assert model.family.merge_tensors([{}, {}]) == {}


@EVERY
@pytest.mark.parametrize("text", ["<think>a dog</think>\n<answer>[]</answer>", '[{"bbox_2d": [1,2,3,4]}]', "7", "dog", "", " x "])
def test_prompt_and_completion_meet_exactly(family_models, family, text):
    """Tokens of prompt and completion, one after the other, are those of the whole conversation rendered at once."""
    model, _ = family_models[family]
    sample = sample_of([(60, 90)])
    prompt, completion = model.encode_prompt(sample, sample.question), model.encode_completion(text)
    assert model.decode(completion) == text
    asked = messages([1], sample.question)
    whole = model.tokenizer.apply_chat_template(
        [*asked, {"role": "assistant", "content": [{"type": "text", "text": text}]}], tokenize=False
    )
    encoded = model.family.encode_images(model.network, model.image_processor, [i.load() for i in sample.images])
    expanded = whole.replace(model.family.image_token, encoded.expansions[0])
    expected = model.tokenizer(expanded).input_ids
    joined = [*prompt.token_ids, *completion]
    assert joined == expected[: len(joined)]
    assert model.tokenizer.decode(expected[len(joined) :]).strip() == ""


def test_an_answer_opens_with_the_blank_that_the_template_writes(family_models):
    found = {name: model.opening for name, (model, _) in family_models.items()}
    assert found == {name: " " if name == "smolvlm" else "" for name in FAMILIES}
    model, _ = family_models["smolvlm"]
    assert model.tokenizer.decode(model.encode_completion("dog")) == " dog<end_of_utterance>"
    ids = model.tokenizer("dog").input_ids
    assert model.decode(ids) == "dog", "a policy that leaves the blank out is read as well"


@pytest.mark.parametrize(
    ("answered", "ended", "asked", "opening", "end"),
    [
        (":", "<|im_end|>\n", ":", "", "<|im_end|>"),
        (": ", "<|im_end|>", ":", " ", "<|im_end|>"),
        (":\n ", "", ":", "\n ", "<|endoftext|>"),
        (" \n", "<|im_end|>", "\n", "", "<|im_end|>"),  # the template contradicts itself: what it asks with counts
        (":x", "\n<|im_end|>", ":", "", "<|endoftext|>"),  # not a blank, and no token that ends a text
    ],
)
def test_how_a_template_opens_and_ends_an_answer(family_checkpoints, answered, ended, asked, opening, end):
    model = load_model(family_checkpoints["qwen3_vl"])
    model.tokenizer.eos_token = "<|endoftext|>"
    ends = model.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    model.network.generation_config.eos_token_id = ends
    model.tokenizer.chat_template = (
        f"{{% for m in messages %}}{{{{ m['role'] + {answered!r} + m['content'][0]['text'] + {ended!r} }}}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ 'assistant' + {asked!r} }}}}{{% endif %}}"
    )
    again = dataclasses.replace(model)
    assert again.opening == opening
    assert again.tokenizer.convert_ids_to_tokens(again.end_of_turn) == end
    assert again.encode_completion("dog")[-1] == again.end_of_turn


@EVERY
def test_coordinates_come_back_within_a_unit_of_the_frame(family_models, family):
    """Points and boxes of 1,000 random image sizes, from pixels to the family's frame and back."""
    model, _ = family_models[family]
    rng = np.random.default_rng(0)
    fixed = family != "qwen2_5_vl"  # its frame depends on the image, so every image is encoded, some large; of the others some
    for index in range(1000):
        bounds = (2, 5000) if fixed and index % 50 else (100, 5000) if index % 25 == 0 else (2, 200)
        width, height = (int(v) for v in rng.integers(*bounds, 2))
        frame = Frame((1000.0, 1000.0), (width, height))
        if not fixed or index % 50 == 0:
            encoded = model.encode_prompt(Sample("s", (ImageRef(Image.new("RGB", (width, height))),), "x", Objects()), "x").frame
            assert (encoded == frame) == fixed
            frame = encoded
        unit = frame.rounding_bound()
        x1, x2 = np.sort(rng.uniform(0, width, 2))
        y1, y2 = np.sort(rng.uniform(0, height, 2))
        point = frame.decode_point(frame.encode_point((x1, y1)))
        assert abs(point[0] - x1) <= unit[0] + 1e-9
        assert abs(point[1] - y1) <= unit[1] + 1e-9
        written = frame.encode_box((x1, y1, x2, y2))
        assert all(isinstance(v, int) for v in written)
        assert written[0] < written[2]
        assert written[1] < written[3]
        box = frame.decode_box(written)
        assert all(abs(a - b) <= unit[i % 2] + 1e-9 for i, (a, b) in enumerate(zip(box, (x1, y1, x2, y2), strict=True)))


def test_a_user_may_name_another_frame(family_checkpoints):
    settings = {"path": str(family_checkpoints["smolvlm"]), "frame": [100, 50]}
    model, _ = prepare_model(load_config(None, {"model": settings}), settings["path"])
    assert model.encode_prompt(sample_of([(60, 90)]), "x").frame == Frame((100.0, 50.0), (60, 90))
    with pytest.raises(ConfigError, match=r"model\.frame: expected more than 0"):
        load_config(None, {"model": {"frame": [100, 0]}})


@EVERY
def test_what_may_not_be_sampled(family_models, family):
    model, _ = family_models[family]
    names = set(model.tokenizer.convert_ids_to_tokens(list(model.banned_ids)))
    special = set(ARCHITECTURES[family].special)
    # Everything special but the padding and the end: <|vision_pad|> is text to every Qwen network.
    assert special - names == {ARCHITECTURES[family].special[0], ARCHITECTURES[family].end} | (special & {"<|vision_pad|>"})
    assert not set(model.eos_ids) & set(model.banned_ids)
    for token in names:
        with pytest.raises(DataError, match="reserved token"):
            model.encode_prompt(sample_of([(60, 90)]), f"find {token}")


@EVERY
def test_a_saved_model_loads_in_plain_transformers_bit_for_bit(family_models, family, tmp_path):
    model, plain = family_models[family]
    save_model(model, model.network, tmp_path)
    network, report = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert network.state_dict().keys() == plain.state_dict().keys()
    for name, value in plain.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name
    assert AutoConfig.from_pretrained(tmp_path).model_type == family
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == model.tokenizer.chat_template
    again = load_model(tmp_path)
    assert again.family is FAMILIES[family]
    assert again.image_processor.to_dict() == model.image_processor.to_dict()
    first, second = make_prompt(model, 1, 2), make_prompt(again, 1, 2)
    assert first.token_ids == second.token_ids
    assert all(torch.equal(first.tensors[n], second.tensors[n]) for n in first.tensors)
    assert again.decode(make_tokens(again, 5)) == model.decode(make_tokens(model, 5))
    kept = {f.name for f in tmp_path.iterdir()}
    assert ("processor_config.json" in kept) == bool(ARCHITECTURES[family].processor)


def test_files_of_a_hub_repository_are_kept_too(tmp_path):
    """In another process, since the hub's cache folder is read from the environment at import."""
    repository = tmp_path / "cache" / "models--someone--tiny"
    write_checkpoint("internvl", repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    code = (
        "import sys; from pathlib import Path; from visurf.models import load_model, save_model\n"
        "model = load_model('someone/tiny'); save_model(model, model.network, Path(sys.argv[1]))"
    )
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, str(tmp_path / "saved")]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert json.loads((tmp_path / "saved" / "processor_config.json").read_text())["image_seq_length"] == 4
    assert load_plain(tmp_path / "saved").config.image_seq_length == 4


def tokens_of(folder, sizes, **limits):
    return len(load_model(folder, **limits).encode_prompt(sample_of(sizes), "x").token_ids)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "internvl", "smolvlm"])
def test_an_upper_limit_of_pixels_shortens_prompts(family_checkpoints, family):
    folder = family_checkpoints[family]
    assert tokens_of(folder, [(300, 290)], max_pixels=56 * 56) < tokens_of(folder, [(300, 290)])


def test_limits_that_a_family_cannot_keep_are_refused(family_checkpoints):
    with pytest.raises(ValueError, match=r"leave model\.min_pixels unset"):
        load_model(family_checkpoints["smolvlm"], min_pixels=100)
    for limit in ("min_pixels", "max_pixels"):
        with pytest.raises(ValueError, match="image_grid_pinpoints"):
            load_model(family_checkpoints["llava_onevision"], **{limit: 100})
    with pytest.raises(ValueError, match="at least 2 and at most 1 tiles"):
        load_model(family_checkpoints["internvl"], min_pixels=2 * 56 * 56, max_pixels=56 * 56)
    assert tokens_of(family_checkpoints["internvl"], [(60, 60)], min_pixels=4 * 56 * 56) > tokens_of(
        family_checkpoints["internvl"], [(60, 60)]
    )


def test_a_random_checkpoint_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["random_checkpoint", "smolvlm", str(tmp_path / "m"), "--seed", "3"])
    random_checkpoint.main()
    model = load_model(tmp_path / "m")
    assert model.family.name == "smolvlm"
    assert len(model.encode_prompt(Sample("a", (ImageRef(Image.new("RGB", (50, 30))),), "x", Objects()), "x").token_ids) > 5
    with pytest.raises(ValueError, match="did you mean 'smolvlm'"):
        write_checkpoint("smolvl", tmp_path / "n")


def test_a_longer_prompt_by_the_setting_of_a_tiny_checkpoint(tmp_path):
    sizes = [(300, 290)]
    short, long = (tokens_of(write_checkpoint("qwen3_vl", tmp_path / str(m), max_pixels=m), sizes) for m in (64 * 64, 256 * 256))
    assert short < long
