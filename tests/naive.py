"""The oracle for packed rows: plain transformers with eager attention, every prompt repeated for each completion.

The padded forward itself is `visurf.speed.naive`, which is also what speed is measured against.
"""

import torch
from transformers import AutoModelForImageTextToText

from visurf.speed import naive


def load_plain(folder):
    """The same checkpoint as plain transformers loads it."""
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def naive_logprobs(network, pairs, *, temperature=1.0, banned=()):
    """Log-probs of completions by the padded forward, one tensor each; of any family. See `visurf.speed.naive.naive_logprobs`."""
    pairs = list(pairs)
    tensors = batch_tensors(network, [p for p, _ in pairs])
    return naive.naive_logprobs(network, pairs, temperature=temperature, banned=banned, tensors=tensors)


def batch_tensors(network, prompts):
    """The prompts' tensors as transformers' processors batch them, one row a prompt."""
    having = [p.tensors for p in prompts if p.tensors]
    if not having:
        return {}
    if network.config.model_type == "smolvlm":
        # (rows, tiles, ...): rows with fewer tiles, or none, end in tiles of zeros.
        most = max(t["pixel_values"].shape[1] for t in having)
        pixels = torch.zeros(len(prompts), most, *having[0]["pixel_values"].shape[2:])
        for row, prompt in zip(pixels, prompts, strict=True):
            if prompt.tensors:
                row[: prompt.tensors["pixel_values"].shape[1]] = prompt.tensors["pixel_values"][0]
        return {"pixel_values": pixels}
    if network.config.model_type == "llava_onevision":
        # (images, tiles, ...): images with fewer tiles end in tiles of zeros.
        images = [image for t in having for image in t["pixel_values"]]
        pixels = torch.zeros(len(images), max(map(len, images)), *images[0].shape[1:])
        for row, image in zip(pixels, images, strict=True):
            row[: len(image)] = image
        return {"pixel_values": pixels, **{n: torch.cat([t[n] for t in having]) for n in ("image_sizes", "batch_num_images")}}
    return {name: torch.cat([t[name] for t in having]) for name in having[0]}


def gradients(module):
    """Name -> gradient of every parameter, zeros where there is none."""
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in module.named_parameters()}


def worst(found, expected):
    """The largest relative difference over tensors, each measured by its norm, and the tensor's name."""
    scale = max(float(v.norm()) for v in expected.values())
    # A keys bias without rotary positions has no gradient by nature: what is left of it is rounding.
    differences = {n: float((found[n] - expected[n]).norm() / expected[n].norm().clamp(min=1e-4 * scale)) for n in expected}
    name = max(differences, key=lambda n: differences[n])
    return differences[name], name
