"""The lesion of a picture of skin: a dark, uneven blob; harder with low contrast, hairs and another, smaller mole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from visurf.mini.world import SIZE
from visurf.mini.worlds.asked import Asked, Drawn, Generator, World, cell, grainy, tinted
from visurf.types import Objects, Point

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Skin:
    """How pictures of skin look.

    Attributes:
        radius: Smallest and largest mean radius of the lesion, in pixels.
        uneven: Amplitude of its outline's waves, as a fraction of the radius.
        contrast: Smallest and largest darkening, as a fraction of the intensity range.
        hairs: Largest number of hairs.
        moles: Largest number of small moles, which are no lesion.
        noise: Standard deviation of the grain, as a fraction of the intensity range.
    """

    radius: tuple[float, float]
    uneven: float
    contrast: tuple[float, float]
    hairs: int
    moles: int
    noise: float


def blob(centre: Point, radius: float, uneven: float, rng: Generator) -> NDArray[np.bool_]:
    """(SIZE, SIZE): the inside of a closed curve whose radius varies with the angle in waves of 2 to 5 periods."""
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    angle, distance = np.arctan2(y - centre[1], x - centre[0]), np.hypot(x - centre[0], y - centre[1])
    outline = np.ones_like(angle)
    for periods in range(2, 6):
        outline += uneven * rng.normal(0, 0.5) * np.cos(periods * angle + rng.uniform(0, 2 * np.pi))
    inside: NDArray[np.bool_] = distance < radius * outline.clip(0.4, 1.6)
    return inside


def draw(skin: Skin, rng: Generator, count: int, options: Mapping[str, str]) -> Drawn:
    """One picture with one lesion and the one question about it."""
    radius = float(rng.uniform(*skin.radius))
    reach = radius * 1.2 + 1
    centre = tuple(float(v) for v in rng.uniform(reach, SIZE - reach, 2))
    mask = blob((centre[0], centre[1]), radius, skin.uneven, rng)
    tone = float(rng.uniform(0.85, 1.1))
    pixels: NDArray[Any] = tinted((0.82 * tone, 0.64 * tone, 0.54 * tone), 0.2)
    darkening = float(rng.uniform(*skin.contrast)) * 255 * np.array([0.8, 1.0, 0.9])
    for _ in range(int(rng.integers(skin.moles + 1))):
        spot = blob((float(rng.uniform(4, 60)), float(rng.uniform(4, 60))), float(rng.uniform(1.5, 3.0)), 0.1, rng)
        pixels = np.where((spot & ~mask)[..., None], pixels - darkening, pixels)
    shade = 1 + 0.25 * rng.normal(size=(8, 8)).repeat(8, 0).repeat(8, 1)
    pixels = np.where(mask[..., None], pixels - darkening * shade[..., None].clip(0.5, 1.5), pixels)
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(skin.hairs + 1))):
        ends = [(float(a), float(b)) for a, b in rng.uniform(-4, SIZE + 4, (2, 2))]
        pen.line(ends, fill=(70, 50, 45), width=1)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
    middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    found = Objects((box,), (middle,))
    asked = Asked("find the lesion", found, f"lesion {cell(middle)}", {"mask": mask.astype(np.uint8)})
    return Drawn(grainy(np.asarray(picture, dtype=float), skin.noise, rng), (asked,))


LESIONS = World(
    "lesion",
    ("lesion", "referring"),
    {
        "clean": Skin(radius=(6.0, 15.0), uneven=0.1, contrast=(0.3, 0.5), hairs=0, moles=0, noise=0.02),
        "shifted": Skin(radius=(5.0, 14.0), uneven=0.3, contrast=(0.12, 0.3), hairs=6, moles=4, noise=0.06),
    },
    draw,
)
