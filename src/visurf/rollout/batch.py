"""The rollouts that are decoded together: they join, step and leave."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache

from visurf.attention import dummy_mask
from visurf.packing import axes_first
from visurf.policy import Policy
from visurf.rollout.decode import DecodeLayout
from visurf.rollout.prefix_cache import Column, PrefixLayer, Room, own_bias
from visurf.rollout.record import Record
from visurf.rollout.seats import Seats
from visurf.rollout.types import Sampling

# Keys are moved together once this share of those attended to would do.
TIDY = 0.7
# Columns of a new ring, which grows as it fills.
COLUMNS = 32


@dataclass
class Row:
    """A rollout that is being decoded: its number, its prompt's place, its slot, and the clock when it joined."""

    number: int
    prompt: int
    slot: int
    start: int


@dataclass(frozen=True)
class Work:
    """What a batch will have to do.

    Attributes:
        lengths: Tokens of each prompt.
        members: Rollouts of each prompt.
        axes: Axes of positions.
        settings: How to sample.
        eos: Tokens that end a completion.
    """

    lengths: Sequence[int]
    members: int
    axes: int
    settings: Sampling
    eos: tuple[int, ...]


class Batch:
    """Rollouts of several prompts, each at its own step; those of a prompt stand together.

    Attributes:
        rows: Rollouts that are decoded, in the order of the state tensors.
        lengths: Tokens of each prompt that has a place.
        clock: Steps since the ring's first column.
    """

    def __init__(self, policy: Policy, record: Record, work: Work) -> None:
        """An empty batch."""
        self.policy, self.base, self.record = policy, policy.base(), record
        self.device, settings = record.tokens.device, work.settings
        self.members, self.axes, self.eos = work.members, work.axes, work.eos
        self.max_tokens, self.budget = settings.max_tokens, settings.token_budget
        self.ring = max(settings.max_tokens - 1, 1)
        self.layers = [PrefixLayer() for _ in range(self.base.config.get_text_config().num_hidden_layers)]
        self.cache = Cache(layers=list(self.layers))
        self.mask = dummy_mask(self.device)
        self.rows: list[Row] = []
        self.lengths: list[int] = []
        self.clock = 0
        # Of each row: the token that goes in next, its position, the rollout's number, and how many tokens it has.
        self.state = torch.zeros(4, 0, dtype=torch.long, device=self.device)
        self.ended = torch.zeros(0, dtype=torch.bool, device=self.device)
        self.column = Column(None, 0)
        self.room: Room | None = None
        self.seats: Seats
        self.layout: DecodeLayout
        self.start: Tensor | None = None

    def run_prompts(self, inputs: dict[str, Any]) -> Tensor:
        """Run a packed row of prompts and capture their keys: hidden states (T, hidden)."""
        for layer in self.layers:
            layer.column = None
        layout = inputs["visurf_layout"]
        layout.calls = 0
        hidden: Tensor = self.base.model(**{**inputs, "past_key_values": self.cache, "use_cache": True}).last_hidden_state[0]
        self._check(layout)
        for layer in self.layers:
            layer.column = self.column
        return hidden

    def log_p(self, hidden: Tensor) -> Tensor:
        """Log-probs of the next token: (n, hidden) -> (n, V)."""
        return torch.log_softmax(self.policy.logits(hidden, self.base.lm_head), dim=-1)

    def fits(self, lengths: Sequence[int]) -> bool:
        """Whether the budget has room for further prompts of these lengths; for a single one when nothing is decoded it has."""
        here = [self.lengths[p] for p in {row.prompt for row in self.rows}]
        if not here and len(lengths) == 1:
            return True
        rollouts = len(self.rows) + len(lengths) * self.members
        return (len(here) + len(lengths)) * max(*here, *lengths, 0) + rollouts * self.max_tokens <= self.budget

    def make_room(self, lengths: Sequence[int]) -> list[int]:
        """Make room for further prompts, once some prompt's keys were captured; returns their places."""
        kept = sorted({row.prompt for row in self.rows})
        self._rebuild(kept, lengths)
        return list(range(len(kept), len(self.lengths)))

    def place(self, prompt: int, start: int) -> None:
        """Copy a prompt that was just run, from `start` of its row, to its place in every layer."""
        for layer in self.layers:
            layer.place(prompt, start, self.lengths[prompt])

    def join(self, rows: Sequence[tuple[int, int]], token: Tensor, position: Tensor) -> None:
        """Let rollouts in, after room was made for them.

        Args:
            rows: (number, place of the prompt) of each, a prompt's rollouts together, prompts in order.
            token: (n,) their first tokens.
            position: (n,) where those stand.
        """
        taken = len(self.rows)
        self.rows += [Row(number, prompt, taken + i, self.clock) for i, (number, prompt) in enumerate(rows)]
        number = torch.tensor([n for n, _ in rows], device=self.device)
        self.state = torch.cat([self.state, torch.stack([token, position, number, torch.ones_like(number)])], dim=1)
        self.ended = torch.cat([self.ended, self._hit(token)])
        self._arrange()

    def leave(self) -> int:
        """Let those go that have ended or reached the limit; returns how many. Waits for the device."""
        stays = [not (ended or self._full(row)) for ended, row in zip(self.ended.tolist(), self.rows, strict=True)]
        gone = stays.count(False)
        if gone:
            left = torch.tensor([i for i, s in enumerate(stays) if s], dtype=torch.long, device=self.device)
            self.rows = [row for row, s in zip(self.rows, stays, strict=True) if s]
            self.state, self.ended = self.state.index_select(1, left), self.ended.index_select(0, left)
        if gone and self.rows:
            self._tidy()
            self._arrange()
        return gone

    def _full(self, row: Row) -> bool:
        # A row has one token when it joins, and one more after every step.
        return self.clock - row.start + 1 >= self.max_tokens

    def steps_left(self) -> int:
        """Steps until the first rollout reaches the limit."""
        return self.max_tokens - 1 - max(self.clock - row.start for row in self.rows)

    def step(self) -> None:
        """Decode one token of every row; those that have ended go on until they leave, and nobody reads what they draw."""
        assert self.room is not None
        if self.clock == self.room.columns < self.ring:
            self._grow()
        columns, layout = self.room.columns, self.layout
        layout.width, self.column.number = min(self.clock + 1, columns), self.clock % columns
        layout.own_bias = None if self.start is None else own_bias(self.start, self.clock, columns, layout.width)
        token, position, number, count = self.state.unbind()
        token.copy_(self.record.draw(self.log_p(self.forward(token, position)), number, count))
        self.state[1::2] += 1
        self.ended |= self._hit(token)
        self.clock += 1

    def forward(self, token: Tensor, position: Tensor) -> Tensor:
        """One token of every row through the network: (N,) and (N,) -> (N, hidden)."""
        self.layout.calls = 0
        hidden: Tensor = self.base.model(
            input_ids=token.unsqueeze(1),
            position_ids=axes_first(position.view(1, -1, 1).expand(self.axes, -1, -1)),
            attention_mask=self.mask,
            past_key_values=self.cache,
            use_cache=True,
            visurf_layout=self.layout,
        ).last_hidden_state
        self._check(self.layout)
        return hidden[:, 0]

    def _check(self, layout: Any) -> None:
        if layout.calls < len(self.layers):
            raise RuntimeError(f"the layout reached {layout.calls} of {len(self.layers)} layers; is attn_implementation 'visurf'?")

    def _hit(self, token: Tensor) -> Tensor:
        found = token == self.eos[0]
        for other in self.eos[1:]:
            found |= token == other
        return found

    def _arrange(self) -> None:
        """Renew the tables that depend on which rows there are."""
        slots = np.array([row.slot for row in self.rows])
        self.layout.lanes = self.seats.tables(slots, self.device)
        self.column.lanes = self.layout.lanes.rows
        starts = np.array([row.start for row in self.rows])
        # Without a row that joined later nothing is hidden, and the ring does not come round.
        self.start = torch.from_numpy(self.seats.by_lane(slots, starts)).to(self.device) if starts.any() else None

    def _tidy(self) -> None:
        """Take less room once much of what is attended to belongs to nobody."""
        assert self.room is not None
        counts = Counter(row.prompt for row in self.rows)
        reach, window = max(self.lengths[p] for p in counts), self.clock - min(row.start for row in self.rows)
        now = self.room.prompts * self.seats.members * self.room.reach + self.seats.slots * min(self.clock, self.room.columns)
        wanted = len(counts) * max(counts.values()) * reach + len(self.rows) * window
        if wanted <= TIDY * now:
            self._rebuild(sorted(counts), ())

    def _rebuild(self, kept: Sequence[int], lengths: Sequence[int]) -> None:
        """Keep the keys of these prompts and of all rows, and make room for further prompts."""
        here = Counter(row.prompt for row in self.rows)
        base = min((row.start for row in self.rows), default=self.clock)
        window, before = self.clock - base, self.lengths
        self.lengths = [*(before[p] for p in kept), *lengths]
        heads = self.layers[0].heads
        seats = Seats.together([*(here[p] for p in kept), *[self.members] * len(lengths)], heads)
        columns = min(self.ring, max(COLUMNS, 2 * window))
        room = Room(len(self.lengths), max(self.lengths), seats.slots, columns)
        if self.room is None:
            for layer in self.layers:
                layer.allocate(room)
        else:
            same = not lengths and len(kept) == len(before) and room.reach == self.room.reach
            heads_of = (np.array(kept, np.int64)[:, None] * heads + np.arange(heads)).reshape(-1)
            prompts = None if same else torch.from_numpy(heads_of).to(self.device)
            lanes = np.empty(len(self.rows) * heads, np.int64)
            if self.rows:
                lanes[seats.lane_of[: len(self.rows)]] = self.seats.lane_of[[row.slot for row in self.rows]]
            ring = self._columns(base, window)
            for layer in self.layers:
                layer.move(room, prompts, torch.from_numpy(lanes).to(self.device), ring)
        place = {p: i for i, p in enumerate(kept)}
        for i, row in enumerate(self.rows):
            row.prompt, row.slot, row.start = place[row.prompt], i, row.start - base
        self.room, self.seats, self.clock = room, seats, window
        self.layout = DecodeLayout(self.cache, None if min(self.lengths) == room.reach else self._bias())

    def _bias(self) -> Tensor:
        """What keeps queries off the padding of shorter prompts: (prompts * kv heads, 1, reach)."""
        assert self.room is not None
        ends = torch.tensor(self.lengths, device=self.device).repeat_interleave(self.layers[0].heads).view(-1, 1, 1)
        hidden = torch.arange(self.room.reach, device=self.device) >= ends
        return torch.zeros(hidden.shape, device=self.device).masked_fill_(hidden, float("-inf"))

    def _columns(self, base: int, window: int) -> slice | Tensor:
        """The columns of the ring written since the clock stood at `base`, oldest first."""
        assert self.room is not None
        if self.clock <= self.room.columns:
            return slice(base, self.clock)
        return torch.arange(base, base + window, device=self.device) % self.room.columns

    def _grow(self) -> None:
        """Lengthen the ring before it has come round."""
        assert self.room is not None
        self.room = replace(self.room, columns=min(self.ring, 2 * self.room.columns))
        lanes = torch.arange(self.seats.slots * self.seats.heads, device=self.device)
        for layer in self.layers:
            layer.move(self.room, None, lanes, slice(0, self.clock))
