"""Pointing: one or more points, as in clicking what an instruction names."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from visurf.geometry import Frame, inside, scale_points
from visurf.parsing import parse_points
from visurf.rewards import visionreasoner
from visurf.tasks.task import Part, Record, RewardSettings, Task, has_thinking, mean
from visurf.types import Answer, Completion, ParseError, Points, Sample

PROMPT = (
    'Please point to "{question}". Output the thinking process in <think> </think> and final answer in <answer> </answer> tags, '
    'i.e., <think> thinking process here </think><answer>[{"point_2d": [30,110]}]</answer>'
)
POINT_BELOW = 30.0


def render_answer(target: Points, frame: Frame, align: bool = True) -> str:
    """The answer of a label; raw JSON in original pixels when not aligned."""
    if not align:
        return f"<answer>{json.dumps([{'point_2d': [round(v) for v in p]} for p in target.points])}</answer>"
    encoded = (frame.encode_point(p) for p in target.points)
    return "<answer>[" + ", ".join(f'{{"point_2d": [{x},{y}]}}' for x, y in encoded) + "]</answer>"


def parse(text: str, sample: Sample, frame: Frame) -> Points | ParseError:
    """See `visurf.parsing.parse_points`."""
    return parse_points(text, frame)


def _hits(answer: Points, sample: Sample, frame: tuple[float, float]) -> float:
    """Share of points that hit, over the larger count: inside the true box, or nearer than 30 pixels of `frame`."""
    truth = sample.target
    assert isinstance(truth, Points)
    count = max(len(truth.points), len(answer.points))
    if count == 0:
        return 1.0
    if truth.boxes is not None:
        return sum(inside(p, b) for p, b in zip(answer.points, truth.boxes, strict=False)) / count
    said, true = (scale_points(p, sample.size, frame) for p in (answer.points, truth.points))
    return sum(math.dist(a, b) < POINT_BELOW for a, b in zip(said, true, strict=False)) / count


def parts(settings: RewardSettings) -> dict[str, Part]:
    """Thinking format 1, accuracy 1: points that hit, in order, over the larger count."""

    def accuracy(completion: Completion, sample: Sample) -> float:
        answer = completion.answer
        return _hits(answer, sample, settings.frame) if isinstance(answer, Points) else 0.0

    return {
        "thinking_format": Part(lambda c, _: visionreasoner.thinking_format(c.text), 1.0, "thinking"),
        "answer_format": Part(lambda c, _: float(c.answer is not None), 1.0, "format"),
        "accuracy": Part(accuracy, 1.0, "accuracy"),
    }


def judge(sample: Sample, answer: Answer | None) -> dict[str, float | None]:
    """`hit`: share of points that hit; 0 for an answer that could not be parsed."""
    return {"hit": _hits(answer, sample, (840.0, 840.0)) if isinstance(answer, Points) else 0.0}


def metrics(records: Sequence[Record]) -> dict[str, float]:
    """Click accuracy over all samples, and the share that still reasons."""
    return {
        "accuracy": mean([r["measures"]["hit"] for r in records]),
        "thinking": mean([float(has_thinking(r["text"])) for r in records]),
    }


POINTING = Task(
    "pointing", {"default": PROMPT, "bare": "{question}"}, "default", Points, render_answer, parse, parts, judge, metrics
)
