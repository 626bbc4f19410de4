"""What a sampler is asked for and what it returns; the same for every engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Rollout:
    """Sampled tokens, ended by an end-of-turn token unless truncated, and their log-probs under the sampled distribution."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    truncated: bool


@dataclass(frozen=True)
class Sampling:
    """How to sample.

    Attributes:
        max_tokens: Longest completion.
        greedy: Take the likeliest token instead of sampling.
        top_p: Keep the smallest set of tokens with this probability; below 1 the log-probs are no longer exactly those
            of the distribution that was sampled.
        token_budget: Tokens held at once: each prompt in the batch padded to the longest of them, and `max_tokens` for
            every rollout that has not ended. Further prompts wait until there is room; one prompt always fits.
        cuda_graphs: Decode in fixed shapes on a CUDA device, the step recorded once per shape and replayed, unless `off`.
    """

    max_tokens: int = 512
    greedy: bool = False
    top_p: float = 1.0
    token_budget: int = 65536
    cuda_graphs: Literal["auto", "on", "off"] = "auto"
