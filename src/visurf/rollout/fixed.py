"""Decoding in fixed shapes: places and slots are there from the start, everything happens in place.

That is what a recorded step (`visurf.rollout.graphs`) needs, and it spares the device all waiting but the stop test. Slots without
a rollout are computed along, so on a CPU `visurf.rollout.batch.Batch` is faster.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from visurf.policy import Policy
from visurf.rollout.batch import Batch, Row, Work
from visurf.rollout.decode import DecodeLayout
from visurf.rollout.graphs import Recorder
from visurf.rollout.prefix_cache import Column, Room, own_bias
from visurf.rollout.record import Record
from visurf.rollout.seats import Seats

# The columns of the ring that a step attends to grow from this, doubling. Each width costs a recording and a step before it that is
# launched kernel by kernel; a wide beginning takes reads of empty columns for fewer of both.
WIDTH = 512


def new_batch(policy: Policy, record: Record, work: Work) -> Batch:
    """The batch that suits the device."""
    fixed = record.tokens.device.type == "cuda" and work.settings.cuda_graphs != "off"
    return FixedBatch(policy, record, work) if fixed else Batch(policy, record, work)


class FixedBatch(Batch):
    """A batch whose tensors never change shape or address; row i of the state is slot i."""

    def __init__(self, policy: Policy, record: Record, work: Work) -> None:
        """An empty batch with room for as much of the work as the budget allows."""
        super().__init__(policy, record, work)
        reach = max(work.lengths)
        # A prompt keeps its place until its last rollout has ended: a quarter more places than full groups of slots.
        count = min(len(work.lengths), int(self.budget / (1.25 * reach + self.members * self.max_tokens)) or 1)
        places = min(len(work.lengths), count + count // 4)
        self.room = Room(places, reach, count * self.members, self.ring)
        slots = self.room.slots
        self.idle = torch.tensor([[0], [0], [record.nobody], [0]], device=self.device)
        self.state = self.idle.repeat(1, slots)
        self.ended = torch.zeros(slots, dtype=torch.bool, device=self.device)
        self.ticks = torch.zeros(1, dtype=torch.long, device=self.device)
        self.lengths = [0] * places
        self.column = Column(None, torch.zeros(1, dtype=torch.long, device=self.device))
        self.prompt_of, self.member_of = np.zeros(slots, np.int64), np.zeros(slots, np.int64)
        self.recorder = Recorder(self.device)

    def _free(self) -> tuple[list[int], list[int]]:
        """Places without a prompt, slots without a rollout."""
        assert self.room is not None
        prompts, slots = {row.prompt for row in self.rows}, {row.slot for row in self.rows}
        return [p for p in range(self.room.prompts) if p not in prompts], [s for s in range(self.room.slots) if s not in slots]

    def fits(self, lengths: Sequence[int]) -> bool:
        """Whether places and slots are left for further prompts of these lengths."""
        places, slots = self._free()
        return len(lengths) <= len(places) and len(lengths) * self.members <= len(slots)

    def make_room(self, lengths: Sequence[int]) -> list[int]:
        """Choose places for further prompts."""
        assert self.room is not None
        if self.start is None:
            self._allocate()
        places = self._free()[0][: len(lengths)]
        for place, length in zip(places, lengths, strict=True):
            self.lengths[place] = length
        assert self.layout.prompt_bias is not None
        self.layout.prompt_bias.copy_(self._bias())
        return places

    def _allocate(self) -> None:
        assert self.room is not None
        for layer in self.layers:
            layer.allocate(self.room)
        lanes = self.room.slots * self.layers[0].heads
        self.layout = DecodeLayout(self.cache, self._bias())
        self.start = torch.zeros(lanes, dtype=torch.long, device=self.device)
        self.seats = self._seats()
        self.layout.lanes = self.seats.tables(np.zeros(0, np.int64), self.device, everyone=True)

    def _seats(self) -> Seats:
        assert self.room is not None
        lane_of = np.arange(self.room.slots * self.layers[0].heads).reshape(self.room.slots, -1)
        return Seats(self.prompt_of, self.member_of, lane_of, self.room.prompts, self.members)

    def join(self, rows: Sequence[tuple[int, int]], token: Tensor, position: Tensor) -> None:
        """See `Batch.join`."""
        slots = self._free()[1][: len(rows)]
        for i, (slot, (rollout, prompt)) in enumerate(zip(slots, rows, strict=True)):
            self.rows.append(Row(rollout, prompt, slot, self.clock))
            self.prompt_of[slot], self.member_of[slot] = prompt, i % self.members
        at = torch.tensor(slots, device=self.device)
        number = torch.tensor([n for n, _ in rows], device=self.device)
        self.state.index_copy_(1, at, torch.stack([token, position, number, torch.ones_like(number)]))
        self.ended.index_copy_(0, at, self._hit(token))
        self._arrange()

    def _arrange(self) -> None:
        assert self.start is not None
        self.seats = self._seats()
        slots = np.array([row.slot for row in self.rows], np.int64)
        self.layout.lanes.copy_(self.seats.tables(slots, self.device, everyone=True))
        self.start.copy_(torch.from_numpy(self.seats.by_lane(slots, np.array([row.start for row in self.rows]))))

    def leave(self) -> int:
        """See `Batch.leave`; nothing moves, the slots of those that went write to nobody's record."""
        ended = self.ended.tolist()
        gone = [row for row in self.rows if ended[row.slot] or self._full(row)]
        if gone:
            self.rows = [row for row in self.rows if not (ended[row.slot] or self._full(row))]
            slots = torch.tensor([row.slot for row in gone], device=self.device)
            self.state.index_copy_(1, slots, self.idle.expand(-1, len(gone)))
        return len(gone)

    def step(self) -> None:
        """See `Batch.step`."""
        assert self.room is not None
        width = WIDTH
        while width < min(self.clock + 1, self.room.columns):
            width *= 2
        self.recorder.run(min(width, self.room.columns), self._step)
        self.clock += 1

    def _step(self, width: int) -> None:
        """One step that depends on no value of the host but the width."""
        assert self.room is not None
        assert self.start is not None
        assert isinstance(self.column.number, Tensor)
        self.layout.width = width
        self.layout.own_bias = own_bias(self.start, self.ticks, self.room.columns, width)
        self.column.number.copy_(self.ticks % self.room.columns)
        token, position, number, count = self.state.unbind()
        token.copy_(self.record.draw(self.log_p(self.forward(token, position)), number, count))
        self.state[1::2] += 1
        # Idle slots count on; they must not leave the record.
        count.clamp_(max=self.max_tokens - 1)
        self.ended |= self._hit(token)
        self.ticks += 1
