"""Tiny random checkpoints of the real architectures, and prompts to run through them.

Weights are drawn wider than an initialisation would: with small ones every distribution is nearly uniform and a
comparison of log-probs would hold whatever the attention did.
"""

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from visurf.mini.model import PATCH, build_config, build_tokenizer, save_scaffold
from visurf.models import load_model
from visurf.models.random_checkpoint import write_checkpoint
from visurf.types import ImageRef, Objects, Sample

# Two merged patches of 16 x 16 pixels are the least an image may give: prompts stay short and tests quick.
MIN_PIXELS = 512
WORDS = ("red", "circle", "find", "row", "one", "two", "three", "seven", "12", "48", "<think>", "</answer>", "[", "]", "?", "blue")


def qwen2_config(tokenizer):
    """Qwen2-VL with the sizes of the tiny Qwen2.5-VL."""
    like = build_config(tokenizer, hidden=64, layers=2)
    return Qwen2VLConfig(
        text_config=like.text_config.to_dict(),
        vision_config={
            "depth": 2,
            "embed_dim": 48,
            "hidden_size": 64,
            "mlp_ratio": 2,
            "num_heads": 2,
            "patch_size": PATCH,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        image_token_id=like.image_token_id,
        video_token_id=like.video_token_id,
        vision_start_token_id=like.vision_start_token_id,
        vision_end_token_id=like.vision_end_token_id,
        tie_word_embeddings=True,
    )


def save_random(folder, kind="qwen2_5_vl", seed=0):
    """Write a random float32 checkpoint in the hub's layout."""
    save_scaffold(folder)
    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    if kind == "qwen2_vl":
        network = Qwen2VLForConditionalGeneration(qwen2_config(tokenizer))
    else:
        network = Qwen2_5_VLForConditionalGeneration(build_config(tokenizer, hidden=64, layers=2))
    widen(network)
    network.generation_config.eos_token_id = tokenizer.eos_token_id
    network.generation_config.pad_token_id = tokenizer.pad_token_id
    network.save_pretrained(folder)
    return folder


def save_family(folder, name, seed=0):
    """Write a random float32 checkpoint of any family, as `visurf.models.random_checkpoint` does, with wider weights."""
    write_checkpoint(name, folder, seed)
    network = AutoModelForImageTextToText.from_pretrained(folder)
    torch.manual_seed(seed)
    widen(network)
    network.save_pretrained(folder)
    return folder


@torch.no_grad()
def widen(network):
    """Draw weights anew; vectors keep their centre at 0 or 1."""
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, 1.5 * parameter[0].numel() ** -0.5)
        else:
            parameter.normal_(0, 0.3).add_(float(parameter.mean() > 0.5))


def load_random(folder):
    """The checkpoint through the library's own loader, with a low limit on pixels."""
    return load_model(folder, min_pixels=MIN_PIXELS)


def picture(seed, width=32, height=48):
    """A noisy image: every patch differs."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return ImageRef(Image.fromarray(pixels))


def make_prompt(model, seed=0, images=1, words=3):
    """An encoded prompt with some images of different sizes and some words."""
    rng = np.random.default_rng((seed, images, words))
    sizes = [(int(rng.integers(1, 4)) * 16, int(rng.integers(2, 4)) * 16) for _ in range(images)]
    pictures = tuple(picture(seed + 100 * i, w, h) for i, (w, h) in enumerate(sizes))
    text = " ".join(str(w) for w in rng.choice(["find", "red", "circle", "is", "there", "a", "blue"], words))
    return model.encode_prompt(Sample(f"{seed}-{images}-{words}", pictures, text, Objects()), text)


def make_tokens(model, length, seed=0):
    """A completion of so many tokens, of words that a policy may write."""
    rng = np.random.default_rng((seed, length))
    ids = [model.tokenizer.convert_tokens_to_ids(w) for w in WORDS]
    if None in ids:
        ids = sorted(set(range(len(model.tokenizer))) - {*model.banned_ids, *model.eos_ids, model.tokenizer.pad_token_id})
    return tuple(int(i) for i in rng.choice(ids, length))
