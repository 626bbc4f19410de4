"""The records that flow through visurf: samples, answers, completions, scores and groups.

Targets (what is true) and answers (what a model said) are the same types. Boxes are float ``xyxy``, half-open, in pixels
of the *original* image; see `visurf.geometry` for every convention. This module imports no torch.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import numpy as np
from PIL import Image, ImageOps

from visurf.orientation import is_turned, upright_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

Box = tuple[float, float, float, float]
Point = tuple[float, float]
Size = tuple[int, int]
Source = Literal["policy", "label"]
T = TypeVar("T")

# A decoded image above this many pixels is refused: a decompression bomb, not a photograph.
MAX_IMAGE_PIXELS = 178_956_970
# Formats that hold photographs and masks. Of the others that Pillow knows, one hands the file to an interpreter of its own.
PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO", "JPEG2000", "PPM", "AVIF")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})++(?:\.\d*+)?(?:[eE][+-]?\d++)?")
# Formats whose pictures of more than 8 bits come in mode "I" and fill 16 bits, be it in some versions of Pillow only.
_SCALED_TO_16_BITS = ("PNG", "PPM")
_BITS_PER_SAMPLE = 258


class DataError(ValueError):
    """A sample that cannot be used: names the file, row and field, what was expected and what came."""


def open_picture(source: str | Path | bytes, name: str) -> Image.Image:
    """A picture whose header was read; its pixels are not decoded yet.

    Args:
        source: A file, or what one holds; the format goes by content, not by extension.
        name: For messages.

    Raises:
        DataError: Missing, of no format of `PICTURE_FORMATS`, broken, or of more than `MAX_IMAGE_PIXELS`.
    """
    Image.init()
    formats = [f for f in PICTURE_FORMATS if f in Image.OPEN]
    try:
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats)
    except FileNotFoundError as error:
        raise DataError(f"image {name}: no such file") from error
    except Exception as error:  # a broken file makes Pillow's readers raise nearly anything
        raise DataError(f"image {name}: cannot be read as an image ({error})") from error
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise DataError(f"image {name}: {image.width} x {image.height} pixels is over the limit {MAX_IMAGE_PIXELS}")
    return image


def _eight_bits(image: Image.Image, opened: Image.Image) -> Image.Image:
    """A picture as one of 8 bits a channel; Pillow itself would cut at 255, which makes nearly everything white.

    Args:
        image: Its pixels.
        opened: What they came from, which knows the format.

    Raises:
        DataError: How bright white is cannot be known.
    """
    if image.mode == "F" or (image.mode == "I" and opened.format not in _SCALED_TO_16_BITS):
        kind = "floats" if image.mode == "F" else "32 bits"
        raise DataError(f"pixels of {kind}, which have no fixed white; save it with 8 bits a channel")
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    # TIFF may hold 12 bits, which come as they are.
    bits = int(getattr(opened, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))[0])
    return Image.fromarray((np.asarray(image) >> (bits - 8)).astype(np.uint8))


@dataclass(frozen=True)
class ImageRef:
    """A lazy image: a path, encoded bytes, a function that fetches them, or a PIL image; opened by content, not extension.

    Pixels are EXIF-transposed once and converted to RGB, so every coordinate refers to the upright picture. Decoded pixels
    are never kept, which bounds host memory.
    """

    source: str | Path | bytes | Callable[[], bytes] | Image.Image
    _size: Size | None = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        """The path, or what kind of in-memory image this is."""
        return str(self.source) if isinstance(self.source, str | Path) else f"<{type(self.source).__name__}>"

    def _open(self) -> Image.Image:
        source = self.source
        if isinstance(source, Image.Image):
            return source
        return open_picture(source() if callable(source) else source, self.name)

    @property
    def size(self) -> Size:
        """Width and height in pixels after EXIF transposition; reads the header only.

        Raises:
            DataError: The image is missing or unreadable.
        """
        if self._size is None:
            object.__setattr__(self, "_size", self._told(upright_size))
        assert self._size is not None
        return self._size

    @property
    def turned(self) -> bool:
        """Whether EXIF data turn it by a quarter: it is stored with width and height exchanged. Reads the header only.

        Raises:
            DataError: The image is missing or unreadable.
        """
        return self._told(is_turned)

    def _told(self, read: Callable[[Image.Image], T]) -> T:
        """What the header says."""
        image = self._open()
        try:
            return read(image)
        except Exception as error:  # as in `open_picture`
            raise DataError(f"image {self.name}: its EXIF data cannot be read ({error})") from error
        finally:
            if not isinstance(self.source, Image.Image):
                image.close()

    def identity(self) -> Hashable:
        """What tells this image from others: of a file its path, time of writing and length; else a hash of its content.

        Raises:
            DataError: The file is missing.
        """
        source = self.source
        if isinstance(source, str | Path):
            try:
                status = os.stat(source)
            except OSError as error:
                raise DataError(f"image {self.name}: no such file") from error
            return str(source), status.st_mtime_ns, status.st_size
        if isinstance(source, Image.Image):
            return source.mode, source.size, hashlib.blake2b(source.tobytes(), digest_size=16).digest()
        return hashlib.blake2b(source() if callable(source) else source, digest_size=16).digest()

    def load(self) -> Image.Image:
        """Decode to an upright RGB image; of 16 bits a channel the upper 8 are kept.

        Raises:
            DataError: The image is missing, truncated or unreadable, or its numbers have no fixed white: floats, 32 bits.
        """
        image = self.load_raw()
        opened = self.source if isinstance(self.source, Image.Image) else image
        try:
            return image if image.mode == "RGB" else _eight_bits(image, opened).convert("RGB")
        except Exception as error:  # as in `open_picture`
            raise DataError(f"image {self.name}: cannot be decoded ({error})") from error

    def load_raw(self) -> Image.Image:
        """Decode to an upright image whose numbers are those of the file, for masks.

        Raises:
            DataError: The image is missing, truncated or unreadable.
        """
        image = self._open()
        try:
            if isinstance(self.source, Image.Image):
                upright = ImageOps.exif_transpose(image)
            else:
                # Nobody else holds this image: every copy that is spared is 36 MB of a picture of 4000 x 3000.
                ImageOps.exif_transpose(image, in_place=True)
                upright = image
            upright.load()
        except Exception as error:  # as in `open_picture`
            raise DataError(f"image {self.name}: cannot be decoded ({error})") from error
        return upright


@dataclass(frozen=True)
class Objects:
    """Zero or more boxes, each with an optional point inside the object. Zero boxes mean "no object"."""

    boxes: tuple[Box, ...] = ()
    points: tuple[Point, ...] | None = None

    def __post_init__(self) -> None:
        """Check that boxes and points pair up."""
        if self.points is not None and len(self.points) != len(self.boxes):
            raise ValueError(f"{len(self.boxes)} boxes but {len(self.points)} points; give one point per box or none")


@dataclass(frozen=True)
class Detections:
    """Boxes with confidences in [0, 1], one category asked at a time. Zero boxes mean "No Objects"."""

    boxes: tuple[Box, ...] = ()
    confidences: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Check that boxes and confidences pair up."""
        if len(self.confidences) != len(self.boxes):
            raise ValueError(f"{len(self.boxes)} boxes but {len(self.confidences)} confidences")


