"""A label drawn in both frames: the target on the original picture, and what the label says on the frame the model sees."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from visurf.doctor.findings import Picture
from visurf.geometry import Frame
from visurf.types import Answer, Box, DataError, Detections, Masks, Objects, Point, Points, Sample

TARGET, READ = (20, 150, 60), (220, 50, 40)
SIDE = 420  # of one panel, pixels
SPECK = 12  # sides of a drawn box below which it gets a ring


def outlines(answer: Answer | None) -> tuple[Sequence[Box], Sequence[Point]]:
    """Boxes and points of an answer, pixels of the original image; none for answers in words."""
    from visurf.tasks.segmentation import objects_of

    match answer:
        case Masks():
            return outlines(objects_of(answer))
        case Objects():
            return answer.boxes, answer.points or ()
        case Detections():
            return answer.boxes, ()
        case Points():
            return answer.boxes or (), answer.points
    return (), ()


def draw_frames(sample: Sample, read: Answer | None, frame: Frame, caption: str) -> Picture | None:
    """Two panels: the original frame with target (green) and what the label says (red), and the model's frame with the same.

    Args:
        sample: Brings picture and target.
        read: What the label says, in pixels of the original image; None where it could not be read.
        frame: The model's.
        caption: Below the panels.

    Returns:
        None for a sample without a picture that can be decoded.
    """
    try:
        image = sample.images[0].load()
    except (DataError, IndexError):
        return None
    panels = [
        _panel(image, sample, read, image.size, "original pixels"),
        _panel(image, sample, read, frame.extent, "model's frame"),
    ]
    width, height = sum(p.width for p in panels) + 12, max(p.height for p in panels)
    sheet = Image.new("RGB", (width, height), (255, 255, 255))
    left = 0
    for panel in panels:
        sheet.paste(panel, (left, 0))
        left += panel.width + 12
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return Picture(caption, buffer.getvalue())


def _panel(image: Image.Image, sample: Sample, read: Answer | None, extent: Sequence[float], name: str) -> Image.Image:
    """One frame, drawn to fit, its corners marked with its own coordinates."""
    scale = SIDE / max(extent)
    size = (max(round(extent[0] * scale), 8), max(round(extent[1] * scale), 8))
    margin = 22
    panel = Image.new("RGB", (size[0] + 2, size[1] + 2 * margin), (255, 255, 255))
    panel.paste(image.resize(size), (1, margin))
    pen, font = ImageDraw.Draw(panel), ImageFont.load_default(13)
    pen.rectangle((0, margin - 1, size[0] + 1, margin + size[1]), outline=(120, 120, 120))
    pen.text((2, 3), f"{name}: (0,0)", fill=(60, 60, 60), font=font)
    end = f"({extent[0]:g},{extent[1]:g})"
    pen.text((size[0] - pen.textlength(end, font=font), margin + size[1] + 3), end, fill=(60, 60, 60), font=font)
    pen.text((2, margin + size[1] + 3), "target", fill=TARGET, font=font)
    pen.text((50, margin + size[1] + 3), "label", fill=READ, font=font)
    across, down = size[0] / sample.size[0], size[1] / sample.size[1]

    def place(x: float, y: float) -> tuple[float, float]:
        # What lies outside the picture is drawn at its border, or it could not be seen.
        return min(max(x * across, 0), size[0]) + 1, min(max(y * down, 0), size[1]) + margin

    for answer, colour, width in ((sample.target, TARGET, 3), (read, READ, 2)):
        boxes, points = outlines(answer)
        for x1, y1, x2, y2 in boxes:
            first, second = place(min(x1, x2), min(y1, y2)), place(max(x1, x2), max(y1, y2))
            pen.rectangle((*first, *second), outline=colour, width=width)
            if max(second[0] - first[0], second[1] - first[1]) < SPECK:
                # Nobody would find it: a ring around it.
                pen.ellipse((first[0] - SPECK, first[1] - SPECK, second[0] + SPECK, second[1] + SPECK), outline=colour, width=width)
        for x, y in points:
            cx, cy = place(x, y)
            pen.ellipse((cx - 4, cy - 4, cx + 4, cy + 4), outline=colour, width=2)
    return panel
