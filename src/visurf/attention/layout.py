"""Where prompts and completions lie in a packed row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from visurf.attention import kernels

Span = tuple[int, int]


@dataclass
class PackedLayout:
    """Where prompts and completions lie in one packed row: each prompt is followed by its completions, in order.

    Attributes:
        prompts: (start, length) of each group's prompt.
        completions: For each group the (start, length) of its completions.
        length: T, the number of tokens in the row.
        device: Where the index tensors live.
        masks: What kernels build once for the row, by their own key.
    """

    prompts: Sequence[Span]
    completions: Sequence[Sequence[Span]]
    length: int
    device: torch.device | str
    calls: int = field(default=0)
    masks: dict[object, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Refuse spans that do not cover the row exactly once, in order."""
        at = 0
        for prompt, members in zip(self.prompts, self.completions, strict=True):
            for start, count in (prompt, *members):
                if start != at:
                    raise ValueError(f"spans must follow each other without gap or overlap: one starts at {start}, expected {at}")
                at += count
        if at != self.length:
            raise ValueError(f"spans cover {at} positions of a row of {self.length} tokens; each token needs exactly one span")

    @cached_property
    def prompt_index(self) -> Tensor:
        """(B, P) positions of each prompt's tokens in the row; entries past a prompt's end repeat 0."""
        index = torch.zeros(len(self.prompts), max(n for _, n in self.prompts), dtype=torch.long)
        for g, (start, n) in enumerate(self.prompts):
            index[g, :n] = torch.arange(start, start + n)
        return index.to(self.device)

    @cached_property
    def prompt_bias(self) -> Tensor:
        """(B, 1, 1, P) additive mask: 0 on a prompt's tokens, -inf past its end."""
        lengths = torch.tensor([n for _, n in self.prompts])
        past = torch.arange(int(lengths.max())) >= lengths.unsqueeze(1)
        return torch.zeros(past.shape).masked_fill(past, float("-inf"))[:, None, None].to(self.device)

    @cached_property
    def group(self) -> Tensor:
        """(T,) the group of each token."""
        sizes = torch.tensor([p[1] + sum(n for _, n in c) for p, c in zip(self.prompts, self.completions, strict=True)])
        return torch.repeat_interleave(torch.arange(len(sizes)), sizes).to(self.device)

    @cached_property
    def segment(self) -> Tensor:
        """(T,) 0 on prompts, 1 ... N on the completions of a group."""
        parts = []
        for (_, n), members in zip(self.prompts, self.completions, strict=True):
            parts.append(torch.zeros(n, dtype=torch.long))
            parts += [torch.full((count,), m) for m, (_, count) in enumerate(members, 1)]
        return torch.cat(parts).to(self.device)

    @cached_property
    def read_at(self) -> Tensor:
        """(R,) positions whose final hidden state is read: each prompt's last token and all tokens of completions, in order."""
        spans = [s for (at, n), members in zip(self.prompts, self.completions, strict=True) for s in ((at + n - 1, 1), *members)]
        return torch.cat([torch.arange(at, at + n) for at, n in spans]).to(self.device)

    def attend(self, module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float, kernel: str) -> Tensor:
        """See `Layout.attend`; the batch is one row."""
        if query.shape[0] != 1 or query.shape[2] != self.length:
            raise ValueError(f"the packed row has shape {tuple(query.shape)}, the layout expects 1 row of {self.length} tokens")
        return kernels.choose(kernel, query, key)(query, key, value, self, scaling)
