"""SAM 2 as a segmenter: boxes and points to masks, each picture embedded once. See `visurf.segmenter` for what it promises."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from visurf.segmenter import Prompt, usable_prompts
from visurf.types import Box, ImageRef, Point, Size

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image


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
        self.model: Any = Sam2Model.from_pretrained(str(path), use_safetensors=True).to(self.device).eval()  # type: ignore[arg-type]
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
