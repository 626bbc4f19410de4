"""Pictures of samples as files that rows can name: where they lie, or written beside the rows."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

from PIL import Image

from visurf.types import DataError, ImageRef, open_picture


def picture_name(image: ImageRef, folder: Path, store: Path, *, copy: bool) -> str:
    """What a row calls a picture: a path relative to the rows' folder.

    Args:
        image: The picture.
        folder: Of the rows.
        store: A folder in it, where pictures are written that are no files, or are to be copied; named by their content.
        copy: Copy files too.

    Raises:
        DataError: A file lies outside of the folder and is not to be copied, or cannot be read.
    """
    if isinstance(image.source, str | Path) and not copy:
        try:
            return Path(os.path.abspath(image.source)).relative_to(os.path.abspath(folder)).as_posix()
        except ValueError as error:
            raise DataError(
                f"image {image.name} lies outside of {folder}, where the rows go, and rows name pictures below their folder; "
                "write the rows beside the pictures, or copy the pictures with --copy-images"
            ) from error
    data, suffix = _encoded(image)
    target = store / f"{hashlib.sha256(data).hexdigest()[:24]}{suffix}"
    if not target.exists():
        store.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        partial.write_bytes(data)
        partial.replace(target)
    return target.relative_to(folder).as_posix()


def _encoded(image: ImageRef) -> tuple[bytes, str]:
    """A picture's bytes as they are stored, or as PNG where only pixels are known, and a suffix for its file."""
    source = image.source
    if isinstance(source, Image.Image):
        stream = io.BytesIO()
        image.load().save(stream, format="PNG")
        return stream.getvalue(), ".png"
    if isinstance(source, str | Path):
        try:
            return Path(source).read_bytes(), Path(source).suffix
        except OSError as error:
            raise DataError(f"image {image.name}: cannot be read ({error})") from error
    data = source() if callable(source) else source
    with open_picture(data, image.name) as opened:
        return data, f".{(opened.format or 'img').lower()}"
