"""What a family of scenes gives: a picture, and what can be asked about it.

Every family is a `World` value in a file of its own. Coordinates are pixels of the rendered picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from visurf.mini.world import CELLS, SIZE
from visurf.types import Answer, Demonstration, ImageRef, Point, Sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

Generator = np.random.Generator


@dataclass(frozen=True)
class Asked:
    """A question with what is true, and the reasoning that leads there; `meta` goes into the sample."""

    question: str
    target: Answer
    thinking: str
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Drawn:
    """A picture, None where the scene is told in words, and the questions about it."""

    picture: Image.Image | None
    asked: tuple[Asked, ...]


@dataclass(frozen=True)
class World:
    """A family of scenes.

    Attributes:
        name: What comes after ``world:``.
        tasks: The tasks whose targets it brings.
        domains: Named distributions of scenes; the first is the clean one.
        draw: (domain, generator, number of questions, options) -> a scene; it may come with fewer questions, never none.
        options: Names of its own options, each with the default; values are texts.
    """

    name: str
    tasks: tuple[str, ...]
    domains: Mapping[str, Any]
    draw: Callable[[Any, Generator, int, Mapping[str, str]], Drawn]
    options: Mapping[str, str] = field(default_factory=dict)

    def samples(self, domain: str, count: int, seed: int, options: Mapping[str, str], traces: bool = False) -> list[Sample]:
        """Questions about rendered scenes, one a scene; a longer list begins with the shorter one.

        Args:
            domain: A name of `domains`.
            count: Number of samples.
            seed: Of the whole list.
            options: Values of the family's own options; what is missing has its default.
            traces: Let every label bring the reasoning that leads to it.
        """
        chosen = {**self.options, **options}
        samples = []
        for index in range(count):
            # The index of the sample is there for families that balance their classes.
            chosen["index"] = str(index)
            drawn = self.draw(self.domains[domain], np.random.default_rng((seed, index)), 1, chosen)
            asked = drawn.asked[0]
            pictures = () if drawn.picture is None else (ImageRef(drawn.picture),)
            response = Demonstration(asked.thinking) if traces else None
            samples.append(Sample(f"{seed}-{index}", pictures, asked.question, asked.target, response, dict(asked.meta)))
        return samples


def cell(point: Point) -> str:
    """Where a point lies, in the words of the embedded model: row and column of a grid of `CELLS` x `CELLS`, from 1."""
    x, y = point
    return f"row {int(y * CELLS / SIZE) + 1} column {int(x * CELLS / SIZE) + 1}"


def grainy(pixels: NDArray[Any], noise: float, rng: Generator) -> Image.Image:
    """Pixels in 0 to 255 with grain whose standard deviation is a fraction of that range."""
    return Image.fromarray((pixels + rng.normal(0, noise * 255, pixels.shape)).clip(0, 255).astype(np.uint8))


def tinted(colour: Point | tuple[float, float, float], strength: float = 0.3) -> NDArray[np.float64]:
    """A background (SIZE, SIZE, 3) of a colour in 0 to 1 under the faint tint that tells absolute position; 0 to 255."""
    ramp = np.linspace(-0.5, 0.5, SIZE)
    across, down = np.broadcast_arrays(ramp[None, :], ramp[:, None])
    return (np.asarray(colour) + strength * np.stack([across, -(across + down) / 2, down], axis=-1)).clip(0, 1) * 255
