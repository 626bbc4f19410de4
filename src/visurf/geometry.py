"""The only place where a box, point or mask convention lives.

Boxes are float ``xyxy``, half-open (``x2 - x1`` is the width), origin top-left, x before y. The published rewards that count
inclusive pixels ask for it by name (``inclusive=True``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from visurf.types import Box, Point, Size

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


IouConvention = Literal["plain", "seg_zero", "vlm_r1"]


@dataclass(frozen=True)
class Frame:
    """The integer coordinate frame a model speaks for one image.

    Attributes:
        extent: Width and height of the frame: (1000, 1000) for the 0-1000 families, the *resized* image's pixels for
            Qwen2.5-VL.
        image_size: Width and height of the original image in pixels.
    """

    extent: tuple[float, float]
    image_size: Size

    def encode_point(self, point: Point) -> tuple[int, int]:
        """Original pixels to the nearest integers of the frame, halves up, clamped into the frame.

        >>> Frame((1000, 1000), (640, 480)).encode_point((320.0, 120.0))
        (500, 250)
        """
        x, y = (
            min(max(math.floor(v / size * extent + 0.5), 0), math.floor(extent))
            for v, size, extent in zip(point, self.image_size, self.extent, strict=True)
        )
        return x, y

    def encode_box(self, box: Box) -> tuple[int, int, int, int]:
        """Original pixels to integers of the frame; never degenerate: each side is at least one unit.

        >>> Frame((1000, 1000), (10000, 10000)).encode_box((5001.0, 20.0, 5003.0, 25.0))
        (500, 2, 501, 3)
        """
        first, second = self.encode_point(box[:2]), self.encode_point(box[2:])
        sides = []
        for axis, (low, high) in enumerate(zip(first, second, strict=True)):
            if low == high:
                # Widen towards the side that the box lies on, so that no border moves by more than one unit.
                middle = (box[axis] + box[axis + 2]) / 2 / self.image_size[axis] * self.extent[axis]
                above = low + 1 <= math.floor(self.extent[axis]) and (middle >= low or low == 0)
                low, high = (low, low + 1) if above else (low - 1, low)
            sides.append((low, high))
        (x1, x2), (y1, y2) = sides
        return x1, y1, x2, y2

    def decode_point(self, point: Sequence[float]) -> Point:
        """Numbers of the frame to original pixels, neither rounded nor clamped."""
        x, y = (v / extent * size for v, extent, size in zip(point, self.extent, self.image_size, strict=True))
        return x, y

    def decode_box(self, box: Sequence[float]) -> Box:
        """Numbers of the frame (xyxy) to original pixels, neither rounded nor clamped."""
        return *self.decode_point(box[:2]), *self.decode_point(box[2:])

    def rounding_bound(self) -> Point:
        """The largest error of encoding then decoding a coordinate, in original pixels, per axis.

        One unit, not half: a box narrower than a unit is widened to one.
        """
        return self.image_size[0] / self.extent[0], self.image_size[1] / self.extent[1]


def scale_boxes(boxes: Sequence[Box], image_size: Size, extent: tuple[float, float]) -> tuple[Box, ...]:
    """Boxes in pixels of an image to boxes in a frame of the given extent, not rounded."""
    sx, sy = extent[0] / image_size[0], extent[1] / image_size[1]
    return tuple((x1 * sx, y1 * sy, x2 * sx, y2 * sy) for x1, y1, x2, y2 in boxes)


def scale_points(points: Sequence[Point], image_size: Size, extent: tuple[float, float]) -> tuple[Point, ...]:
    """Points in pixels of an image to points in a frame of the given extent, not rounded."""
    sx, sy = extent[0] / image_size[0], extent[1] / image_size[1]
    return tuple((x * sx, y * sy) for x, y in points)


def pairwise_iou(first: ArrayLike, second: ArrayLike, *, inclusive: bool = False) -> NDArray[np.float64]:
    """Intersection over union of every pair of boxes.

    Args:
        first: (M, 4) xyxy.
        second: (N, 4) xyxy, the same frame.
        inclusive: Count both border pixels (+1 on every side), as VisionReasoner's reward does. Areas are not clamped then,
            so swapped corners give signed areas, as published.

    Returns:
        (M, N) float64. Zero where the union is empty; NaN for a 0/0 under `inclusive`.
    """
    a = np.asarray(first, dtype=np.float64).reshape(-1, 1, 4)
    b = np.asarray(second, dtype=np.float64).reshape(1, -1, 4)
    one = 1.0 if inclusive else 0.0
    width = np.maximum(np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0]) + one, 0)
    height = np.maximum(np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1]) + one, 0)
    intersection = width * height
    areas = [(x[..., 2] - x[..., 0] + one) * (x[..., 3] - x[..., 1] + one) for x in (a, b)]
    union = areas[0] + areas[1] - intersection
    with np.errstate(divide="ignore", invalid="ignore"):
        iou = intersection / union
    return iou if inclusive else np.where(union > 0, iou, 0.0)


def box_iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes, plain areas.

    >>> box_iou((0, 0, 2, 2), (1, 0, 3, 2))
    0.3333333333333333
    """
    return float(pairwise_iou([first], [second])[0, 0])


