"""VLM-R1's reward for one referred box: IoU (0-1), format (0 or 1) and the released evaluation.

Source: Shen et al., "VLM-R1", arXiv 2504.07615, and its released code (om-ai-lab/VLM-R1, vlm_modules and test_rec_r1.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from visurf.geometry import convention_iou
from visurf.tags import first_answer, is_number, last_answer, load_json
from visurf.types import Box, DataError, Size

Family = Literal["qwen", "internvl", "glm"]
IOU_ABOVE = 0.5

_LIST = re.compile(r"\[(\d++),\s*+(\d++),\s*+(\d++),\s*+(\d++)\]")
_BETWEEN = re.compile(r"</think>\s*+<answer>")


@dataclass(frozen=True)
class Evaluation:
    """What the released evaluation makes of one completion; the box is all zeros where none was found."""

    extracted: tuple[int, int, int, int]
    resized: Box
    iou: float
    correct: bool


def rec_iou(text: str, solution: str, *, family: Family, image_size: Size, grid: tuple[int, int]) -> float:
    """The IoU of the first box of a completion's first answer with the true box, 0 to 1; 0 without a usable box.

    Args:
        text: The whole completion; a box is ``[x1, y1, x2, y2]`` in unsigned integers.
        solution: The label: a JSON list of four numbers in its last answer, in pixels of the original image. Any other JSON
            there earns 0.
        family: ``qwen`` rescales the box from the model's input to the image, ``internvl`` and ``glm`` take it as it is.
            ``qwen`` and ``internvl`` count an overlap of at most one pixel as none.
        image_size: Width and height of the original image in pixels.
        grid: Columns and rows of the patch grid, 14 pixels each.

    Raises:
        DataError: The solution has no answer, or no JSON in it.
    """
    true = _true_box(solution)
    content = first_answer(text)
    match = None if content is None else _LIST.search(content)
    if match is None or not _usable(true):
        return 0.0
    try:
        box: Sequence[float] = [int(v) for v in match.groups()]
        if family == "qwen":
            box = _rescale(box, image_size, grid)
        return float(convention_iou(box, true, "plain" if family == "glm" else "vlm_r1"))
    except (ValueError, ArithmeticError):
        # Numbers that Python does not convert, and an empty grid: the published function pays 0 for its own errors.
        return 0.0


def rec_format(text: str, *, family: Family) -> float:
    """1 if the text holds, anywhere, a thought and an answer with a box (in braces for ``qwen``), else 0.

    For ``glm`` the thought needs no end and the answer no box.
    """
    start = text.find("<think>")
    if start < 0:
        return 0.0
    # Each step takes the earliest place, which leaves the most text for the next one: no search has to be repeated.
    position = start + len("<think>")
    if family == "glm":
        opened = text.find("<answer>", position)
        return float(opened >= 0 and text.find("</answer>", opened + len("<answer>")) >= 0)
    between = _BETWEEN.search(text, position)
    if between is None:
        return 0.0
    position = between.end()
    if family == "qwen":
        position = text.find("{", position) + 1
        if position == 0:
            return 0.0
    box = _LIST.search(text, position)
    if box is None:
        return 0.0
    position = box.end()
    if family == "qwen":
        position = text.find("}", position) + 1
        if position == 0:
            return 0.0
    return float(text.find("</answer>", position) >= 0)


def rec_evaluation(text: str, solution: str, *, image_size: Size, grid: tuple[int, int]) -> Evaluation:
    """The released evaluation of one completion: the last box between braces in the first answer, correct if IoU > 0.5.

    Args:
        text: The whole completion.
        solution: As in `rec_iou`.
        image_size: Width and height of the original image in pixels.
        grid: Columns and rows of the patch grid, 14 pixels each.

    Raises:
        DataError: The solution has no answer or no box of numbers in it, the box has more digits than Python converts,
            the grid is empty, or both boxes are.
    """
    true = _true_box(solution)
    content = first_answer(text)
    extracted = (0, 0, 0, 0)
    if content is not None:
        for match in _LIST.finditer(content, content.find("{") + 1, max(content.rfind("}"), 0)):
            if "{" in content:
                extracted = _integers(match)
    if not _usable(true):
        raise DataError(f"the solution holds no box: {solution[:80]!r}")
    try:
        x1, y1, x2, y2 = _rescale(extracted, image_size, grid)
        resized: Box = (x1, y1, x2, y2)
        iou = float(convention_iou(resized, true, "vlm_r1"))
        if iou == 0 and sum((b[2] - b[0]) * (b[3] - b[1]) for b in (resized, true)) == 0:
            raise DataError("both boxes are empty")
    except ArithmeticError as error:
        raise DataError(f"the boxes cannot be compared: {error}") from error
    return Evaluation(extracted, resized, iou, iou > IOU_ABOVE)


def _true_box(solution: str) -> Any:
    content = last_answer(solution)
    if content is None:
        raise DataError("the solution has no <answer>..</answer>")
    return load_json(content.strip())


def _usable(true: Any) -> bool:
    return isinstance(true, list) and len(true) >= 4 and all(is_number(v) for v in true[:4])


def _integers(match: re.Match[str]) -> tuple[int, int, int, int]:
    try:
        x1, y1, x2, y2 = (int(v) for v in match.groups())
    except ValueError as error:
        raise DataError(f"a coordinate cannot be converted: {error}") from error
    return x1, y1, x2, y2


def _rescale(box: Sequence[float], image_size: Size, grid: tuple[int, int]) -> list[float]:
    # Divide first: the published order, which decides the last bit.
    return [v / (14 * grid[i % 2]) * image_size[i % 2] for i, v in enumerate(box)]
