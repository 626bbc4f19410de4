"""InternVL in transformers' own form (`InternVLForConditionalGeneration`; released checkpoints of that form end in ``-hf``).

An image becomes tiles of one size and, if there are several, a thumbnail; all of them stand between ``<img>`` and ``</img>``.

Coordinates are integers 0-1000 of the whole image. Source: InternVL's documentation, "Chat Data Format", section "Grounding /
Detection Data" (internvl.readthedocs.io).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL.Image import Image

from visurf.models.family import EncodedImages, Family

IMAGE_TOKEN = "<IMG_CONTEXT>"


def load_image_processor(source: str | Path, min_pixels: int | None, max_pixels: int | None) -> Any:
    """The tiling image processor; pixel limits become numbers of tiles.

    Raises:
        ValueError: The limits leave no number of tiles.
    """
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    processor = GotOcr2ImageProcessorPil.from_pretrained(str(source))
    tile = processor.size["height"] * processor.size["width"]
    fewest = processor.min_patches if min_pixels is None else max(1, math.ceil(min_pixels / tile))
    most = processor.max_patches if max_pixels is None else max(1, max_pixels // tile)
    if fewest > most:
        raise ValueError(
            f"an image must give at least {fewest} and at most {most} tiles of {tile} pixels; "
            "change model.min_pixels or model.max_pixels"
        )
    return GotOcr2ImageProcessorPil.from_pretrained(str(source), min_patches=fewest, max_patches=most)


def encode_images(network: Any, processor: Any, images: Sequence[Image]) -> EncodedImages:
    """Tiles of all images, one after the other: (tiles, 3, height, width)."""
    features = processor(images=list(images), crop_to_patches=True, return_tensors="pt")
    length = network.config.image_seq_length
    return EncodedImages(
        {"pixel_values": features["pixel_values"]},
        tuple(f"<img>{IMAGE_TOKEN * (length * int(tiles))}</img>" for tiles in features["num_patches"]),
        ((1000.0, 1000.0),) * len(images),
    )


INTERNVL = Family(
    name="internvl",
    model_types=("internvl",),
    load_image_processor=load_image_processor,
    encode_images=encode_images,
    image_token=IMAGE_TOKEN,
    banned_tokens=("<img>", "</img>", "<video>", "<|im_start|>"),
    vision_module="model.vision_tower",
)
