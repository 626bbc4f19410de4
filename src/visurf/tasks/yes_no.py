"""Yes/no questions."""

from __future__ import annotations

from visurf.geometry import Frame
from visurf.parsing import parse_yes_no, yes_or_no
from visurf.tasks import answers
from visurf.tasks.task import Metric, Task
from visurf.types import Answer, DataError, ParseError, Sample, Text

PROMPT = (
    "{question} Answer yes or no. Output the thinking process in <think> </think> and final answer in <answer> </answer> tags, "
    "i.e., <think> thinking process here </think><answer>yes</answer>"
)
PROMPTS = {"default": PROMPT, "bare": "{question}"}
OPTIONS = ("yes", "no")


def parse(text: str, sample: Sample, frame: Frame) -> Text | ParseError:
    """See `visurf.parsing.parse_yes_no`."""
    return parse_yes_no(text)


def settle(target: Answer) -> Text:
    """A label as ``yes`` or ``no``, by the parser's rule.

    Raises:
        DataError: It is neither, so no answer could ever be right.
    """
    word = yes_or_no(target.text) if isinstance(target, Text) else None
    if word is None:
        raise DataError(f"expected yes or no, got {target.text if isinstance(target, Text) else target!r:.100}")
    return Text(word)


def truth(sample: Sample) -> str:
    """``yes`` or ``no``.

    Raises:
        DataError: The label is neither.
    """
    try:
        return settle(sample.target).text
    except DataError as error:
        raise DataError(f"sample {sample.id}: target: {error}") from error


def right(sample: Sample, answer: Answer | None) -> float:
    """1 for the label's word, else 0."""
    true = truth(sample)
    return float(isinstance(answer, Text) and yes_or_no(answer.text) == true)


def judge(sample: Sample, answer: Answer | None) -> dict[str, float | None]:
    """`right`: 1 or 0; 0 for an answer that could not be parsed."""
    return {"right": right(sample, answer)}


YES_NO = Task(
    name="yes_no",
    prompts=PROMPTS,
    default_prompt="default",
    target=Text,
    label_text=answers.render,
    parse=parse,
    parts=answers.parts_of(right),
    judge=judge,
    metrics={"accuracy": Metric("right")},
    settle=settle,
)
