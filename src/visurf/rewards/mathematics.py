r"""Rewards for mathematical answers: in answer tags, or in ``\boxed``, graded symbolically under a time limit.

Source: the released code of Seg-Zero (dvlab-research/Seg-Zero, r1v.py and math.py), grading by mathruler 0.1.0; the symbolic
stage of Visual-RFT and VLM-R1 by math-verify 0.9.0. Both need the extra ``grading``.
"""

from __future__ import annotations

from visurf.rewards import grading
from visurf.tags import single_line_answer, think_answer_format

BOXED_WRONG = 0.1
_BOXED = r"\boxed{"


def boxed_content(text: str) -> str | None:
    r"""The trimmed content of the last ``\boxed{..}``, or None if there is none or its braces do not balance.

    >>> boxed_content(r"\boxed{1} or \boxed{\frac{1}{2} }")
    '\\frac{1}{2}'
    """
    start = text.rfind(_BOXED)
    if start < 0:
        return None
    depth = 0
    for place in range(start + len(_BOXED), len(text)):
        if text[place] == "{":
            depth += 1
        elif text[place] == "}":
            depth -= 1
            if depth < 0:
                return text[start + len(_BOXED) : place].strip()
    return None


def answer_accuracy(text: str, truth: str, *, limit_s: float = 10.0) -> float:
    """1 if the first single-line answer (else the whole text) is graded equal to the truth, else 0.

    A failure of the library earns 0, as published.

    Raises:
        GradingTimeout: Grading took longer than `limit_s` seconds.
    """
    answer = single_line_answer(text)
    try:
        return float(grading.ask("grade", (text if answer is None else answer).strip(), truth.strip(), limit_s=limit_s))
    except grading.GradingError:
        return 0.0


def answer_score(text: str, truth: str, *, limit_s: float = 10.0) -> dict[str, float]:
    """``accuracy`` and ``format`` (the whole text is a thought and an answer), 0 or 1, and ``total``, their mean.

    Raises:
        GradingTimeout: Grading took longer than `limit_s` seconds.
    """
    accuracy, format_ = answer_accuracy(text, truth, limit_s=limit_s), float(think_answer_format(text))
    return {"accuracy": accuracy, "format": format_, "total": (accuracy + format_) / 2}


def boxed_score(text: str, truth: str, *, limit_s: float = 10.0) -> float:
    r"""1 if the last boxed content is graded equal to the truth, 0.1 if it is not, 0 without one or if it says "None".

    Raises:
        GradingTimeout: Grading took longer than `limit_s` seconds.
        GradingError: The library failed.
    """
    content = boxed_content(text)
    if content is None or content == "None":
        return 0.0
    return 1.0 if grading.ask("grade", content, truth, limit_s=limit_s) else BOXED_WRONG


def symbolic_match(text: str, solution: str, *, limit_s: float = 20.0) -> bool:
    """Whether a symbolic comparator finds any expressions of two texts equal: the first stage of several published rewards.

    Raises:
        GradingTimeout: The comparison took longer than `limit_s` seconds.
    """
    return bool(grading.ask("symbolic", text, solution, limit_s=limit_s))
