"""How far packed rows are from the plain padded forward, as a table for docs/algorithm.md: ``python tests/measure_exactness.py``.

Tiny random checkpoints of every family with wide weights; 40 random rows each, of 1 to 3 groups with 0 to 2 images, 1 to 4
completions of 0 to 9 tokens, and budgets that split them or not.
"""

import random
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText
from transformers.utils.logging import disable_progress_bar

from naive import load_plain, naive_logprobs, worst
from test_packing import both_ways, bundles_of, packed_logprobs
from tiny import save_family
from visurf.models import FAMILIES, load_model
from visurf.policy import Policy


def random_shapes(draw):
    """One row's groups."""
    shapes = [
        (draw.randint(0, 2), draw.randint(1, 5), [draw.randint(0, 9) for _ in range(draw.randint(1, 4))])
        for _ in range(draw.randint(1, 3))
    ]
    return shapes if any(n for *_, lengths in shapes for n in lengths) else random_shapes(draw)


def in_float32(model, plain, rows):
    """The largest absolute difference of a log-prob, the largest relative one of a gradient tensor."""
    log_prob = gradient = 0.0
    for shapes, budget in rows:
        packed, found, oracle, expected = both_ways(model, plain, shapes, budget)
        log_prob = max(log_prob, *(float((a - b).abs().max()) for a, b in zip(packed, oracle, strict=True) if len(a)))
        gradient = max(gradient, worst(found, expected)[0])
    return log_prob, gradient


@torch.no_grad()
def in_bfloat16(folder, model, plain, rows):
    """Root mean square and largest error against float32: of packed rows, then of the plain forward in bfloat16."""
    low = load_model(folder, dtype=torch.bfloat16)
    plain_low = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="eager").eval()
    policy = Policy(low.network, temperature=1.0, banned=low.banned_ids)
    errors = ([], [])
    for shapes, budget in rows:
        bundles, count = bundles_of(model, shapes)
        pairs = [(b.prompt, s.token_ids) for b in bundles for s in b.sequences]
        exact = torch.cat(naive_logprobs(plain, pairs, banned=model.banned_ids))
        errors[0].append(torch.cat(packed_logprobs(policy, low, bundles, count, budget)) - exact)
        errors[1].append(torch.cat(naive_logprobs(plain_low, pairs, banned=model.banned_ids)) - exact)
    return [value for e in map(torch.cat, errors) for value in (float(e.square().mean().sqrt()), float(e.abs().max()))]


def main():
    """Print the table."""
    disable_progress_bar()
    print("| family | log-prob | gradient | bf16 packed: RMS | max | bf16 plain: RMS | max |\n|---|---|---|---|---|---|---|")  # noqa: T201
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            save_family(Path(folder), family)
            model, plain = load_model(folder), load_plain(folder)
            draw = random.Random(0)
            rows = [(random_shapes(draw), draw.choice([1, 60, 10_000])) for _ in range(40)]
            exact, rough = in_float32(model, plain, rows), in_bfloat16(folder, model, plain, rows)
        print(f"| {family} | {exact[0]:.1e} | {exact[1]:.1e} | {' | '.join(f'{v:.4f}' for v in rough)} |", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
