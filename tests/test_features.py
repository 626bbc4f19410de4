"""Vision features that are kept: the same network, the same gradients, fewer runs of the tower, bounded memory."""

import dataclasses
import inspect
import logging
import os

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

from naive import gradients, worst
from tiny import load_random, picture
from visurf.models import FAMILIES, load_model
from visurf.models.features import FeatureCache, compute_features, image_inputs, image_key
from visurf.packing import Bundle, Scored, build_row
from visurf.policy import Policy
from visurf.rollout.local import Sampling, sample, stream
from visurf.types import DataError, ImageRef, Objects, Sample

EVERY = pytest.mark.parametrize("family", FAMILIES)
TAKES_FEATURES = "mm_encoder_outputs" in inspect.signature(Qwen2_5_VLModel.forward).parameters
NEEDED = pytest.mark.skipif(not TAKES_FEATURES, reason="this version of transformers takes pixels only")
MEBIBYTE = 1 << 20
# Sizes of each prompt's images: one, none, several of different sizes, one again.
IMAGES = ([(60, 90)], [], [(40, 41), (90, 30)], [(33, 20)])


def sample_of(name, sizes):
    pictures = tuple(ImageRef(picture(len(name) + 7 * i, w, h).load()) for i, (w, h) in enumerate(sizes))
    return Sample(name, pictures, "find the dog", Objects())


def samples():
    return [sample_of("x" * (i + 1), sizes) for i, sizes in enumerate(IMAGES)]


def encode(model, several):
    return [model.encode_prompt(s, s.question) for s in several]


def frozen(folder, limit=MEBIBYTE):
    """A model whose tower is not trained, with a cache."""
    model = load_model(folder)
    model.network.requires_grad_(False)
    model.network.get_decoder().requires_grad_(True)
    model.features = FeatureCache(limit)
    return model


def tower_runs(model, monkeypatch):
    """Count the runs of the tower."""
    runs = []
    tower = model.network.get_submodule(model.family.vision_module)
    forward = tower.forward
    monkeypatch.setattr(tower, "forward", lambda *a, **k: (runs.append(1), forward(*a, **k))[1])
    return runs


def row_of(model, prompts):
    bundles = [
        Bundle(p, tuple(Scored(make_tokens_of(model, 3 + i + j), 2 * i + j) for j in range(2))) for i, p in enumerate(prompts)
    ]
    return build_row(bundles, model.family, "cpu")


def make_tokens_of(model, length):
    ids = [i for i in range(5, 60) if i not in model.banned_ids and i not in model.eos_ids]
    return tuple(int(i) for i in np.random.default_rng(length).choice(ids, length))


@NEEDED
@EVERY
def test_kept_features_give_the_same_logprobs_and_gradients(family_checkpoints, family):
    found = []
    for cached in (True, False):
        model = frozen(family_checkpoints[family])
        if not cached:
            model.features = None
        prompts = encode(model, samples())
        assert [p.features is not None for p in prompts] == [cached and bool(sizes) for sizes in IMAGES]
        if cached:
            assert not any(name.startswith("pixel_") for p in prompts for name in p.tensors)
        policy = Policy(model.network, temperature=0.7, banned=model.banned_ids)
        logprobs = policy(row_of(model, prompts))
        (logprobs * torch.arange(1.0, 1 + len(logprobs)).cos()).sum().backward()
        found.append((logprobs.detach(), gradients(model.network)))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-5, rtol=1e-5)
    difference, name = worst(found[0][1], found[1][1])
    assert difference < 1e-4, name
    assert sum(float(g.abs().sum()) > 0 for g in found[0][1].values()) > 5


@NEEDED
@EVERY
def test_images_of_others_are_not_taken(family_checkpoints, family):
    """Each prompt of a row gets its own features: swapping two changes the result."""
    model = frozen(family_checkpoints[family])
    one, other = encode(model, [sample_of("a", [(60, 60)]), sample_of("bbb", [(60, 60)])])
    policy = Policy(model.network, temperature=1.0, banned=model.banned_ids).eval()
    swapped = [dataclasses.replace(one, features=other.features), dataclasses.replace(other, features=one.features)]
    with torch.no_grad():
        right, wrong = policy(row_of(model, [one, other])), policy(row_of(model, swapped))
    assert float((right - wrong).abs().max()) > 1e-3


@NEEDED
def test_rollouts_use_them_too(checkpoints, monkeypatch):
    model = frozen(checkpoints["qwen2_5_vl"])
    prompts = encode(model, samples())
    runs = tower_runs(model, monkeypatch)
    policy = Policy(model.network, temperature=1.0, banned=model.banned_ids).eval()

    def draw(several):
        streams = [[stream(0, p.sample.id, j) for j in range(2)] for p in several]
        return sample(policy, model.family, several, 2, Sampling(8), model.eos_ids, streams)

    kept = draw(prompts)
    assert not runs
    model.features = None
    plain = draw(encode(model, samples()))
    assert runs
    for group, other in zip(kept, plain, strict=True):
        for a, b in zip(group, other, strict=True):
            assert a.token_ids == b.token_ids
            assert a.logprobs == pytest.approx(b.logprobs, abs=2e-5)


