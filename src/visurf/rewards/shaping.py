"""Smooth rewards on structured answers, and two penalties on the text; none of them published with a particular paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from visurf.geometry import generalised_iou
from visurf.types import Box, Point

if TYPE_CHECKING:
    from numpy.typing import NDArray


def box_overlap(boxes: Sequence[Box], true_boxes: Sequence[Box]) -> float:
    """Generalised IoU, mapped to 0 to 1, over the best one-to-one assignment, divided by the larger count.

    A box far from the truth earns little but not nothing, so the reward still tells near from far without an overlap.

    Args:
        boxes: M boxes, xyxy.
        true_boxes: N boxes in the same frame.

    Returns:
        0 to 1; 1 where both sides are empty, 0 where one is.

    Raises:
        ValueError: A box has not four finite coordinates, or a side of negative length.
    """
    for box in (*boxes, *true_boxes):
        if len(box) != 4 or not all(math.isfinite(v) for v in box) or box[2] < box[0] or box[3] < box[1]:
            raise ValueError(f"expected a finite box x1 <= x2, y1 <= y2, got {box!r}")
    return _assigned([[(generalised_iou(b, t) + 1) / 2 for t in true_boxes] for b in boxes], len(boxes), len(true_boxes))


def point_closeness(points: Sequence[Point], true_points: Sequence[Point], *, scale: float) -> float:
    """exp(-distance / scale) over the best one-to-one assignment, divided by the larger count.

    Args:
        points: M points.
        true_points: N points in the same frame.
        scale: The distance at which a point earns 1/e, in units of the frame.

    Returns:
        0 to 1; 1 where both sides are empty, 0 where one is.

    Raises:
        ValueError: A coordinate is not finite, or the scale not positive.
    """
    if not scale > 0:
        raise ValueError(f"expected a positive scale, got {scale}")
    if not all(math.isfinite(v) for point in (*points, *true_points) for v in point):
        raise ValueError("expected finite coordinates")
    return _assigned([[math.exp(-math.dist(p, t) / scale) for t in true_points] for p in points], len(points), len(true_points))


def mask_iou(mask: NDArray[Any], true_mask: NDArray[np.uint8]) -> float:
    """IoU of a mask with the true one.

    Args:
        mask: (height, width), true or non-zero inside.
        true_mask: (height, width), 0 background, 1 object; pixels of 255 count for neither side.

    Returns:
        0 to 1; 1 where both are empty.

    Raises:
        ValueError: The shapes differ.
    """
    if mask.shape != true_mask.shape or mask.ndim != 2:
        raise ValueError(f"expected two masks of one shape, got {mask.shape} and {true_mask.shape}")
    counted = true_mask != 255
    inside, true = (mask != 0) & counted, (true_mask == 1) & counted
    union = int((inside | true).sum())
    return int((inside & true).sum()) / union if union else 1.0


def length_penalty(n_tokens: int, *, free: int, limit: int) -> float:
    """0 up to `free` tokens, falling linearly to -1 at `limit` and beyond.

    Raises:
        ValueError: Not 0 <= free < limit.

    Source: Yu et al., "DAPO", arXiv 2503.14476, soft overlong punishment.

    >>> length_penalty(150, free=100, limit=200)
    -0.5
    """
    if not 0 <= free < limit:
        raise ValueError(f"expected 0 <= free < limit, got {free} and {limit}")
    return -min(max((n_tokens - free) / (limit - free), 0.0), 1.0)


def repetition_penalty(text: str, *, words: int = 6) -> float:
    """Minus the share of runs of `words` words that repeat an earlier one; -1 to 0, 0 for a shorter text.

    Words are split at white space and compared in lower case.

    Raises:
        ValueError: `words` is not positive.

    >>> repetition_penalty("a b a b a b", words=2)
    -0.6
    """
    if words < 1:
        raise ValueError(f"expected at least one word, got {words}")
    split = text.lower().split()
    runs = [tuple(split[i : i + words]) for i in range(len(split) - words + 1)]
    return -(len(runs) - len(set(runs))) / len(runs) if runs else 0.0


def _assigned(gains: list[list[float]], count: int, true_count: int) -> float:
    if not count or not true_count:
        return float(count == true_count)
    rows, columns = linear_sum_assignment(gains, maximize=True)
    return float(np.asarray(gains)[rows, columns].sum() / max(count, true_count))
