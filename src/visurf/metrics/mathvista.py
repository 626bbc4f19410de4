"""MathVista scoring: from a response to an extraction, to a normalised answer, to right or wrong. Text against text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from visurf.metrics.text import edit_distance

IntegerRule = Literal["int(float(x))", "int(x)"]

_LETTER_IN_BRACKETS = re.compile(r"\(([a-zA-Z])\)")
_QUICK_START, _QUICK_END = 'The answer is "', '".'


def extract_mathvista(
    response: str | None, *, question_type: str, answer_type: str, choices: Sequence[str] | None = None, quick: bool = False
) -> str | None:
    """Take the answer out of a response where a rule suffices.

    Args:
        response: The model's text.
        question_type: "multi_choice" or "free_form".
        answer_type: "text", "integer", "float" or "list".
        choices: The options of a multiple choice.
        quick: Also accept `The answer is "...".`: the first such line, up to its last `".`.

    Returns:
        The extraction, "" for an empty response, None where the published pipeline would ask a language model.

    Raises:
        ValueError: A multiple choice without options.

    Source: lupantech/MathVista, evaluation/extract_answer.py.

    >>> extract_mathvista(" 5 ", question_type="free_form", answer_type="float")
    '5.0'
    >>> extract_mathvista("about 5", question_type="free_form", answer_type="float") is None
    True
    """
    if not response:
        return ""
    if question_type == "multi_choice":
        if choices is None:
            raise ValueError("a multiple choice needs its options")
        if response in choices:
            return response
    try:
        if answer_type == "integer":
            return str(int(response))
        if answer_type == "float":
            return str(float(response))
    except ValueError:
        pass
    return _quoted_answer(response) if quick else None


def _quoted_answer(response: str) -> str | None:
    """What stands between the marks, without a backtracking pattern: linear in the text's length."""
    for line in response.split("\n"):
        start = line.find(_QUICK_START)
        if start >= 0 and (end := line.rfind(_QUICK_END, start + len(_QUICK_START))) >= 0:
            return line[start + len(_QUICK_START) : end]
    return None


def normalise_mathvista(
    extraction: Any,
    *,
    question_type: str,
    answer_type: str,
    choices: Sequence[str] | None = None,
    precision: float | None = None,
    integer_rule: IntegerRule = "int(float(x))",
    ignore_empty: bool = False,
) -> str | None:
    """Bring an extraction into the form in which the answers are written.

    Multiple choice: a letter in round brackets, else the text itself if it is the capital letter of an option, names that
    option; anything else becomes the option with the smallest edit distance, the first of equals. So garbage still picks
    an option. Integer: truncated toward zero. Float: rounded to `precision` digits on the binary value. List: printed.

    Args:
        extraction: Usually text; numbers and lists are printed.
        question_type: "multi_choice" or "free_form".
        answer_type: "text", "integer", "float" or "list".
        choices: The options of a multiple choice.
        precision: Digits of a float answer.
        integer_rule: "int(float(x))" reads "5.0" as 5; "int(x)" is the older script's and refuses it. Most published runs
            were scored by the older one.
        ignore_empty: An empty extraction of a multiple choice gives None instead of the nearest option.

    Returns:
        The text to compare, or None where there is no such number.

    Raises:
        ValueError: A multiple choice without options, an unknown kind of answer or an unknown rule.

    Source: lupantech/MathVista, evaluation/calculate_score.py.

    >>> normalise_mathvista("(b) blue", question_type="multi_choice", answer_type="text", choices=["red", "green"])
    'green'
    >>> rules = ("int(float(x))", "int(x)")
    >>> [normalise_mathvista("5.0", question_type="free_form", answer_type="integer", integer_rule=r) for r in rules]
    ['5', None]
    """
    if integer_rule not in ("int(float(x))", "int(x)"):
        raise ValueError(f"unknown integer rule {integer_rule!r}; expected 'int(float(x))' or 'int(x)'")
    if question_type == "multi_choice":
        return _nearest_choice(str(extraction).strip(), choices, ignore_empty)
    try:
        if answer_type == "integer":
            return str(int(extraction) if integer_rule == "int(x)" else int(float(extraction)))
        if answer_type == "float":
            return str(round(float(extraction), int(precision)))  # type: ignore[arg-type]
    # int(None), int("x") and int(inf) in this order: all mean that there is no such number.
    except (TypeError, ValueError, OverflowError):
        return None
    if answer_type == "list":
        return str(extraction)
    raise ValueError(f"unknown kind of answer {answer_type!r} to a {question_type!r} question")


def _nearest_choice(text: str, choices: Sequence[str] | None, ignore_empty: bool) -> str | None:
    if ignore_empty and not text:
        return None
    if not choices:
        raise ValueError("a multiple choice needs its options")
    bracketed = _LETTER_IN_BRACKETS.search(text)
    text = bracketed.group(1).upper() if bracketed else text
    index = ord(text) - ord("A") if len(text) == 1 else -1
    if 0 <= index < len(choices):
        return choices[index]
    return min(choices, key=lambda choice: edit_distance(text, choice))


def mathvista_correct(normalised: str | None, answer: str | None) -> bool:
    """Whether a normalised extraction is the answer: equal texts, so "1.20" is not "1.2". The answer is taken as it is.

    >>> mathvista_correct("1.2", "1.20"), mathvista_correct(None, "3")
    (False, False)
    """
    return normalised == answer
