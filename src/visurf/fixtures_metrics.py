"""Run one reference case of a metric family and compare with what the published implementation gave."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from visurf.metrics.detection import coco_ap, visual_rft_report
from visurf.metrics.mathvista import extract_mathvista, mathvista_correct, normalise_mathvista
from visurf.metrics.ranking import average_precision, roc_auc
from visurf.metrics.segmentation import SEGMENTATION_CONVENTIONS, Overlap, gres_report, mask_overlap

Runner = Callable[[Mapping[str, Any]], tuple[bool, object]]

_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
# What a metric may raise on input that has no value. Anything else is a defect and must be seen.
_FAILURES = (ValueError, TypeError, ZeroDivisionError, OverflowError, KeyError, IndexError)


def agrees(expected: Any, got: Any, tolerance: float) -> bool:
    """Whether two results are the same: numbers within the tolerance, everything else equal, any failure for any other.

    Args:
        expected: From a file: non-finite numbers are the texts "NaN", "Infinity", "-Infinity", a failure is
            {"raises": name}.
        got: A result; a failure is {"raises": name}.
        tolerance: Absolute.
    """
    if isinstance(expected, Mapping):
        if not isinstance(got, Mapping):
            return False
        if "raises" in expected or "raises" in got:
            return "raises" in expected and "raises" in got
        return expected.keys() == got.keys() and all(agrees(expected[k], got[k], tolerance) for k in expected)
    if isinstance(expected, list):
        return (
            isinstance(got, list)
            and len(expected) == len(got)
            and all(agrees(e, g, tolerance) for e, g in zip(expected, got, strict=True))
        )
    if isinstance(expected, bool) or expected is None or isinstance(got, str | bool) or got is None:
        return type(expected) is type(got) and expected == got
    wanted, have = _number(expected), _number(got)
    if wanted is None or have is None:
        return False
    if math.isfinite(wanted) and math.isfinite(have):
        return abs(wanted - have) <= tolerance
    return wanted == have or (math.isnan(wanted) and math.isnan(have))


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        return _NON_FINITE.get(value)
    return float(value) if isinstance(value, int | float) else None


def _finite_texts(value: Any) -> Any:
    """Replace the texts that stand for non-finite numbers, at any depth."""
    if isinstance(value, list):
        return [_finite_texts(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _finite_texts(item) for key, item in value.items()}
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value


def _attempt(function: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    try:
        return function(*args, **keywords)
    except _FAILURES as error:
        return {"raises": type(error).__name__}


def run_gres(case: Mapping[str, Any]) -> tuple[bool, object]:
    """GRES metrics of one set of samples, per source."""

    def compute() -> dict[str, dict[str, float]]:
        by_source: dict[str, list[Overlap]] = {}
        for sample in case["input"]["samples"]:
            overlap = mask_overlap(
                sample["pred_mask"],
                sample["gt_mask"],
                ignore=None,
                predicted_none=bool(sample.get("pred_no_target")),
                truth_none=bool(sample.get("gt_no_target")),
            )
            by_source.setdefault(sample.get("source", "grefcoco"), []).append(overlap)
        return gres_report(by_source)

    got = _attempt(compute)
    return agrees(case["expected"], got, 1e-9), got


def run_reasonseg(case: Mapping[str, Any]) -> tuple[bool, object]:
    """GIoU and cIoU of one set of images under each convention that the case names."""

    def overlaps(ignore: int | None) -> list[Overlap]:
        return [
            mask_overlap(prediction, truth, ignore=ignore)
            for image in case["input"]["images"]
            for prediction, truth in zip(image["pred"], image["gt"], strict=True)
        ]

    def compute(convention: str) -> dict[str, float]:
        return SEGMENTATION_CONVENTIONS[convention](overlaps(255 if convention == "lisa" else None))  # type: ignore[index]

    got = {convention: _attempt(compute, convention) for convention in case["expected"]}
    return all(agrees(e, got[k], 1e-6 if k == "lisa" else 1e-9) for k, e in case["expected"].items()), got


def run_coco_map(case: Mapping[str, Any]) -> tuple[bool, object]:
    """COCO's summary and per-category numbers, and Visual-RFT's report."""
    data = _finite_texts(case["input"])
    truth = {
        "images": [{"id": image} for image in data["image_ids"]],
        "categories": data["categories"],
        "annotations": data["annotations"],
    }

    def coco() -> dict[str, Any]:
        report = coco_ap(truth, data["detections"], confidence="model", on_empty="raise")
        return {"summary": report.summary, "per_category": {str(k): v for k, v in report.per_category.items()}}

    got = {"coco": _attempt(coco), "visual_rft": _attempt(visual_rft_report, truth, data["detections"])}
    return agrees(case["expected"], {key: got[key] for key in case["expected"]}, 1e-9), got


def run_roc_auc(case: Mapping[str, Any]) -> tuple[bool, object]:
    """Area under the ROC curve and average precision."""
    labels, scores = (_finite_texts(case["input"][key]) for key in ("labels", "scores"))
    got = {
        "roc_auc": _attempt(roc_auc, labels, scores),
        "average_precision": _attempt(average_precision, labels, scores),
    }
    return agrees(case["expected"], got, 1e-9), got


def run_mathvista(case: Mapping[str, Any]) -> tuple[bool, object]:
    """MathVista's extraction rules, or its normalisation and comparison. Texts are compared as they are."""
    data = dict(case["input"])
    function = data.pop("function")
    if function == "extract":
        extracted = _attempt(extract_mathvista, data.pop("response"), **data)
        got: Any = "<<MODEL>>" if extracted is None else extracted
        return _same(case["expected"], got), got
    answer = data.pop("answer")
    normalised = _attempt(normalise_mathvista, data.pop("extraction"), **data)
    correct = normalised if isinstance(normalised, Mapping) else mathvista_correct(normalised, answer)
    got = {"normalized": normalised, "correct": correct}
    return all(_same(case["expected"][key], got[key]) for key in got), got


def _same(expected: Any, got: Any) -> bool:
    if isinstance(expected, Mapping) or isinstance(got, Mapping):
        return isinstance(expected, Mapping) and isinstance(got, Mapping) and "raises" in expected and "raises" in got
    return type(expected) is type(got) and expected == got


METRIC_FAMILIES: dict[str, Runner] = {
    "gres": run_gres,
    "reasonseg": run_reasonseg,
    "coco_map": run_coco_map,
    "roc_auc": run_roc_auc,
    "mathvista": run_mathvista,
}
