"""COCO AP and AR by pycocotools, means over named classes, Visual-RFT's report. Boxes in files are x, y, width, height."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

IouType = Literal["bbox", "segm"]
ConfidenceSource = Literal["model", "log_prob", "constant", "box_area"]

# An AP depends on the order of the detections, so every report says where the order comes from.
CONFIDENCE_SOURCES: Mapping[ConfidenceSource, str] = MappingProxyType(
    {
        "model": "the confidence that the model wrote beside each box",
        "log_prob": "the log-probability of the tokens of each box",
        "constant": "one constant: ties keep the order of the document, and AP depends on it",
        "box_area": "box area over image area (VisionReasoner): larger boxes come first",
    }
)

_AREAS = ("all", "small", "medium", "large")


@dataclass(frozen=True)
class DetectionReport:
    """AP and AR of one set of detections.

    Attributes:
        summary: AP, AP50, AP75, AP_small, AP_medium, AP_large, then AR_<n> per limit of detections and AR_small,
            AR_medium, AR_large; fractions, -1 where no truth exists.
        per_category: Category id to AP, AP50, AP75, AR<n> and AP_by_iou (ten thresholds); fractions, NaN without truth.
        names: Category id to name, ascending ids.
        confidence: Where the scores come from, in words.
        n_images: Images evaluated: all of the truth file, with or without annotations and detections.
        n_detections: Detections given.
        n_unknown_category: Detections of categories that the truth file does not have; they are not counted.
    """

    summary: Mapping[str, float]
    per_category: Mapping[int, Mapping[str, Any]]
    names: Mapping[int, str]
    confidence: str
    n_images: int
    n_detections: int
    n_unknown_category: int = 0


def coco_ap(
    truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    *,
    confidence: ConfidenceSource,
    iou_type: IouType = "bbox",
    max_detections: Sequence[int] = (1, 10, 100),
    on_empty: Literal["score", "raise"] = "score",
) -> DetectionReport:
    """COCO's twelve numbers and the AP of each category.

    Args:
        truth: COCO layout: images, annotations, categories. Missing `iscrowd` is 0, missing `area` is width x height.
        detections: COCO results: image_id, category_id, score and bbox, or segmentation (RLE) for `segm`.
        confidence: Where the scores come from; see `CONFIDENCE_SOURCES`.
        iou_type: Of boxes or of masks.
        max_detections: Per image and category; AP uses the largest.
        on_empty: Without any detection "score" gives AP 0 wherever there is truth, "raise" fails as pycocotools does.

    Raises:
        ValueError: A detection is on an unknown image, or there are none and `on_empty` is "raise".
        ImportError: pycocotools is not installed (extra `metrics`).

    Source: pycocotools COCOeval, which is called.
    """
    evaluator = evaluator_for(truth, detections, iou_type, on_empty=on_empty)
    evaluator.params.maxDets = sorted(max_detections)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.evaluate()
        evaluator.accumulate()
    precision, recall = evaluator.eval["precision"], evaluator.eval["recall"]
    names = {c["id"]: c.get("name", str(c["id"])) for c in sorted(truth["categories"], key=lambda c: c["id"])}
    limits = evaluator.params.maxDets
    return DetectionReport(
        summary=summary_numbers(precision, recall, limits),
        per_category={
            category: category_numbers(precision[:, :, k, 0, -1], recall[:, k, 0, -1], limits[-1])
            for k, category in enumerate(evaluator.params.catIds)
        },
        names=names,
        confidence=CONFIDENCE_SOURCES[confidence],
        n_images=len(truth["images"]),
        n_detections=len(detections),
        n_unknown_category=sum(d["category_id"] not in names for d in detections),
    )


def evaluator_for(
    truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    iou_type: IouType,
    *,
    on_empty: Literal["score", "raise"] = "score",
) -> Any:
    """A pycocotools evaluator over copies of the input, which stays unchanged.

    Raises:
        ValueError: A detection is on an unknown image, or there are none and `on_empty` is "raise".
        ImportError: pycocotools is not installed (extra `metrics`).
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise ImportError("AP needs pycocotools: pip install -e '.[metrics]' in a clone of visurf") from error
    unknown = sorted({d["image_id"] for d in detections} - {image["id"] for image in truth["images"]}, key=str)
    if unknown:
        raise ValueError(f"{len(unknown)} images of the detections are not in the truth file, first {unknown[0]!r}")
    if not detections and on_empty == "raise":
        raise ValueError("no detections")
    # Fresh ids from 1: the evaluator marks "unmatched" by 0, so an annotation with id 0 would never count as found.
    annotations = [
        {"iscrowd": 0, "area": a["bbox"][2] * a["bbox"][3] if "area" not in a else a["area"]} | dict(a) | {"id": i}
        for i, a in enumerate(truth["annotations"], start=1)
    ]
    # The other kind of geometry is dropped: with both, the evaluator would take areas from the wrong one.
    geometry = "bbox" if iou_type == "bbox" else "segmentation"
    results = [{k: d[k] for k in ("image_id", "category_id", "score", geometry)} for d in detections]
    with contextlib.redirect_stdout(io.StringIO()):
        true = COCO()
        true.dataset = dict(truth) | {"annotations": annotations}
        true.createIndex()
        if results:
            found = true.loadRes(results)
        else:
            found = COCO()
            found.dataset = dict(truth) | {"annotations": []}
            found.createIndex()
        return COCOeval(true, found, iou_type)


