"""What rollouts have drawn so far, and what there is to draw with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from visurf.rollout.sampling import choose
from visurf.rollout.types import Rollout, Sampling


class Record:
    """What was drawn so far, and what there is to draw with.

    Attributes:
        tokens: (R + 1, max_tokens) token ids, -1 where nothing was drawn; the last row takes what nobody reads.
        logprobs: Likewise, float32.
        uniform: (R + 1, max_tokens) float64 numbers in [0, 1), None when greedy.
        nobody: The last row's number.
    """

    def __init__(self, count: int, settings: Sampling, draws: np.ndarray[Any, Any] | None, device: torch.device) -> None:
        """Room for so many rollouts."""
        shape = (count + 1, settings.max_tokens)
        self.tokens = torch.full(shape, -1, device=device)
        self.logprobs = torch.zeros(shape, device=device)
        self.uniform = None if draws is None else torch.from_numpy(np.concatenate([draws, draws[:1]])).to(device)
        self.top_p = settings.top_p
        self.nobody = count

    def draw(self, log_p: Tensor, number: Tensor, count: Tensor, draws: int = 1) -> Tensor:
        """Draw the next token of rollouts and write it down.

        Args:
            log_p: (N, V) log-probs.
            number: (N * draws,) the rollouts; `draws` of them share a row of log-probs.
            count: (N * draws,) tokens they have.
            draws: See `number`.

        Returns:
            (N * draws,) token ids.
        """
        uniform = None if self.uniform is None else self.uniform[number, count].view(-1, draws)
        token, logprob = (t.reshape(-1) for t in choose(log_p, uniform, self.top_p, draws))
        self.tokens.index_put_((number, count), token)
        self.logprobs.index_put_((number, count), logprob)
        return token

    def collect(self, members: int, eos: tuple[int, ...]) -> list[list[Rollout]]:
        """Every prompt's rollouts, cut after their first end-of-turn token."""
        tokens, logprobs = (t[:-1].cpu().numpy() for t in (self.tokens, self.logprobs))
        ends = np.isin(tokens, eos)
        found = []
        for drawn, values, end in zip(tokens, logprobs, ends, strict=True):
            length = int(end.argmax()) + 1 if end.any() else len(drawn)
            found.append(Rollout(tuple(drawn[:length].tolist()), tuple(values[:length].tolist()), not end.any()))
        return [found[i : i + members] for i in range(0, len(found), members)]
