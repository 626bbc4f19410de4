"""Masks that are built on demand from what a data set stores: polygons, run lengths or a PNG.

A decoded mask is uint8 (height, width): 0 background, 1 object, 255 ignored. Keeping thousands of them decoded would not fit
in memory, so a sample carries one of these small records and decodes when a metric asks. Two rasterisers are needed because
the data sets were scored with two: COCO's (fractional vertices, run lengths) and OpenCV's (integer vertices with outline).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from visurf.benchmarks.rasterise import decode_counts, fill_coco, fill_opencv
from visurf.geometry import box_centre, mask_box, mask_point
from visurf.mask_pictures import stored_values
from visurf.types import DataError, ImageRef, LazyMask, Masks, Objects, Point, Sample, Size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Mask = NDArray[np.uint8]

IGNORED = 255


class EmptyMask(DataError):
    """A mask file that holds no pixel of its object: a broken copy, and not "no object"."""


def _as_array(mask: LazyMask, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
    return np.array(mask.load(), dtype=dtype)


@dataclass(frozen=True)
class PolygonMask:
    """The union of polygons with fractional vertices, rasterised as COCO's mask code does.

    Attributes:
        polygons: Flat x1, y1, x2, y2, ... in pixels; those with fewer than three vertices cover nothing.
        size: Image width and height.
    """

    polygons: tuple[tuple[float, ...], ...]
    size: Size

    __array__ = _as_array

    def load(self) -> Mask:
        """The union; overlapping polygons count once."""
        mask = np.zeros((self.size[1], self.size[0]), dtype=np.uint8)
        for polygon in self.polygons:
            if len(polygon) >= 6:
                mask |= fill_coco(polygon, self.size)
        return mask


@dataclass(frozen=True)
class RunLengthMask:
    """COCO run lengths: alternating runs of 0 and 1, beginning with 0, down the columns."""

    counts: tuple[int, ...] | str
    size: Size

    __array__ = _as_array

    def load(self) -> Mask:
        """Decode.

        Raises:
            DataError: The runs do not add up to the image.
        """
        runs = decode_counts(self.counts) if isinstance(self.counts, str) else self.counts
        width, height = self.size
        if any(run < 0 for run in runs) or sum(runs) != width * height:
            raise DataError(f"run lengths add up to {sum(runs)}, expected {width} x {height} = {width * height}")
        values = np.arange(len(runs), dtype=np.uint8) % 2
        return np.repeat(values, runs).reshape(width, height).T.copy()

    @classmethod
    def from_array(cls, mask: NDArray[Any]) -> RunLengthMask:
        """Pack a decoded mask of zeros and others; an ignore value has no place in run lengths and must not come here."""
        flat = np.asarray(mask).astype(bool).T.ravel()
        edges = np.flatnonzero(np.diff(flat)) + 1
        bounds = np.concatenate([[0] if not flat[:1].any() else [0, 0], edges, [flat.size]])
        return cls(tuple(int(run) for run in np.diff(bounds)), (mask.shape[1], mask.shape[0]))


@dataclass(frozen=True)
class ImageMask:
    """A mask in an image file, read as `visurf.mask_pictures` does; a pixel above `threshold` belongs to the object.

    Attributes:
        path: The file, opened by content.
        image: The picture it lies on, when the file may be of another resolution; resampled to nearest. None keeps it.
        threshold: 0 for files of 0 and 255 that were never interpolated. A file of 0 and 1 has the threshold 0 in any case.
        values: When given, maps stored values to mask values instead of the threshold (trimaps).
    """

    path: Path
    image: ImageRef | None = None
    threshold: int = 0
    values: tuple[tuple[int, int], ...] | None = None

    __array__ = _as_array

    def load(self) -> Mask:
        """Decode.

        Raises:
            EmptyMask: It holds no pixel of the object.
            DataError: It is missing or unreadable.
        """
        try:
            stored = stored_values(ImageRef(self.path), coded=self.values is not None)
        except DataError as error:
            raise DataError(f"{self.path}: cannot be read as a mask ({error})") from error
        mask = np.zeros(stored.shape, dtype=np.uint8)
        if self.values is None:
            mask[stored > (self.threshold if stored.max() > 1 else 0)] = 1
        else:
            for value, meaning in self.values:
                mask[stored == value] = meaning
        if not (mask == 1).any():
            above = f"; its largest value is {stored.max()}, expected more than {self.threshold}" if self.values is None else ""
            raise EmptyMask(f"{self.path}: this mask is empty{above}")
        return mask if self.image is None or mask.shape[::-1] == self.image.size else _resampled(mask, self.image.size)


def _resampled(mask: Mask, size: Size) -> Mask:
    """A mask in another resolution, to nearest; an object too small for that covers every pixel that it touches."""
    found = np.array(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    if not (found == 1).any():
        rows, columns = np.nonzero(mask == 1)
        found[rows * size[1] // mask.shape[0], columns * size[0] // mask.shape[1]] = 1
    return found


@dataclass(frozen=True)
class PaintedMask:
    """Polygons painted over each other, largest area first, each with its own value, as ReasonSeg is rasterised.

    Attributes:
        shapes: (value, vertices) pairs, value 1 or 255; vertices are truncated to integers.
        image: The picture they lie on; its upright size is read when the mask is.
    """

    shapes: tuple[tuple[int, tuple[Point, ...]], ...]
    image: ImageRef

    __array__ = _as_array

    def load(self) -> Mask:
        """Paint; a smaller shape wins over a larger one, of two of one size the first."""
        width, height = self.image.size
        # LISA sorts areas ascending and walks backwards, so of equal areas the first shape of the file is painted last.
        painted = [(value, fill_opencv(vertices, (width, height))) for value, vertices in reversed(self.shapes)]
        mask = np.zeros((height, width), dtype=np.uint8)
        for value, shape in sorted(painted, key=lambda pair: -int(pair[1].sum())):
            mask[shape == 1] = value
        return mask


@dataclass(frozen=True)
class UnionMask:
    """The union of masks; no masks give an empty one. A pixel ignored in any and object in none is ignored."""

    masks: tuple[LazyMask, ...]
    size: Size

    __array__ = _as_array

    def load(self) -> Mask:
        """Decode all and unite."""
        union = np.zeros((self.size[1], self.size[0]), dtype=np.uint8)
        for mask in self.masks:
            decoded = mask.load()
            if decoded.shape != union.shape:
                raise DataError(f"a mask of {decoded.shape[::-1]} pixels lies on an image of {self.size}")
            union = np.where((union == 1) | (decoded == 1), 1, np.maximum(union, decoded)).astype(np.uint8)
        return union


def components(mask: Mask) -> tuple[Mask, ...]:
    """The eight-connected parts of a mask's object pixels, in reading order of their first pixel."""
    from scipy.ndimage import label

    labelled, count = label(np.asarray(mask) == 1, structure=np.ones((3, 3)))
    return tuple((labelled == part).astype(np.uint8) for part in range(1, count + 1))


