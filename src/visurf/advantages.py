"""Group advantages, in float64.

Source: ViSurf, arXiv 2510.10606, Eq. 6 and 7: every member of a group, the label included, is measured against the mean and the
standard deviation of the whole group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Scale = Literal["group", "batch", "none"]
FLAT = 1e-12


def is_flat(rewards: Sequence[float]) -> bool:
    """Whether all rewards are equal up to rounding: range <= 1e-12 x max(1, |mean|). A single reward is flat.

    >>> is_flat([0.1 + 0.2, 0.3]), is_flat([0.0, 1.0])
    (True, False)
    """
    values = np.asarray(rewards, dtype=np.float64)
    return bool(np.ptp(values) <= FLAT * max(1.0, abs(float(values.mean()))))


def spread(rewards: Sequence[float], ddof: int = 1) -> float:
    """Standard deviation with n - ddof; 0 where that is not positive."""
    values = np.asarray(rewards, dtype=np.float64)
    return float(values.std(ddof=ddof)) if len(values) > ddof else 0.0


def group_advantages(
    rewards: Sequence[float], *, ddof: int = 1, eps: float = 1e-6, scale: Scale = "group", batch_std: float | None = None
) -> tuple[float, ...]:
    """(reward - mean) / (std + eps) over one group.

    Args:
        rewards: Total reward of each member, the label included where it joined.
        ddof: 1 for the sample, 0 for the population standard deviation.
        eps: Added to the standard deviation.
        scale: Divide by the group's deviation, by `batch_std`, or not at all.
        batch_std: Standard deviation of all rewards of the batch, for `scale="batch"`.

    Returns:
        One advantage a member; all exactly 0 for a flat group and for a group of one.

    Raises:
        ValueError: Empty group, a reward that is not finite, or `scale="batch"` without `batch_std`.

    Source: arXiv 2510.10606, Eq. 6 and 7; arXiv 2402.03300 for GRPO; `scale="none"` is Dr. GRPO, arXiv 2503.20783.

    >>> [round(a, 4) for a in group_advantages([0, 0, 1, 1], ddof=0, eps=0)]
    [-1.0, -1.0, 1.0, 1.0]
    """
    values = np.asarray(rewards, dtype=np.float64)
    if values.size == 0:
        raise ValueError("a group needs at least one reward")
    if not np.isfinite(values).all():
        raise ValueError(f"rewards must be finite, got {values.tolist()}")
    if is_flat(values.tolist()):
        return (0.0,) * len(values)
    centred = values - values.mean()
    match scale:
        case "group":
            centred /= spread(values.tolist(), ddof) + eps
        case "batch":
            if batch_std is None:
                raise ValueError('scale="batch" needs batch_std, the deviation over all rewards of the batch')
            centred /= batch_std + eps
        case "none":
            pass
    return tuple(float(v) for v in centred)
