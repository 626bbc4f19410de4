"""Pictures that are masks: what number each pixel has, where 0 is no object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from visurf.types import DataError, ImageRef

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

_COLOURS = ("RGB", "RGBA", "LA", "PA")


def stored_values(image: ImageRef, *, coded: bool = False) -> NDArray[Any]:
    """The numbers of an upright mask picture, (height, width), of the file's own type.

    Of a palette they are the indices, unless black is the background but not its first colour; of a cut-out, whose opacity differs
    from pixel to pixel, the opacity; of colours, and of such a palette, the largest channel, which is 0 for black alone.

    Args:
        image: The mask.
        coded: The numbers are codes, as a trimap's, of which 0 is one like others: of a palette they are always the indices.

    Raises:
        DataError: The picture is missing or unreadable.
    """
    picture = image.load_raw()
    try:
        values = _values(picture)
        return values if coded or picture.mode != "P" else _of_palette(values, picture.getpalette() or [])
    except Exception as error:  # a broken file makes Pillow's readers raise nearly anything
        raise DataError(f"image {image.name}: cannot be read as a mask ({error})") from error


def _values(picture: Image) -> NDArray[Any]:
    if len(picture.getbands()) == 1:
        plane = np.asarray(picture)
        return plane.astype(np.uint8) if plane.dtype == bool else plane
    channels = np.asarray(picture if picture.mode in _COLOURS else picture.convert("RGB"))
    if picture.getbands()[-1] == "A":
        opacity = channels[..., -1]
        if opacity.min() != opacity.max():
            return opacity
        channels = channels[..., :-1]
    largest: NDArray[Any] = channels.max(axis=-1)
    return largest


def _of_palette(indices: NDArray[np.uint8], palette: Sequence[int]) -> NDArray[np.uint8]:
    """The indices; or the largest channel of their colours, where the first colour is not black and another that occurs is.

    Annotation tools number what they mark and leave 0 to the rest, whatever colours they show. Pillow's `quantize`, and the GIFs
    that it writes, know of no such numbers and put white first.

    Args:
        indices: (height, width).
        palette: Red, green and blue of every index; those beyond its end are black.
    """
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[: len(palette) // 3] = np.reshape(palette, (-1, 3))
    if not colours[0].any() or colours[np.unique(indices)].any(axis=1).all():
        return indices
    brightest: NDArray[np.uint8] = colours.max(axis=-1)[indices]
    return brightest
