"""SmolVLM and SmolVLM2.

An image is cut into rows and columns of square tiles, each behind a token that says where it stands, and followed by the whole
image in one tile.

No convention for coordinates is documented for the released models; integers 0-1000 are this project's choice, and the setting
`model.frame` names another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from visurf.models.family import EncodedImages, Family

IMAGE_TOKEN = "<image>"
AROUND = "<fake_token_around_image>"
WHOLE = "<global-img>"
LARGEST_GRID = 6


def load_image_processor(source: str | Path, min_pixels: int | None, max_pixels: int | None) -> Any:
    """The tiling image processor; an upper limit of pixels lowers the longest edge, in whole tiles.

    Raises:
        ValueError: A lower limit of pixels, which the processor does not have.
    """
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    if min_pixels is not None:
        raise ValueError("SmolVLM scales every image to one longest edge; leave model.min_pixels unset")
    processor = SmolVLMImageProcessorPil.from_pretrained(str(source))
    if max_pixels is None:
        return processor
    tile = int(processor.max_image_size["longest_edge"])
    edge = min(max(1, math.isqrt(max_pixels) // tile) * tile, int(processor.size["longest_edge"]))
    return SmolVLMImageProcessorPil.from_pretrained(str(source), size={"longest_edge": edge})


def encode_images(network: Any, processor: Any, images: Sequence[Image]) -> EncodedImages:
    """Tiles of all images in one row, (1, tiles, 3, side, side): all have one size, so no mask of pixels is needed."""
    features = processor(images=[list(images)], do_pad=False, return_row_col_info=True, return_tensors="pt")
    config = network.config
    side = config.vision_config.image_size // config.vision_config.patch_size
    tile = IMAGE_TOKEN * (side**2 // config.scale_factor**2)
    grids = zip(features["rows"][0], features["cols"][0], strict=True)
    expansions = tuple(_expansion(rows, columns, tile) for rows, columns in grids)
    return EncodedImages({"pixel_values": features["pixel_values"]}, expansions, ((1000.0, 1000.0),) * len(images))


def _expansion(rows: int, columns: int, tile: str) -> str:
    """An image's text: each row of tiles ends a line, the whole image follows; a grid of 0 is the whole image alone."""
    lines = ["".join(f"{AROUND}<row_{r}_col_{c}>{tile}" for c in range(1, columns + 1)) for r in range(1, rows + 1)]
    return "".join(f"{line}\n" for line in lines) + ("\n" if rows else "") + f"{AROUND}{WHOLE}{tile}{AROUND}"


def merge_tensors(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Tiles of several prompts in one row; empty without images."""
    tiles = [p["pixel_values"] for p in parts if p]
    return {"pixel_values": torch.cat(tiles, dim=1)} if tiles else {}


def join_types(network: Any) -> None:
    """Image features in the type of the embeddings among which they are put: under autocast transformers 5.17 fails on others."""

    def cast(module: Any, inputs: Any, features: Tensor) -> Tensor:
        return features.to(network.get_input_embeddings().weight.dtype)

    network.model.connector.register_forward_hook(cast)


_PLACES = tuple(f"<row_{r}_col_{c}>" for r in range(1, LARGEST_GRID + 1) for c in range(1, LARGEST_GRID + 1))

SMOLVLM = Family(
    name="smolvlm",
    model_types=("smolvlm",),
    load_image_processor=load_image_processor,
    encode_images=encode_images,
    image_token=IMAGE_TOKEN,
    banned_tokens=(AROUND, WHOLE, *_PLACES, "<|im_start|>"),
    vision_module="model.vision_model",
    merge_tensors=merge_tensors,
    prepare=join_types,
)
