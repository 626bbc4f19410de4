"""Boxes and points to masks: by GrabCut, which needs no weights, or by SAM 2.

What both promise: one mask a box, in order, uint8 (height, width) with 1 inside, in the size of the original picture. No boxes
give no masks. A box is clipped to its picture; one that is empty then, or not finite, gives an empty mask. A point that is not
finite, or outside its clipped box, contradicts the box and is left out.

Importing this module imports neither OpenCV nor torch.
"""

from __future__ import annotations

import functools
import hashlib
import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from visurf.types import Box, ImageRef, Point, Size

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image


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

    A box that leaves too little background, or holds too few pixels, to tell colours apart is its own mask, and so is one whose
    cut leaves nothing. Equal input gives equal masks.

    Attributes:
        iterations: Of the cut.
        margin: How much around the box is looked at, as a share of its sides.

    Source: Rother et al., "GrabCut", ACM Transactions on Graphics 23(3), 2004.
    """

    iterations: int = 5
    margin: float = 0.5

    def segment(
        self, image: ImageRef, boxes: Sequence[Box], points: Sequence[Point | None] | None = None
    ) -> list[NDArray[np.uint8]]:
        """See `Segmenter.segment`."""
        if not boxes:
            return []
        prompts = usable_prompts(boxes, points, image.size)
        width, height = image.size
        pixels = np.asarray(image.load()) if any(prompts) else np.zeros((height, width, 3), np.uint8)
        return [np.zeros((height, width), np.uint8) if p is None else self._cut(pixels, p) for p in prompts]

    def _cut(self, pixels: NDArray[np.uint8], prompt: Prompt) -> NDArray[np.uint8]:
        import cv2

        height, width = pixels.shape[:2]
        x1, y1, x2, y2 = prompt.box
        left, top = min(math.floor(x1 + 0.5), width - 1), min(math.floor(y1 + 0.5), height - 1)
        right, bottom = max(math.floor(x2 + 0.5), left + 1), max(math.floor(y2 + 0.5), top + 1)
        across, down = (max(8, round(self.margin * side)) for side in (right - left, bottom - top))
        x0, y0 = max(left - across, 0), max(top - down, 0)
        window = np.ascontiguousarray(pixels[y0 : min(bottom + down, height), x0 : min(right + across, width)])
        inside = np.zeros(window.shape[:2], bool)
        inside[top - y0 : bottom - y0, left - x0 : right - x0] = True
        whole = np.zeros((height, width), np.uint8)
        part = whole[y0 : y0 + window.shape[0], x0 : x0 + window.shape[1]]
        part[inside] = 1
        # Each side's colours are five clusters, of which every one needs pixels.
        if min(int(inside.sum()), int((~inside).sum())) < 16:
            return whole
        labels = np.where(inside, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
        if prompt.point is not None:
            radius = max(1, round(0.05 * min(right - left, bottom - top)))
            rows, columns = np.ogrid[: window.shape[0], : window.shape[1]]
            near = (columns + 0.5 + x0 - prompt.point[0]) ** 2 + (rows + 0.5 + y0 - prompt.point[1]) ** 2 <= radius**2
            labels[near & inside] = cv2.GC_FGD
        cv2.setRNGSeed(0)
        models = np.zeros((1, 65)), np.zeros((1, 65))
        # The rectangle is not looked at where a mask is given.
        cv2.grabCut(window, labels, (0, 0, 1, 1), *models, self.iterations, cv2.GC_INIT_WITH_MASK)
        kept = inside & ((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD))
        if kept.any():
            part[:] = kept
        return whole


class Sam2:
    """SAM 2 through transformers: box and point prompts; a picture is embedded once and its embedding kept.

    Not safe to be used by several threads at once, but for `segment`, which takes turns.

    Attributes:
        embedded: How many pictures were embedded so far.

    Source: Ravi et al., "SAM 2: Segment Anything in Images and Videos", arXiv 2408.00714.
    """

    def __init__(self, path: str | Path, *, device: str = "", cache_bytes: int = 1 << 30, batch: int = 16) -> None:
        """Load a checkpoint.

        Args:
            path: Folder in the hub's layout, or hub name, such as ``facebook/sam2.1-hiera-tiny``.
            device: Where it runs; empty for a GPU where there is one.
            cache_bytes: Embeddings are kept up to this size, the least recently used are dropped first.
            batch: Pictures embedded, and boxes decoded, at once.
        """
        import torch
        from transformers import Sam2Model

        self._torch = torch
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model: Any = Sam2Model.from_pretrained(str(path)).to(self.device).eval()  # type: ignore[arg-type]
        self.processor = _pil_processor().from_pretrained(str(path))
        self.cache_bytes, self.batch, self.embedded = cache_bytes, batch, 0
        self._cache: OrderedDict[Any, list[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def segment(
        self, image: ImageRef, boxes: Sequence[Box], points: Sequence[Point | None] | None = None
    ) -> list[NDArray[np.uint8]]:
        """See `Segmenter.segment`."""
        return self.segment_batch([image], [boxes], [points])[0]

    def segment_batch(
        self,
        images: Sequence[ImageRef],
        boxes: Sequence[Sequence[Box]],
        points: Sequence[Sequence[Point | None] | None] | None = None,
    ) -> list[list[NDArray[np.uint8]]]:
        """`segment` of several pictures; those that are not embedded yet are embedded together."""
        given = points if points is not None else [None] * len(images)
        prompts = [usable_prompts(b, p, i.size) for i, b, p in zip(images, boxes, given, strict=True)]
        found: list[list[NDArray[np.uint8]]] = []
        with self._lock, self._torch.inference_mode():
            for start in range(0, len(images), self.batch):
                chunk = range(start, min(start + self.batch, len(images)))
                embeddings = self._embeddings([images[i] for i in chunk if any(prompts[i])])
                for i in chunk:
                    embedding = embeddings.pop(0) if any(prompts[i]) else []
                    found.append(self._masks(embedding, prompts[i], images[i].size))
        return found

    def _embeddings(self, images: Sequence[ImageRef]) -> list[list[Any]]:
        """The embedding of each picture: from the cache, or computed for all others at once."""
        keys, pictures = [], {}
        for image in images:
            key, picture = _identity(image)
            keys.append(key)
            if key not in self._cache and key not in pictures:
                pictures[key] = image.load() if picture is None else picture
        held = {key: self._cache[key] for key in keys if key in self._cache}
        if pictures:
            pixels = self.processor(list(pictures.values()), return_tensors="pt")["pixel_values"]
            levels = self.model.get_image_embeddings(pixels.to(self.device, self.model.dtype))
            self.embedded += len(pictures)
            for index, key in enumerate(pictures):
                # Copies: a slice of a batch would keep the whole batch alive.
                held[key] = [level[index : index + 1].clone() for level in levels]
        for key in keys:
            self._cache[key] = held[key]
            self._cache.move_to_end(key)
        while self._cache and self.cached_bytes > self.cache_bytes:
            self._cache.popitem(last=False)
        return [held[key] for key in keys]

    @property
    def cached_bytes(self) -> int:
        """The size of the embeddings that are kept."""
        return sum(level.nbytes for levels in self._cache.values() for level in levels)

    def _masks(self, embedding: list[Any], prompts: Sequence[Prompt | None], size: Size) -> list[NDArray[np.uint8]]:
        torch = self._torch
        width, height = size
        masks = [np.zeros((height, width), np.uint8) for _ in prompts]
        sx, sy = self.processor.size["width"] / width, self.processor.size["height"] / height
        # A missing point would be one more, empty token: boxes with and without a point are decoded apart.
        for pointed in (True, False):
            usable = [(i, p) for i, p in enumerate(prompts) if p is not None and (p.point is not None) is pointed]
            for start in range(0, len(usable), self.batch):
                chunk = usable[start : start + self.batch]
                boxes = [[x1 * sx, y1 * sy, x2 * sx, y2 * sy] for x1, y1, x2, y2 in (p.box for _, p in chunk)]
                arguments = {"input_boxes": torch.tensor([boxes], dtype=self.model.dtype, device=self.device)}
                if pointed:
                    where = [[[p.point[0] * sx, p.point[1] * sy]] for _, p in chunk if p.point is not None]
                    arguments["input_points"] = torch.tensor([where], dtype=self.model.dtype, device=self.device)
                    arguments["input_labels"] = torch.ones((1, len(chunk), 1), dtype=torch.int64, device=self.device)
                logits = self.model(image_embeddings=embedding, multimask_output=False, **arguments).pred_masks[0]
                full = torch.nn.functional.interpolate(logits.float(), (height, width), mode="bilinear", align_corners=False)
                for (index, _), mask in zip(chunk, full[:, 0], strict=True):
                    masks[index] = (mask > 0).to(torch.uint8).cpu().numpy()
        return masks


def _identity(image: ImageRef) -> tuple[Any, Image.Image | None]:
    """What tells pictures apart in a cache, and the decoded picture where it had to be decoded for that."""
    if isinstance(image.source, str | Path):
        state = Path(image.source).stat() if Path(image.source).exists() else None
        return (str(image.source), None if state is None else (state.st_mtime_ns, state.st_size)), None
    if isinstance(image.source, bytes):
        return hashlib.sha256(image.source).digest(), None
    picture = image.load()
    return (picture.size, hashlib.sha256(picture.tobytes()).digest()), picture


@functools.cache
def _pil_processor() -> Any:
    """SAM 2's image processor over PIL: transformers' own needs torchvision."""
    from transformers.image_processing_backends import PilBackend
    from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling

    class Sam2ImageProcessorPil(PilBackend):
        resample = PILImageResampling.BILINEAR
        image_mean = IMAGENET_DEFAULT_MEAN
        image_std = IMAGENET_DEFAULT_STD
        size = {"height": 1024, "width": 1024}  # noqa: RUF012 - how transformers declares a processor's defaults
        do_resize = True
        do_rescale = True
        do_normalize = True
        do_convert_rgb = True

    return Sam2ImageProcessorPil


def load_segmenter(name: str) -> Segmenter:
    """``classical`` for `GrabCut`, else a checkpoint of `Sam2`: a folder in the hub's layout, or a hub name.

    Raises:
        ImportError: OpenCV is not installed.
    """
    if name != "classical":
        return Sam2(name)
    try:
        import cv2  # noqa: F401 - fails here rather than in the middle of a run
    except ImportError as error:
        raise ImportError("the classical segmenter needs OpenCV: pip install 'visurf[segment]'") from error
    return GrabCut()
