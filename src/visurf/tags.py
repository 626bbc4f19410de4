"""How the published rewards find an answer in a completion: tags, and JSON with a few extra words.

Everything here takes text that a model wrote, so every search is linear in its length.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from visurf.types import DataError

_OPEN, _CLOSE = "<answer>", "</answer>"
_BETWEEN = re.compile(r"</think>\s*<answer>")


def think_answer_format(text: str) -> bool:
    r"""Whether the whole text is ``<think>``..``</think>``, optional whitespace, ``<answer>``..``</answer>``.

    Nothing may stand before or after, not even a line feed; the inner texts may be empty and may hold further tags.

    >>> think_answer_format("<think>a</think>\n<answer>b</answer>"), think_answer_format("<answer>b</answer>")
    (True, False)
    """
    if not (text.startswith("<think>") and text.endswith(_CLOSE)):
        return False
    return _BETWEEN.search(text, len("<think>"), len(text) - len(_CLOSE)) is not None


def answers(text: str) -> Iterator[str]:
    """The content of every answer, left to right, each up to the nearest closing tag; may span lines, not trimmed."""
    start = text.find(_OPEN)
    while start >= 0:
        end = text.find(_CLOSE, start + len(_OPEN))
        if end < 0:
            return
        yield text[start + len(_OPEN) : end]
        start = text.find(_OPEN, end + len(_CLOSE))


def first_answer(text: str) -> str | None:
    """The content of the first answer, or None.

    >>> first_answer("<answer>a</answer><answer>b</answer>")
    'a'
    """
    return next(answers(text), None)


def last_answer(text: str) -> str | None:
    """The content of the last answer, or None.

    >>> last_answer("<answer>a</answer><answer>b</answer>")
    'b'
    """
    last = None
    for last in answers(text):  # noqa: B007 - the loop is only there to reach the last one
        pass
    return last


def single_line_answer(text: str) -> str | None:
    r"""The content of the first answer that opens and closes within one line, or None; only "\n" ends a line."""
    return next((answer for line in text.split("\n") if (answer := first_answer(line)) is not None), None)


def far_longer(text: str, names: Iterable[str]) -> bool:
    """Whether a text is too long to be one of some names, however its accents are composed and its words are spaced.

    Asked before texts are normalised: that takes quadratic time where a model writes accents without end.

    >>> far_longer("e" + 300 * "\u0301", ["\u00e9"]), far_longer("e\u0301", ["\u00e9"])
    (True, False)
    """
    # A composed letter is at most four characters when taken apart; the rest is for spaces and punctuation.
    return len(text) > 4 * max(map(len, names), default=0) + 200


def load_json(text: str) -> Any:
    """Parse JSON where the bare words NaN, Infinity and -Infinity are numbers and the last of equal keys wins.

    Raises:
        DataError: Not JSON, nested too deeply to be read, or a number of more digits than Python converts.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON: {error}") from error


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number; booleans count as 1 and 0."""
    return isinstance(value, int | float)
