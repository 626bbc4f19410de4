"""What a step reports: sums over tokens, timings and token counts, brought together over processes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from visurf import parallel
from visurf.groups import Tally, tally
from visurf.types import Group


@dataclass
class Diagnostics:
    """Collects the numbers of one step.

    Attributes:
        device: Whose work is timed.
        sums: Name -> (sum, count) of token-wise quantities.
        seconds: Name -> wall seconds of each part of the step.
        unique: Tokens that went through the network in training.
        began: When the step began.
    """

    device: torch.device
    sums: dict[str, tuple[float, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    unique: int = 0
    began: float = field(default_factory=time.perf_counter)

    def add(self, name: str, values: Tensor) -> None:
        """Add the values of some tokens; their mean is reported."""
        total, count = self.sums.get(name, (0.0, 0.0))
        self.sums[name] = (total + float(values.double().sum()), count + values.numel())

    def mark(self) -> tuple[dict[str, tuple[float, float]], int]:
        """What was added so far."""
        return dict(self.sums), self.unique

    def rewind(self, mark: tuple[dict[str, tuple[float, float]], int]) -> None:
        """Forget what was added since a mark: it will be computed again."""
        self.sums, self.unique = dict(mark[0]), mark[1]

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Count the wall time of a block."""
        began = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

    def report(self, groups: Sequence[Group], prompt_tokens: Sequence[int], loss: float, carried: int) -> dict[str, float]:
        """Everything a step reports, over all processes; times are this process's.

        Args:
            groups: This process's groups, with advantages.
            prompt_tokens: Tokens of each group's prompt.
            loss: This process's share of the loss; shares add up.
            carried: Sequences that went into packed rows.
        """
        local = tally(groups)
        logprobs = [v for g in groups for c in g.completions if c.source == "policy" for v in c.logprobs or ()]
        # The mean of -log p over sampled tokens estimates the entropy, over all rollouts and at no cost.
        local.add("policy/entropy", -sum(logprobs), len(logprobs))
        for name, (total, count) in self.sums.items():
            local.add(name, total, count)
        members = sum(len(g.completions) for g in groups)
        naive = sum(n + len(c.token_ids) for n, g in zip(prompt_tokens, groups, strict=True) for c in g.completions)
        whole = Tally()
        for part in parallel.gather([local]):
            whole.merge(part)
        found = whole.metrics()
        shared = (loss, self.unique, naive, members - carried, members, len(logprobs))
        loss, unique, naive_tokens, skipped, everyone, sampled = parallel.total(shared)
        found |= {"loss": loss, "train/skipped": skipped / max(everyone, 1)}
        found |= {"train/tokens": unique, "train/tokens_naive": naive_tokens}
        step = time.perf_counter() - self.began
        found |= {f"time/{name}": seconds for name, seconds in self.seconds.items()}
        found |= {"time/step": step, "time/other": step - sum(self.seconds.values())}
        found["rate/tokens"] = (unique + sampled) / max(step, 1e-9)
        return found