def counted_mean(values: NDArray[np.float64], empty: float = -1.0) -> float:
    """Mean of the entries that are not the evaluator's mark -1 for "no truth"; `empty` if none is left."""
    counted = values[values > -1]
    return float(counted.mean()) if counted.size else empty


def summary_numbers(precision: NDArray[np.float64], recall: NDArray[np.float64], limits: Sequence[int]) -> dict[str, float]:
    """The summary of a `DetectionReport`.

    Args:
        precision: (thresholds, recall points, categories, areas, limits), -1 where no truth exists.
        recall: (thresholds, categories, areas, limits).
        limits: Numbers of detections, ascending.
    """
    numbers = {
        "AP": counted_mean(precision[:, :, :, 0, -1]),
        "AP50": counted_mean(precision[0, :, :, 0, -1]),
        "AP75": counted_mean(precision[5, :, :, 0, -1]),
    }
    numbers |= {f"AP_{name}": counted_mean(precision[:, :, :, area, -1]) for area, name in enumerate(_AREAS) if area}
    numbers |= {f"AR_{limit}": counted_mean(recall[:, :, 0, m]) for m, limit in enumerate(limits)}
    return numbers | {f"AR_{name}": counted_mean(recall[:, :, area, -1]) for area, name in enumerate(_AREAS) if area}


def category_numbers(precision: NDArray[np.float64], recall: NDArray[np.float64], limit: int) -> dict[str, Any]:
    """One category's entry of a `DetectionReport`.

    Args:
        precision: (thresholds, recall points) over all areas, -1 where no truth exists.
        recall: (thresholds,).
        limit: Number of detections per image.
    """
    return {
        "AP": counted_mean(precision, math.nan),
        "AP50": counted_mean(precision[0], math.nan),
        "AP75": counted_mean(precision[5], math.nan),
        f"AR{limit}": counted_mean(recall, math.nan),
        "AP_by_iou": [counted_mean(row, math.nan) for row in precision],
    }


def named_mean_ap(report: DetectionReport, names: Iterable[str], *, without_truth: Literal["nan", "skip"] = "nan") -> float:
    """Plain mean of the APs of the named classes, a fraction: the headline number of Visual-RFT's tables.

    Args:
        report: Of `coco_ap` or `lvis_ap`.
        names: Class names as the truth file spells them.
        without_truth: A named class without truth makes the mean NaN, or is left out.

    Raises:
        ValueError: No names, or a name that the truth file does not have.
    """
    wanted = list(dict.fromkeys(names))
    by_name = {name: report.per_category[category]["AP"] for category, name in report.names.items()}
    unknown = [name for name in wanted if name not in by_name]
    if unknown or not wanted:
        raise ValueError(f"classes that the truth file does not have: {unknown}" if wanted else "no class is named")
    values = [by_name[name] for name in wanted]
    if without_truth == "skip":
        values = [value for value in values if not math.isnan(value)]
    return sum(values) / len(values) if values else math.nan


def novel_base_all(report: DetectionReport, novel: Iterable[str]) -> dict[str, float]:
    """Mean AP over the novel classes, the other ones and all; fractions, each a plain mean over classes with truth.

    Raises:
        ValueError: No novel class, a name that the truth file does not have, or no class is left as base.
    """
    named = set(novel)
    groups = {
        "novel": sorted(named),
        "base": [name for name in report.names.values() if name not in named],
        "all": list(report.names.values()),
    }
    return {group: named_mean_ap(report, names, without_truth="skip") for group, names in groups.items()}


def visual_rft_report(
    truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]], *, confidence: ConfidenceSource = "model"
) -> dict[str, Any]:
    """Visual-RFT's detection report: six fractions, and the AP of each category in *percent*.

    Returns:
        "summary" with mAP, AP_50, AP_75, AP_small, AP_m, AP_l, and "per_category", a list of {name: 100 AP} in ascending
        category id, NaN without truth. Without detections six zeros and no list, as published. The published protocol
        asks about a category only where the model first said that it is present, which is no part of this function.

    Raises:
        ValueError: A detection is on an unknown image.
        ImportError: pycocotools is not installed (extra `metrics`).

    Source: Liuziyu77/Visual-RFT, coco_evaluation/coco_evaluation.py.
    """
    keys = {"mAP": "AP", "AP_50": "AP50", "AP_75": "AP75", "AP_small": "AP_small", "AP_m": "AP_medium", "AP_l": "AP_large"}
    if not detections:
        return {"summary": dict.fromkeys(keys, 0.0), "per_category": None}
    report = coco_ap(truth, detections, confidence=confidence)
    return {
        "summary": {key: report.summary[name] for key, name in keys.items()},
        "per_category": [{name: 100 * report.per_category[c]["AP"]} for c, name in report.names.items()],
    }
