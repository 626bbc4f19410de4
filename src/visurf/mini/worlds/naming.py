"""Fine-grained classification: the size, colour and shape of the one thing in the picture, as a class name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from visurf.mini.world import COLOURS, draw_mask
from visurf.mini.worlds.asked import Asked, Drawn, Generator, World, cell, grainy, tinted
from visurf.mini.worlds.kinds import KNOWN_PAIRS, PAIRS
from visurf.types import Text

SMALL, LARGE = (6.0, 9.0), (12.5, 16.0)
# The classes of the few-shot study: neighbours in size, colour and shape.
CLASSES = tuple(
    (size, colour, kind)
    for colour, kind in (
        ("green", "circle"),
        ("green", "ring"),
        ("cyan", "diamond"),
        ("red", "star"),
        ("purple", "star"),
        ("cyan", "ring"),
    )
    for size in ("small", "large")
)


@dataclass(frozen=True)
class Portrait:
    """How single shapes look.

    Attributes:
        faded: Largest share of grey that is mixed into the colour.
        noise: Standard deviation of the grain, as a fraction of the intensity range.
    """

    faded: float
    noise: float


def draw(portrait: Portrait, rng: Generator, count: int, options: Mapping[str, str]) -> Drawn:
    """One shape; with ``classes=few`` one of `CLASSES` in turn by the index, else any pair of the set asked for."""
    index = options.get("index")
    if options.get("classes") == "few":
        number = int(index) if index is not None else int(rng.integers(len(CLASSES)))
        size, colour, kind = CLASSES[number % len(CLASSES)]
    else:
        pairs = PAIRS.get(options.get("pairs", "known"), KNOWN_PAIRS)
        colour, kind = pairs[int(rng.integers(len(pairs)))]
        size = ("small", "large")[int(rng.integers(2))]
    radius = float(rng.uniform(*(SMALL if size == "small" else LARGE)))
    centre = (float(rng.uniform(17, 47)), float(rng.uniform(17, 47)))
    paint = np.asarray(COLOURS[colour], dtype=float)
    paint = paint + rng.uniform(0, portrait.faded) * (128 - paint)
    covered = draw_mask(kind, centre, radius)[..., None]
    tone = float(rng.uniform(0.2, 0.75))
    pixels = tinted((tone, tone, tone)) * (1 - covered) + paint * covered
    name = f"{size} {colour} {kind}"
    asked = Asked("name the shape", Text(name), f"{colour} {kind} {cell(centre)}", {"noun": "shape", "slot": "kind"})
    return Drawn(grainy(pixels, portrait.noise, rng), (asked,))


NAMING = World(
    "naming",
    ("classification",),
    {"clean": Portrait(faded=0.0, noise=0.02), "shifted": Portrait(faded=0.6, noise=0.16)},
    draw,
    {"classes": "all", "pairs": "known"},
)
