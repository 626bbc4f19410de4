"""Referring detection and segmentation: boxes and points of what an expression names, or nothing.

Answers are ``<think>...</think><answer>[{"bbox_2d": [x1,y1,x2,y2], "point_2d": [x,y]}]</answer>``; "no object" is
``<answer>[]</answer>``. Prompt and reward: VisionReasoner, arXiv 2505.12081; see `visurf.rewards.visionreasoner`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from visurf.geometry import Frame, box_centre, pairwise_iou, scale_boxes, scale_points, union_iou
from visurf.parsing import parse_objects
from visurf.rewards import visionreasoner
from visurf.tasks.task import Part, Record, RewardSettings, Task, has_thinking, mean
from visurf.types import Answer, Completion, Objects, ParseError, Sample

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


def render_answer(target: Objects, frame: Frame, align: bool = True) -> str:
    """The answer of a label: exactly as the policy writes it, or as raw JSON of the target when not aligned.

    The raw form has another key order, spaces after commas and pixels of the original image instead of the model's frame.
    """
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
    assert isinstance(sample.target, Objects)
    return sample.target


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
    """How right one answer is; an answer that could not be parsed found nothing and did not say so.

    Returns:
        `giou`: IoU of the union of boxes, 1 for a right "nothing"; `n_hit` on samples without the object: said "nothing";
        `t_hit` on the others: did not; `box_iou` on the others: best IoU of each true box, averaged over the larger count.
    """
    truth = _truth(sample)
    said = answer.boxes if isinstance(answer, Objects) else None
    if not truth.boxes:
        right = float(said is not None and not said)
        return {"giou": right, "n_hit": right, "t_hit": None, "box_iou": None}
    if not said:
        return {"giou": 0.0, "n_hit": None, "t_hit": float(said is None), "box_iou": 0.0}
    best = pairwise_iou(truth.boxes, said).max(axis=1).sum() / max(len(truth.boxes), len(said))
    return {"giou": union_iou(said, truth.boxes, sample.size), "n_hit": None, "t_hit": 1.0, "box_iou": float(best)}


def metrics(records: Sequence[Record]) -> dict[str, float]:
    """Return gIoU over all samples, N-acc, T-acc, box IoU over samples with the object, and the share that still reasons."""
    return {
        "giou": mean([r["measures"]["giou"] for r in records]),
        "n_acc": mean([r["measures"]["n_hit"] for r in records]),
        "t_acc": mean([r["measures"]["t_hit"] for r in records]),
        "box_iou": mean([r["measures"]["box_iou"] for r in records]),
        "thinking": mean([float(has_thinking(r["text"])) for r in records]),
    }


REFERRING = Task(
    name="referring",
    prompts={"published": PUBLISHED, "explicit": EXPLICIT, "bare": "{question}"},
    default_prompt="explicit",
    target=Objects,
    label_text=render_answer,
    parse=parse,
    parts=parts,
    judge=judge,
    metrics=metrics,
    headline="giou",
    prepare_question={"published": lower_without_stop, "explicit": lower_without_stop},
)
