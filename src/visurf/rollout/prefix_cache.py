"""Keys and values of rollouts that are decoded together: each prompt's once, each rollout's own in a ring.

A *lane* is one key/value head of one rollout. Own keys lie in a ring of columns that all lanes share: whatever is decoded in one
step goes into one column, so that writing needs no index per rollout; a rollout that joined later is kept from the columns before
by a mask. The ring is as long as the longest completion, so no rollout meets its own tail.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

Pair = tuple[Tensor, Tensor]


@dataclass
class Column:
    """Where one step's keys go, in all layers.

    Attributes:
        lanes: (N * kv heads,) the lane of each row's heads; None where rows' heads are the lanes, in order.
        number: The column, an int, or a (1,) tensor where the step must not depend on host values.
    """

    lanes: Tensor | None
    number: int | Tensor

    def write(self, own: Tensor, new: Tensor) -> None:
        """Write keys or values (N, kv heads, 1, D) into the ring (lanes, C, D)."""
        flat = new.reshape(-1, 1, own.shape[2])
        if isinstance(self.number, Tensor):
            assert self.lanes is None
            own.index_copy_(1, self.number, flat)
        elif self.lanes is None:
            own[:, self.number] = flat[:, 0]
        else:
            own.select(1, self.number).index_copy_(0, self.lanes, flat[:, 0])


@dataclass(frozen=True)
class Room:
    """How much the cache holds: prompts, tokens of a prompt, rollouts and columns of the ring."""

    prompts: int
    reach: int
    slots: int
    columns: int


class PrefixLayer(CacheLayerMixin):
    """Keys and values of one layer.

    Attributes:
        prompt: (prompts * kv heads, P, D) each.
        own: (lanes, C, D) each.
        captured: What the last run over prompts left: (kv heads, T, D) each.
        column: Where a decode step writes; None while prompts are run.
    """

    is_sliding = False

    def __init__(self) -> None:
        super().__init__()
        self.captured: Pair | None = None
        self.column: Column | None = None
        self.prompt: Pair
        self.own: Pair

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor | None = None) -> None:
        """Nothing to prepare."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Pair:
        """Capture the keys of a packed row of prompts, or write one token per rollout."""
        # Under autocast rotary embedding widens the keys; the values tell what the layer computes in.
        key_states = key_states.to(value_states.dtype)
        if self.column is None:
            self.captured = (key_states[0], value_states[0])
        else:
            self.column.write(self.own[0], key_states)
            self.column.write(self.own[1], value_states)
        return key_states, value_states

    @property
    def heads(self) -> int:
        """Key/value heads, known once prompts have been run."""
        assert self.captured is not None
        return self.captured[0].shape[0]

    def allocate(self, room: Room) -> None:
        """Make empty room; zeros, since what is masked must still be finite."""
        assert self.captured is not None
        heads, _, size = self.captured[0].shape
        self.prompt = tuple(t.new_zeros(room.prompts * heads, room.reach, size) for t in self.captured)  # type: ignore[assignment]
        self.own = tuple(t.new_zeros(room.slots * heads, room.columns, size) for t in self.captured)  # type: ignore[assignment]

    def move(self, room: Room, prompts: Tensor | None, lanes: Tensor, columns: slice | Tensor) -> None:
        """Take other room, keeping some of what is there, which comes first in the new order.

        Args:
            room: The new room.
            prompts: Heads of prompts to keep; None leaves the prompts as they are.
            lanes: Lanes to keep.
            columns: Columns of the ring to keep.
        """
        heads, prompt, own = self.heads, self.prompt, self.own
        if prompts is not None:
            reach = min(room.reach, prompt[0].shape[1])
            self.prompt = tuple(_larger(t[:, :reach].index_select(0, prompts), room.prompts * heads, room.reach) for t in prompt)  # type: ignore[assignment]
        kept = (t[:, columns] if isinstance(columns, slice) else t.index_select(1, columns) for t in own)
        self.own = tuple(_larger(t.index_select(0, lanes), room.slots * heads, room.columns) for t in kept)  # type: ignore[assignment]

    def place(self, prompt: int, start: int, length: int) -> None:
        """Copy a prompt that was just run, [start, start + length) of its row, to its place."""
        assert self.captured is not None
        heads = self.heads
        for pool, run in zip(self.prompt, self.captured, strict=True):
            pool[prompt * heads : (prompt + 1) * heads, :length] = run[:, start : start + length]

    def get_seq_length(self) -> int:
        """Unused: positions are always passed explicitly."""
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Unused: the mask is handed through."""
        return query_length, 0

    def get_max_length(self) -> int:
        """No limit."""
        return -1

    def get_max_cache_shape(self) -> int:
        """No limit."""
        return -1


def _larger(kept: Tensor, first: int, second: int) -> Tensor:
    """Pad the first two dimensions with zeros."""
    if kept.shape[:2] == (first, second):
        return kept
    padded = kept.new_zeros(first, second, kept.shape[2])
    padded[: kept.shape[0], : kept.shape[1]] = kept
    return padded


def own_bias(start: Tensor, clock: int | Tensor, columns: int, width: int) -> Tensor:
    """The mask that keeps a rollout from columns written before it joined.

    Args:
        start: (lanes,) the clock when the lane's rollout joined.
        clock: Steps so far; this step writes column clock % columns.
        columns: Length of the ring.
        width: Columns in use, from the first.

    Returns:
        (lanes, 1, width) float32, 0 or minus infinity.
    """
    age = (clock - torch.arange(width, device=start.device)) % columns
    hidden = age > (clock - start).unsqueeze(1)
    return torch.zeros(hidden.shape, device=start.device).masked_fill_(hidden, float("-inf")).unsqueeze(1)
