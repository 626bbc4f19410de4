"""Industrial anomalies: a striped surface, in half of the pictures with a faint patch where the stripes are out of step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from visurf.mini.world import SIZE
from visurf.mini.worlds.asked import Asked, Drawn, Generator, World, cell, grainy
from visurf.types import Text

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Surface:
    """How surfaces look.

    Attributes:
        period: Smallest and largest distance of stripes, in pixels.
        defect: Smallest and largest radius of a defect, in pixels.
        strength: How far the stripes are out of step in it, in periods, and how much darker it is, as a fraction of the
            intensity range.
        noise: Standard deviation of the grain, likewise.
    """

    period: tuple[float, float]
    defect: tuple[float, float]
    strength: tuple[float, float]
    noise: float


def draw(surface: Surface, rng: Generator, count: int, options: Mapping[str, str]) -> Drawn:
    """One surface and the one question about it; with an index in the options every second one is defective."""
    index = options.get("index")
    defective = int(index) % 2 == 0 if index is not None else rng.random() < 0.5
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    angle, period = rng.uniform(0, np.pi), rng.uniform(*surface.period)
    phase = (x * np.cos(angle) + y * np.sin(angle)) / period + rng.random()
    level = rng.uniform(0.4, 0.6, 3)
    centre = rng.uniform(10, SIZE - 10, 2)
    radius = rng.uniform(*surface.defect)
    # Drawn in any case, so that a defective and a sound surface of one seed differ in the defect alone.
    patch: NDArray[np.float64] = (
        np.exp(-((np.hypot(x - centre[0], y - centre[1]) / radius) ** 4)) if defective else np.zeros_like(x)
    )
    shift, darker = surface.strength
    wave = 0.14 * np.sin(2 * np.pi * (phase + shift * patch)) - darker * patch
    pixels = (level + wave[..., None]) * 255
    truth = Text("yes" if defective else "no")
    place = (float(centre[0]), float(centre[1]))
    asked = Asked("say : is there a defect", truth, f"defect {cell(place)}" if defective else "nothing", {"defect": defective})
    return Drawn(grainy(pixels, surface.noise, rng), (asked,))


SURFACES = World(
    "anomaly",
    ("anomaly_yes_no", "yes_no"),
    {
        "clean": Surface(period=(6.0, 9.0), defect=(8.0, 12.0), strength=(0.4, 0.12), noise=0.03),
        "mild": Surface(period=(5.5, 9.5), defect=(7.0, 11.0), strength=(0.35, 0.09), noise=0.04),
        "subtle": Surface(period=(5.0, 10.0), defect=(6.0, 10.0), strength=(0.3, 0.06), noise=0.05),
    },
    draw,
)