def with_objects(sample: Sample, *, split_components: bool = False) -> Sample:
    """A sample whose target is boxes with points, decoding its masks where boxes or points are missing.

    A box is the tight half-open box of its mask, a point the mask's deepest pixel, or the box's centre without a mask. An
    empty mask is "no object".

    Args:
        sample: Its target is Objects or Masks; `meta["object_masks"]` holds one mask per box where the data set has them.
        split_components: Give every connected part of a mask its own box.

    Raises:
        DataError: The target is neither, or a mask cannot be read.
    """
    target = sample.target
    if isinstance(target, Objects):
        if target.points is not None or not target.boxes:
            return sample
        masks: tuple[LazyMask | None, ...] = tuple(sample.meta.get("object_masks") or [None] * len(target.boxes))
        points = tuple(
            (mask_point(mask.load()) if mask is not None else None) or box_centre(box)
            for mask, box in zip(masks, target.boxes, strict=True)
        )
        return replace(sample, target=Objects(target.boxes, points))
    if not isinstance(target, Masks):
        raise DataError(f"sample {sample.id}: expected boxes or masks as target, got {type(target).__name__}")
    decoded = [part for mask in target.load() for part in (components(mask) if split_components else (mask,))]
    pairs = [(box, mask_point(mask)) for mask in decoded if (box := mask_box(mask)) is not None]
    return replace(sample, target=Objects(tuple(box for box, _ in pairs), tuple(p or box_centre(b) for b, p in pairs)))
