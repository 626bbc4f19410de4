"""Group advantages, in float64.

Source: ViSurf, arXiv 2510.10606, Eq. 6 and 7: every member of a group, the label included, is measured against the mean and the
standard deviation of the whole group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Scale = Literal["group", "batch", "none"]
Baseline = Literal["mean", "others"]
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
    rewards: Sequence[float],
    *,
    ddof: int = 1,
    eps: float = 1e-6,
    scale: Scale = "group",
    baseline: Baseline = "mean",
    batch_std: float | None = None,
    single: Literal["zero", "reward"] = "zero",
) -> tuple[float, ...]:
    """(reward - baseline) / (std + eps) over one group.

    Args:
        rewards: Total reward of each member, the label included where it joined.
        ddof: 1 for the sample, 0 for the population standard deviation.
        eps: Added to the standard deviation.
        scale: Divide by the group's deviation, by `batch_std`, or not at all.
        baseline: The mean of the group, or for every member the mean of the others.
        batch_std: Standard deviation of all rewards of the batch, for `scale="batch"`.
        single: What a group of one gets: 0, or its reward as verl does (mean 0, deviation 1).

    Returns:
        One advantage a member; all exactly 0 for a flat group, and for a group of one unless `single` says otherwise.

    Raises:
        ValueError: Empty group, a reward that is not finite, or `scale="batch"` without `batch_std`.

    Source: arXiv 2510.10606, Eq. 6 and 7; arXiv 2402.03300 for GRPO; `scale="none"` is Dr. GRPO, arXiv 2503.20783, and
    with `baseline="others"` RLOO, arXiv 2402.14740.

    >>> tuple(round(a, 4) for a in group_advantages([0, 0, 1, 1], ddof=0, eps=0))
    (-1.0, -1.0, 1.0, 1.0)
    """
    values = np.asarray(rewards, dtype=np.float64)
    if values.size == 0:
        raise ValueError("a group needs at least one reward")
    if not np.isfinite(values).all():
        raise ValueError(f"rewards must be finite, got {values.tolist()}")
    if len(values) == 1 and single == "reward":
        return (float(values[0]) / (1 + eps),)
    if is_flat(values.tolist()):
        return (0.0,) * len(values)
    centred = values - values.mean()
    if baseline == "others":
        centred *= len(values) / (len(values) - 1)
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


def normalise_then_sum(
    parts: Sequence[Sequence[float | None]], weights: Sequence[float], group_size: int, *, ddof: int = 1, eps: float = 1e-6
) -> list[float]:
    """Advantages in which every reward part is normalised within its group before the parts are summed.

    A part of small spread then counts as much as one of large spread. The weighted sums are normalised once more over the batch.

    Args:
        parts: One row a completion, groups of `group_size` consecutive rows; None where a part abstained.
        weights: One a part.
        group_size: Rows of a group.
        ddof: As in `group_advantages`, and so is `eps`.
        eps: See there.

    Returns:
        One advantage a row; 0 for a row in which every part abstained.

    Source: GDPO, arXiv 2601.05242.
    """
    sums: list[float | None] = [None] * len(parts)
    for start in range(0, len(parts), group_size):
        for column, weight in enumerate(weights):
            rows = [r for r in range(start, min(start + group_size, len(parts))) if parts[r][column] is not None]
            found = group_advantages([float(parts[r][column] or 0) for r in rows], ddof=ddof, eps=eps) if rows else ()
            for row, advantage in zip(rows, found, strict=True):
                sums[row] = (sums[row] or 0.0) + weight * advantage
    usable = [s for s in sums if s is not None]
    scaled = iter(group_advantages(usable, ddof=ddof, eps=eps) if usable else ())
    return [0.0 if s is None else next(scaled) for s in sums]


def split_advantages(
    rewards: Sequence[float], on_policy: Sequence[bool], *, eps: float = 1e-6, scale: Scale = "group"
) -> tuple[float, ...]:
    """Advantages of a mixed group, measured against its on-policy members only.

    Args:
        rewards: Total reward of each member.
        on_policy: Which members the policy sampled.
        eps: Added to their standard deviation (n - 1); a flat or single on-policy side counts as deviation 1, a single one as
            mean 0.
        scale: `group` divides by the deviation, `none` does not.

    Raises:
        ValueError: No member is on-policy.

    Source: LUFFY's released code, arXiv 2504.14945.
    """
    own = [r for r, mine in zip(rewards, on_policy, strict=True) if mine]
    if not own:
        raise ValueError("a mixed group needs at least one on-policy member")
    mean, deviation = (0.0, 1.0) if len(own) == 1 else (float(np.mean(own)), 1.0 if is_flat(own) else spread(own))
    divisor = deviation + eps if scale == "group" else 1.0
    return tuple((r - mean) / divisor for r in rewards)
