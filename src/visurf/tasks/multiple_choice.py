"""Multiple choice: the letter of an option, or its whole text."""

from __future__ import annotations

from visurf.geometry import Frame
from visurf.parsing import parse_choice
from visurf.tasks import answers
from visurf.tasks.task import Metric, Task
from visurf.types import Choice, ParseError, Sample

PROMPT = (
    "{question}{options}Answer with the letter of the right option. Output the thinking process in <think> </think> and final "
    "answer in <answer> </answer> tags, i.e., <think> thinking process here </think><answer>B</answer>"
)


def parse(text: str, sample: Sample, frame: Frame) -> Choice | ParseError:
    """See `visurf.parsing.parse_choice`; the options are the target's."""
    assert isinstance(sample.target, Choice)
    return parse_choice(text, sample.target.options)


MULTIPLE_CHOICE = Task(
    name="multiple_choice",
    prompts={"default": PROMPT, "bare": "{question}{options}"},
    default_prompt="default",
    target=Choice,
    label_text=answers.render,
    parse=parse,
    parts=answers.parts_of(answers.right_answer),
    judge=answers.judge,
    metrics={"accuracy": Metric("right")},
    slots=answers.SLOTS,
)
