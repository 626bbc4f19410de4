"""Groups become packed rows that share their prompt.

A row is ``[prompt | c_1 | ... | c_N]`` of one or several groups, without padding. The last token of a completion is only ever a
target, so it does not enter the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from visurf.attention import PackedLayout, dummy_mask
from visurf.models.features import image_inputs

if TYPE_CHECKING:
    from visurf.models.family import Family, Prompt


@dataclass(frozen=True)
class Scored:
    """A completion to be scored: its token ids, and its number in the optimiser step's flat list."""

    token_ids: tuple[int, ...]
    number: int


@dataclass(frozen=True)
class Bundle:
    """A prompt and those of its completions that go into one row."""

    prompt: Prompt
    sequences: tuple[Scored, ...]

    @property
    def tokens(self) -> int:
        """Tokens it takes in a row."""
        return len(self.prompt.token_ids) + sum(max(len(s.token_ids) - 1, 0) for s in self.sequences)


@dataclass
class PackedRow:
    """One packed row.

    Attributes:
        inputs: Keyword arguments of the network's backbone, layout included.
        predict_at: (K,) positions whose hidden state predicts a completion token.
        targets: (K,) the tokens predicted.
        member: (K,) number of the sequence that each token belongs to.
        numbers: Numbers of the row's sequences, in the order of their tokens.
        length: Tokens in the row.
        shared: Whether the inputs hold a layout. Without one the row is a single sequence under the network's own attention.
    """

    inputs: dict[str, object]
    predict_at: Tensor
    targets: Tensor
    member: Tensor
    numbers: list[int]
    length: int
    shared: bool = True


def split(bundle: Bundle, budget: int) -> list[Bundle]:
    """Cut a bundle above the token budget into several, each with its prompt; a single sequence is never cut."""
    pieces: list[list[Scored]] = [[]]
    used = start = len(bundle.prompt.token_ids)
    for sequence in sorted(bundle.sequences, key=lambda s: -len(s.token_ids)):
        cost = max(len(sequence.token_ids) - 1, 0)
        if pieces[-1] and used + cost > budget:
            pieces.append([])
            used = start
        pieces[-1].append(sequence)
        used += cost
    return [Bundle(bundle.prompt, tuple(piece)) for piece in pieces if piece]


def plan(bundles: Sequence[Bundle], budget: int, *, shared: bool = True) -> list[list[Bundle]]:
    """Fill rows to a token budget, longest bundles first.

    Args:
        bundles: Prompts with at least one completion each; others are dropped.
        budget: Tokens a row may hold; only a prompt with a single completion may exceed it.
        shared: False for a family that cannot share prompts: every sequence gets a row of its own.

    Returns:
        Bundles of each row.
    """
    if not shared:
        return [[Bundle(bundle.prompt, (sequence,))] for bundle in bundles for sequence in bundle.sequences]
    pieces = [piece for bundle in bundles for piece in split(bundle, budget)]
    rows: list[list[Bundle]] = []
    room: list[int] = []
    for piece in sorted(pieces, key=lambda b: -b.tokens):
        place = next((i for i, left in enumerate(room) if left >= piece.tokens), None)
        if place is None:
            rows.append([piece])
            room.append(budget - piece.tokens)
        else:
            rows[place].append(piece)
            room[place] -= piece.tokens
    return rows


def axes_first(positions: Tensor) -> Tensor:
    """Position ids (axes, rows, length) as networks take them: without the first dimension where there is one axis."""
    return positions[0] if len(positions) == 1 else positions


def build_row(bundles: Sequence[Bundle], family: Family, device: torch.device | str) -> PackedRow:
    """Lay bundles out in one packed row on a device; completions continue at their prompt's next position on every axis.

    Raises:
        ValueError: The family cannot share prompts, and the row would hold more than one sequence.
    """
    if family.unshared and sum(max(len(b.sequences), 1) for b in bundles) > 1:
        raise ValueError(f"family {family.name!r} cannot share prompts ({family.unshared}); give each row one sequence")
    ids: list[int] = []
    positions: list[Tensor] = []
    prompts: list[tuple[int, int]] = []
    spans: list[list[tuple[int, int]]] = []
    predict_at: list[int] = []
    targets: list[int] = []
    member: list[int] = []
    for bundle in bundles:
        prompt = bundle.prompt
        prompts.append((len(ids), len(prompt.token_ids)))
        ids += prompt.token_ids
        positions.append(prompt.position_ids)
        last = len(ids) - 1
        spans.append([])
        for sequence in bundle.sequences:
            tokens = sequence.token_ids
            count = max(len(tokens) - 1, 0)
            start = len(ids)
            spans[-1].append((start, count))
            ids += tokens[:count]
            axes = prompt.position_ids.shape[0]
            positions.append(torch.arange(prompt.next_position, prompt.next_position + count).expand(axes, -1))
            if tokens:
                predict_at += [last, *range(start, start + count)]
            targets += tokens
            member += [sequence.number] * len(tokens)
    inputs: dict[str, object] = {
        **image_inputs(family, [b.prompt for b in bundles], device),
        "input_ids": torch.tensor([ids], device=device),
        "position_ids": axes_first(torch.cat(positions, dim=1).unsqueeze(1)).to(device),
        "use_cache": False,
    }
    if family.unshared:
        inputs["attention_mask"] = torch.ones(1, len(ids), dtype=torch.long, device=device)
    else:
        inputs |= {"attention_mask": dummy_mask(device), "visurf_layout": PackedLayout(prompts, spans, len(ids), device)}
    index = (torch.tensor(v, dtype=torch.long, device=device) for v in (predict_at, targets, member))
    numbers = [s.number for b in bundles for s in b.sequences if s.token_ids]
    at, to_predict, members = index
    return PackedRow(inputs, at, to_predict, members, numbers, len(ids), shared=not family.unshared)
