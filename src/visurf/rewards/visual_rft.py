"""Visual-RFT's rewards for classification and reasoning grounding; detection is in `visurf.rewards.visual_rft_detection`.

Source: Liu et al., "Visual-RFT", arXiv 2503.01785, and its released code (Liuziyu77/Visual-RFT, grpo_classification.py and
grpo_lisa.py). The released rewards first ask a symbolic comparator whether the two texts are equal expressions, and pay 1 if
it says so, which happens to texts of boxes by accident. Its verdict is the argument `symbolic`; None leaves the stage out.
"""

from __future__ import annotations

import re
import unicodedata

from visurf.geometry import generalised_iou
from visurf.rewards import Variant
from visurf.tags import far_longer, first_answer, single_line_answer, think_answer_format
from visurf.types import Box, DataError

_CORNER = r"\(\s*+(\d++)\s*+,\s*+(\d++)\s*+\)"
_BOX = re.compile(rf"{_CORNER}\s*+,\s*+{_CORNER}")
_SEPARATORS = re.compile(r"[\s_]+")
# As in `visurf.parsing.parse_corners`.
MAX_DIGITS = 9
_ARTICLE = re.compile(r"^(?:an?|the) (?=.)")


def thinking_format(text: str) -> float:
    """1 if the whole text is a thought followed by an answer, else 0."""
    return float(think_answer_format(text))


def classification(text: str, solution: str, *, symbolic: bool | None = None, variant: Variant = "sound") -> float:
    """Whether the text names the class of the solution, 0 or 1.

    Args:
        text: The whole completion.
        solution: The class, in answer tags or bare.
        symbolic: See the module; only `published` uses it.
        variant: Under `published` either name may contain the other once spaces and underscores are deleted and case is
            folded, so an empty answer, a single letter of the name and a list of guesses all earn 1. Under `sound` the
            answer must be the class name, word for word, up to case, spaces, underscores, a leading article and final
            full stops. `paper` only says that the class is correct: as `sound`.

    Raises:
        DataError: The solution names no class, and the variant is not `published`.

    Source: Eq. 11.
    """
    if variant == "published":
        if symbolic:
            return 1.0
        sides = [_or_whole(single_line_answer(t), t) for t in (text, solution)]
        answer, name = (side.replace(" ", "").replace("_", "").lower() for side in sides)
        return float(name in answer or answer in name)
    said, true = first_answer(text), first_answer(solution)
    name = class_words(solution if true is None else true)
    if not name:
        raise DataError(f"the solution names no class: {solution[:80]!r}")
    return float(said is not None and not far_longer(said, [name]) and class_words(said) == name)


def class_words(name: str) -> str:
    """A class name for comparison: case folded, single spaces, composed accents, without a leading article and final full stops.

    >>> class_words(" The Golden_Retriever. ")
    'golden retriever'
    """
    words = _SEPARATORS.sub(" ", unicodedata.normalize("NFC", name).casefold()).strip().rstrip(". ")
    return _ARTICLE.sub("", words)


def grounding(text: str, solution: str, *, symbolic: bool | None = None, variant: Variant = "sound") -> float:
    """Generalised IoU + 1 of the boxes ``(x1,y1),(x2,y2)`` in two texts, 0 to 2; 0 where a side has none.

    Args:
        text: The whole completion.
        solution: The label, in answer tags or bare; coordinates 0 to 1000.
        symbolic: See the module; only `published` uses it, and pays 1, not 2.
        variant: Under `published` a text with two boxes is read as the box of their two first corners, identical texts
            earn 2 whether or not they hold a box, and swapped corners give signed areas, hence 2 and more for a box that
            is none. Under `sound` and `paper` each side must hold exactly one box with positive sides, the
            completion's in its first answer, and any other completion earns 0.

    Raises:
        DataError: The solution does not hold one box, and the variant is not `published`.

    Source: the reasoning grounding experiments; the released code is the definition.
    """
    if variant != "published":
        answer, true = first_answer(text), first_answer(solution)
        true_box = _only_box(solution if true is None else true)
        if true_box is None:
            raise DataError(f"the solution holds not exactly one box: {solution[:80]!r}")
        box = None if answer is None else _only_box(answer)
        return 0.0 if box is None else generalised_iou(box, true_box) + 1
    if symbolic:
        return 1.0
    said, name = _or_whole(first_answer(text), text), _or_whole(single_line_answer(solution), solution)
    if said == name:
        return 2.0
    first, second = _first_two_corners(said), _first_two_corners(name)
    return 0.0 if first is None or second is None else generalised_iou(first, second) + 1


def _or_whole(answer: str | None, text: str) -> str:
    return (text if answer is None else answer).strip()


def _first_two_corners(text: str) -> Box | None:
    """Corners 1 of boxes 1 and 2 if there are several boxes, else the one box; divided by 1000.

    None without a box, or with a number of more than 9 digits, whose areas would leave the range of a double.
    """
    found = [match.groups() for match in _BOX.finditer(text)]
    if not found or max(len(v) for group in found for v in group) > MAX_DIGITS:
        return None
    groups = [[int(v) / 1000 for v in group] for group in found]
    corners = [group[:2] for group in groups] + [group[2:] for group in groups]
    return corners[0][0], corners[0][1], corners[1][0], corners[1][1]


def _only_box(text: str) -> Box | None:
    if len(_BOX.findall(text)) != 1:
        return None
    box = _first_two_corners(text)
    return box if box is not None and box[0] < box[2] and box[1] < box[3] else None
