"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL.

Qwen2-VL speaks integers 0-1000 on both axes; Qwen2.5-VL speaks absolute pixels of the *resized* image that its vision tower
sees; Qwen3-VL speaks 0-1000 again (2d_grounding.ipynb of its cookbooks). Images come before the text; M-RoPE gives three
position axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from visurf.attention import VISION_NAME
from visurf.models.family import EncodedImages, Family

IMAGE_TOKEN = "<|image_pad|>"


def load_image_processor(source: str | Path, min_pixels: int | None, max_pixels: int | None) -> Any:
    """Qwen2-VL's image processor (the class that needs no torchvision), with its pixel limits overridden where given."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    processor = Qwen2VLImageProcessorPil.from_pretrained(str(source))
    patch = (processor.patch_size * processor.merge_size) ** 2
    if max_pixels is not None and max_pixels < patch:
        raise ValueError(f"model.max_pixels: expected {patch} or more, the pixels of one merged patch, got {max_pixels}")
    stored = dict(processor.size)
    # A checkpoint has its limits in `size`, beside it, in both, or in `size` under their old names. Limits that are given by
    # these names win over all of them, those given as `size` over some.
    limits: dict[str, Any] = {
        "min_pixels": stored.get("shortest_edge", stored.get("min_pixels")) if min_pixels is None else min_pixels,
        "max_pixels": stored.get("longest_edge", stored.get("max_pixels")) if max_pixels is None else max_pixels,
    }
    return Qwen2VLImageProcessorPil.from_pretrained(str(source), **limits)


def _encode(processor: Any, images: Sequence[Image], *, pixels: bool) -> EncodedImages:
    features = processor(images=list(images), return_tensors="pt")
    grids = features["image_grid_thw"]
    merge = processor.merge_size**2
    resized = [(float(w * processor.patch_size), float(h * processor.patch_size)) for _, h, w in grids.tolist()]
    return EncodedImages(
        {"pixel_values": features["pixel_values"], "image_grid_thw": grids},
        tuple(IMAGE_TOKEN * (int(g) // merge) for g in grids.prod(-1)),
        tuple(resized) if pixels else ((1000.0, 1000.0),) * len(resized),
    )


def encode_in_pixels(network: Any, processor: Any, images: Sequence[Image]) -> EncodedImages:
    """Images whose coordinates are pixels of the resized image."""
    return _encode(processor, images, pixels=True)


def encode_in_thousandths(network: Any, processor: Any, images: Sequence[Image]) -> EncodedImages:
    """Images whose coordinates run from 0 to 1000."""
    return _encode(processor, images, pixels=False)


def positions(network: Any, token_ids: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """(3, P) M-RoPE positions, by the network's own rule."""
    kinds = token_ids.eq(network.config.image_token_id).int()
    found, _ = network.model.get_rope_index(
        token_ids,
        mm_token_type_ids=kinds,
        image_grid_thw=tensors.get("image_grid_thw"),
        attention_mask=torch.ones_like(token_ids),
    )
    axes: Tensor = found[:, 0]
    return axes


QWEN2_VL = Family(
    name="qwen2_vl",
    model_types=("qwen2_vl",),
    load_image_processor=load_image_processor,
    encode_images=encode_in_thousandths,
    image_token=IMAGE_TOKEN,
    banned_tokens=("<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|im_start|>"),
    vision_module="model.visual",
    positions=positions,
    vision_attention=VISION_NAME,
)
QWEN2_5_VL = replace(QWEN2_VL, name="qwen2_5_vl", model_types=("qwen2_5_vl",), encode_images=encode_in_pixels)
QWEN3_VL = replace(QWEN2_VL, name="qwen3_vl", model_types=("qwen3_vl",))
