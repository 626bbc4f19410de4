"""GUI grounding: the point, or the points in order, to click for an instruction."""

from __future__ import annotations

import json
import math

from visurf.geometry import Frame, box_iou, inside, scale_points
from visurf.parsing import parse_objects, parse_points
from visurf.rewards import visionreasoner
from visurf.tasks.referring import PUBLISHED, lower_without_stop
from visurf.tasks.task import Metric, Part, RewardSettings, Task
from visurf.types import Answer, Completion, DataError, Objects, ParseError, Points, Sample

PROMPT = (
    'Please point to "{question}". Output the thinking process in <think> </think> and final answer in <answer> </answer> tags, '
    'i.e., <think> thinking process here </think><answer>[{"point_2d": [30,110]}]</answer>'
)
POINT_BELOW = 30.0
IOU_ABOVE = 0.5


def render_answer(target: Points, frame: Frame, align: bool = True) -> str:
    """The answer of a label; raw JSON in original pixels when not aligned."""
    if not align:
        return f"<answer>{json.dumps([{'point_2d': [round(v) for v in p]} for p in target.points])}</answer>"
    encoded = (frame.encode_point(p) for p in target.points)
    return "<answer>[" + ", ".join(f'{{"point_2d": [{x},{y}]}}' for x, y in encoded) + "]</answer>"


def parse(text: str, sample: Sample, frame: Frame) -> Points | ParseError:
    """Points as `visurf.parsing.parse_points` reads them, with their boxes where every object has both, as `published` asks."""
    objects = parse_objects(text, frame)
    if isinstance(objects, Objects) and objects.boxes and objects.points is not None:
        return Points(objects.points, objects.boxes)
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
    """Thinking format 1, answer format 1, accuracy 1: points that hit, in order, over the larger count."""

    def accuracy(completion: Completion, sample: Sample) -> float:
        answer = completion.answer
        return _hits(answer, sample, settings.frame) if isinstance(answer, Points) else 0.0

    return {
        "thinking_format": Part(lambda c, _: visionreasoner.thinking_format(c.text), 1.0, "thinking"),
        "answer_format": Part(lambda c, _: float(c.answer is not None), 1.0, "format"),
        "accuracy": Part(accuracy, 1.0, "accuracy"),
    }


def judge(sample: Sample, answer: Answer | None) -> dict[str, float | None]:
    """`hit`: share of points that hit; `box_hit`, where one box is true: whether the first answered box has IoU above 0.5.

    Both are 0 for an answer that could not be parsed, the second also for an answer of points alone.
    """
    assert isinstance(sample.target, Points)
    said = answer if isinstance(answer, Points) else None
    found: dict[str, float | None] = {"hit": _hits(said, sample, (840.0, 840.0)) if said is not None else 0.0}
    if sample.target.boxes is not None and len(sample.target.boxes) == 1:
        boxes = said.boxes if said is not None else None
        found["box_hit"] = float(bool(boxes) and box_iou(boxes[0], sample.target.boxes[0]) > IOU_ABOVE) if boxes else 0.0
    return found


def settle(target: Answer) -> Answer:
    """A target with a point to click.

    Raises:
        DataError: There is none.
    """
    if isinstance(target, Points) and not target.points:
        raise DataError("expected at least one point, got none: the task has no answer for nothing to click")
    return target


GUI = Task(
    name="gui",
    prompts={"default": PROMPT, "published": PUBLISHED, "bare": "{question}"},
    default_prompt="default",
    target=Points,
    label_text=render_answer,
    parse=parse,
    parts=parts,
    judge=judge,
    metrics={"click_accuracy": Metric("hit"), "box_accuracy": Metric("box_hit")},
    headline="click_accuracy",
    prepare_question={"published": lower_without_stop},
    settle=settle,
)
