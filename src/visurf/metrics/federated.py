"""LVIS federated AP: a category is judged only on the images where it is known to be present or absent.

The matching is pycocotools'; what is federated around it is here. The official package does not run with current numpy.
"""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from visurf.metrics.detection import (
    CONFIDENCE_SOURCES,
    ConfidenceSource,
    DetectionReport,
    IouType,
    category_numbers,
    counted_mean,
    evaluator_for,
    summary_numbers,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FREQUENCIES = {"r": "AP_rare", "c": "AP_common", "f": "AP_frequent"}
_THRESHOLDS, _RECALL_POINTS, _AREAS = 10, 101, 4


def lvis_ap(
    truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    *,
    confidence: ConfidenceSource,
    iou_type: IouType = "bbox",
    max_detections: int = 300,
) -> DetectionReport:
    """LVIS AP and AR, with AP_rare, AP_common and AP_frequent in the summary; fractions, -1 where no truth exists.

    Per image only categories with truth or in `neg_category_ids` are scored, other detections are dropped; unmatched
    detections of a category in `not_exhaustive_category_ids` are neither right nor wrong. The limit of detections holds per
    image over all categories, not per category as in COCO, and is applied first.

    Args:
        truth: LVIS layout, v1 or v0.5.
        detections: COCO results; they need not cover all images.
        confidence: Where the scores come from; see `CONFIDENCE_SOURCES`.
        iou_type: Of boxes or of masks.
        max_detections: Per image.

    Raises:
        ValueError: A detection is on an unknown image.
        ImportError: pycocotools is not installed (extra `metrics`).

    Source: Gupta et al., LVIS (arXiv 1908.03195); agrees with the lvis package 0.5.3.
    """
    judged, incomplete = federation(truth)
    # The limit comes first: a detection that is judged nowhere still uses up its place.
    evaluator = evaluator_for(truth, strongest(detections, max_detections), iou_type)
    evaluator.params.maxDets = [max_detections]
    names = {c["id"]: c["name"] for c in sorted(truth["categories"], key=lambda c: c["id"])}
    precision = np.full((_THRESHOLDS, _RECALL_POINTS, len(names), _AREAS, 1), -1.0)
    recall = np.full((_THRESHOLDS, len(names), _AREAS, 1), -1.0)
    with_truth = {a["category_id"] for a in truth["annotations"]}
    for index, category in enumerate(names):
        if category in with_truth:
            one = _evaluate_category(evaluator, category, judged[category], incomplete[category])
            precision[:, :, index], recall[:, index] = one
    frequency = {c["id"]: c.get("frequency") for c in truth["categories"]}
    summary = summary_numbers(precision, recall, [max_detections])
    for letter, key in _FREQUENCIES.items():
        chosen = [index for index, category in enumerate(names) if frequency[category] == letter]
        summary[key] = counted_mean(precision[:, :, chosen, 0, -1])
    return DetectionReport(
        summary=summary,
        per_category={
            category: category_numbers(precision[:, :, index, 0, 0], recall[:, index, 0, 0], max_detections)
            for index, category in enumerate(names)
        },
        names=names,
        confidence=CONFIDENCE_SOURCES[confidence],
        n_images=len(truth["images"]),
        n_detections=len(detections),
        n_unknown_category=sum(d["category_id"] not in names for d in detections),
    )


def strongest(detections: Sequence[Mapping[str, Any]], limit: int) -> list[Mapping[str, Any]]:
    """The detections with the highest scores of each image, at most `limit`; equal scores keep their order.

    An image within the limit keeps all of its detections as they stand.
    """
    by_image: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for detection in detections:
        by_image[detection["image_id"]].append(detection)
    for image, found in by_image.items():
        if len(found) > limit:
            by_image[image] = sorted(found, key=lambda d: -d["score"])[:limit]
    return [detection for found in by_image.values() for detection in found]


def federation(truth: Mapping[str, Any]) -> tuple[dict[int, set[Any]], dict[int, set[Any]]]:
    """Per category: the images on which it is judged, and those among them where not every object is annotated."""
    judged: dict[int, set[Any]] = defaultdict(set)
    incomplete: dict[int, set[Any]] = defaultdict(set)
    for annotation in truth["annotations"]:
        judged[annotation["category_id"]].add(annotation["image_id"])
    for image in truth["images"]:
        for category in image["neg_category_ids"]:
            judged[category].add(image["id"])
        for category in image["not_exhaustive_category_ids"]:
            incomplete[category].add(image["id"])
    return judged, incomplete


def _evaluate_category(
    evaluator: Any, category: int, images: set[Any], incomplete: set[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision (thresholds, recall points, areas, 1) and recall (thresholds, areas, 1) of one category.

    One category at a time, over its own images: over all categories and images at once the tables would not fit in memory.
    """
    evaluator.params.catIds, evaluator.params.imgIds = [category], sorted(images)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.evaluate()
        for entry in evaluator.evalImgs:
            if entry is not None and entry["image_id"] in incomplete:
                unmatched = np.asarray(entry["dtMatches"]) == 0
                entry["dtIgnore"] = np.logical_or(entry["dtIgnore"], unmatched)
        evaluator.accumulate()
    return evaluator.eval["precision"][:, :, 0], evaluator.eval["recall"][:, 0]
