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
    tensors = {}
    having = [p.tensors for p, _ in pairs if p.tensors]
    if having:
        tensors = {name: torch.cat([t[name] for t in having]) for name in having[0]}
    kinds = ids.eq(network.config.image_token_id).int()
    logits = network(input_ids=ids, attention_mask=mask, mm_token_type_ids=kinds, use_cache=False, **tensors).logits
    logits = logits.float() / temperature
    if banned:
        logits = logits.index_fill(-1, torch.tensor(banned), float("-inf"))
    every = torch.log_softmax(logits, dim=-1)
    found = []
    for i, (prompt, tokens) in enumerate(pairs):
        start = len(prompt.token_ids) - 1
        found.append(every[i, torch.arange(start, start + len(tokens)), torch.tensor(tokens, dtype=torch.long)])
    return found


def gradients(module):
    """Name -> gradient of every parameter, zeros where there is none."""
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in module.named_parameters()}


def worst(found, expected):
    """The largest relative difference over tensors, each measured by its norm, and the tensor's name."""
    scale = max(float(v.norm()) for v in expected.values())
    differences = {n: float((found[n] - expected[n]).norm() / expected[n].norm().clamp(min=1e-5 * scale)) for n in expected}
    name = max(differences, key=lambda n: differences[n])
    return differences[name], name
