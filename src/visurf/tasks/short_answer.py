"""Answers that are one word or number: classification, counting, free short answers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence

from visurf.geometry import Frame
from visurf.parsing import parse_number, parse_text
from visurf.rewards import visionreasoner
from visurf.tasks.task import Part, Record, RewardSettings, Task, has_thinking, mean
from visurf.types import Answer, Completion, Number, ParseError, Sample, Text

PROMPT = (
    "{question} Output the thinking process in <think> </think> and final answer in <answer> </answer> tags, "
    "i.e., <think> thinking process here </think><answer>answer here</answer>"
)


def normalise(text: str) -> str:
    """Case, underscores, repeated spaces and a final stop do not count.

    >>> normalise("Kitchen_table. ")
    'kitchen table'
    """
    return " ".join(text.replace("_", " ").casefold().split()).rstrip(".")


def _right(truth: Answer, answer: Answer | None) -> float:
    match truth, answer:
        case Text(), Text():
            return float(normalise(truth.text) == normalise(answer.text))
        case Number(), Number():
            return float(math.isclose(truth.value, answer.value, rel_tol=1e-9, abs_tol=1e-12))
        case _:
            return 0.0


def render_text(target: Text, frame: Frame, align: bool = True) -> str:
    """The answer of a label; a JSON string when not aligned."""
    return f"<answer>{target.text if align else json.dumps(target.text)}</answer>"


def render_number(target: Number, frame: Frame, align: bool = True) -> str:
    """The answer of a label: the number as it was given; a JSON string when not aligned."""
    return f"<answer>{target.text if align else json.dumps(target.text)}</answer>"


def parts(settings: RewardSettings) -> dict[str, Part]:
    """Thinking format 1, accuracy 1: equal after normalisation (text) or as numbers."""

    def accuracy(completion: Completion, sample: Sample) -> float:
        return _right(sample.target, completion.answer)

    return {
        "thinking_format": Part(lambda c, _: visionreasoner.thinking_format(c.text), 1.0, "thinking"),
        "accuracy": Part(accuracy, 1.0, "accuracy"),
    }


def judge(sample: Sample, answer: Answer | None) -> dict[str, float | None]:
    """`right`: 1 or 0; 0 for an answer that could not be parsed."""
    return {"right": _right(sample.target, answer)}


def metrics(records: Sequence[Record]) -> dict[str, float]:
    """Accuracy over all samples, and the share that still reasons."""
    return {
        "accuracy": mean([r["measures"]["right"] for r in records]),
        "thinking": mean([float(has_thinking(r["text"])) for r in records]),
    }


def _task(name: str, target: type, render: Callable[..., str], parse: Callable[[str], Answer | ParseError]) -> Task:
    def parse_sample(text: str, sample: Sample, frame: Frame) -> Answer | ParseError:
        return parse(text)

    prompts = {"default": PROMPT, "bare": "{question}"}
    return Task(name, prompts, "default", target, render, parse_sample, parts, judge, metrics)


SHORT_ANSWER = _task("short_answer", Text, render_text, parse_text)
COUNTING = _task("counting", Number, render_number, parse_number)
