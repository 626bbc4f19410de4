"""Counting: a number."""

from __future__ import annotations

from visurf.geometry import Frame
from visurf.parsing import parse_number
from visurf.tasks import answers
from visurf.tasks.task import Metric, Task
from visurf.types import Number, ParseError, Sample


def parse(text: str, sample: Sample, frame: Frame) -> Number | ParseError:
    """See `visurf.parsing.parse_number`."""
    return parse_number(text)


COUNTING = Task(
    name="counting",
    prompts=answers.PROMPTS,
    default_prompt="default",
    target=Number,
    label_text=answers.render,
    parse=parse,
    parts=answers.parts_of(answers.right_answer),
    judge=answers.judge,
    metrics={"accuracy": Metric("right")},
    slots=answers.SLOTS,
)
