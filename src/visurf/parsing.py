"""Completion text to structured answer, or a named parse error. One parser serves training, evaluation and prediction.

Model text is untrusted: nothing is evaluated, every search is linear in the text.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from visurf.geometry import Frame
from visurf.tags import far_longer, first_answer, load_json
from visurf.types import Box, Choice, DataError, Number, Objects, ParseError, Point, Points, Text

# Longer answers are no answers: 120 objects need less than 20,000 characters.
MAX_ANSWER = 100_000
# Possessive, so that a text of digits and spaces is searched in linear time.
_CORNER = r"\(\s*+(\d++)\s*+,\s*+(\d++)\s*+\)"
_CORNERS = re.compile(rf"{_CORNER}\s*+,\s*+{_CORNER}")


def _content(text: str) -> str | ParseError:
    content = first_answer(text)
    if content is None:
        return ParseError("no_answer", "no <answer>...</answer> in the completion")
    if len(content) > MAX_ANSWER:
        return ParseError("answer_too_long", f"{len(content)} characters")
    return content.strip()


def _json(text: str) -> Any | ParseError:
    content = _content(text)
    if isinstance(content, ParseError):
        return content
    try:
        return load_json(content)
    except DataError as error:
        return ParseError("not_json", str(error))


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    if not isinstance(value, list) or len(value) != count:
        return None
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in value):
        return None
    try:
        numbers = tuple(float(v) for v in value)
    except OverflowError:
        return None
    return numbers if all(math.isfinite(v) and abs(v) < 1e9 for v in numbers) else None


def parse_objects(text: str, frame: Frame) -> Objects | ParseError:
    """Parse ``<answer>[{"bbox_2d": [x1,y1,x2,y2], "point_2d": [x,y]}, ...]</answer>``.

    Args:
        text: The whole completion.
        frame: The frame its numbers are in.

    Returns:
        Boxes (and points, if every object has one) in pixels of the original image; zero boxes for ``[]``, which means "no object"
        and is no error. Or a `ParseError`: no_answer, answer_too_long, not_json, not_a_list, bad_object, bad_box, degenerate_box,
        bad_point.
    """
    data = _json(text)
    if isinstance(data, ParseError):
        return data
    if not isinstance(data, list):
        return ParseError("not_a_list", f"expected a list of objects, got {type(data).__name__}")
    boxes: list[Box] = []
    points: list[Point] = []
    for item in data:
        if not isinstance(item, dict) or "bbox_2d" not in item:
            return ParseError("bad_object", f"expected an object with bbox_2d, got {str(item)[:80]}")
        numbers = _numbers(item["bbox_2d"], 4)
        if numbers is None:
            return ParseError("bad_box", f"expected four numbers, got {str(item['bbox_2d'])[:80]}")
        if numbers[2] <= numbers[0] or numbers[3] <= numbers[1]:
            return ParseError("degenerate_box", f"expected x1 < x2 and y1 < y2, got {numbers}")
        boxes.append(frame.decode_box(numbers))
        if "point_2d" in item:
            point = _numbers(item["point_2d"], 2)
            if point is None:
                return ParseError("bad_point", f"expected two numbers, got {str(item['point_2d'])[:80]}")
            points.append(frame.decode_point(point))
    return Objects(tuple(boxes), tuple(points) if len(points) == len(boxes) else None)


def parse_points(text: str, frame: Frame) -> Points | ParseError:
    """Parse ``<answer>[{"point_2d": [x,y]}, ...]</answer>`` to pixels of the original image, or a `ParseError`.

    A bare pair of numbers, or a list of pairs, is read too.
    """
    data = _json(text)
    if isinstance(data, ParseError):
        return data
    if not isinstance(data, list):
        return ParseError("not_a_list", f"expected a list of points, got {type(data).__name__}")
    pairs = [data] if _numbers(data, 2) is not None else data
    points: list[Point] = []
    for item in pairs:
        point = _numbers(item.get("point_2d") if isinstance(item, dict) else item, 2)
        if point is None:
            return ParseError("bad_point", f"expected two numbers, got {str(item)[:80]}")
        points.append(frame.decode_point(point))
    return Points(tuple(points))


def parse_text(text: str) -> Text | ParseError:
    """The trimmed content of the first answer; an empty one is the error `empty_answer`."""
    content = _content(text)
    if isinstance(content, ParseError):
        return content
    return Text(content) if content else ParseError("empty_answer")


def parse_number(text: str) -> Number | ParseError:
    """The first answer as one finite number (thousands commas allowed, no decimal comma), or the error `not_a_number`."""
    answer = parse_text(text)
    if isinstance(answer, ParseError):
        return answer
    number = Number(answer.text)
    return number if math.isfinite(number.value) else ParseError("not_a_number", answer.text[:80])


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip().casefold()


def _bare(text: str) -> str:
    return _folded(text).strip("().:").strip()


def parse_choice(text: str, options: Sequence[str]) -> Choice | ParseError:
    """The first answer as one of the options: its letter (``B``, ``(B)``, ``B.``) or its whole text, ignoring case.

    Brackets, stops and colons around it do not count where they tell no options apart. A letter is one before it is a text.
    """
    answer = parse_text(text)
    if isinstance(answer, ParseError):
        return answer
    letters = [chr(ord("A") + i) for i in range(len(options))]
    written = answer.text.strip().strip("().:").strip()
    if written.upper() in letters:
        return Choice(written.upper(), tuple(options))
    head = written.split(maxsplit=1)[0].strip("().:").upper() if written else ""
    for form in () if far_longer(answer.text, options) else (_folded, _bare):
        forms = [form(option) for option in options]
        if form(answer.text) in forms:
            return Choice(letters[forms.index(form(answer.text))], tuple(options))
    if head in letters and written[len(head) : len(head) + 1] in {".", ")", ":"}:
        return Choice(head, tuple(options))
    return ParseError("not_an_option", answer.text[:80])


def parse_corners(text: str, frame: Frame) -> Objects | ParseError:
    """Parse the one box ``(x1,y1),(x2,y2)`` of the first answer to pixels of the original image.

    Or a `ParseError`: no_answer, answer_too_long, no_box, several_boxes, bad_box, degenerate_box.
    """
    content = _content(text)
    if isinstance(content, ParseError):
        return content
    found = _CORNERS.findall(content)
    if len(found) != 1:
        return ParseError("several_boxes" if found else "no_box", f"expected one (x1,y1),(x2,y2), got {len(found)}")
    if max(map(len, found[0])) > 9:
        return ParseError("bad_box", f"expected four numbers, got {str(found[0])[:80]}")
    x1, y1, x2, y2 = (float(v) for v in found[0])
    if x2 <= x1 or y2 <= y1:
        return ParseError("degenerate_box", f"expected x1 < x2 and y1 < y2, got {found[0]}")
    return Objects((frame.decode_box((x1, y1, x2, y2)),))


def yes_or_no(text: str) -> str | None:
    """``yes`` or ``no``, in any case and with a final stop; None for anything else. Labels are read as answers are.

    >>> yes_or_no(" Yes. "), yes_or_no("NO"), yes_or_no("true")
    ('yes', 'no', None)
    """
    word = text.strip().rstrip(".! ").casefold()
    return word if word in ("yes", "no") else None


def parse_yes_no(text: str) -> Text | ParseError:
    """The first answer as ``yes`` or ``no``, in any case and with a final stop, or the error `not_yes_or_no`.

    >>> parse_yes_no("<answer> Yes. </answer>")
    Text(text='yes')
    """
    answer = parse_text(text)
    if isinstance(answer, ParseError):
        return answer
    word = yes_or_no(answer.text)
    return Text(word) if word else ParseError("not_yes_or_no", answer.text[:80])
