"""Referring detection and segmentation: boxes and points of what an expression names, or nothing.

Answers are ``<think>...</think><answer>[{"bbox_2d": [x1,y1,x2,y2], "point_2d": [x,y]}]</answer>``; "no object" is
``<answer>[]</answer>``. Prompt and reward: VisionReasoner, arXiv 2505.12081; see `visurf.rewards.visionreasoner`.
"""

from __future__ import annotations

import dataclasses
import json

from visurf.geometry import Frame, box_centre, scale_boxes, scale_points
from visurf.parsing import parse_objects
from visurf.rewards import visionreasoner
from visurf.tasks import segmentation
from visurf.tasks.task import Part, RewardSettings, Task
from visurf.types import Answer, Completion, Masks, Objects, ParseError, Sample

# Published prompt (data, quoted with its missing spaces): dvlab-research/Seg-Zero, VisionReasoner.
PUBLISHED = (
    'Please find "{question}" with bboxs and points.Compare the difference between object(s) and find the most closely matched '
    "object(s).Output the thinking process in <think> </think> and final answer in <answer> </answer> tags.Output the bbox(es) "
    "and point(s) inside the interested object(s) in JSON format.i.e., <think> thinking process here </think>"
    '<answer>[{"bbox_2d": [10,100,200,210], "point_2d": [30,110]}, {"bbox_2d": [225,296,706,786], "point_2d": [302,410]}]</answer>'
)
EXPLICIT = PUBLISHED + " If nothing in the image matches, answer with an empty list: <answer>[]</answer>"


def lower_without_stop(question: str) -> str:
    """The published prompt's treatment of a question: lower case, no final stop."""
    return question.lower().strip(".")


def _points(target: Objects) -> tuple[tuple[float, float], ...]:
    return target.points if target.points is not None else tuple(box_centre(b) for b in target.boxes)


def render_answer(target: Objects | Masks, frame: Frame, align: bool = True) -> str:
    """The answer of a label: exactly as the policy writes it, or as raw JSON of the target when not aligned.

    Masks are written as their tight boxes and deepest pixels. The raw form has another key order, spaces after commas and
    pixels of the original image instead of the model's frame.
    """
    target = segmentation.objects_of(target)
    points = _points(target)
    if not align:
        raw = [
            {"point_2d": [round(v) for v in p], "bbox_2d": [round(v) for v in b]} for b, p in zip(target.boxes, points, strict=True)
        ]
        return f"<answer>{json.dumps(raw)}</answer>"
    items = []
    for box, point in zip(target.boxes, points, strict=True):
        corners = ",".join(str(v) for v in frame.encode_box(box))
        x, y = frame.encode_point(point)
        items.append(f'{{"bbox_2d": [{corners}], "point_2d": [{x},{y}]}}')
    return f"<answer>[{', '.join(items)}]</answer>"


def parse(text: str, sample: Sample, frame: Frame) -> Objects | ParseError:
    """See `visurf.parsing.parse_objects`."""
    return parse_objects(text, frame)


def _truth(sample: Sample) -> Objects:
    return segmentation.objects_of(sample.target)


def parts(settings: RewardSettings) -> dict[str, Part]:
    """VisionReasoner's reward: thinking format 1, answer format 2, accuracy 3, non-repetition 1.

    Under `sound` an empty truth answered by ``[]`` earns answer format and accuracy in full, and ``[]`` on a non-empty truth
    neither; nothing else differs from `published`.
    """

    def answer_format(completion: Completion, sample: Sample) -> float:
        empty = settings.variant == "sound" and not _truth(sample).boxes
        return visionreasoner.answer_format(completion.text, empty_truth=empty)

    def accuracy(completion: Completion, sample: Sample) -> float:
        answer, truth = completion.answer, _truth(sample)
        if not isinstance(answer, Objects) or (answer.boxes and answer.points is None):
            return 0.0
        return visionreasoner.object_accuracy(
            scale_boxes(answer.boxes, sample.size, settings.frame),
            scale_points(answer.points or (), sample.size, settings.frame),
            scale_boxes(truth.boxes, sample.size, settings.frame),
            scale_points(_points(truth), sample.size, settings.frame),
            variant=settings.variant,
        )

    return {
        "thinking_format": Part(lambda c, _: visionreasoner.thinking_format(c.text), 1.0, "thinking"),
        "answer_format": Part(answer_format, 2.0, "format"),
        "accuracy": Part(accuracy, 3.0, "accuracy"),
        "non_repeat": Part(lambda c, _: visionreasoner.non_repeat(c.text), 1.0, "format"),
    }


def judge(sample: Sample, answer: Answer | None) -> dict[str, float | None]:
    """See `visurf.tasks.segmentation.measure`."""
    return segmentation.measure(sample, answer)


def with_segmenter(task: Task, segment: segmentation.Segment) -> Task:
    """The task with answers turned into masks by a segmenter before they are compared.

    Args:
        task: One that answers with boxes and points: referring, reasoning_segmentation, anomaly or lesion.
        segment: (sample, answered objects) -> mask; only asked where something was answered.

    Raises:
        ValueError: The task's answers are not compared by what they cover.
    """
    if not segmentation.compares_masks(task):
        raise ValueError(f"segment: expected a task whose answers can become masks, got {task.name!r}; leave the segmenter out")

    def judge_masks(sample: Sample, answer: Answer | None) -> dict[str, float | None]:
        # The task's own measures first: they may know more than the overlap.
        return {**task.judge(sample, answer), **segmentation.measure(sample, answer, segment)}

    return dataclasses.replace(task, judge=judge_masks)


PROMPTS = {"published": PUBLISHED, "explicit": EXPLICIT, "bare": "{question}"}
PREPARE = {"published": lower_without_stop, "explicit": lower_without_stop}

REFERRING = Task(
    name="referring",
    prompts=PROMPTS,
    default_prompt="explicit",
    target=(Objects, Masks),
    label_text=render_answer,
    parse=parse,
    parts=parts,
    judge=judge,
    metrics=segmentation.METRICS,
    headline="giou",
    prepare_question=PREPARE,
)
