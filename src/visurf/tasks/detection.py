"""Detection of one category in Visual-RFT's form: boxes with confidences, integers 0 to 1000, or 'No Objects'."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from visurf.geometry import Frame
from visurf.metrics.resampling import ap_statistic
from visurf.rewards.visual_rft import thinking_format
from visurf.rewards.visual_rft_detection import detection, detection_rewards, read_detections
from visurf.tags import first_answer
from visurf.tasks.task import Metric, Part, Record, RewardSettings, Task
from visurf.types import Answer, Completion, DataError, Detections, ParseError, Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Published prompt: Liuziyu77/Visual-RFT.
PUBLISHED = (
    "Detect all objects belonging to the category '{category}' in the image, and provide the bounding boxes (between 0 and 1000, "
    "integer) and confidence (between 0 and 1, with two decimal places).\n"
    "If no object belonging to the category '{category}' in the image, return 'No Objects'.\n"
    "Output the thinking process in <think> </think> and final answer in <answer> </answer> tags."
    "The output answer format should be as follows:\n"
    "<think> ... </think> <answer>[{'Position': [x1, y1, x2, y2], 'Confidence': number}, ...]</answer>\n"
    "Please strictly follow the format."
)
EXTENT = (1000.0, 1000.0)
NONE = "No Objects"
ApName = Literal["AP", "AP50", "AP75"]


def _rounded(target: Detections, size: tuple[int, int]) -> list[tuple[tuple[int, int, int, int], float]]:
    frame = Frame(EXTENT, size)
    return [(frame.encode_box(box), c) for box, c in zip(target.boxes, target.confidences, strict=True)]


def render_answer(target: Detections, frame: Frame, align: bool = True) -> str:
    """The answer of a label in the published layout; JSON of original pixels when not aligned."""
    if not align:
        pairs = zip(target.boxes, target.confidences, strict=True)
        return f"<answer>{json.dumps([{'Confidence': c, 'Position': [round(v) for v in b]} for b, c in pairs])}</answer>"
    items = [f"{{'Position': {list(box)}, 'Confidence': {c:.2f}}}" for box, c in _rounded(target, frame.image_size)]
    return f"<answer>{'[' + ', '.join(items) + ']' if items else NONE}</answer>"


def parse(text: str, sample: Sample, frame: Frame) -> Detections | ParseError:
    """Boxes in original pixels with confidences; the frame is 0-1000 whatever the model's.

    Returns:
        Zero boxes for 'No Objects' or an empty list. Or a `ParseError`: no_answer, not_detections, degenerate_box.
    """
    if first_answer(text) is None:
        return ParseError("no_answer", "no <answer>...</answer> in the completion")
    try:
        boxes, confidences = read_detections(text)
    except DataError as error:
        return ParseError("not_detections", str(error))
    for box in boxes:
        if box[2] <= box[0] or box[3] <= box[1]:
            return ParseError("degenerate_box", f"expected x1 < x2 and y1 < y2, got {box}")
    own = Frame(EXTENT, frame.image_size)
    return Detections(tuple(own.decode_box(box) for box in boxes), tuple(confidences))


def _truth(sample: Sample) -> Detections:
    assert isinstance(sample.target, Detections)
    return sample.target


def parts(settings: RewardSettings) -> dict[str, Part]:
    """IoU 1, confidence 1, format 1: see `visurf.rewards.visual_rft_detection`; truths are rounded as a label is.

    Under `sound` boxes that fall together in 0-1000 are one, since nobody can answer them apart.
    """

    def rewards(completion: Completion, sample: Sample) -> tuple[float, float]:
        if settings.variant != "sound":
            label = render_answer(_truth(sample), Frame(EXTENT, sample.size))
            found = detection(completion.text, label, variant=settings.variant)
            return found["iou"], found["confidence"]
        if not isinstance(completion.answer, Detections):
            return 0.0, 0.0
        boxes, confidences = read_detections(completion.text)
        true = list(dict.fromkeys(box for box, _ in _rounded(_truth(sample), sample.size)))
        return detection_rewards(boxes, confidences, true)

    return {
        "format": Part(lambda c, _: thinking_format(c.text), 1.0, "thinking"),
        "iou": Part(lambda c, s: rewards(c, s)[0], 1.0, "accuracy"),
        "confidence": Part(lambda c, s: rewards(c, s)[1], 1.0, "accuracy"),
    }


def _unit(scores: Sequence[float]) -> list[float]:
    """Scores of another program, which may be any numbers, brought to [0, 1] in their order."""
    if all(0 <= score <= 1 for score in scores):
        return list(scores)
    return [0.5 + 0.5 * score / (1 + abs(score)) for score in scores]


def judge(sample: Sample, answer: Answer | None) -> dict[str, float | None]:
    """`iou`: the sound reward on unrounded boxes; `n_hit` and `t_hit` as in referring."""
    truth, said = _truth(sample), answer if isinstance(answer, Detections) else None
    iou = 0.0 if said is None else detection_rewards(said.boxes, _unit(said.confidences), truth.boxes)[0]
    absent = not truth.boxes
    return {
        "iou": iou,
        "n_hit": float(said is not None and not said.boxes) if absent else None,
        "t_hit": None if absent else float(said is None or bool(said.boxes)),
    }


def coco_truth(records: Sequence[Record]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Truth and detections of records in COCO's layout: one image per ``meta["image_id"]``, else one per record.

    Crowd regions and masks are unknown here: exact numbers of a data set need its annotation file.
    """
    images: dict[Any, int] = {}
    categories: dict[str, int] = {}
    annotations: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    for record in records:
        image = images.setdefault(record["meta"].get("image_id", record["id"]), len(images) + 1)
        category = categories.setdefault(str(record["meta"].get("category", record["question"])), len(categories) + 1)
        place = {"image_id": image, "category_id": category}
        annotations += [{**place, "id": 0, "bbox": _xywh(box)} for box in record["target"]["boxes"]]
        if record["answer"] is not None:
            pairs = zip(record["answer"]["boxes"], record["answer"]["confidences"], strict=True)
            detections += [{**place, "bbox": _xywh(box), "score": confidence} for box, confidence in pairs]
    truth = {
        "images": [{"id": i} for i in images.values()],
        "categories": [{"id": i, "name": name} for name, i in categories.items()],
        "annotations": annotations,
    }
    return truth, detections


def _xywh(box: Sequence[float]) -> list[float]:
    x1, y1, x2, y2 = box
    return [x1, y1, x2 - x1, y2 - y1]


def _ap(name: ApName) -> Metric:
    def prepare(records: Sequence[Record]) -> tuple[int, Callable[[NDArray[np.intp]], float]]:
        truth, detections = coco_truth(records)
        if not truth["annotations"]:
            return len(truth["images"]), lambda indices: math.nan
        count, statistic = ap_statistic(truth, detections)
        return count, lambda indices: statistic(indices)[name]

    return Metric(statistic=prepare)


DETECTION = Task(
    name="detection",
    prompts={"published": PUBLISHED, "bare": "{question}"},
    default_prompt="published",
    target=Detections,
    label_text=render_answer,
    parse=parse,
    parts=parts,
    judge=judge,
    metrics={
        "ap": _ap("AP"),
        "ap50": _ap("AP50"),
        "ap75": _ap("AP75"),
        "iou": Metric("iou"),
        "n_acc": Metric("n_hit"),
        "t_acc": Metric("t_hit"),
    },
    headline="ap",
    slots={"category": lambda sample: sample.question},
    extent=EXTENT,
)
