"""Box, click and generalised comprehension (GREC) metrics.

One entry per sample; None is a failed or empty answer and counts as a miss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from visurf.geometry import box_iou, generalised_iou, inside, mask_box
from visurf.metrics.segmentation import Overlap
from visurf.types import Box, Point

if TYPE_CHECKING:
    from numpy.typing import NDArray


def box_ious(predicted: Sequence[Box | None], truth: Sequence[Box]) -> NDArray[np.float64]:
    """IoU per sample in [0, 1], plain half-open areas; a missing box scores 0.

    Returns:
        (samples,).

    Raises:
        ValueError: The lengths differ.
    """
    if len(predicted) != len(truth):
        raise ValueError(f"{len(predicted)} predictions for {len(truth)} samples; give None for a failed answer")
    return np.array([0.0 if p is None else box_iou(p, t) for p, t in zip(predicted, truth, strict=True)])


def mean_box_iou(predicted: Sequence[Box | None], truth: Sequence[Box]) -> float:
    """Mean IoU of one box per sample, a fraction: the mIoU that Visual-RFT reports on LISA's test and val.

    Raises:
        ValueError: There are no samples, or the lengths differ.

    >>> mean_box_iou([(0.0, 0.0, 2.0, 2.0), None], [(0.0, 0.0, 2.0, 2.0), (0.0, 0.0, 1.0, 1.0)])
    0.5
    """
    ious = box_ious(predicted, truth)
    if not ious.size:
        raise ValueError("no samples: a metric over nothing has no value")
    return float(ious.mean())


def box_accuracy(predicted: Sequence[Box | None], truth: Sequence[Box], *, threshold: float = 0.5) -> float:
    """Share of samples whose IoU is strictly above the threshold, a fraction.

    Raises:
        ValueError: There are no samples, or the lengths differ.

    Source: VisionReasoner, Seg-Zero and Visual-RFT are all strict; >= differs only at exactly the threshold.

    >>> box_accuracy([(0.0, 0.0, 2.0, 1.0)], [(0.0, 0.0, 1.0, 1.0)])
    0.0
    """
    ious = box_ious(predicted, truth)
    if not ious.size:
        raise ValueError("no samples: a metric over nothing has no value")
    return float((ious > threshold).mean())


def mask_box_accuracy(predicted: Sequence[Box | None], masks: Sequence[NDArray[np.uint8]], *, threshold: float = 0.5) -> float:
    """Box accuracy against the tight box of each true mask, a fraction: ViSurf's Bbox_Acc on ISIC2018.

    The paper names the metric and not its rule. Assumed: IoU > 0.5 with the half-open box of the mask's pixels (x2 is the
    last column + 1).

    Args:
        predicted: One box or None per sample.
        masks: (height, width) with 1 where the object is.
        threshold: Of the IoU, strict.

    Raises:
        ValueError: A mask is empty, there are no samples, or the lengths differ.
    """
    truth = []
    for index, mask in enumerate(masks):
        box = mask_box(mask)
        if box is None:
            raise ValueError(f"true mask {index} has no pixel equal to 1, so it has no tight box")
        truth.append(box)
    return box_accuracy(predicted, truth, threshold=threshold)


def thresholded_jaccard(overlaps: Sequence[Overlap], *, threshold: float = 0.65) -> float:
    """Mean over images of the Jaccard index where it reaches the threshold and 0 elsewhere, a fraction.

    Two empty masks score 0. The challenge's images always show a lesion.

    Args:
        overlaps: One per image.
        threshold: Inclusive.

    Raises:
        ValueError: There are no images.

    Source: ISIC 2018 challenge, task 1.

    >>> thresholded_jaccard([Overlap(65, 100), Overlap(64, 100)])
    0.325
    """
    if not overlaps:
        raise ValueError("no samples: a metric over nothing has no value")
    jaccard = np.array([o.intersection / o.union if o.union else 0.0 for o in overlaps])
    return float(np.where(jaccard >= threshold, jaccard, 0.0).mean())


def click_hits(points: Sequence[Point | None], truth: Sequence[Sequence[Box]]) -> NDArray[np.bool_]:
    """Whether each click lies in one of its sample's boxes, borders included; a missing click misses.

    Args:
        points: One per sample.
        truth: The boxes that count as a hit, one or more per sample.

    Returns:
        (samples,).

    Raises:
        ValueError: The lengths differ, or a sample has no box.
    """
    if len(points) != len(truth):
        raise ValueError(f"{len(points)} points for {len(truth)} samples; give None for a failed answer")
    for index, boxes in enumerate(truth):
        if not boxes:
            raise ValueError(f"sample {index} has no true box, so no click can hit it")
    pairs = zip(points, truth, strict=True)
    return np.array([p is not None and any(inside(p, box) for box in boxes) for p, boxes in pairs], dtype=bool)


def click_accuracy(points: Sequence[Point | None], truth: Sequence[Sequence[Box]]) -> float:
    """Share of samples whose click hits, a fraction: the accuracy of GUI grounding (OmniACT, one box per sample).

    Raises:
        ValueError: There are no samples, the lengths differ, or a sample has no box.

    >>> click_accuracy([(5.0, 5.0), None], [[(0.0, 0.0, 5.0, 9.0)], [(0.0, 0.0, 5.0, 9.0)]])
    0.5
    """
    hits = click_hits(points, truth)
    if not hits.size:
        raise ValueError("no samples: a metric over nothing has no value")
    return float(hits.mean())


def grec_f1(predicted: Sequence[Box], truth: Sequence[Box], *, threshold: float = 0.5) -> float:
    """F1 of one expression's boxes in [0, 1], matched greedily by *generalised* IoU >= threshold.

    Without true boxes: 1 if none was predicted, else 0.

    Source: henghuiding/gRefCOCO, GREC evaluation. It keeps boxes of score >= 0.7 first; a model without scores keeps all.

    >>> box = (0.0, 0.0, 4.0, 4.0)
    >>> grec_f1([box, (8.0, 8.0, 9.0, 9.0)], [box])
    0.6666666666666666
    """
    if not truth:
        return float(not predicted)
    similarity = np.array([[generalised_iou(p, t) for t in truth] for p in predicted]).reshape(len(predicted), len(truth))
    matched = 0
    for _ in range(min(similarity.shape)):
        row, column = np.unravel_index(int(similarity.argmax()), similarity.shape)
        # Written so that a NaN, from a box without area, matches nothing.
        if not similarity[row, column] >= threshold:
            break
        matched += 1
        similarity[row, :] = -np.inf
        similarity[:, column] = -np.inf
    return 2 * matched / (len(predicted) + len(truth))


def grec_scores(samples: Sequence[tuple[Sequence[Box], Sequence[Box]]], *, threshold: float = 0.5) -> dict[str, float]:
    """Pr@(F1=1), N-acc and T-acc of generalised comprehension, fractions in [0, 1].

    Args:
        samples: (predicted boxes, true boxes) per expression; no true box is a no-target expression.
        threshold: Of the generalised IoU.

    Returns:
        "Pr@(F1=1)": share of all expressions with F1 = 1; "N_acc": share of no-target expressions without a predicted box;
        "T_acc": share of target expressions with at least one. NaN where there are no such expressions.

    Raises:
        ValueError: There are no expressions.

    Source: henghuiding/gRefCOCO, GREC evaluation.
    """
    if not samples:
        raise ValueError("no expressions: a metric over nothing has no value")
    perfect = [grec_f1(predicted, truth, threshold=threshold) >= 1 for predicted, truth in samples]
    absent = [not predicted for predicted, truth in samples if not truth]
    present = [bool(predicted) for predicted, truth in samples if truth]
    return {
        "Pr@(F1=1)": sum(perfect) / len(perfect),
        "N_acc": sum(absent) / len(absent) if absent else math.nan,
        "T_acc": sum(present) / len(present) if present else math.nan,
    }
