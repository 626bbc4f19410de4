"""LLaVA-OneVision.

A single image is seen whole and in tiles of the grid that fits it best; of several images each is padded to a square and seen
whole.

No convention for coordinates is documented for the released models. (LLaVA's own data has fractions of 0 to 1, see issue 606 of
haotian-liu/LLaVA.) Labels here are integers, so the frame is 0-1000; the setting `model.frame` names another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn import functional

from visurf.models.family import EncodedImages, Family, concatenate

IMAGE_TOKEN = "<image>"


def load_image_processor(source: str | Path, min_pixels: int | None, max_pixels: int | None) -> Any:
    """The tiling image processor.

    Raises:
        ValueError: A limit of pixels: the grids are part of the checkpoint, and its network looks them up itself.
    """
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

    if min_pixels is not None or max_pixels is not None:
        raise ValueError(
            "LLaVA-OneVision has no limits of pixels; leave model.min_pixels and model.max_pixels unset, and shorten "
            "image_grid_pinpoints in the checkpoint's config.json and preprocessor_config.json instead"
        )
    return LlavaOnevisionImageProcessorPil.from_pretrained(str(source))


def encode_images(network: Any, processor: Any, images: Sequence[Image]) -> EncodedImages:
    """Tiles of every image, (images, tiles, 3, side, side), their sizes and the number of images."""
    features = processor(images=[list(images)], return_tensors="pt")
    names = ("pixel_values", "image_sizes", "batch_num_images")
    return EncodedImages(
        {name: torch.as_tensor(features[name]) for name in names},
        tuple(IMAGE_TOKEN * count for count in _feature_counts(network, features)),
        ((1000.0, 1000.0),) * len(images),
    )


def _feature_counts(network: Any, features: Mapping[str, Tensor]) -> list[int]:
    """How many features each image gives, by the network's own rule of cutting padding off, on one channel."""
    vision = network.config.vision_config
    length = (vision.image_size // vision.patch_size) ** 2
    # A grid of one tile is the whole image and one tile; only of several images each is seen whole and no more.
    single = torch.zeros(features["pixel_values"].shape[1], length, 1)
    _, counts = network.model.pack_image_features(
        [single] * len(features["image_sizes"]),
        features["image_sizes"],
        image_newline=torch.zeros(1),
        vision_aspect_ratio=network.config.vision_aspect_ratio,
    )
    return [int(count) for count in counts]


def merge_tensors(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """As `concatenate`, with tiles that the network skips for images that have fewer."""
    most = max((p["pixel_values"].shape[1] for p in parts if p), default=0)
    padded = [{**p, "pixel_values": _with_tiles(p["pixel_values"], most)} if p else p for p in parts]
    return concatenate(padded)


def _with_tiles(pixels: Tensor, count: int) -> Tensor:
    return functional.pad(pixels, (0, 0, 0, 0, 0, 0, 0, count - pixels.shape[1]))


LLAVA_ONEVISION = Family(
    name="llava_onevision",
    model_types=("llava_onevision",),
    load_image_processor=load_image_processor,
    encode_images=encode_images,
    image_token=IMAGE_TOKEN,
    banned_tokens=("<video>", "<|im_start|>"),
    vision_module="model.vision_tower",
    merge_tensors=merge_tensors,
)
