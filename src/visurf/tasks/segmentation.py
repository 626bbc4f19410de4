"""What the tasks share that answer with boxes for something with an outline: truths, overlaps and their measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from visurf.geometry import box_centre, box_iou, mask_box, mask_point, pairwise_iou, union_areas, union_boxes_mask
from visurf.metrics.segmentation import SEGMENTATION_CONVENTIONS, WHOLE_MASK_CONVENTIONS, Convention, Overlap, mask_overlap
from visurf.tasks.task import Metric, Record, Task
from visurf.types import Answer, Masks, Objects, Sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

IOU_ABOVE = 0.5
JACCARD_FROM = 0.65
IGNORED = 255
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


def _shared_pixels(sample: Sample, answer: Objects, segment: Segment | None) -> dict[str, float]:
    """`intersection` and `union`, in pixels where a true mask is known and in exact areas of boxes otherwise.

    Where the true mask has ignored pixels also `whole_intersection` and `whole_union`, which count them as object.
    """
    mask = true_mask(sample)
    if mask is None and segment is None:
        intersection, union = union_areas(answer.boxes, objects_of(sample.target).boxes, sample.size)
        return {"intersection": intersection, "union": union}
    if mask is None:
        mask = union_boxes_mask(objects_of(sample.target).boxes, sample.size).astype(np.uint8)
    if not answer.boxes:
        predicted: NDArray[Any] = np.zeros(mask.shape, dtype=bool)
    elif segment is None:
        predicted = union_boxes_mask(answer.boxes, (mask.shape[1], mask.shape[0]))
    else:
        predicted = segment(sample, answer)
    overlap = mask_overlap(predicted, mask)
    counts: dict[str, float] = {"intersection": overlap.intersection, "union": overlap.union}
    if (mask == IGNORED).any():
        whole = mask_overlap(predicted, mask, ignore=None)
        counts |= {"whole_intersection": whole.intersection, "whole_union": whole.union}
    return counts


def measure(sample: Sample, answer: Answer | None, segment: Segment | None = None) -> dict[str, float | None]:
    """How right one answer is; an answer that could not be parsed found nothing and did not say so.

    Args:
        sample: Its truth is a mask (the target, or ``meta["mask"]``), or boxes.
        answer: Objects, or None.
        segment: Turns answered boxes and points into a mask; without it their union of boxes is compared.

    Returns:
        `giou`: IoU of the unions, 1 for a right "nothing"; `intersection` and `union`: what the sample adds to the sums of
        cIoU; `whole_intersection` and `whole_union`: the same with ignored pixels as object, where the mask has any. On samples
        without the object `n_hit`: said "nothing". On the others `t_hit`: did not; `target_iou`: as `giou`; `jaccard`: the same
        where it reaches 0.65 and 0 elsewhere; `box_iou`: best IoU of each true box, averaged over the larger count; and with
        one true box `box_hit`: whether the IoU of the first box is above 0.5.
    """
    said = answer if isinstance(answer, Objects) else None
    truth = objects_of(sample.target).boxes
    if not truth:
        right = float(said is not None and not said.boxes)
        something = said is not None and bool(said.boxes)
        known = isinstance(sample.target, Masks) or sample.known_mask is not None
        counts = _shared_pixels(sample, said or Objects(), segment) if something or known else {"union": 0.0}
        found: dict[str, float | None] = dict.fromkeys(("t_hit", "target_iou", "jaccard", "box_iou", "box_hit"))
        return {
            "giou": right,
            **found,
            **counts,
            "intersection": 0.0,
            "union": counts["union"] if something else 0.0,
            "n_hit": right,
        }
    counts = _shared_pixels(sample, said or Objects(), segment)
    intersection, union = counts["intersection"], counts["union"]
    iou = intersection / union if union and said is not None and said.boxes else 0.0
    best = pairwise_iou(truth, said.boxes).max(axis=1).sum() / max(len(truth), len(said.boxes)) if said and said.boxes else 0.0
    hit = float(bool(said and said.boxes) and box_iou(said.boxes[0], truth[0]) > IOU_ABOVE) if said else 0.0
    return {
        "giou": iou,
        "target_iou": iou,
        "jaccard": iou if iou >= JACCARD_FROM else 0.0,
        **counts,
        "n_hit": None,
        "t_hit": float(said is None or bool(said.boxes)),
        "box_iou": float(best),
        "box_hit": hit if len(truth) == 1 else None,
    }


def compares_masks(task: Task) -> bool:
    """Whether a task's answers are compared by what they cover, as cIoU does; others have nothing for a segmenter to draw."""
    return any(metric.measure == "intersection" for metric in task.metrics.values())


def overlaps(records: Sequence[Record], *, whole: bool = False) -> list[Overlap]:
    """The overlap of every record, for the published conventions of `visurf.metrics.SEGMENTATION_CONVENTIONS`.

    Args:
        records: With the measures of `measure`.
        whole: Count ignored pixels as object, as `visurf.metrics.segmentation.WHOLE_MASK_CONVENTIONS` do.

    Raises:
        ValueError: The records compare boxes, whose areas are no pixel counts.
    """
    found = []
    for record in records:
        measures = record["measures"]
        kind = "whole_" if whole and "whole_union" in measures else ""
        counts = measures[f"{kind}intersection"], measures[f"{kind}union"]
        if not all(math.isclose(value, round(value)) for value in counts):
            raise ValueError(f"sample {record['id']!r} has no true mask; published conventions count pixels of masks")
        none = record["answer"] is not None and not record["answer"].get("boxes")
        found.append(Overlap(round(counts[0]), round(counts[1]), none, measures["n_hit"] is not None))
    return found


def convention_scores(records: Sequence[Record], convention: Convention) -> dict[str, float]:
    """The numbers of a published mask evaluation.

    Raises:
        ValueError: See `overlaps`; or the convention has no value without samples.
    """
    return SEGMENTATION_CONVENTIONS[convention](overlaps(records, whole=convention in WHOLE_MASK_CONVENTIONS))