@NEEDED
def test_the_tower_runs_once_per_picture_whatever_the_question(checkpoints, monkeypatch, tmp_path):
    model = frozen(checkpoints["qwen2_5_vl"])
    runs = tower_runs(model, monkeypatch)
    path = tmp_path / "a.png"
    picture(1, 48, 48).load().save(path)
    questions = [Sample(str(i), (ImageRef(path),), text, Objects()) for i, text in enumerate(("find the dog", "a blue", "a blue"))]
    read = []
    load = ImageRef.load
    monkeypatch.setattr(ImageRef, "load", lambda self: (read.append(1), load(self))[1])
    first = encode(model, questions)
    again = encode(model, [dataclasses.replace(q) for q in questions])
    assert (len(runs), len(read)) == (1, 1)
    assert [p.token_ids for p in first] == [p.token_ids for p in again]
    assert model.kept() == {"rate/features_kept": 5 / 6, "rate/features_mb": model.features.bytes / MEBIBYTE}
    assert model.kept() == {}
    picture(2, 48, 48).load().save(path)
    os.utime(path, (1, 1))
    (changed,) = encode(model, questions[:1])
    assert len(runs) == 2, "a file that was written anew is another picture"
    assert not torch.equal(changed.features.fields["pooler_output"][0], first[0].features.fields["pooler_output"][0])


@NEEDED
def test_memory_is_bounded_and_the_least_recently_used_leaves(checkpoints):
    model = frozen(checkpoints["qwen2_5_vl"])
    many = [sample_of("y" * n, [(48, 48)]) for n in range(1, 6)]
    size = encode(model, many[:1])[0].features.bytes
    assert size == sum(
        t.numel() * 4 for t in compute_features(model.network, plain_tensors(model, many[0])).fields["pooler_output"]
    )
    model.features = cache = FeatureCache(3 * size + size // 2)
    encode(model, many[:3])
    assert cache.bytes == 3 * size
    encode(model, [many[0], many[3]])  # the first is used again, so the second has to leave
    assert cache.bytes == 3 * size <= cache.limit
    assert [image_key(s) in cache for s in many] == [True, False, True, True, False]
    model.features = tiny = FeatureCache(size - 1)
    prompt = encode(model, many[:1])[0]
    assert prompt.features is not None
    assert tiny.bytes == 0


def plain_tensors(model, one):
    model = dataclasses.replace(model, features=None)
    return model.encode_prompt(one, one.question).tensors


def test_a_tower_that_is_trained_keeps_nothing(checkpoints, caplog):
    model = load_random(checkpoints["qwen2_5_vl"])
    model.features = FeatureCache(MEBIBYTE)
    with caplog.at_level(logging.WARNING, "visurf"):
        prompts = encode(model, samples())
    assert all(p.features is None for p in prompts)
    assert model.features.bytes == 0
    assert not caplog.records
    model = frozen(checkpoints["qwen2_5_vl"])
    model.network.model.visual.merger.requires_grad_(True)
    assert all(p.features is None for p in encode(model, samples()))


def test_a_network_that_takes_pixels_only_says_so_once(checkpoints, caplog, monkeypatch):
    model = frozen(checkpoints["qwen2_vl"])
    forward = model.network.model.forward
    monkeypatch.setattr(model.network.model, "forward", lambda input_ids=None, pixel_values=None: forward(input_ids))
    with caplog.at_level(logging.WARNING, "visurf"):
        prompts = encode(model, samples())
    assert all(p.features is None for p in prompts)
    (record,) = caplog.records
    assert "takes pixels only" in record.getMessage()


@NEEDED
def test_features_and_pixels_do_not_mix(checkpoints):
    model = frozen(checkpoints["qwen2_5_vl"])
    several = samples()
    kept = encode(model, several[:1])
    model.features = None
    with pytest.raises(ValueError, match="1 prompts of a row bring features, 1 bring pixels"):
        image_inputs(model.family, kept + encode(model, several[2:3]), "cpu")


def test_identity_tells_pictures_apart(tmp_path):
    path = tmp_path / "a.png"
    image = picture(1).load()
    image.save(path)
    data = path.read_bytes()
    other = picture(2).load()
    assert ImageRef(image).identity() == ImageRef(image.copy()).identity() != ImageRef(other).identity()
    assert ImageRef(image).identity() != ImageRef(image.resize(image.size[::-1])).identity()
    assert ImageRef(data).identity() == ImageRef(lambda: data).identity() != ImageRef(data + b"x").identity()
    assert ImageRef(path).identity() == ImageRef(path).identity() != ImageRef(tmp_path / "b.png", None).source
    with pytest.raises(DataError, match="no such file"):
        ImageRef(tmp_path / "b.png").identity()


def test_pixels_of_a_transposed_file_stay_upright(tmp_path):
    """Reading in place must not change what is read."""
    pixels = np.arange(5 * 3 * 3, dtype=np.uint8).reshape(5, 3, 3)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.png"
        Image.fromarray(pixels).save(path, exif=exif)
        loaded = ImageRef(path).load()
        held = Image.open(path)
        held.load()
        assert np.array_equal(np.asarray(loaded), np.asarray(ImageRef(held).load()))
        assert loaded.size == ImageRef(path).size == ((5, 3) if orientation >= 5 else (3, 5))
        assert np.array_equal(np.asarray(held), pixels), "a picture that somebody else holds is not touched"
