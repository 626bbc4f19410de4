"""Small copies of pictures for people to look at: bounded in side and bytes, named by content, never by what data says."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from visurf.types import DataError, ImageRef, Masks, Sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

FOLDER = "pictures"
_NAME = re.compile(r"[0-9a-f]{24}\.(jpg|png)")
# Pictures up to this many pixels are kept without loss: a JPEG of a few dozen pixels is neither smaller nor faithful.
_LOSSLESS = 128 * 128
# Longest side of a mask in a row: enough to see, and a few KiB at most.
_MASK_SIDE = 128


def is_stored_name(name: object) -> bool:
    """Whether a name is one that `PictureStore` gives; anything else in a row may point anywhere.

    >>> is_stored_name("0123456789abcdef01234567.png"), is_stored_name("../../etc/passwd")
    (True, False)
    """
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def small_picture(image: ImageRef, side: int) -> tuple[str, bytes]:
    """A picture's small copy: its name and its bytes, JPEG or, of a very small one, PNG; without any metadata.

    Args:
        image: The picture.
        side: Longest side in pixels; a smaller picture keeps its size.

    Raises:
        DataError: It cannot be decoded.
    """
    picture = image.load()
    if max(picture.size) > side:
        picture = picture.copy() if picture is image.source else picture
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    plain = Image.fromarray(np.asarray(picture))
    stream = io.BytesIO()
    if plain.width * plain.height <= _LOSSLESS:
        plain.save(stream, format="PNG", optimize=True)
    else:
        plain.save(stream, format="JPEG", quality=82, optimize=True)
    data = stream.getvalue()
    suffix = "png" if data.startswith(b"\x89PNG") else "jpg"
    return f"{hashlib.sha256(data).hexdigest()[:24]}.{suffix}", data


@dataclass
class PictureStore:
    """Small pictures in one folder, within a limit of bytes.

    Attributes:
        folder: Made when the first picture is written.
        limit: Bytes of all pictures together.
        write: Whether this process writes; the others only count, and so come to the same decisions.
        known: Name -> bytes of the pictures in it.
    """

    folder: Path
    limit: int
    write: bool = True
    known: dict[str, int] = field(default_factory=dict)

    @property
    def spent(self) -> int:
        """Bytes of all pictures."""
        return sum(self.known.values())

    def add(self, name: str, data: bytes, allowed: int | None = None) -> str | None:
        """Keep a picture of `small_picture` and return its name; None where it would exceed the limit or what is allowed yet."""
        if name in self.known:
            return name
        most = self.limit if allowed is None else min(allowed, self.limit)
        if self.spent + len(data) > most:
            return None
        if self.write:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = self.folder / f".{name}.partial"
            partial.write_bytes(data)
            partial.replace(self.folder / name)
        self.known[name] = len(data)
        return name


def mask_runs(mask: NDArray[np.uint8], side: int = _MASK_SIDE) -> dict[str, Any]:
    """A mask as run lengths, row by row, beginning with the length of the zeros; reduced to `side` pixels at most.

    Args:
        mask: (height, width); what is not 1 counts as outside.
        side: Longest side of the result.

    Returns:
        `size`: width and height of the reduced mask; `runs`: lengths that add up to their product.

    >>> mask_runs(np.array([[0, 1], [1, 0]], np.uint8))
    {'size': [2, 2], 'runs': [1, 2, 1]}
    """
    picture = Image.fromarray((np.asarray(mask) == 1).astype(np.uint8) * 255)
    if max(picture.size) > side:
        scale = side / max(picture.size)
        small = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(small, Image.Resampling.BOX)
    inside = np.asarray(picture).reshape(-1) >= 128
    edges = np.flatnonzero(np.diff(inside.astype(np.int8))) + 1
    runs = np.diff([0, *edges.tolist(), inside.size]).tolist()
    return {"size": list(picture.size), "runs": [0, *runs] if inside.size and inside[0] else runs}


def target_masks(sample: Sample) -> list[dict[str, Any]]:
    """The true masks of a sample, each as `mask_runs`, to be looked at; empty where only boxes are known, or one cannot be used."""
    try:
        if isinstance(sample.target, Masks):
            return [mask_runs(mask) for mask in sample.target.load()]
        return [] if sample.known_mask is None else [mask_runs(np.asarray(sample.known_mask, dtype=np.uint8))]
    except DataError:  # whether a score needs it is decided where scores are made
        return []


def illustrate(
    found: Sequence[dict[str, Any]], samples: Sequence[Sample], folder: Path, limit: int, side: int
) -> list[dict[str, Any]]:
    """Records with the pictures of a part of their samples, written beside them.

    Which samples is decided by their ids alone, so that two models' records on the same samples show the same ones. A picture that
    cannot be read is left out: its record says what is wrong with it.

    Args:
        found: Records, in the order of the samples.
        samples: What they answer.
        folder: Of the records; pictures go into its `pictures`.
        limit: Bytes of all pictures.
        side: Longest side of a picture.
    """
    order = sorted(range(len(samples)), key=lambda i: hashlib.blake2b(str(samples[i].id).encode()).digest())
    store, more = PictureStore(folder / FOLDER, limit), dict[int, Mapping[str, Any]]()
    for index in order:
        sample = samples[index]
        try:
            names = [store.add(*small_picture(image, side)) for image in sample.images]
        except DataError:
            continue
        if None in names:
            break
        masks = target_masks(sample)
        more[index] = {"pictures": names, "size": sample.size, **({"target_masks": masks} if masks else {})}
    return [{**record, **more.get(index, {})} for index, record in enumerate(found)]
