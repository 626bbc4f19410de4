"""Mask metrics: gIoU, cIoU, no-target accuracy and Pr@X, under each published convention by name.

Everything works on `Overlap` records, two pixel counts and two flags per sample, so that masks need not be kept. An answer
that could not be parsed is an empty mask without the no-target flag: it counts as a failure, it is never left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Convention = Literal["gres", "lisa", "seg_zero", "visionreasoner", "visual_rft"]

# The single pixel-count constants of the published evaluations, each in the unit of the sum it is added to.
_LISA_UNION = 1e-5
_LISA_COUNT = 1e-5
_LISA_TOTAL = 1e-10
_VISUAL_RFT_UNION = 1e-6
_GRES_THRESHOLDS = (0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Overlap:
    """What one predicted mask and its truth have in common, in pixels.

    Attributes:
        intersection: Pixels in both.
        union: Pixels in either.
        predicted_none: The model said that nothing matches. Masks are ignored where the truth says the same.
        truth_none: The sample is labelled as having no target, which is more than an empty mask.
    """

    intersection: int
    union: int
    predicted_none: bool = False
    truth_none: bool = False

    def __post_init__(self) -> None:
        """Check the counts."""
        if not 0 <= self.intersection <= self.union:
            raise ValueError(f"expected 0 <= intersection <= union, got {self.intersection} and {self.union}")


# Their published evaluations read a mask as booleans, so that a pixel of 255 is object: they have no ignore value.
WHOLE_MASK_CONVENTIONS: frozenset[Convention] = frozenset({"seg_zero", "visionreasoner", "visual_rft"})


def mask_overlap(
    prediction: ArrayLike,
    truth: ArrayLike,
    *,
    ignore: int | None = 255,
    predicted_none: bool = False,
    truth_none: bool = False,
) -> Overlap:
    """Count the pixels two masks share; any value but 0 is object.

    Args:
        prediction: (height, width).
        truth: (height, width); pixels equal to `ignore` leave both masks.
        ignore: The ignored value of the truth. None: there is none, and 255 is object.
        predicted_none: See `Overlap`.
        truth_none: See `Overlap`.

    Raises:
        ValueError: The shapes differ.

    >>> mask_overlap([[1, 1, 0]], [[0, 1, 255]])
    Overlap(intersection=1, union=2, predicted_none=False, truth_none=False)
    """
    predicted, true = np.asarray(prediction), np.asarray(truth)
    if predicted.shape != true.shape:
        raise ValueError(f"masks differ in shape: predicted {predicted.shape}, truth {true.shape}")
    counted = np.ones(true.shape, dtype=bool) if ignore is None else true != ignore
    a, b = (predicted != 0) & counted, (true != 0) & counted
    return Overlap(int((a & b).sum()), int((a | b).sum()), predicted_none, truth_none)


def overlap_iou(overlap: Overlap, *, empty_union: float = 1.0) -> float:
    """Intersection over union of one sample, in [0, 1].

    A sample labelled no-target scores 1 where the model said so and 0 otherwise; a target that the model called absent
    scores 0.

    Args:
        overlap: The sample.
        empty_union: The IoU of two empty masks without flags: 1 (nothing to find, nothing found) or 0 (published by
            Seg-Zero, VisionReasoner and Visual-RFT).

    >>> overlap_iou(Overlap(0, 0)), overlap_iou(Overlap(0, 0), empty_union=0.0), overlap_iou(Overlap(1, 4))
    (1.0, 0.0, 0.25)
    """
    if overlap.truth_none:
        return float(overlap.predicted_none)
    if overlap.predicted_none:
        return 0.0
    return overlap.intersection / overlap.union if overlap.union else empty_union


def pixel_sums(overlap: Overlap) -> tuple[int, int]:
    """What one sample adds to the two sums of cIoU: the GRES rule.

    No target and none predicted adds nothing; no target but something predicted adds to the union only; a target called
    absent adds its union and no intersection.
    """
    if overlap.truth_none:
        return (0, 0) if overlap.predicted_none else (0, overlap.union)
    return (0 if overlap.predicted_none else overlap.intersection), overlap.union


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan


def segmentation_scores(
    overlaps: Sequence[Overlap], *, empty_union: float = 1.0, thresholds: Sequence[float] = (0.5, 0.7, 0.8, 0.9)
) -> dict[str, float]:
    """GIoU, cIoU, N-acc, T-acc and Pr@X as fractions in [0, 1], the sound default.

    gIoU is the mean of `overlap_iou` over all samples; cIoU the summed intersections over the summed unions (`pixel_sums`);
    N-acc the share of no-target samples answered so; T-acc the share of target samples not called absent; Pr@X the share of
    target samples with IoU >= X. A value whose denominator is empty is NaN.

    Raises:
        ValueError: There are no samples.
    """
    if not overlaps:
        raise ValueError("no samples: a metric over nothing has no value")
    ious = np.array([overlap_iou(o, empty_union=empty_union) for o in overlaps])
    absent = np.array([o.truth_none for o in overlaps])
    said_absent = np.array([o.predicted_none for o in overlaps])
    sums = np.array([pixel_sums(o) for o in overlaps])
    n_absent, n_target = int(absent.sum()), int((~absent).sum())
    scores = {
        "gIoU": float(ious.mean()),
        "cIoU": _ratio(int(sums[:, 0].sum()), int(sums[:, 1].sum())),
        "N_acc": _ratio(int((absent & said_absent).sum()), n_absent),
        "T_acc": _ratio(int((~absent & ~said_absent).sum()), n_target),
    }
    return scores | {f"Pr@{x:g}": _ratio(int((ious[~absent] >= x).sum()), n_target) for x in thresholds}


def gres_scores(overlaps: Sequence[Overlap]) -> dict[str, float]:
    """The GRES benchmark's numbers as published: gIoU, cIoU and Pr@X in percent, T_acc and N_acc as fractions.

    T_acc and N_acc are both 0 where no sample is labelled no-target. cIoU is NaN where no pixel was counted. Two empty masks
    without the label score 0.

    Raises:
        ZeroDivisionError: No sample has a target (or there are none at all), as published.

    Source: henghuiding/ReLA, refer_evaluation.py.
    """
    scores = segmentation_scores(overlaps, empty_union=0.0, thresholds=_GRES_THRESHOLDS) if overlaps else {}
    if all(o.truth_none for o in overlaps):
        raise ZeroDivisionError("GRES: no sample has a target, so Pr@X has no denominator")
    if not any(o.truth_none for o in overlaps):
        scores |= {"T_acc": 0.0, "N_acc": 0.0}
    return {k: v if k in ("T_acc", "N_acc") else 100 * v for k, v in scores.items()}


def gres_report(overlaps_by_source: Mapping[str, Sequence[Overlap]]) -> dict[str, dict[str, float]]:
    """`gres_scores` per source; with both sources also "full", which pools them and has no T_acc and N_acc.

    Args:
        overlaps_by_source: Samples under "refcoco" and "grefcoco"; a source without samples is left out.

    Raises:
        ValueError: An unknown source.
        ZeroDivisionError: A source has samples but none with a target, as published.
    """
    unknown = set(overlaps_by_source) - {"refcoco", "grefcoco"}
    if unknown:
        raise ValueError(f"unknown GRES source {sorted(unknown)}; expected refcoco or grefcoco")
    sources = {s: overlaps_by_source[s] for s in ("refcoco", "grefcoco") if overlaps_by_source.get(s)}
    report = {source: gres_scores(overlaps) for source, overlaps in sources.items()}
    if len(report) == 2:
        pooled = gres_scores([o for overlaps in sources.values() for o in overlaps])
        report["full"] = {k: v for k, v in pooled.items() if k not in ("T_acc", "N_acc")}
    return report


def lisa_scores(overlaps: Sequence[Overlap]) -> dict[str, float]:
    """GIoU and cIoU as LISA computes them on ReasonSeg, fractions; one overlap per mask, truth 255 already ignored.

    Two empty masks score 1. Small constants in the denominators keep a perfect gIoU just below 1. LISA sums in single
    precision; these are doubles, equal to 1e-6.

    Raises:
        ValueError: There are no masks.

    Source: dvlab-research/LISA, train_ds.py.
    """
    if not overlaps:
        raise ValueError("no masks: LISA's metric over nothing has no value")
    ious = [o.intersection / (o.union + _LISA_UNION) + (o.union == 0) for o in overlaps]
    intersection, union = (sum(getattr(o, k) for o in overlaps) for k in ("intersection", "union"))
    return {"gIoU": math.fsum(ious) / (len(overlaps) + _LISA_COUNT), "cIoU": intersection / (union + _LISA_TOTAL)}


def seg_zero_scores(overlaps: Sequence[Overlap]) -> dict[str, float]:
    """GIoU as Seg-Zero computes it, a fraction: the mean IoU over masks, 0 for two empty masks, NaN without masks.

    Source: dvlab-research/Seg-Zero, evaluation_scripts/calculate_iou.py.
    """
    return {"gIoU": visionreasoner_scores(overlaps)["gIoU"]}


def visionreasoner_scores(overlaps: Sequence[Overlap]) -> dict[str, float]:
    """GIoU and cIoU as VisionReasoner computes them, fractions.

    gIoU is the mean IoU over masks (0 for two empty masks, NaN without masks), cIoU the ratio of the sums (0 if no pixel
    was counted).

    Source: dvlab-research/VisionReasoner, evaluation/calculate_iou.py.
    """
    ious = [o.intersection / o.union if o.union else 0.0 for o in overlaps]
    intersection, union = (sum(getattr(o, k) for o in overlaps) for k in ("intersection", "union"))
    return {"gIoU": _ratio(math.fsum(ious), len(ious)), "cIoU": intersection / union if union else 0.0}


def visual_rft_scores(overlaps: Sequence[Overlap]) -> dict[str, float]:
    """GIoU and cIoU as Visual-RFT computes them on LISA's data, fractions; 0 without masks, as published.

    Source: Liuziyu77/Visual-RFT, lisa_evaluation/mask_iou.py.
    """
    ious = [o.intersection / (o.union + _VISUAL_RFT_UNION) for o in overlaps]
    intersection, union = (sum(getattr(o, k) for o in overlaps) for k in ("intersection", "union"))
    return {"gIoU": math.fsum(ious) / max(len(ious), 1), "cIoU": intersection / (union + _VISUAL_RFT_UNION)}


SEGMENTATION_CONVENTIONS: Mapping[Convention, Callable[[Sequence[Overlap]], dict[str, float]]] = MappingProxyType(
    {
        "gres": gres_scores,
        "lisa": lisa_scores,
        "seg_zero": seg_zero_scores,
        "visionreasoner": visionreasoner_scores,
        "visual_rft": visual_rft_scores,
    }
)