@dataclass(frozen=True)
class Points:
    """One or more points, in pixels of the original image. As a target, boxes may tell where a hit counts."""

    points: tuple[Point, ...]
    boxes: tuple[Box, ...] | None = None


class LazyMask(Protocol):
    """A mask that is decoded when asked for: polygons, run lengths or a file. numpy accepts it where it takes an array."""

    def load(self) -> NDArray[np.uint8]:
        """The decoded mask: uint8 (height, width) with 0 background, 1 object, 255 ignored."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The decoded mask, for `numpy.asarray`."""


@dataclass(frozen=True)
class Masks:
    """Binary masks, each uint8 (height, width) with 0 background, 1 object, 255 ignored; decoded, or decoded on demand."""

    masks: tuple[NDArray[np.uint8] | LazyMask, ...]

    def load(self) -> tuple[NDArray[np.uint8], ...]:
        """Every mask decoded."""
        return tuple(np.asarray(mask, dtype=np.uint8) for mask in self.masks)


@dataclass(frozen=True)
class Choice:
    """One of several options: its letter, and the options' texts."""

    letter: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Number:
    """A number, kept as the text that was written. Commas group thousands: 1,234.5 is one, 1,5 and 2,3,1 are none."""

    text: str

    @property
    def value(self) -> float:
        """The value; NaN when the text is no number."""
        try:
            return float(self._ungrouped)
        except ValueError:
            return math.nan

    @property
    def whole(self) -> int | None:
        """The exact value of a whole number that is written without point and exponent; None for any other text."""
        try:
            return int(self._ungrouped)
        except ValueError:
            return None

    @property
    def _ungrouped(self) -> str:
        return self.text.replace(",", "") if _THOUSANDS.fullmatch(self.text.strip()) else self.text


@dataclass(frozen=True)
class Text:
    """Free text, or a class name."""

    text: str


Answer = Objects | Detections | Points | Masks | Choice | Number | Text


@dataclass(frozen=True)
class ParseError:
    """Why a completion's text gave no answer: a short stable reason and what was seen."""

    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Demonstration:
    """A label's own reasoning, and what it answers; a model's frame enters only when it is rendered.

    Attributes:
        thinking: What stands between the thinking tags, word for word.
        answer: In pixels of the original image; None for the sample's target.
        extent: Width and height of the frame that coordinates inside `thinking` are in, where it names any.
    """

    thinking: str
    answer: Answer | None = None
    extent: tuple[float, float] | None = None


