"""A contact sheet of held-out scenes: image, question, label, prediction before and after post-training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from visurf.mini import world
from visurf.whole_files import read_rows

_SCALE = 3
_COLOURS = {"label": (20, 160, 60), "before": (230, 120, 20), "after": (40, 90, 230)}


def _boxes(answer: dict[str, Any] | None) -> list[list[float]] | None:
    return None if answer is None else list(answer.get("boxes", ()))


def _said(boxes: list[list[float]] | None) -> str:
    if boxes is None:
        return "no answer"
    return "nothing there" if not boxes else "box"


def draw_sheet(before: Path, after: Path, paradigm: str, count: int, out: Path, columns: int = 6, rows: int = 4) -> None:
    """Draw the first held-out scenes with label, prediction of the baseline and prediction of the trained model.

    Args:
        before: Records of the baseline on the held-out scenes.
        after: Records of the trained model on the same scenes.
        paradigm: Its name, for the title.
        count: Number of held-out scenes that were rendered.
        out: The PNG to write.
        columns: Scenes a row.
        rows: Rows.
    """
    pairs = [read_rows(path) for path in (before, after)]
    samples = world.referring_samples(world.SHIFTED, min(columns * rows, count), 9001)
    side = world.SIZE * _SCALE
    cell, tall, margin, top = side + 14, side + 64, 12, 58
    sheet = Image.new("RGB", (columns * cell + 2 * margin, rows * tall + top + margin), (250, 250, 250))
    draw = ImageDraw.Draw(sheet)
    font, small = ImageFont.load_default(15), ImageFont.load_default(12)
    draw.text((margin, 8), f"Held-out scenes before and after {paradigm}", fill=(20, 20, 20), font=ImageFont.load_default(18))
    x = margin
    for name, text in (("label", "label"), ("before", "before: embedded model"), ("after", f"after: {paradigm}")):
        draw.rectangle((x, 36, x + 12, 48), outline=_COLOURS[name], width=3)
        draw.text((x + 18, 33), text, fill=(60, 60, 60), font=small)
        x += 30 + 8 * len(text)
    for index, sample in enumerate(samples):
        column, row = index % columns, index // columns
        left, upper = margin + column * cell, top + row * tall
        image = sample.images[0].load().resize((side, side), Image.Resampling.NEAREST)
        answers = {
            "label": [list(b) for b in sample.target.boxes],  # type: ignore[union-attr]
            "before": _boxes(pairs[0][index]["answer"]),
            "after": _boxes(pairs[1][index]["answer"]),
        }
        pen = ImageDraw.Draw(image)
        for width, (name, boxes) in zip((3, 2, 2), answers.items(), strict=True):
            for box in boxes or ():
                pen.rectangle([v * _SCALE for v in box], outline=_COLOURS[name], width=width)
        sheet.paste(image, (left, upper))
        draw.text((left, upper + side + 2), sample.question, fill=(20, 20, 20), font=font)
        truth = "nothing there" if not answers["label"] else "box"
        draw.text((left, upper + side + 20), f"label: {truth}", fill=_COLOURS["label"], font=small)
        draw.text((left, upper + side + 33), f"before: {_said(answers['before'])}", fill=_COLOURS["before"], font=small)
        draw.text((left, upper + side + 46), f"after: {_said(answers['after'])}", fill=_COLOURS["after"], font=small)
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)
