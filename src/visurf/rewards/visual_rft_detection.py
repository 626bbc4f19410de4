"""Visual-RFT's detection rewards: mean IoU (0-1), confidence (0-1) and format (0-1).

Source: Liu et al., "Visual-RFT", arXiv 2503.01785, Eq. 5-10, and its released code (Liuziyu77/Visual-RFT, grpo.py). For the
argument `symbolic` see `visurf.rewards.visual_rft`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from visurf.geometry import convention_iou
from visurf.rewards import Variant
from visurf.tags import first_answer, is_number, load_json, single_line_answer, think_answer_format
from visurf.types import Box, DataError

IOU_ABOVE = 0.5

# One (IoU, confidence) per prediction; the IoU is 0 where nothing was matched.
Matches = list[tuple[float, float]]


def detection(text: str, solution: str, *, symbolic: bool | None = None, variant: Variant = "sound") -> dict[str, float]:
    """The rewards of a completion, each 0 to 1, and their total, 0 to 3.

    Args:
        text: The whole completion, a list of ``{'Position': [x1, y1, x2, y2], 'Confidence': c}`` in its answer.
        solution: The label in the same layout.
        symbolic: The verdict of the symbolic stage, which makes both accuracy rewards 1; None leaves the stage out. Only
            `published` uses it.
        variant: See `detection_rewards`. `published` and `paper` also read text leniently (`lenient_objects`) and pay 0 for
            what cannot be read. `published` lets a NaN confidence through; for `paper` a confidence that is not finite
            cannot be read. `sound` reads by `read_detections` and pays 0 for a completion that cannot be read.

    Returns:
        ``iou``, ``confidence``, ``format`` and ``total``. The confidence is NaN where a NaN was let through.

    Raises:
        DataError: Under `sound`, the solution cannot be read.
    """
    parts = {**_accuracy(text, solution, symbolic, variant), "format": float(think_answer_format(text))}
    return {**parts, "total": sum(parts.values())}


def detection_rewards(
    boxes: Sequence[Box], confidences: Sequence[float], true_boxes: Sequence[Box], *, variant: Variant = "sound"
) -> tuple[float, float]:
    """IoU and confidence reward of detections, each 0 to 1.

    Predictions with an equal box are dropped but for the first. By confidence, each takes the free true box of highest IoU
    and is matched if that is above 0.5. The IoU reward is the sum of matched IoUs over the larger count (`paper`, Eq. 6:
    over the number of predictions). The confidence reward is the mean of c where matched and of 1 - c elsewhere (Eq. 9-10).

    Args:
        boxes: M boxes, xyxy.
        confidences: M numbers.
        true_boxes: N boxes in the same frame.
        variant: No predictions earn (0, 0), but (1, 1) under `sound` where nothing is there to be found.

    Raises:
        ValueError: Counts differ, or under `sound` a confidence is not finite or not in [0, 1].
    """
    if len(boxes) != len(confidences):
        raise ValueError(f"{len(boxes)} boxes but {len(confidences)} confidences")
    if variant == "sound" and not all(0 <= c <= 1 for c in confidences):
        raise ValueError("a confidence is not in [0, 1]")
    if len(boxes) == 0:
        empty = float(variant == "sound" and len(true_boxes) == 0)
        return empty, empty
    matches = _match([(boxes[i], confidences[i]) for i in _distinct(boxes)], true_boxes)
    return _rewards(matches, len(matches) if variant == "paper" else max(len(true_boxes), len(matches)))


def read_detections(text: str) -> tuple[list[Box], list[float]]:
    """Boxes and confidences of a text's first answer, read strictly.

    "No Objects" in any case, or an empty list, is zero boxes. Single quotes around keys are accepted: the prompt shows them.

    Raises:
        DataError: No answer, not a list of objects, a box without four finite numbers, or a confidence outside [0, 1].
    """
    content = first_answer(text)
    if content is None:
        raise DataError("no <answer>..</answer>")
    content = content.strip()
    if content.strip("'\". ").lower() == "no objects":
        return [], []
    data = load_json(content if '"' in content else content.replace("'", '"'))
    if not isinstance(data, list) or not all(isinstance(d, dict) for d in data):
        raise DataError("the answer is no list of objects")
    boxes: list[Box] = []
    for d in data:
        box = d.get("Position")
        if not isinstance(box, list) or len(box) != 4 or not all(_is_coordinate(v) for v in box):
            raise DataError(f"Position: expected four finite numbers, got {str(box)[:80]}")
        confidence = d.get("Confidence")
        if not _is_coordinate(confidence) or not 0 <= confidence <= 1:
            raise DataError(f"Confidence: expected a number from 0 to 1, got {str(confidence)[:80]}")
        boxes.append((box[0], box[1], box[2], box[3]))
    return boxes, [float(d["Confidence"]) for d in data]


def lenient_objects(text: str) -> list[Any] | None:
    """The list in a text's first answer as the released code reads it, or None.

    A list that does not end in a bracket is cut after its last complete object; single quotes become double quotes. The text
    is not trimmed, so a line break after the list looks like a list that was cut off.
    """
    start, end = text.find("<answer>"), text.find("</answer>")
    if start < 0:
        return None
    content = text[start + len("<answer>") :] if end < 0 else text[start + len("<answer>") : end]
    if not content.endswith("]"):
        cut = content.rfind("},")
        content = content[: cut if cut >= 0 else len(content)] + "}]"
    try:
        data = load_json(content.replace("'", '"'))
    except DataError:
        return None
    return data if isinstance(data, list) else None


def _accuracy(text: str, solution: str, symbolic: bool | None, variant: Variant) -> dict[str, float]:
    if variant == "sound":
        true_boxes, _ = read_detections(solution if "<answer>" in solution else f"<answer>{solution}</answer>")
        try:
            boxes, confidences = read_detections(text)
        except DataError:
            return {"iou": 0.0, "confidence": 0.0}
        rewards = detection_rewards(boxes, confidences, true_boxes)
    elif variant == "published" and symbolic:
        rewards = (1.0, 1.0)
    else:
        rewards = _lenient_accuracy(text, solution, variant)
    return {"iou": rewards[0], "confidence": rewards[1]}


def _lenient_accuracy(text: str, solution: str, variant: Variant) -> tuple[float, float]:
    answer = single_line_answer(text)
    wrapped = f"<answer>{(text if answer is None else answer).strip()}</answer>"
    predicted = lenient_objects(wrapped.replace("[[", "[").replace("]]", "]").replace("\n", ""))
    true = lenient_objects(solution.strip())
    if predicted is None or true is None:
        return 0.0, 0.0
    if not predicted or not isinstance(predicted[0], dict):
        return 0.0, 0.0
    try:
        kept = _distinct([d["Position"] for d in predicted])
        found = [(predicted[i]["Position"], predicted[i]["Confidence"]) for i in kept]
        if variant == "paper" and not all(math.isfinite(confidence) for _, confidence in found):
            return 0.0, 0.0
        matches = _match(found, [d["Position"] for d in true])
        return _rewards(matches, len(matches) if variant == "paper" else max(len(true), len(matches)))
    except (TypeError, ValueError, LookupError, ArithmeticError):
        # The released code computes on whatever JSON came and pays 0 for every failure.
        return 0.0, 0.0


def _distinct(boxes: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the boxes that equal no earlier one."""
    seen: set[tuple[float, ...]] = set()
    kept = []
    for i, box in enumerate(boxes):
        if tuple(box) not in seen:
            seen.add(tuple(box))
            kept.append(i)
    return kept