def generalised_iou(first: Box, second: Box) -> float:
    """Generalised IoU in [-1, 1]: IoU minus the share of the enclosing box that neither covers.

    Source: Rezatofighi et al., arXiv 1902.09630.

    >>> generalised_iou((0, 0, 1, 1), (2, 0, 3, 1))
    -0.3333333333333333
    """
    width, height = (max(0.0, min(first[i + 2], second[i + 2]) - max(first[i], second[i])) for i in (0, 1))
    areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (first, second))
    union = areas - width * height
    iou = width * height / union if union > 0 else 0.0
    enclosing = (max(first[2], second[2]) - min(first[0], second[0])) * (max(first[3], second[3]) - min(first[1], second[1]))
    return iou - (enclosing - union) / enclosing if enclosing > 0 else iou


def convention_iou(first: Sequence[float], second: Sequence[float], convention: IouConvention) -> float:
    """IoU of two boxes as a published reward counts it; swapped corners give signed areas.

    Args:
        first: xyxy; the first four numbers count.
        second: The same, in the same frame.
        convention: ``plain``: areas without +1, an overlap needs positive sides. ``seg_zero``: inclusive areas (+1 on every
            side), an overlap needs positive sides before the +1. ``vlm_r1``: plain areas, an overlap needs sides above 1.

    Returns:
        0 to 1; 0 without an overlap, also where the union is empty.

    >>> convention_iou((0, 0, 10, 10), (9, 0, 19, 10), "plain") > 0, convention_iou((0, 0, 10, 10), (9, 0, 19, 10), "vlm_r1")
    (True, 0.0)
    """
    one = 1 if convention == "seg_zero" else 0
    less = 1 if convention == "vlm_r1" else 0
    left, top = max(first[0], second[0]), max(first[1], second[1])
    right, bottom = min(first[2] - less, second[2] - less), min(first[3] - less, second[3] - less)
    if not (left < right and top < bottom):
        return 0.0
    overlap = (right - left + one + less) * (bottom - top + one + less)
    areas = sum((b[2] - b[0] + one) * (b[3] - b[1] + one) for b in (first, second))
    return overlap / (areas - overlap)


def inside(point: Point, box: Box) -> bool:
    """Whether a point lies in a box, borders included."""
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]


def box_centre(box: Box) -> Point:
    """The centre of a box."""
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def mask_box(mask: NDArray[np.uint8]) -> Box | None:
    """The tight half-open box of a mask's pixels that equal 1, or None for an empty mask."""
    rows, columns = np.nonzero(np.asarray(mask) == 1)
    if rows.size == 0:
        return None
    return float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)


def mask_point(mask: NDArray[np.uint8]) -> Point | None:
    """The pixel deepest inside a mask (distance-transform maximum), as a pixel centre; None for an empty mask.

    The border of the image counts as outside. Source: VisionReasoner's data preparation.
    """
    from scipy.ndimage import distance_transform_edt

    ones = np.asarray(mask) == 1
    if not ones.any():
        return None
    distance = distance_transform_edt(np.pad(ones, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(distance.argmax()), distance.shape)
    return float(column) + 0.5, float(row) + 0.5


def union_boxes_mask(boxes: Sequence[Box], size: Size) -> NDArray[np.bool_]:
    """The union of boxes as a boolean (height, width) mask: a pixel belongs where its centre is inside."""
    width, height = size
    mask = np.zeros((height, width), dtype=bool)
    for x1, y1, x2, y2 in boxes:
        left, right = (min(max(math.ceil(v - 0.5), 0), width) for v in (x1, x2))
        top, bottom = (min(max(math.ceil(v - 0.5), 0), height) for v in (y1, y2))
        mask[top:bottom, left:right] = True
    return mask


def union_areas(first: Sequence[Box], second: Sequence[Box], size: Size) -> tuple[float, float]:
    """Areas that the unions of two sets of boxes share, and cover together, inside the image.

    Exact by coordinate compression, so they do not depend on the image's resolution. A line sweeps down over the borders of the
    boxes and knows how many of each side cover every column: quadratic time and linear memory in the number of boxes.
    """
    width, height = size
    sides, corners = [], []
    for side, boxes in enumerate((first, second)):
        clipped = ((max(b[0], 0), max(b[1], 0), min(b[2], width), min(b[3], height)) for b in boxes)
        kept = [b for b in clipped if b[0] < b[2] and b[1] < b[3]]
        sides += [side] * len(kept)
        corners += kept
    if not corners:
        return 0.0, 0.0
    x1, y1, x2, y2 = np.array(corners, dtype=np.float64).T
    xs, ys = np.unique([x1, x2]), np.unique([y1, y2])
    columns = list(zip(sides, np.searchsorted(xs, x1), np.searchsorted(xs, x2), strict=True))
    borders: list[list[tuple[int, int]]] = [[] for _ in ys]
    for box, (top, bottom) in enumerate(zip(np.searchsorted(ys, y1), np.searchsorted(ys, y2), strict=True)):
        borders[top].append((box, 1))
        borders[bottom].append((box, -1))
    widths = np.diff(xs)
    covering = np.zeros((2, widths.size), dtype=np.int64)
    shared, together = [], []
    for tall, crossed in zip(np.diff(ys), borders, strict=False):
        for box, change in crossed:
            side, left, right = columns[box]
            covering[side, left:right] += change
        covered = covering > 0
        shared.append(tall * widths[covered.all(axis=0)].sum())
        together.append(tall * widths[covered.any(axis=0)].sum())
    return math.fsum(shared), math.fsum(together)


def union_iou(first: Sequence[Box], second: Sequence[Box], size: Size) -> float:
    """IoU of the unions of two sets of boxes; 1 when both are empty, 0 when one is."""
    if not first or not second:
        return float(not first and not second)
    intersection, union = union_areas(first, second, size)
    return intersection / union if union > 0 else 0.0
