"""Boxes and points to masks: by GrabCut, which needs no weights, or by SAM 2 (`visurf.sam2`).

What both promise: one mask a box, in order, uint8 (height, width) with 1 inside, in the size of the original picture. No boxes
give no masks. A box is clipped to its picture; one that is empty then, or not finite, gives an empty mask. A point that is not
finite, or outside its clipped box, contradicts the box and is left out.

Importing this module imports neither OpenCV nor torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from visurf.types import Box, Detections, ImageRef, Masks, Objects, Point, Sample, Size

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Masks of one picture that are drawn, and held, together.
AT_ONCE = 16
# Of an answer about a picture with few objects, as many as `visurf.rewards.visionreasoner` counts; more would take minutes.
MAX_BOXES = 120


class Segmenter(Protocol):
    """Anything that turns boxes, each with a point or without, into masks."""

    def segment(
        self, image: ImageRef, boxes: Sequence[Box], points: Sequence[Point | None] | None = None
    ) -> list[NDArray[np.uint8]]:
        """One mask a box, see the module.

        Args:
            image: The picture.
            boxes: xyxy, pixels of the picture.
            points: One a box, or None; a single box may have none.

        Raises:
            ValueError: Boxes and points do not pair up.
            DataError: The picture cannot be decoded.
        """


@dataclass(frozen=True)
class Prompt:
    """A usable box, in pixels inside its picture, and its point if that is usable too."""

    box: Box
    point: Point | None


def usable_prompts(boxes: Sequence[Box], points: Sequence[Point | None] | None, size: Size) -> list[Prompt | None]:
    """Every box clipped to its picture with its point, or None where nothing is left of it.

    >>> usable_prompts([(-5, 0, 10, 10), (90, 0, 99, 9)], [(50, 5), None], (20, 20))
    [Prompt(box=(0.0, 0.0, 10.0, 10.0), point=None), None]
    """
    if points is not None and len(points) != len(boxes):
        raise ValueError(f"{len(boxes)} boxes but {len(points)} points; give one point (or None) per box, or no points")
    found: list[Prompt | None] = []
    width, height = size
    for box, point in zip(boxes, points or [None] * len(boxes), strict=True):
        if len(box) != 4 or not all(math.isfinite(v) for v in box):
            found.append(None)
            continue
        x1, y1, x2, y2 = max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(width)), min(box[3], float(height))
        if not (x1 < x2 and y1 < y2):
            found.append(None)
            continue
        inside = point is not None and x1 <= point[0] <= x2 and y1 <= point[1] <= y2
        found.append(Prompt((float(x1), float(y1), float(x2), float(y2)), point if inside else None))
    return found


@dataclass(frozen=True)
class GrabCut:
    """Iterated graph cuts from a box, with colours outside it as background; a point marks sure foreground. Needs OpenCV.

    A box is its own mask where too little lies outside it, or too few pixels in it, to tell colours apart, and where the cut
    leaves next to nothing of it. Equal input gives equal masks.

    Attributes:
        iterations: Of the cut.
        margin: How much around the box is looked at, as a share of its sides.
        longest: The part that is looked at is scaled down to this longest side, in pixels, which bounds the time.
        grain: A picture whose median deviation from its median-filtered self is above this, of 255, is smoothed first.
        least: A cut that leaves a smaller share of the box counts as failed.

    Source: Rother et al., "GrabCut", ACM Transactions on Graphics 23(3), 2004.
    """

    iterations: int = 2
    margin: float = 0.5
    longest: int = 256
    grain: float = 8.0
    least: float = 0.2

    def segment(
        self, image: ImageRef, boxes: Sequence[Box], points: Sequence[Point | None] | None = None
    ) -> list[NDArray[np.uint8]]:
        """See `Segmenter.segment`."""
        if not boxes:
            return []
        prompts = usable_prompts(boxes, points, image.size)
        width, height = image.size
        pixels = np.asarray(image.load()) if any(prompts) else np.zeros((height, width, 3), np.uint8)
        return [np.zeros((height, width), np.uint8) if p is None else self._mask(pixels, p) for p in prompts]

    def _mask(self, pixels: NDArray[np.uint8], prompt: Prompt) -> NDArray[np.uint8]:
        import cv2

        height, width = pixels.shape[:2]
        x1, y1, x2, y2 = prompt.box
        left, top = min(math.floor(x1 + 0.5), width - 1), min(math.floor(y1 + 0.5), height - 1)
        right, bottom = max(math.floor(x2 + 0.5), left + 1), max(math.floor(y2 + 0.5), top + 1)
        across, down = (max(8, round(self.margin * side)) for side in (right - left, bottom - top))
        x0, y0 = max(left - across, 0), max(top - down, 0)
        window = np.ascontiguousarray(pixels[y0 : min(bottom + down, height), x0 : min(right + across, width)])
        whole = np.zeros((height, width), np.uint8)
        whole[top:bottom, left:right] = 1
        size = window.shape[1], window.shape[0]
        inside = whole[y0 : y0 + size[1], x0 : x0 + size[0]].copy()
        scale = min(1.0, self.longest / max(size))
        small = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
        if scale < 1:
            window = np.asarray(cv2.resize(window, small, interpolation=cv2.INTER_AREA), dtype=np.uint8)
            inside = _resized(inside, small)
        point = None
        if prompt.point is not None:
            point = (prompt.point[0] - x0) * small[0] / size[0], (prompt.point[1] - y0) * small[1] / size[1]
        kept = self._cut(window, inside != 0, point)
        if kept is not None:
            part = whole[y0 : y0 + size[1], x0 : x0 + size[0]]
            part &= _resized(kept.astype(np.uint8), size)
        return whole

    def _cut(self, window: NDArray[np.uint8], inside: NDArray[np.bool_], point: Point | None) -> NDArray[np.bool_] | None:
        """The foreground of a window, or None where a cut is not possible or fails."""
        import cv2

        # Each side's colours are five clusters, of which every one needs pixels.
        if min(int(inside.sum()), int((~inside).sum())) < 16:
            return None
        if np.median(cv2.absdiff(window, cv2.medianBlur(window, 3))) > self.grain:
            window = np.asarray(cv2.GaussianBlur(window, (5, 5), 0), dtype=np.uint8)
        labels = np.where(inside, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
        if point is not None:
            radius = max(1.0, 0.05 * math.sqrt(inside.sum()))
            rows, columns = np.ogrid[: window.shape[0], : window.shape[1]]
            near = (columns + 0.5 - point[0]) ** 2 + (rows + 0.5 - point[1]) ** 2 <= radius**2
            labels[near & inside] = cv2.GC_FGD
        cv2.setRNGSeed(0)
        models = np.zeros((1, 65)), np.zeros((1, 65))
        # The rectangle is not looked at where a mask is given.
        cv2.grabCut(window, labels, (0, 0, 1, 1), *models, self.iterations, cv2.GC_INIT_WITH_MASK)
        kept: NDArray[np.bool_] = inside & ((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD))
        return kept if kept.sum() >= self.least * inside.sum() else None


def most_boxes(sample: Sample) -> int:
    """How many boxes of an answer are drawn: `MAX_BOXES`, or twice as many as are true where that is more."""
    target = sample.target
    true: Sequence[object] = target.masks if isinstance(target, Masks) else ()
    if isinstance(target, Objects | Detections):
        true = target.boxes
    return max(MAX_BOXES, 2 * len(true))


def prompts_of(answer: Objects | Detections, sample: Sample) -> list[tuple[Box, Point | None]] | None:
    """An answer's boxes, each with its point or None; None of an answer of more than `most_boxes`, which is no answer."""
    if len(answer.boxes) > most_boxes(sample):
        return None
    points: Sequence[Point | None] = [None] * len(answer.boxes)
    if isinstance(answer, Objects) and answer.points is not None:
        points = answer.points
    return list(zip(answer.boxes, points, strict=True))


