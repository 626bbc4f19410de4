"""What the tasks share whose answer is a few words or a number in answer tags."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Callable

from visurf.geometry import Frame
from visurf.parsing import parse_text
from visurf.rewards import visionreasoner
from visurf.tags import far_longer
from visurf.tasks.task import Part, RewardSettings
from visurf.types import Answer, Choice, DataError, Number, Sample, Text

PROMPT = (
    "{question}{options} Output the thinking process in <think> </think> and final answer in <answer> </answer> tags, "
    "i.e., <think> thinking process here </think><answer>answer here</answer>"
)
PROMPTS = {"default": PROMPT, "bare": "{question}{options}"}


def normalise(text: str) -> str:
    """Case, underscores, repeated spaces, a final stop and how accents are composed do not count.

    >>> normalise("Kitchen_table. ")
    'kitchen table'
    """
    return " ".join(unicodedata.normalize("NFC", text).replace("_", " ").casefold().split()).rstrip(".")


def written(answer: Answer) -> str:
    """A choice's letter, a number or a text as it is written in answer tags."""
    match answer:
        case Choice():
            return answer.letter
        case Number() | Text():
            return answer.text
    raise TypeError(f"expected a choice, a number or a text, got {type(answer).__name__}")


def equal(truth: Answer, answer: Answer | None) -> bool:
    """The same option, the same number, or the same text after `normalise`; another kind of answer never is."""
    match truth, answer:
        case Choice(), Choice():
            return truth.letter == answer.letter
        case Number(), Number():
            if truth.whole is not None and answer.whole is not None:
                return truth.whole == answer.whole
            return math.isclose(truth.value, answer.value, rel_tol=1e-9, abs_tol=1e-12)
        case Text(), Text():
            return not far_longer(answer.text, [truth.text]) and normalise(truth.text) == normalise(answer.text)
    return False


def render(target: Choice | Number | Text, frame: Frame, align: bool = True) -> str:
    """The answer of a label as it was given; a JSON string when not aligned."""
    text = written(target)
    return f"<answer>{text if align else json.dumps(text)}</answer>"


def options(sample: Sample) -> str:
    r"""The options of a multiple choice, each on a line of its own below the question; nothing for another kind.

    >>> options(Sample("a", (), "Which?", Choice("A", ("one", "two"))))
    '\n(A) one\n(B) two\n'
    """
    if not isinstance(sample.target, Choice) or not sample.target.options:
        return ""
    return "\n" + "".join(f"({chr(ord('A') + i)}) {option}\n" for i, option in enumerate(sample.target.options))


def settle(target: Answer) -> Answer:
    """A label as the parser reads it from its answer tags: a text is trimmed.

    Raises:
        DataError: It does not fit there: it is empty, too long, or holds a closing answer tag.
    """
    if not isinstance(target, Text):
        return target
    read = parse_text(f"<answer>{target.text}</answer>")
    if not isinstance(read, Text) or read.text != target.text.strip():
        raise DataError(f"expected a text that fits between answer tags, got {target.text!r:.100}")
    return read


SLOTS: dict[str, Callable[[Sample], str]] = {"options": options}


def parts_of(right: Callable[[Sample, Answer | None], float | None]) -> Callable[[RewardSettings], dict[str, Part]]:
    """Rewards of an answer: thinking format 1, accuracy 1.

    Args:
        right: (sample, answer or None) -> 0 to 1, or None to abstain.
    """

    def parts(settings: RewardSettings) -> dict[str, Part]:
        return {
            "thinking_format": Part(lambda c, _: visionreasoner.thinking_format(c.text), 1.0, "thinking"),
            "accuracy": Part(lambda c, s: right(s, c.answer), 1.0, "accuracy"),
        }

    return parts


def right_answer(sample: Sample, answer: Answer | None) -> float:
    """1 for an answer `equal` to the target, else 0."""
    return float(equal(sample.target, answer))


def judge(sample: Sample, answer: Answer | None) -> dict[str, float | None]:
    """`right`: 1 or 0; 0 for an answer that could not be parsed."""
    return {"right": right_answer(sample, answer)}
