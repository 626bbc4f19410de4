"""A reward for masks with a segmenter in the loop: the model answers boxes and points, the segmenter draws, IoU pays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from visurf.rewards.shaping import mask_iou
from visurf.segmenter import Segmenter, draw, prompts_of
from visurf.tasks.task import Part
from visurf.types import Completion, Detections, Masks, Objects, Sample

if TYPE_CHECKING:
    from numpy.typing import NDArray


def mask_part(segmenter: Segmenter) -> Part:
    """A part that pays the IoU of the union of a completion's masks with the true mask, 0 to 1.

    The picture is segmented once for all completions of a sample, equal prompts once. An answer that cannot be read, or holds no
    boxes at all, earns 0, and so does one of more than `visurf.segmenter.most_boxes`; "no object" earns 1 where the true mask is
    empty and 0 elsewhere. Abstains on a sample without a true mask (`true_mask`).
    """

    def batch(completions: Sequence[Completion], sample: Sample) -> list[float | None]:
        truth = true_mask(sample)
        if truth is None:
            return [None] * len(completions)
        answers = [c.answer for c in completions]
        asked = [prompts_of(answer, sample) if isinstance(answer, Objects | Detections) else None for answer in answers]
        unions = [(frozenset(prompts or ()), np.zeros(truth.shape, bool)) for prompts in asked]
        for prompt, mask in draw(segmenter, sample.images[0], (prompt for prompts in asked for prompt in prompts or ())):
            inside = mask != 0
            for wanted, union in unions:
                if prompt in wanted:
                    union |= inside
        return [0.0 if p is None else mask_iou(union, truth) for p, (_, union) in zip(asked, unions, strict=True)]

    return Part(lambda completion, sample: batch([completion], sample)[0], 1.0, "accuracy", batch)


def true_mask(sample: Sample) -> NDArray[np.uint8] | None:
    """The union of a sample's true masks (255 where all say "ignored" and none "object"), or None without one.

    It is the target, or stands in `meta` under ``mask``; a target without boxes is an empty mask.
    """
    masks: Sequence[NDArray[np.uint8]]
    if isinstance(sample.target, Masks):
        masks = sample.target.load()
    elif isinstance(sample.target, Objects | Detections) and not sample.target.boxes:
        masks = ()
    elif sample.known_mask is not None:
        masks = (np.asarray(sample.known_mask, dtype=np.uint8),)
    else:
        return None
    width, height = sample.size
    union = np.zeros((height, width), np.uint8)
    for mask in masks:
        union = np.where(mask == 1, np.uint8(1), np.where((mask == 255) & (union == 0), np.uint8(255), union))
    return union
