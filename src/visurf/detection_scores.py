"""AP of records, or of COCO results, on a data set's own annotation file."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from visurf.metrics.detection import ConfidenceSource, coco_ap
from visurf.metrics.federated import lvis_ap
from visurf.metrics.intervals import Interval
from visurf.metrics.resampling import ap_intervals
from visurf.types import DataError, Sample


def annotated_ap(
    truth: Mapping[str, Any],
    given: Sequence[Mapping[str, Any]],
    *,
    confidence: ConfidenceSource,
    federated: bool = False,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[dict[str, Interval], dict[str, float]]:
    """AP, AP50 and AP75 with intervals over images, and the rest of the table with the AP of every category.

    Args:
        truth: From `asked_truth`.
        given: COCO results.
        confidence: Where their scores come from.
        federated: LVIS's rules; AP is then called ``lvis_ap``.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Raises:
        ImportError: pycocotools is not installed (extra `metrics`).
    """
    report = (lvis_ap if federated else coco_ap)(truth, given, confidence=confidence)
    drawn = ap_intervals(truth, given, federated=federated, resamples=resamples, seed=seed)
    names = {"AP": "lvis_ap" if federated else "ap", "AP50": "ap50", "AP75": "ap75"}
    # The value is pycocotools' own; the resampled statistic only brings its interval.
    exact = {name: dataclasses.replace(drawn[key], value=report.summary[key]) for key, name in names.items()}
    extra = {name: value for name, value in report.summary.items() if name not in names}
    extra |= {f"AP/{report.names[c]}": row["AP"] for c, row in report.per_category.items() if not math.isnan(row["AP"])}
    return exact, {**extra, "detections_of_unknown_category": float(report.n_unknown_category)}


def asked_truth(truth: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The part of an annotation file that the samples ask about.

    Categories without truth stay: they change no AP, but LVIS counts their detections against its limit.
    """
    images, categories = ({r["meta"][name] for r in found} for name in ("image_id", "category_id"))
    on_images = [a for a in truth["annotations"] if a["image_id"] in images]
    if all(a["category_id"] in categories for a in on_images if not a.get("iscrowd", 0)):
        categories = {c["id"] for c in truth["categories"]}
    kept = [a for a in on_images if a["category_id"] in categories]
    return {
        **truth,
        "images": [image for image in truth["images"] if image["id"] in images],
        "categories": [c for c in truth["categories"] if c["id"] in categories],
        "annotations": kept,
        "all_images": frozenset(image["id"] for image in truth["images"]),
    }


def on_asked_images(truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The detections on images that are asked about.

    Raises:
        DataError: A detection is on an image that the annotation file does not have.
    """
    unknown = sorted({d["image_id"] for d in detections} - truth["all_images"])
    if unknown:
        raise DataError(f"{len(unknown)} images of the detections are not in the annotation file, first {unknown[0]!r}")
    images = {image["id"] for image in truth["images"]}
    return [d for d in detections if d["image_id"] in images]


def rescored(found: Sequence[dict[str, Any]], samples: Sequence[Sample], confidence: ConfidenceSource) -> Sequence[dict[str, Any]]:
    """Records whose answered boxes have the scores of a source, in place of those that were written beside them.

    Args:
        found: Records of detection.
        samples: Theirs; their pictures' headers are read for `box_area`.
        confidence: The source.

    Raises:
        ValueError: Records do not bring the scores of this source.
    """
    if confidence == "log_prob":
        raise ValueError("confidence=log_prob: records have no log-probabilities of boxes")
    if confidence == "model":
        return found
    by_id = {sample.id: sample for sample in samples}
    scored = []
    for record in found:
        answer = record["answer"]
        if answer is not None and answer["boxes"]:
            scores = [1.0] * len(answer["boxes"])
            if confidence == "box_area":
                width, height = by_id[record["id"]].size
                scores = [(x2 - x1) * (y2 - y1) / (width * height) for x1, y1, x2, y2 in answer["boxes"]]
            record = {**record, "answer": {**answer, "confidences": scores}}
        scored.append(record)
    return scored


def detections_of(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The detections of records as COCO results; an answer that could not be read has none."""
    detections = []
    for record in found:
        answer = record["answer"] or {"boxes": (), "confidences": ()}
        place = {name: record["meta"][name] for name in ("image_id", "category_id")}
        for (x1, y1, x2, y2), score in zip(answer["boxes"], answer["confidences"], strict=True):
            detections.append({**place, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score})
    return detections
