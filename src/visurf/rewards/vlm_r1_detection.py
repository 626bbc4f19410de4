"""VLM-R1's detection rewards on fenced lists of ``{"bbox_2d": [x1, y1, x2, y2], "label": ..}``, each 0 to 1.

Source: Shen et al., "VLM-R1", arXiv 2504.07615, and its released code (om-ai-lab/VLM-R1, grpo_jsonl.py); average precision:
pycocotools 2.0.11 on one image with every score 1.0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from visurf.geometry import convention_iou
from visurf.rewards.vlm_r1_text import clean_text, fenced_json
from visurf.tags import first_answer, is_number, last_answer, load_json
from visurf.types import DataError

MATCH_IOU = 0.5
POSITION_WEIGHT, COMPLETENESS_WEIGHT = 0.7, 0.3
MAX_DETECTIONS = 100
_LARGEST_AREA = 1e10


def mean_average_precision(text: str, solution: str, *, only_50: bool = False) -> float:
    """COCO AP of the last fenced list of a completion against that of the solution; 1 if both are empty, 0 if one is.

    Predictions with an unknown label or broken fields are left out, but count as predictions. A completion without a
    readable list is an empty one.

    Args:
        text: The completion, or the content of its answer.
        solution: The label in the same layout.
        only_50: AP at IoU 0.50 instead of the mean over .50:.05:.95.

    Returns:
        0 to 1; -1 where no true box has an area from 0 to 1e10, as COCO defines it.

    Raises:
        DataError: The solution's list is no JSON or a true object is broken.
    """
    predicted, true = _objects(text), _true_objects(solution)
    if not predicted or not true:
        return float(not predicted and not true)
    return _average_precision(predicted, true, only_50)


def od_ap(text: str, solution: str, *, only_50: bool = False) -> float:
    """`mean_average_precision` of the last answer against the solution's first; 1 if both are exactly "None".

    Raises:
        DataError: As above, or the solution has no answer though the completion has one.
    """
    contents = _answer_pair(text, solution)
    if contents is None:
        return 0.0
    if contents == ("None", "None"):
        return 1.0
    return mean_average_precision(*contents, only_50=only_50)


def od_length(text: str, solution: str) -> float:
    """`od_ap` times the number of true boxes over the number of predictions, where more are predicted than true.

    Raises:
        DataError: As in `od_ap`.
    """
    reward = od_ap(text, solution)
    contents = _answer_pair(text, solution)
    if contents is None or contents == ("None", "None"):
        return reward
    count, true_count = len(_objects(contents[0])), len(_true_objects(contents[1]))
    return reward * (1.0 if true_count >= count else true_count / count)


def weighted_sum(text: str, solution: str) -> float:
    """0.7 x mean IoU over true boxes + 0.3 x completeness, 0 to 1, of the first fenced lists of both cleaned texts.

    Pairs are taken by IoU, highest first, down to 0.5, whatever their labels; a pair of different labels (lower case) adds
    no IoU. Completeness is 1 minus the mean of the shares of true and predicted boxes left over. Two empty sides earn 1, one
    empty side 0.

    Raises:
        DataError: The solution's list is no JSON, or the first matched prediction has no usable label (later ones take the
            label of the match before them).
    """
    cleaned, true_text = clean_text(text), clean_text(solution)
    if true_text == "none":
        return float(cleaned == "none")
    true_block = fenced_json(true_text)
    true = _items(load_json(true_block)) if true_block else []
    block = fenced_json(cleaned)
    predicted = _items_or_none(block) if block else []
    if not predicted or not true:
        return float(not predicted and not true)
    matches = _greedy_matches(predicted, true)
    position, label = 0.0, None
    for i, j, iou in matches:
        label = _label(predicted[i], label)
        if label is None:
            raise DataError("the first matched prediction has no label")
        position += iou if label == (_label(true[j], "") or "") else 0.0
    left = 1 - len(matches) / len(true) + 1 - len(matches) / len(predicted)
    return POSITION_WEIGHT * position / len(true) + COMPLETENESS_WEIGHT * (1 - left / 2)


def _answer_pair(text: str, solution: str) -> tuple[str, str] | None:
    answer, true = last_answer(text), first_answer(solution)
    if answer is None:
        return None
    if true is None:
        raise DataError("the solution has no <answer>..</answer>")
    return answer.strip(), true.strip()


def _items(data: Any) -> list[Any]:
    """What the published loop sees: the elements of a list, the keys of an object, the characters of a text."""
    if not isinstance(data, list | dict | str):
        raise DataError(f"expected a list of objects, got {data!r}")
    return list(data)


def _items_or_none(block: str) -> list[Any]:
    try:
        return _items(load_json(block))
    except DataError:
        return []


def _objects(text: str) -> list[Any]:
    block = fenced_json(text, last=True)
    return _items_or_none(block) if block else []


def _true_objects(solution: str) -> list[Any]:
    block = fenced_json(solution, last=True)
    return _items(load_json(block)) if block else []


def _label(item: Any, otherwise: str | None) -> str | None:
    label = item.get("label") if isinstance(item, dict) else None
    return label.lower() if isinstance(label, str) else otherwise


def _pair_iou(first: Any, second: Any) -> float:
    boxes = [item.get("bbox_2d") if isinstance(item, dict) else None for item in (first, second)]
    if not all(isinstance(b, list) and len(b) >= 4 and all(is_number(v) for v in b[:4]) for b in boxes):
        return 0.0
    try:
        return convention_iou(boxes[0] or (), boxes[1] or (), "vlm_r1")
    except ArithmeticError:
        return 0.0


def _greedy_matches(predicted: list[Any], true: list[Any]) -> list[tuple[int, int, float]]:
    """Pairs by falling IoU down to the threshold; ties take the first prediction, then the first true box."""
    pairs = [(i, j, iou) for i, p in enumerate(predicted) for j, t in enumerate(true) if (iou := _pair_iou(p, t)) >= MATCH_IOU]
    pairs.sort(key=lambda pair: -pair[2])
    used_predicted: set[int] = set()
    used_true: set[int] = set()
    matches = []
    for i, j, iou in pairs:
        if i not in used_predicted and j not in used_true:
            used_predicted.add(i)
            used_true.add(j)
            matches.append((i, j, iou))
    return matches


def _coco_box(item: Any) -> NDArray[np.float64]:
    """x, y, width, height of an object.

    Raises:
        DataError: The object has no box of four numbers that a double holds.
    """
    box = item.get("bbox_2d") if isinstance(item, dict) else None
    if not isinstance(box, list) or len(box) < 4 or not all(is_number(v) for v in box[:4]):
        raise DataError(f"expected an object with a box of four numbers, got {str(item)[:80]}")
    try:
        return np.array([box[0], box[1], box[2] - box[0], box[3] - box[1]], dtype=np.float64)
    except OverflowError as error:
        raise DataError(f"a coordinate is no double: {error}") from error


def _average_precision(predicted: list[Any], true: list[Any], only_50: bool) -> float:
    categories: dict[Any, list[NDArray[np.float64]]] = {}
    for item in true:
        if not isinstance(item, dict) or isinstance(item.get("label", []), list | dict):
            raise DataError(f"a true object has no label: {str(item)[:80]}")
        categories.setdefault(item["label"], []).append(_coco_box(item))
    found: dict[Any, list[NDArray[np.float64]]] = {label: [] for label in categories}
    for item in predicted:
        label = item.get("label", []) if isinstance(item, dict) else []
        if isinstance(label, list | dict) or label not in found:
            continue
        try:
            found[label].append(_coco_box(item))
        except DataError:
            continue
    if not any(found.values()):
        return 0.0
    thresholds = np.linspace(0.5, 0.95, 10)[: 1 if only_50 else 10]
    precisions = [_precision(found[label], boxes, t) for label, boxes in categories.items() for t in thresholds]
    counted = [p for p in precisions if p is not None]
    return float(np.mean(counted)) if counted else -1.0


def _coco_iou(detections: NDArray[np.float64], truths: NDArray[np.float64]) -> NDArray[np.float64]:
    """(D, G) IoU as the COCO tools compute it: a NaN side is taken from the other box, but leaves the areas NaN."""
    d, g = detections[:, None], truths[None]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        sides = [np.fmin(d[..., i + 2] + d[..., i], g[..., i + 2] + g[..., i]) - np.fmax(d[..., i], g[..., i]) for i in (0, 1)]
        overlap = sides[0] * sides[1]
        iou: NDArray[np.float64] = overlap / (d[..., 2] * d[..., 3] + g[..., 2] * g[..., 3] - overlap)
    return np.where((sides[0] <= 0) | (sides[1] <= 0), 0.0, iou)


def _outside(boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    with np.errstate(invalid="ignore", over="ignore"):
        areas = boxes[:, 2] * boxes[:, 3]
    return (areas < 0) | (areas > _LARGEST_AREA)


def _precision(found: list[NDArray[np.float64]], boxes: list[NDArray[np.float64]], threshold: float) -> float | None:
    """Mean precision at 101 recall points of one category at one IoU threshold, or None without a countable true box."""
    detections = np.array(found[:MAX_DETECTIONS]).reshape(-1, 4)
    truths = np.array(boxes)
    truths = truths[np.argsort(_outside(truths), kind="stable")]
    ignored = _outside(truths)
    if ignored.all():
        return None
    ious = _coco_iou(detections, truths)
    skipped = _outside(detections)
    taken: set[int] = set()
    hits: list[bool] = []
    for row, skip in zip(ious, skipped, strict=True):
        best, match = min(threshold, 1 - 1e-10), -1
        for j, iou in enumerate(row):
            if j in taken:
                continue
            if match >= 0 and not ignored[match] and ignored[j]:
                break
            # Written as the COCO tools do: a NaN overlap is not smaller, so it matches.
            if not iou < best:
                best, match = iou, j
        taken.add(match)
        taken.discard(-1)
        if match >= 0 and not ignored[match]:
            hits.append(True)
        elif match < 0 and not skip:
            hits.append(False)
    return _interpolated(np.array(hits, dtype=bool), int((~ignored).sum()))


def _interpolated(hits: NDArray[np.bool_], count: int) -> float:
    if not hits.size:
        return 0.0
    right, wrong = np.cumsum(hits, dtype=np.float64), np.cumsum(~hits, dtype=np.float64)
    precision = right / (wrong + right + np.spacing(1))
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(right / count, np.linspace(0.0, 1.0, 101), side="left")
    return float(np.where(places < precision.size, precision[np.minimum(places, precision.size - 1)], 0.0).mean())
