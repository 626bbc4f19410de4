"""Mistral 3: rows of features, each ended by a token; no published coordinate convention, so 0-1000."""

import math

import torch
from torch.nn import functional

from visurf.models.family import EncodedImages, Family


def load_image_processor(source, min_pixels, max_pixels):
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    if min_pixels is not None:
        raise ValueError("Mistral 3 never enlarges an image; leave model.min_pixels unset")
    processor = PixtralImageProcessorPil.from_pretrained(str(source))
    if max_pixels is None:
        return processor
    edge = min(math.isqrt(max_pixels), processor.size["longest_edge"])
    return PixtralImageProcessorPil.from_pretrained(str(source), size={"longest_edge": edge})


def encode_images(network, processor, images):
    # One feature is a square of patches, so both sides must be whole numbers of such squares.
    side = network.config.vision_config.patch_size * network.config.spatial_merge_size
    features = processor(images=list(images), patch_size={"height": side, "width": side}, return_tensors="pt")
    rows = [(int(h) // side, int(w) // side) for h, w in features["image_sizes"]]
    return EncodedImages(
        tensors={"pixel_values": features["pixel_values"], "image_sizes": features["image_sizes"]},
        expansions=tuple("[IMG_BREAK]".join(["[IMG]" * w] * h) + "[IMG_END]" for h, w in rows),
        extents=((1000.0, 1000.0),) * len(images),
    )


def merge_tensors(parts):
    present = [p for p in parts if p]
    if not present:
        return {}
    height, width = (max(p["pixel_values"].shape[d] for p in present) for d in (2, 3))
    pixels = [functional.pad(v, (0, width - v.shape[3], 0, height - v.shape[2])) for v in (p["pixel_values"] for p in present)]
    return {"pixel_values": torch.cat(pixels), "image_sizes": torch.cat([p["image_sizes"] for p in present])}


MISTRAL3 = Family(
    name="mistral3",
    model_types=("mistral3",),
    load_image_processor=load_image_processor,
    encode_images=encode_images,
    image_token="[IMG]",
    banned_tokens=("[IMG_BREAK]", "[IMG_END]", "[INST]", "[/INST]"),
    vision_module="model.vision_tower",
    merge_tensors=merge_tensors,
)
