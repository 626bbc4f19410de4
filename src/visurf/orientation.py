"""The upright size of a picture whose pixels are not decoded."""

from __future__ import annotations

import os
from typing import BinaryIO

from PIL import Image

_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)
_TIFF_SIZE = (256, 257)
_PNG_SIGNATURE_LENGTH = 8
# Chunks that may tell an orientation, be it in one of the notations of texts.
_PNG_TELLING = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")


def is_turned(image: Image.Image) -> bool:
    """Whether its EXIF data turn a picture by a quarter, which exchanges width and height; by its header alone."""
    exif = Image.Image.getexif(image) if _all_is_read(image) else image.getexif()
    return exif.get(_ORIENTATION) in _TURNED


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of a picture after EXIF transposition, in pixels, by its header alone."""
    if not is_turned(image):
        return image.size
    # What Pillow calls a TIFF's size before its pixels are read is transposed or not, as its version goes.
    tags = getattr(image, "tag_v2", {})
    width, height = (tags[name] for name in _TIFF_SIZE) if image.format == "TIFF" else image.size
    return height, width


def _all_is_read(image: Image.Image) -> bool:
    """Whether a PNG tells nothing behind its pixels; Pillow itself would decode them all to find that out."""
    stream = getattr(image, "fp", None)
    if image.format != "PNG" or stream is None:
        return False
    place = stream.tell()
    try:
        return not _tells_late(stream)
    finally:
        stream.seek(place)


def _tells_late(stream: BinaryIO) -> bool:
    stream.seek(_PNG_SIGNATURE_LENGTH)
    pixels = False
    while len(head := stream.read(8)) == 8 and head[4:] != b"IEND":
        if not head[4:].isalpha() or (pixels and head[4:] in _PNG_TELLING):
            return True
        pixels = pixels or head[4:] == b"IDAT"
        stream.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    return False
