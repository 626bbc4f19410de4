"""The plain way to score completions: every prompt repeated for each, padded on the right, through unchanged transformers.

Kept as the oracle for packed rows: eager attention, positions by the network's own rule, no code of the library's forward.
"""

import torch
from transformers import AutoModelForImageTextToText


def load_plain(folder):
    """The same checkpoint as plain transformers loads it."""
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def naive_logprobs(network, pairs, *, temperature=1.0, banned=()):
    """Log-probs of completions, one tensor each.

    Args:
        network: From `load_plain`.
        pairs: (prompt, token ids) of every sequence.
        temperature: Divides the logits.
        banned: Tokens whose logits are minus infinity.
    """
    pairs = list(pairs)
    longest = max(len(p.token_ids) + len(t) for p, t in pairs)
    ids = torch.zeros(len(pairs), longest, dtype=torch.long)
    mask = torch.zeros(len(pairs), longest, dtype=torch.long)
    for i, (prompt, tokens) in enumerate(pairs):
        whole = (*prompt.token_ids, *tokens)
        ids[i, : len(whole)] = torch.tensor(whole)
        mask[i, : len(whole)] = 1
    tensors = batch_tensors(network, [p for p, _ in pairs])
    if hasattr(network.model, "get_rope_index"):
        tensors["mm_token_type_ids"] = ids.eq(network.config.image_token_id).int()
    logits = network(input_ids=ids, attention_mask=mask, use_cache=False, **tensors).logits
    logits = logits.float() / temperature
    if banned:
        logits = logits.index_fill(-1, torch.tensor(banned), float("-inf"))
    every = torch.log_softmax(logits, dim=-1)
    found = []
    for i, (prompt, tokens) in enumerate(pairs):
        start = len(prompt.token_ids) - 1
        found.append(every[i, torch.arange(start, start + len(tokens)), torch.tensor(tokens, dtype=torch.long)])
    return found


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
