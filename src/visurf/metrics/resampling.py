"""AP on resampled images: matching is done once by pycocotools, a resample only reweighs what was matched."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from visurf.metrics.detection import evaluator_for
from visurf.metrics.federated import federation, strongest
from visurf.metrics.intervals import Interval, bootstrap_statistic

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAMES = ("AP", "AP50", "AP75")
_ROWS = {"AP": slice(None), "AP50": slice(0, 1), "AP75": slice(5, 6)}


@dataclass(frozen=True)
class _Category:
    """One category's detections, strongest first: image of each, right and wrong by threshold; and truths per image."""

    image: NDArray[np.intp]
    right: NDArray[np.float64]
    wrong: NDArray[np.float64]
    truth_image: NDArray[np.intp]
    truths: NDArray[np.float64]

    def precision(self, weight: NDArray[np.float64], recall_points: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Mean precision over recall points per threshold, images counted `weight` times; None without any truth."""
        count = float((self.truths * weight[self.truth_image]).sum())
        if count == 0:
            return None
        times = weight[self.image]
        right, wrong = np.cumsum(self.right * times, axis=1), np.cumsum(self.wrong * times, axis=1)
        precision = right / (right + wrong + np.spacing(1))
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        found = np.zeros(len(self.right))
        for t, recall in enumerate(right / count):
            place = np.searchsorted(recall, recall_points, side="left")
            found[t] = envelope[t, place[place < len(recall)]].sum() / len(recall_points)
        return found


def ap_statistic(
    truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]], *, federated: bool = False
) -> tuple[int, Callable[[NDArray[np.intp]], dict[str, float]]]:
    """AP, AP50 and AP75 of boxes as a function of images, for intervals; on all images once it is `coco_ap` or `lvis_ap`.

    An image drawn twice is one that stands twice in the file, but for the order of detections with equal scores.

    Args:
        truth: COCO layout; with `federated` LVIS layout.
        detections: COCO results.
        federated: LVIS's rules and limit of detections instead of COCO's.

    Returns:
        The number of images, and the function from indices of images, with repetitions; NaN where no truth was drawn.

    Raises:
        ValueError: A detection is on an unknown image.
        ImportError: pycocotools is not installed (extra `metrics`).
    """
    limit = 300 if federated else 100
    evaluator = evaluator_for(truth, strongest(detections, limit) if federated else detections, "bbox")
    evaluator.params.maxDets = [limit]
    evaluator.params.areaRng, evaluator.params.areaRngLbl = evaluator.params.areaRng[:1], evaluator.params.areaRngLbl[:1]
    order = {image["id"]: index for index, image in enumerate(truth["images"])}
    judged, incomplete = federation(truth) if federated else ({}, {})
    categories = []
    for category in sorted({a["category_id"] for a in truth["annotations"]}):
        images = judged[category] if federated else set(order)
        categories.append(_match(evaluator, category, sorted(images), incomplete.get(category, set()), order))
    recall_points = np.asarray(evaluator.params.recThrs)

    def value(indices: NDArray[np.intp]) -> dict[str, float]:
        weight = np.bincount(indices, minlength=len(order)).astype(np.float64)
        rows = [row for c in categories if (row := c.precision(weight, recall_points)) is not None]
        if not rows:
            return dict.fromkeys(NAMES, math.nan)
        table = np.stack(rows)
        return {name: float(table[:, _ROWS[name]].mean()) for name in NAMES}

    return len(order), value


def ap_intervals(
    truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    *,
    federated: bool = False,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """AP, AP50 and AP75 with 95 % bootstrap intervals over images.

    Raises:
        ValueError: As `ap_statistic`; also for a truth without images.
    """
    count, statistic = ap_statistic(truth, detections, federated=federated)
    # The seed makes all three draw the same images, so each resample is computed once.
    known: dict[bytes, dict[str, float]] = {}

    def one(name: str) -> Callable[[NDArray[np.intp]], float]:
        def value(indices: NDArray[np.intp]) -> float:
            key = hashlib.blake2b(indices.tobytes(), digest_size=16).digest()
            if key not in known:
                known[key] = statistic(indices)
            return known[key][name]

        return value

    return {name: bootstrap_statistic(one(name), count, resamples=resamples, seed=seed) for name in NAMES}


def _match(evaluator: Any, category: int, images: list[Any], incomplete: set[Any], order: Mapping[Any, int]) -> _Category:
    evaluator.params.catIds, evaluator.params.imgIds = [category], images
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.evaluate()
    entries = [entry for entry in evaluator.evalImgs if entry is not None]
    thresholds = len(evaluator.params.iouThrs)
    scores, of_image, right, wrong = [np.zeros(0)], [np.zeros(0, np.intp)], [np.zeros((thresholds, 0))], [np.zeros((thresholds, 0))]
    for entry in entries:
        matched, ignored = np.asarray(entry["dtMatches"]) != 0, np.asarray(entry["dtIgnore"]).astype(bool)
        if entry["image_id"] in incomplete:
            ignored = ignored | ~matched
        scores.append(np.asarray(entry["dtScores"], dtype=np.float64))
        of_image.append(np.full(len(entry["dtScores"]), order[entry["image_id"]], dtype=np.intp))
        right.append((matched & ~ignored).astype(np.float64).reshape(thresholds, -1))
        wrong.append((~matched & ~ignored).astype(np.float64).reshape(thresholds, -1))
    # The evaluator's own order: stable, so that ties keep the order of images and within them of scores.
    ranks = np.argsort(-np.concatenate(scores), kind="mergesort")
    return _Category(
        image=np.concatenate(of_image)[ranks],
        right=np.concatenate(right, axis=1)[:, ranks],
        wrong=np.concatenate(wrong, axis=1)[:, ranks],
        truth_image=np.array([order[entry["image_id"]] for entry in entries], dtype=np.intp),
        truths=np.array([np.count_nonzero(np.asarray(entry["gtIgnore"]) == 0) for entry in entries], dtype=np.float64),
    )
