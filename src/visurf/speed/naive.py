"""The plain way: every prompt repeated for each of its completions, padded rows, transformers' own generate.

It is what trainers do that know nothing of groups, and the oracle of the tests: positions by the network's own rule, no code of the
library's forward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from visurf.models.family import Prompt

Pair = tuple[Prompt, Sequence[int]]


def picture_tensors(prompts: Sequence[Prompt]) -> dict[str, Tensor]:
    """The pictures of prompts one after the other, for families whose forward takes them so."""
    having = [p.tensors for p in prompts if p.tensors]
    return {name: torch.cat([t[name] for t in having]) for name in having[0]} if having else {}


def padded_inputs(
    network: Any, rows: Sequence[Sequence[int]], tensors: Mapping[str, Tensor], side: str = "right"
) -> dict[str, Tensor]:
    """Padded rows and their pictures as keyword arguments of the network.

    Args:
        network: A plain transformers model; says where the rows go and which token stands for a picture.
        rows: Token ids.
        tensors: The pictures of all rows, as the network's forward takes them.
        side: Where the padding stands.
    """
    device = next(network.parameters()).device
    longest = max(len(r) for r in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
        ids[i, place] = torch.tensor(row)
        mask[i, place] = 1
    found = {"input_ids": ids, "attention_mask": mask, **tensors}
    if hasattr(network.model, "get_rope_index"):
        found["mm_token_type_ids"] = ids.eq(network.config.image_token_id).int()
    return {name: tensor.to(device) for name, tensor in found.items()}


def naive_logprobs(
    network: Any,
    pairs: Sequence[Pair],
    *,
    temperature: float = 1.0,
    banned: Sequence[int] = (),
    tensors: Mapping[str, Tensor] | None = None,
    everywhere: bool = True,
) -> list[Tensor]:
    """Log-probs of completions, one float32 tensor each.

    Args:
        network: A plain transformers model.
        pairs: Prompt and token ids of every sequence.
        temperature: Divides the logits.
        banned: Tokens whose logits are minus infinity.
        tensors: The pictures, see `padded_inputs`; None for those of `picture_tensors`.
        everywhere: Compute logits at every position; else only from the first that predicts a completion token.
    """
    pairs = list(pairs)
    pictures = picture_tensors([p for p, _ in pairs]) if tensors is None else tensors
    inputs: dict[str, Any] = dict(padded_inputs(network, [(*p.token_ids, *t) for p, t in pairs], pictures))
    first = 0
    if not everywhere:
        first = min(len(p.token_ids) for p, _ in pairs) - 1
        inputs["logits_to_keep"] = inputs["input_ids"].shape[1] - first
    logits = network(**inputs, use_cache=False).logits.float() / temperature
    if len(banned):
        logits = logits.index_fill(-1, torch.tensor(banned, device=logits.device), float("-inf"))
    scale = torch.logsumexp(logits, dim=-1)
    found = []
    for i, (prompt, tokens) in enumerate(pairs):
        start = len(prompt.token_ids) - 1 - first
        at = torch.arange(start, start + len(tokens), device=logits.device)
        found.append(logits[i, at, torch.tensor(tokens, dtype=torch.long, device=logits.device)] - scale[i, at])
    return found


class Replay(LogitsProcessor):
    """Makes generate draw given tokens, so that both sides sample the same; the rest of generate is untouched.

    The cost of it (one fill and one scatter of the logits) is far below that of the forward they come from.
    """

    def __init__(self, completions: Sequence[Sequence[int]], filler: int) -> None:
        """Take the tokens that each row is to get; `filler` after its end, which generate replaces by padding."""
        longest = max(len(c) for c in completions)
        self.tokens = torch.tensor([[*c, *[filler] * (longest - len(c))] for c in completions])
        self.step = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        """All probability to the token of this step."""
        self.tokens = self.tokens.to(scores.device)
        chosen = self.tokens[:, self.step].unsqueeze(1)
        self.step += 1
        return torch.full_like(scores, float("-inf")).scatter_(1, chosen, 0.0)


@torch.no_grad()
def naive_generate(
    network: Any,
    prompts: Sequence[Prompt],
    completions: Sequence[Sequence[Sequence[int]]],
    *,
    banned: Sequence[int],
    repeat: bool = True,
) -> int:
    """Run generate over prompts as it would have run to draw given completions.

    Args:
        network: A plain transformers model in eval mode.
        prompts: One a group.
        completions: Token ids of each group's rollouts, each ended by the end-of-turn token.
        banned: Tokens that are not to be sampled.
        repeat: Repeat every prompt for each of its rollouts, as TRL does; else `num_return_sequences`.

    Returns:
        Tokens drawn.

    Raises:
        RuntimeError: Other tokens came out than were given.
    """
    members = len(completions[0])
    flat = [tuple(c) for group in completions for c in group]
    rows = [p for p in prompts for _ in range(members)] if repeat else list(prompts)
    inputs = padded_inputs(network, [p.token_ids for p in rows], picture_tensors(rows), side="left")
    found = network.generate(
        **inputs,
        do_sample=True,
        top_k=0,
        max_new_tokens=max(len(c) for c in flat),
        num_return_sequences=1 if repeat else members,
        suppress_tokens=list(banned),
        logits_processor=LogitsProcessorList([Replay(flat, network.generation_config.eos_token_id)]),
        disable_compile=True,
    )[:, inputs["input_ids"].shape[1] :].tolist()
    if any(tuple(f[: len(c)]) != c for f, c in zip(found, flat, strict=True)):
        raise RuntimeError("generate drew other tokens than those it was given")
    return sum(len(c) for c in flat)
