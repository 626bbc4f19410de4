"""Yes/no questions."""

from __future__ import annotations

from visurf.geometry import Frame
from visurf.parsing import parse_yes_no
from visurf.tasks import answers
from visurf.tasks.task import Metric, Task
from visurf.types import ParseError, Sample, Text

PROMPT = (
    "{question} Answer yes or no. Output the thinking process in <think> </think> and final answer in <answer> </answer> tags, "
    "i.e., <think> thinking process here </think><answer>yes</answer>"
)
PROMPTS = {"default": PROMPT, "bare": "{question}"}
OPTIONS = ("yes", "no")


def parse(text: str, sample: Sample, frame: Frame) -> Text | ParseError:
    """See `visurf.parsing.parse_yes_no`."""
    return parse_yes_no(text)


YES_NO = Task(
    name="yes_no",
    prompts=PROMPTS,
    default_prompt="default",
    target=Text,
    label_text=answers.render,
    parse=parse,
    parts=answers.parts_of(answers.right_answer),
    judge=answers.judge,
    metrics={"accuracy": Metric("right")},
)
