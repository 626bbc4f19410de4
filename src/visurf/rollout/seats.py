"""Which rollout's head is where: index tables between rows, their places among siblings, and their lanes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, np.dtype[np.int64]]


@dataclass
class Lanes:
    """Index tensors (int64) of one set of rows.

    A query is needed twice: folded with its siblings against their prompt's keys, in prompts * heads * M places, and by itself
    against its own keys, in one lane per head.

    Attributes:
        heads: Key/value heads.
        fold: (places,) for each place the row's head, out of N * heads; any where no row stands.
        rows: (N * heads,) for each row's head its lane; None where rows' heads are the lanes.
        pick: (lanes,) for each lane its place; None where places and lanes are the same.
        spread: (places,) for each place its lane, any where there is none; None likewise.
    """

    heads: int
    fold: Tensor
    rows: Tensor | None
    pick: Tensor | None
    spread: Tensor | None

    def copy_(self, other: Lanes) -> None:
        """Take over the tables of other rows of the same number, in place."""
        for mine, new in ((self.fold, other.fold), (self.pick, other.pick), (self.spread, other.spread)):
            if mine is not None and new is not None:
                mine.copy_(new)


class Seats:
    """The numbering of slots, lanes and places.

    Attributes:
        slots: Number of slots, S.
        prompts: Places for prompts.
        members: Most slots of any prompt, M.
        heads: Key/value heads.
        lane_of: (S, heads) lanes.
        place_of: (S, heads) places.
    """

    def __init__(self, prompt: Array, member: Array, lane_of: Array, prompts: int, members: int) -> None:
        """Number slots from the prompt each belongs to and its number among siblings, both (S,)."""
        self.slots, self.heads = lane_of.shape
        self.prompts, self.members, self.lane_of = prompts, members, lane_of
        self.place_of: Array = (prompt[:, None] * self.heads + np.arange(self.heads)) * members + member[:, None]

    @classmethod
    def together(cls, counts: Sequence[int], heads: int) -> Seats:
        """A prompt's slots stand together and so do its lanes, head by head, as far as possible in the order of the places."""
        count = np.repeat(np.array(counts, np.int64), counts)
        prompt = np.repeat(np.arange(len(counts)), counts)
        first = np.repeat(np.cumsum(counts) - np.array(counts), counts)
        member = np.arange(sum(counts)) - first
        lane_of: Array = (first * heads + member)[:, None] + np.arange(heads) * count[:, None]
        return cls(prompt, member, lane_of, len(counts), max(counts))

    def tables(self, slots: Array, device: torch.device, *, everyone: bool = False) -> Lanes:
        """The index tensors for rows in these slots.

        Args:
            slots: (N,) where the rows are; row i of the state is in slot slots[i].
            device: Where the tensors go.
            everyone: Row i of the state is slot i instead, with or without a rollout.
        """
        heads = self.heads
        lanes, places = self.lane_of[slots], self.place_of[slots]
        fold = np.arange(self.prompts * heads * self.members) // self.members % heads
        fold[places] = lanes if everyone else np.arange(len(slots) * heads).reshape(-1, heads)
        pick, spread = np.zeros(self.slots * heads, np.int64), np.zeros(len(fold), np.int64)
        pick[lanes], spread[places] = places, lanes
        aligned = len(fold) == len(pick) and np.array_equal(self.lane_of, self.place_of)
        tables = (fold, None if everyone else lanes.reshape(-1), *((None, None) if aligned and not everyone else (pick, spread)))
        return Lanes(heads, *(None if t is None else torch.from_numpy(t).to(device) for t in tables))  # type: ignore[arg-type]

    def by_lane(self, slots: Array, values: Array) -> Array:
        """Values of rows in these slots, for each lane; 0 where no row stands."""
        found = np.zeros(self.slots * self.heads, np.int64)
        found[self.lane_of[slots]] = values[:, None]
        return found