def draw(
    segmenter: Segmenter, image: ImageRef, prompts: Iterable[tuple[Box, Point | None]]
) -> Iterator[tuple[tuple[Box, Point | None], NDArray[np.uint8]]]:
    """Every distinct prompt with its mask; only `AT_ONCE` masks are held at a time, however many boxes there are."""
    distinct = list(dict.fromkeys(prompts))
    for start in range(0, len(distinct), AT_ONCE):
        part = distinct[start : start + AT_ONCE]
        yield from zip(part, segmenter.segment(image, [box for box, _ in part], [point for _, point in part]), strict=True)


def union_mask(segmenter: Segmenter) -> Callable[[Sample, Objects], NDArray[np.uint8]]:
    """(sample, answered objects) -> one mask of all that was answered, as `visurf.tasks.with_segmenter` takes it.

    An answer of more than `most_boxes` covers nothing.
    """

    def segment(sample: Sample, answer: Objects) -> NDArray[np.uint8]:
        union = np.zeros(sample.size[::-1], np.uint8)
        for _, mask in draw(segmenter, sample.images[0], prompts_of(answer, sample) or ()):
            np.maximum(union, mask, out=union)
        return union

    return segment


def _resized(mask: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """A mask in another width and height, by the nearest pixel."""
    import cv2

    return np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST), dtype=np.uint8)


def load_segmenter(name: str) -> Segmenter:
    """``classical`` for `GrabCut`, else a checkpoint of `visurf.sam2.Sam2`: a folder in the hub's layout, or a hub name.

    Raises:
        ImportError: OpenCV is not installed.
    """
    if name != "classical":
        from visurf.sam2 import Sam2

        return Sam2(name)
    try:
        import cv2  # noqa: F401 - fails here rather than in the middle of a run
    except ImportError as error:
        raise ImportError("the classical segmenter needs OpenCV: pip install -e '.[segment]' in a clone of visurf") from error
    return GrabCut()
