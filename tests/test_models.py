"""Prompts, completions and frames of a loaded model, and writing it back."""

import json
import shutil
import stat

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoTokenizer

from tiny import MIN_PIXELS, make_prompt, make_tokens, picture
from visurf.models import FAMILIES, load_model, save_model
from visurf.models.loading import family_of
from visurf.types import DataError, Objects, Sample

KINDS = ("qwen2_5_vl", "qwen2_vl")


def sample_of(*images, question="find the red circle"):
    return Sample("s1", tuple(images), question, Objects())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("images", [0, 1, 2])
def test_every_image_has_a_placeholder_for_each_of_its_features(random_models, kind, images):
    model, _ = random_models[kind]
    prompt = make_prompt(model, 3, images, 2)
    count = prompt.token_ids.count(model.image_id)
    if not images:
        assert (count, dict(prompt.tensors)) == (0, {})
        return
    grids = prompt.tensors["image_grid_thw"]
    assert len(grids) == images
    assert count == int(grids.prod(-1).sum()) // 4
    assert prompt.position_ids.shape == (3, len(prompt.token_ids))
    assert prompt.next_position == int(prompt.position_ids.max()) + 1


def test_frames_are_those_of_the_families(random_models):
    """Pixels of the resized image for Qwen2.5-VL, thousandths for Qwen2-VL; the original size is the sample's."""
    image = picture(0, 50, 30)
    pixels = random_models["qwen2_5_vl"][0].encode_prompt(sample_of(image), "x").frame
    thousandths = random_models["qwen2_vl"][0].encode_prompt(sample_of(image), "x").frame
    assert pixels.extent == (48.0, 32.0)
    assert thousandths.extent == (1000.0, 1000.0)
    assert pixels.image_size == thousandths.image_size == (50, 30)


def test_completions_come_back_as_they_were(mini):
    text = '<think>red circle row 2 column 3</think><answer>[{"bbox_2d": [10,20,30,40], "point_2d": [20,30]}]</answer>'
    ids = mini.encode_completion(text)
    assert ids[-1] == mini.end_of_turn
    assert mini.decode(ids) == text
    assert mini.decode(ids[:-1]) == text, "a truncated completion has no end to leave out"
    assert mini.decode(()) == ""


@pytest.mark.parametrize("token", ["<|image_pad|>", "<|vision_start|>", "<|im_start|>", "<|video_pad|>"])
def test_reserved_tokens_in_a_question_are_refused(random_models, token):
    model, _ = random_models["qwen2_5_vl"]
    with pytest.raises(DataError, match="s1"):
        model.encode_prompt(sample_of(picture(0)), f"find {token}")


@pytest.mark.parametrize("token", ["<|image_pad|>", "<|vision_start|>", "<|im_end|>"])
def test_reserved_tokens_in_a_label_are_refused(random_models, token):
    model, _ = random_models["qwen2_5_vl"]
    with pytest.raises(DataError, match="label of s1"):
        model.encode_completion(f"<answer>{token}</answer>", "label of s1")


def test_a_chat_template_without_the_image_is_an_error(tiny):
    tiny.tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}{% endfor %}"
    with pytest.raises(DataError, match="chat template"):
        tiny.encode_prompt(sample_of(picture(0)), "x")


def test_what_may_not_be_sampled(random_models):
    for model, _ in random_models.values():
        names = set(model.tokenizer.convert_ids_to_tokens(list(model.banned_ids)))
        assert names >= {"<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|im_start|>"}
        assert model.end_of_turn in model.eos_ids
        assert not set(model.eos_ids) & set(model.banned_ids)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_loads_everywhere_and_is_the_same(random_models, kind, tmp_path):
    model, _ = random_models[kind]
    save_model(model, model.network, tmp_path)
    again = load_model(tmp_path, min_pixels=MIN_PIXELS)
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).get_vocab() == model.tokenizer.get_vocab()
    for name, value in model.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value), name
        assert torch.equal(plain.state_dict()[name], value), name
    assert make_prompt(again).token_ids == make_prompt(model).token_ids
    assert again.decode(make_tokens(again, 5)) == model.decode(make_tokens(model, 5))
    assert again.family is FAMILIES[kind]


def test_an_unknown_architecture_is_told_what_a_family_needs():
    with pytest.raises(ValueError, match=r"'llama'.*qwen2_5_vl.*coordinates"):
        family_of("llama")


def test_merging_keeps_prompts_in_order_and_skips_text():
    merge = FAMILIES["qwen2_5_vl"].merge_tensors
    parts = [{"pixel_values": torch.full((1, 2), float(i))} for i in (1, 2)]
    assert merge([parts[0], {}, parts[1]])["pixel_values"][:, 0].tolist() == [1.0, 2.0]
    assert merge([{}, {}]) == {}


STORED = {"min_pixels": 3136, "max_pixels": 12845056}
EDGES = {"shortest_edge": 3136, "longest_edge": 12845056}


@pytest.mark.parametrize(
    "layout",
    [{"size": EDGES}, STORED, {**STORED, "size": EDGES}, {"size": STORED}, {**STORED, "size": STORED}],
    ids=["size", "keys", "both", "old names in size", "keys and old names"],
)
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_limits_of_pixels_win_over_a_checkpoints_own_however_it_writes_them(family, layout, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"patch_size": 14, "merge_size": 2, **layout}))

    def limits(*given):
        processor = FAMILIES[family].load_image_processor(tmp_path, *given)
        return processor, (processor.size["shortest_edge"], processor.size["longest_edge"])

    assert limits(None, None)[1] == (3136, 12845056)
    assert limits(12544, None)[1] == (12544, 12845056)
    assert limits(None, 401408)[1] == (3136, 401408)
    processor, found = limits(12544, 401408)
    assert found == (12544, 401408)
    grid = processor(images=[Image.new("RGB", (1400, 1400)), Image.new("RGB", (28, 28))], return_tensors="pt")["image_grid_thw"]
    areas = grid.prod(-1) * 14 * 14
    assert areas[0] <= 401408
    assert areas[1] >= 12544
    processor.save_pretrained(tmp_path)
    assert limits(None, None)[1] == (12544, 401408)


def test_limits_of_pixels_are_saved_where_the_source_keeps_its_own_in_the_processors_file(checkpoints, tmp_path):
    shutil.copytree(checkpoints["qwen2_5_vl"], tmp_path / "source")
    preprocessor = tmp_path / "source" / "preprocessor_config.json"
    whole = {"processor_class": "Qwen2_5_VLProcessor", "image_processor": json.loads(preprocessor.read_text())}
    (tmp_path / "source" / "processor_config.json").write_text(json.dumps(whole))
    preprocessor.unlink()
    # As files in a store that several share; the superuser may write to them nevertheless, so the copy's mode is looked at.
    (tmp_path / "source" / "processor_config.json").chmod(0o444)
    model = load_model(tmp_path / "source", min_pixels=MIN_PIXELS, max_pixels=2 * MIN_PIXELS)
    save_model(model, model.network, tmp_path / "saved")
    size = load_model(tmp_path / "saved").image_processor.size
    assert (size["shortest_edge"], size["longest_edge"]) == (MIN_PIXELS, 2 * MIN_PIXELS)
    assert json.loads((tmp_path / "saved" / "processor_config.json").read_text()) == {"processor_class": "Qwen2_5_VLProcessor"}
    assert (tmp_path / "saved" / "processor_config.json").stat().st_mode & stat.S_IWUSR
