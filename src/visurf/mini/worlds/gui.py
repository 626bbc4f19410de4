"""GUI grounding: a rendered window with a title bar and buttons that bear icons; the point to click."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from visurf.mini.world import SHAPES, SIZE, draw_mask
from visurf.mini.worlds.asked import Asked, Drawn, Generator, World, cell, grainy, tinted
from visurf.types import Box, Points

TITLE = 9


@dataclass(frozen=True)
class Theme:
    """How windows look.

    Attributes:
        buttons: Smallest and largest number of them; each icon occurs once.
        side: Smallest and largest width and height of a button, in pixels.
        dark: Light icons on dark buttons in a dark window, instead of the other way round.
        contrast: Between icon and button, as a fraction of the intensity range.
        noise: Standard deviation of the grain, likewise.
    """

    buttons: tuple[int, int]
    side: tuple[int, int]
    dark: bool
    contrast: float
    noise: float


def places(theme: Theme, count: int, rng: Generator) -> list[tuple[int, int, int, int]]:
    """Boxes of buttons below the title bar that keep 2 pixels apart; fewer than `count` where they do not fit."""
    found: list[tuple[int, int, int, int]] = []
    for _ in range(60 * count):
        if len(found) == count:
            break
        width, height = (int(v) for v in rng.integers(theme.side[0], theme.side[1] + 1, 2))
        x, y = int(rng.integers(2, SIZE - width - 1)), int(rng.integers(TITLE + 3, SIZE - height - 1))
        apart = all(x >= b[2] + 2 or b[0] >= x + width + 2 or y >= b[3] + 2 or b[1] >= y + height + 2 for b in found)
        if apart:
            found.append((x, y, x + width, y + height))
    return found


def render(theme: Theme, buttons: list[tuple[str, tuple[int, int, int, int]]], tone: float, rng: Generator) -> Image.Image:
    """Draw a window: icons are centred in their buttons, 2.5 pixels from the nearer border."""
    window = 0.18 + 0.12 * tone if theme.dark else 0.78 + 0.14 * tone
    button = window + 0.12 if theme.dark else window - 0.2
    icon = button + theme.contrast if theme.dark else button - theme.contrast
    pixels = tinted((window, window, window), 0.2)
    pixels[:TITLE] = np.array([70, 110, 190] if not theme.dark else [90, 70, 110])
    for kind, (x1, y1, x2, y2) in buttons:
        pixels[y1:y2, x1:x2] = button * 255
        centre, radius = ((x1 + x2) / 2, (y1 + y2) / 2), min(x2 - x1, y2 - y1) / 2 - 2.5
        covered = draw_mask(kind, centre, radius)[..., None]
        pixels = pixels * (1 - covered) + icon * 255 * covered
    picture = grainy(pixels, theme.noise, rng)
    ImageDraw.Draw(picture).rectangle((SIZE - 7, 2, SIZE - 3, 6), fill=(220, 90, 80))
    return picture


def draw(theme: Theme, rng: Generator, count: int, options: Mapping[str, str]) -> Drawn:
    """A window with up to `count` different buttons asked for."""
    wanted = int(rng.integers(theme.buttons[0], theme.buttons[1] + 1))
    boxes = places(theme, wanted, rng)
    icons = [SHAPES[i] for i in rng.permutation(len(SHAPES))]
    buttons = list(zip(icons, boxes, strict=False))
    picture = render(theme, buttons, float(rng.random()), rng)
    asked = []
    for index in rng.permutation(len(buttons))[:count]:
        kind, box = buttons[index]
        corners: Box = (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
        centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        asked.append(Asked(f"click on the {kind} button", Points((centre,), (corners,)), f"{kind} button {cell(centre)}"))
    return Drawn(picture, tuple(asked))


GUI_WINDOWS = World(
    "gui",
    ("gui",),
    {
        "clean": Theme(buttons=(3, 5), side=(14, 19), dark=False, contrast=0.5, noise=0.02),
        "dense": Theme(buttons=(4, 5), side=(12, 15), dark=False, contrast=0.4, noise=0.06),
        "shifted": Theme(buttons=(4, 5), side=(12, 15), dark=True, contrast=0.35, noise=0.08),
    },
    draw,
)