def _match(found: Sequence[tuple[Sequence[float], float]], true_boxes: Sequence[Sequence[float]]) -> Matches:
    """Greedy matching by confidence; ties keep the order of predictions and take the earliest true box."""
    free = list(range(len(true_boxes)))
    matches: Matches = []
    for box, confidence in sorted(found, key=lambda pair: pair[1], reverse=True):
        best, best_iou = -1, 0.0
        for i in free:
            if len(box) != 4 or len(true_boxes[i]) != 4:
                raise ValueError("a box needs four coordinates")
            iou = convention_iou(true_boxes[i], box, "plain")
            if iou > best_iou:
                best, best_iou = i, iou
        if best_iou > IOU_ABOVE:
            free.remove(best)
            matches.append((best_iou, confidence))
        else:
            matches.append((0.0, confidence))
    return matches


def _rewards(matches: Matches, count: int) -> tuple[float, float]:
    iou, confidence = 0.0, 0.0
    for matched, c in matches:
        iou += matched
        confidence += c if matched else 1 - c
    iou, confidence = iou / count, confidence / len(matches)
    # Written so that a NaN passes through, as in the released code.
    iou = 1.0 if iou > 1 else iou
    confidence = 1.0 if confidence > 1 else confidence
    return iou, 0.0 if confidence < 0 else confidence


def _is_coordinate(value: Any) -> bool:
    if not is_number(value) or isinstance(value, bool):
        return False
    return -1e9 < value < 1e9  # also false for NaN
