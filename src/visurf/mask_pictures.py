"""Pictures that are masks: what number each pixel has, where 0 is no object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from visurf.types import DataError, ImageRef

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

_COLOURS = ("RGB", "RGBA", "LA", "PA")


def stored_values(image: ImageRef) -> NDArray[Any]:
    """The numbers of an upright mask picture, (height, width), of the file's own type.

    Of a palette they are the indices, whatever colours those have; of a cut-out, whose opacity differs from pixel to pixel, the
    opacity; of colours the largest channel, which is 0 for black alone.

    Raises:
        DataError: The picture is missing or unreadable.
    """
    picture = image.load_raw()
    try:
        return _values(picture)
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
