"""What the tasks share that answer with boxes for something with an outline: truths, overlaps and their measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from visurf.geometry import box_centre, box_iou, mask_box, mask_point, pairwise_iou, union_areas, union_boxes_mask
from visurf.metrics.segmentation import Overlap, mask_overlap
from visurf.tasks.task import Metric, Record, Task
from visurf.types import Answer, Masks, Objects, Sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

IOU_ABOVE = 0.5
JACCARD_FROM = 0.65
# (sample, answered objects) -> predicted mask (height, width), any value but 0 is object.
Segment = Callable[[Sample, Objects], "NDArray[Any]"]

METRICS: Mapping[str, Metric] = {
    "giou": Metric("giou"),
    "ciou": Metric("intersection", denominator="union"),
    "n_acc": Metric("n_hit"),
    "t_acc": Metric("t_hit"),
    "box_iou": Metric("box_iou"),
    "box_accuracy": Metric("box_hit"),
    **{f"pr@{x:g}": Metric("target_iou", at_least=x) for x in (0.5, 0.7, 0.8, 0.9)},
}


class _Held:
    """A target by identity: masks have no hash, and one group asks for its target many times."""

    def __init__(self, target: Masks) -> None:
        self.target = target

    def __hash__(self) -> int:
        return id(self.target)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held) and other.target is self.target


@lru_cache(maxsize=64)
def _boxed(held: _Held) -> Objects:
    pairs = [(box, mask_point(mask)) for mask in held.target.load() if (box := mask_box(mask)) is not None]
    return Objects(tuple(box for box, _ in pairs), tuple(point or box_centre(box) for box, point in pairs))


def objects_of(target: Answer) -> Objects:
    """Boxes and points of a target: as they are, or the tight box and deepest pixel of each mask; an empty mask is no object.

    Raises:
        TypeError: The target is neither boxes nor masks.
    """
    if isinstance(target, Masks):
        return _boxed(_Held(target))
    if not isinstance(target, Objects):
        raise TypeError(f"expected boxes or masks as target, got {type(target).__name__}")
    return target


def true_mask(sample: Sample) -> NDArray[np.uint8] | None:
    """The mask that a sample's objects cover together (255 ignored), or None where only boxes are known."""
    if isinstance(sample.target, Masks):
        masks = sample.target.load()
        if not masks:
            return None
        union = masks[0]
        for mask in masks[1:]:
            union = np.where((union == 1) | (mask == 1), 1, np.maximum(union, mask)).astype(np.uint8)
        return union
    return None if sample.known_mask is None else np.asarray(sample.known_mask, dtype=np.uint8)


def _shared_pixels(sample: Sample, answer: Objects, segment: Segment | None) -> tuple[float, float]:
    """Intersection and union, in pixels where a true mask is known and in exact areas of boxes otherwise."""
    mask = true_mask(sample)
    if mask is None and segment is None:
        return union_areas(answer.boxes, objects_of(sample.target).boxes, sample.size)
    if mask is None:
        mask = union_boxes_mask(objects_of(sample.target).boxes, sample.size).astype(np.uint8)
    if not answer.boxes:
        predicted: NDArray[Any] = np.zeros(mask.shape, dtype=bool)
    elif segment is None:
        predicted = union_boxes_mask(answer.boxes, (mask.shape[1], mask.shape[0]))
    else:
        predicted = segment(sample, answer)
    overlap = mask_overlap(predicted, mask)
    return overlap.intersection, overlap.union


def measure(sample: Sample, answer: Answer | None, segment: Segment | None = None) -> dict[str, float | None]:
    """How right one answer is; an answer that could not be parsed found nothing and did not say so.

    Args:
        sample: Its truth is a mask (the target, or ``meta["mask"]``), or boxes.
        answer: Objects, or None.
        segment: Turns answered boxes and points into a mask; without it their union of boxes is compared.

    Returns:
        `giou`: IoU of the unions, 1 for a right "nothing"; `intersection` and `union`: what the sample adds to the sums of
        cIoU. On samples without the object `n_hit`: said "nothing". On the others `t_hit`: did not; `target_iou`: as `giou`;
        `jaccard`: the same where it reaches 0.65 and 0 elsewhere; `box_iou`: best IoU of each true box, averaged over the
        larger count; and with one true box `box_hit`: whether the IoU of the first box is above 0.5.
    """
    said = answer if isinstance(answer, Objects) else None
    truth = objects_of(sample.target).boxes
    if not truth:
        right = float(said is not None and not said.boxes)
        union = _shared_pixels(sample, said, segment)[1] if said is not None and said.boxes else 0.0
        found: dict[str, float | None] = dict.fromkeys(("t_hit", "target_iou", "jaccard", "box_iou", "box_hit"))
        return {"giou": right, **found, "intersection": 0.0, "union": union, "n_hit": right}
    intersection, union = _shared_pixels(sample, said or Objects(), segment)
    iou = intersection / union if union and said is not None and said.boxes else 0.0
    best = pairwise_iou(truth, said.boxes).max(axis=1).sum() / max(len(truth), len(said.boxes)) if said and said.boxes else 0.0
    hit = float(bool(said and said.boxes) and box_iou(said.boxes[0], truth[0]) > IOU_ABOVE) if said else 0.0
    return {
        "giou": iou,
        "target_iou": iou,
        "jaccard": iou if iou >= JACCARD_FROM else 0.0,
        "intersection": intersection,
        "union": union,
        "n_hit": None,
        "t_hit": float(said is None or bool(said.boxes)),
        "box_iou": float(best),
        "box_hit": hit if len(truth) == 1 else None,
    }


def compares_masks(task: Task) -> bool:
    """Whether a task's answers are compared by what they cover, as cIoU does; others have nothing for a segmenter to draw."""
    return any(metric.measure == "intersection" for metric in task.metrics.values())


def overlaps(records: Sequence[Record]) -> list[Overlap]:
    """The overlap of every record, for the published conventions of `visurf.metrics.SEGMENTATION_CONVENTIONS`.

    Raises:
        ValueError: The records compare boxes, whose areas are no pixel counts.
    """
    found = []
    for record in records:
        measures = record["measures"]
        counts = measures["intersection"], measures["union"]
        if not all(math.isclose(value, round(value)) for value in counts):
            raise ValueError(f"sample {record['id']!r} has no true mask; published conventions count pixels of masks")
        none = record["answer"] is not None and not record["answer"].get("boxes")
        found.append(Overlap(round(counts[0]), round(counts[1]), none, measures["n_hit"] is not None))
    return found
