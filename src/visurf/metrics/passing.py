"""Pass@k: the chance that at least one of k answers is right."""

from __future__ import annotations

import math
from collections.abc import Sequence


def pass_at_k(samples: int, right: int, k: int) -> float:
    """The unbiased estimate for one prompt: 1 - C(samples - right, k) / C(samples, k).

    Args:
        samples: Answers drawn.
        right: Those that are right.
        k: Answers that one would draw, at most `samples`.

    Raises:
        ValueError: More right than drawn, or k outside [1, samples].

    Source: Chen et al., "Evaluating Large Language Models Trained on Code" (arXiv 2107.03374), Eq. 1.

    >>> pass_at_k(4, 1, 1), pass_at_k(4, 1, 2), pass_at_k(4, 3, 2)
    (0.25, 0.5, 1.0)
    """
    if not 0 <= right <= samples or not 1 <= k <= samples:
        raise ValueError(f"expected 0 <= right <= samples and 1 <= k <= samples, got {right} right of {samples} and k = {k}")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def powers_of_two(samples: int) -> list[int]:
    """1, 2, 4, ... and the number of samples itself.

    >>> powers_of_two(12)
    [1, 2, 4, 8, 12]
    """
    return sorted({*(1 << i for i in range(samples.bit_length()) if 1 << i <= samples), samples})


def mean_pass_at(samples: int, right: Sequence[int]) -> dict[int, float]:
    """K -> the mean over prompts, for `powers_of_two`.

    Raises:
        ValueError: No prompts.
    """
    if not right:
        raise ValueError("no prompts: pass@k over nothing has no value")
    return {k: math.fsum(pass_at_k(samples, count, k) for count in right) / len(right) for k in powers_of_two(samples)}