@dataclass(frozen=True)
class Sample:
    """One labelled prompt: images, a question and what is true of them.

    `response` is the label's text where the sample brings its own: in the model's frame as a text, in any as a demonstration.
    `occurrence` counts how often the sample stood in its training step before, which few samples do in a large step.
    """

    id: str
    images: tuple[ImageRef, ...]
    question: str
    target: Answer
    response: str | Demonstration | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    occurrence: int = 0

    @property
    def size(self) -> Size:
        """Width and height of the first image, in pixels; (0, 0) for a prompt without image."""
        return self.images[0].size if self.images else (0, 0)

    @property
    def known_mask(self) -> Any | None:
        """The true mask that a data set keeps in `meta` beside its boxes: an array, or what becomes one; else None.

        A row of JSONL may keep what it likes under that name, such as a path; that is no mask.
        """
        known = self.meta.get("mask")
        return None if isinstance(known, str | int | float | list | Mapping) else known


@dataclass(frozen=True)
class Completion:
    """One member of a group: what the policy sampled, or the label rendered as the policy would write it.

    `token_ids` end with the end-of-turn token unless `truncated`. `logprobs` are those of the sampled distribution
    (logits / temperature) at sampling time, one per token that was sampled, or None where nothing was. The first `hint` tokens were
    not sampled but copied from the label.
    """

    text: str
    token_ids: tuple[int, ...]
    answer: Answer | None
    error: ParseError | None
    source: Source = "policy"
    truncated: bool = False
    logprobs: tuple[float, ...] | None = None
    has_reasoning: bool = True
    hint: int = 0


@dataclass(frozen=True)
class Score:
    """Named reward parts, unweighted, and their weighted total. A part that abstained is None and counts nothing."""

    parts: Mapping[str, float | None]
    total: float


@dataclass(frozen=True)
class Group:
    """One sample, the completions of its prompt, their scores and coefficients, in the same order.

    Attributes:
        sample: What the completions answer.
        completions: The rollouts and, last, the label where it stands in the group.
        scores: Parts and totals.
        rewards: Totals after the reward controls.
        advantages: Coefficients of the clipped term.
        smoothed: Whether the label's reward was replaced by the rollouts' mean.
        zero_variance: Whether all rewards that are compared were equal.
        reached: The accuracy of every rollout as a fraction of the label's; empty without a label.
        supervision: Coefficients of the negative log-likelihood of tokens that the policy did not write; empty for none.
    """

    sample: Sample
    completions: tuple[Completion, ...]
    scores: tuple[Score, ...]
    rewards: tuple[float, ...] = ()
    advantages: tuple[float, ...] = ()
    smoothed: bool = False
    zero_variance: bool = False
    reached: tuple[float, ...] = ()
    supervision: tuple[float, ...] = ()

    @property
    def label_index(self) -> int | None:
        """Where the label stands in the group, or None."""
        return next((i for i, c in enumerate(self.completions) if c.source == "label"), None)


def is_finite(value: object) -> bool:
    """Whether a value is a number that a double holds; a bool is none, nor is an integer of hundreds of digits.

    >>> is_finite(1), is_finite(10**400), is_finite(float("nan")), is_finite(True)
    (True, False, False, False)
    """
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def check_boxes(
    boxes: Sequence[Sequence[float]], size: Size, where: str, *, inverted: str = "", outside: str = ""
) -> tuple[Box, ...]:
    """Validate boxes against their image.

    Args:
        boxes: xyxy, pixels of the original image.
        size: Image width and height.
        where: File, row and field, for the message.
        inverted: What to do about a box without area, where the caller has a setting for it.
        outside: What to do about one that leaves its image, likewise.

    Raises:
        DataError: A box has not four finite numbers, x2 <= x1 or y2 <= y1, or leaves its image, be it by less than a pixel
            where all of it does.
    """
    width, height = size
    checked = []
    for box in boxes:
        if len(box) != 4 or not all(map(is_finite, box)):
            raise DataError(f"{where}: expected four finite numbers x1, y1, x2, y2, got {list(box)!r}")
        x1, y1, x2, y2 = (float(v) for v in box)
        if x2 <= x1 or y2 <= y1:
            raise DataError(f"{where}: expected x1 < x2 and y1 < y2, got {list(box)!r}" + (inverted and f"; {inverted}"))
        # Annotation tools overshoot by fractions of a pixel; more than one pixel is another frame or another image.
        if x1 < -1 or y1 < -1 or x2 > width + 1 or y2 > height + 1:
            raise DataError(
                f"{where}: box {list(box)!r} leaves its image of {width} x {height} pixels" + (outside and f"; {outside}")
            )
        x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
        if x2 <= x1 or y2 <= y1:
            raise DataError(f"{where}: box {list(box)!r} lies outside its image of {width} x {height} pixels")
        checked.append((x1, y1, x2, y2))
    return tuple(checked)
