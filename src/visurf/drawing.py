"""Answers drawn on pictures: boxes, points, masks as a tint, and words below for answers that have no place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from visurf.types import Answer, Choice, DataError, Detections, Number, Objects, Points, Text

if TYPE_CHECKING:
    from numpy.typing import NDArray

COLOURS = ((230, 60, 50), (40, 130, 230), (40, 170, 90), (240, 160, 20), (150, 80, 200))


def draw_answer(
    image: Image.Image,
    answer: Answer | None,
    masks: Sequence[NDArray[np.uint8]] = (),
    *,
    name: str = "picture",
    scale: int = 1,
) -> Image.Image:
    """A copy of a picture with an answer drawn on it: boxes, points, and masks as a tint (ignored pixels grey).

    Args:
        image: RGB.
        answer: In pixels of the picture; one without places, or None, draws nothing.
        masks: uint8 (height, width) each: 1 inside, 255 ignored.
        name: For messages.
        scale: Enlarges the picture before lines are drawn on it.

    Raises:
        DataError: A mask is not of the picture's size.
    """
    image = image.copy()
    for index, mask in enumerate(masks):
        if mask.shape != (image.height, image.width):
            raise DataError(f"{name}: a mask of {mask.shape[::-1]} pixels lies on a picture of {image.size}")
        pixels = np.asarray(image, dtype=np.float64).copy()
        for value, colour in ((1, COLOURS[index % len(COLOURS)]), (255, (128, 128, 128))):
            pixels[mask == value] = 0.5 * pixels[mask == value] + 0.5 * np.array(colour)
        image = Image.fromarray(pixels.astype(np.uint8))
    if scale > 1:
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(image)
    width = max(2, round(max(image.size) / 200))
    boxes = answer.boxes if isinstance(answer, Objects | Detections | Points) else ()
    for index, box in enumerate(boxes or ()):
        (x1, x2), (y1, y2) = (sorted((box[i] * scale, box[i + 2] * scale)) for i in (0, 1))
        pen.rectangle((x1, y1, max(x2 - 1, x1), max(y2 - 1, y1)), outline=COLOURS[index % len(COLOURS)], width=width)
    points = answer.points if isinstance(answer, Objects | Points) else ()
    for x, y in points or ():
        radius, x, y = 2 * width, x * scale, y * scale
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 255, 0), outline=(0, 0, 0), width=width)
    return image


def with_caption(image: Image.Image, text: str) -> Image.Image:
    """A picture with one line of text below it."""
    font = ImageFont.load_default(14)
    found = Image.new("RGB", (image.width, image.height + 24), "white")
    found.paste(image, (0, 0))
    printable = " ".join(text.split())[:400].encode("latin-1", "replace").decode("latin-1")
    ImageDraw.Draw(found).text((5, image.height + 3), printable, fill="black", font=font)
    return found


def in_words(answer: Answer | None) -> str:
    """An answer in a few words.

    >>> in_words(Objects(((0, 0, 1, 1),))), in_words(Objects()), in_words(None)
    ('1 box', 'nothing there', 'no answer')
    """
    if isinstance(answer, Objects | Detections):
        count = len(answer.boxes)
        return "nothing there" if not count else f"{count} box{'es' if count > 1 else ''}"
    if isinstance(answer, Points):
        return f"{len(answer.points)} point{'s' if len(answer.points) != 1 else ''}"
    if isinstance(answer, Choice):
        return answer.letter
    if isinstance(answer, Text | Number):
        return answer.text
    return "no answer" if answer is None else "a mask"
