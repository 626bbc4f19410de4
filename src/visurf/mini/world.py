"""A rendered world of coloured shapes, and questions about it.

A scene is drawn from a `Domain` by a seeded generator and rendered to an image of `SIZE` x `SIZE` pixels. The *clean* domain is
what the embedded model was pre-trained on; the *shifted* one (smaller shapes, more of them, grain) is what it is
post-trained and evaluated on. `REFERRING` questions name a colour and a shape; some name nothing in the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from visurf.geometry import box_iou
from visurf.types import Box, ImageRef, Objects, Point, Sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE = 64
CELLS = 4
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 48, 44),
    "green": (46, 160, 67),
    "blue": (52, 96, 214),
    "yellow": (232, 204, 48),
    "purple": (146, 64, 190),
    "cyan": (56, 196, 206),
}
SHAPES = ("circle", "square", "triangle", "diamond", "cross")
PAIRS = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
_OVERSAMPLE = 3
_TINT = 0.3


@dataclass(frozen=True)
class Domain:
    """The distribution that scenes are drawn from.

    Attributes:
        objects: Smallest and largest number of shapes.
        radius: Smallest and largest half-extent of a shape, in pixels.
        noise: Standard deviation of the grain, as a fraction of the intensity range.
    """

    objects: tuple[int, int]
    radius: tuple[float, float]
    noise: float


CLEAN = Domain(objects=(2, 5), radius=(5.5, 11.0), noise=0.02)
SHIFTED = Domain(objects=(4, 7), radius=(4.0, 7.0), noise=0.16)
DOMAINS = {"clean": CLEAN, "shifted": SHIFTED}


@dataclass(frozen=True)
class Shape:
    """One coloured shape: its kind, colour, centre and half-extent in pixels."""

    colour: str
    kind: str
    centre: Point
    radius: float

    @property
    def box(self) -> Box:
        """The tight box, in pixels."""
        x, y, r = *self.centre, self.radius
        return x - r, y - r, x + r, y + r

    @property
    def cell(self) -> tuple[int, int]:
        """Row and column, counted from 1, of the centre's cell in a grid of `CELLS` x `CELLS`."""
        x, y = self.centre
        return int(y * CELLS / SIZE) + 1, int(x * CELLS / SIZE) + 1


@dataclass(frozen=True)
class ShapeMask:
    """The pixels of a shape, drawn when asked for."""

    shape: Shape

    def load(self) -> NDArray[np.uint8]:
        """(SIZE, SIZE), 1 where the shape covers at least half of a pixel."""
        return (draw_mask(self.shape.kind, self.shape.centre, self.shape.radius) >= 0.5).astype(np.uint8)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The mask, for `numpy.asarray`."""
        return np.asarray(self.load(), dtype=dtype)


@dataclass(frozen=True)
class Scene:
    """Shapes on a background; every (colour, shape) pair occurs at most once."""

    shapes: tuple[Shape, ...]
    tone: float
    noise: float
    seed: int

    def render(self) -> Image.Image:
        """Draw the scene: RGB, `SIZE` x `SIZE`; the same scene gives the same pixels."""
        ramp = np.linspace(-0.5, 0.5, SIZE)
        across, down = np.broadcast_arrays(ramp[None, :], ramp[:, None])
        # A faint tint tells absolute position apart: the vision tower knows relative positions only.
        background = (self.tone + _TINT * np.stack([across, -(across + down) / 2, down], axis=-1)) * 255
        image = Image.fromarray(background.clip(0, 255).astype(np.uint8))
        image = image.resize((SIZE * _OVERSAMPLE, SIZE * _OVERSAMPLE), Image.Resampling.NEAREST)
        draw = ImageDraw.Draw(image)
        for shape in self.shapes:
            _draw(draw, shape)
        pixels = np.asarray(image.reduce(_OVERSAMPLE), dtype=np.float32)
        grain = np.random.default_rng(self.seed).normal(0, self.noise * 255, pixels.shape)
        return Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8))

    def find(self, colour: str, kind: str) -> Shape | None:
        """The shape of that colour and kind, or None."""
        return next((s for s in self.shapes if (s.colour, s.kind) == (colour, kind)), None)


def _draw(draw: ImageDraw.ImageDraw, shape: Shape, fill: tuple[int, int, int] | None = None) -> None:
    x, y = (v * _OVERSAMPLE for v in shape.centre)
    r = shape.radius * _OVERSAMPLE
    fill = COLOURS[shape.colour] if fill is None else fill
    match shape.kind:
        case "circle":
            draw.ellipse((x - r, y - r, x + r - 1, y + r - 1), fill=fill)
        case "square":
            draw.rectangle((x - r, y - r, x + r - 1, y + r - 1), fill=fill)
        case "triangle":
            draw.polygon([(x, y - r), (x + r - 1, y + r - 1), (x - r, y + r - 1)], fill=fill)
        case "diamond":
            draw.polygon([(x, y - r), (x + r - 1, y), (x, y + r - 1), (x - r, y)], fill=fill)
        case "cross":
            arm = r * 0.36
            draw.rectangle((x - r, y - arm, x + r - 1, y + arm - 1), fill=fill)
            draw.rectangle((x - arm, y - r, x + arm - 1, y + r - 1), fill=fill)
        case "ring":
            draw.ellipse((x - r, y - r, x + r - 1, y + r - 1), outline=fill, width=max(round(r * 0.42), 1))
        case "star":
            near = r * 0.3
            upper = [(x, y - r), (x + near, y - near), (x + r - 1, y), (x + near, y + near)]
            draw.polygon([*upper, (x, y + r - 1), (x - near, y + near), (x - r, y), (x - near, y - near)], fill=fill)
        case _:
            raise ValueError(f"unknown shape {shape.kind!r}; expected one of {SHAPES}, ring or star")


def draw_mask(kind: str, centre: Point, radius: float) -> NDArray[np.float64]:
    """(SIZE, SIZE): the fraction of every pixel that a shape covers."""
    image = Image.new("RGB", (SIZE * _OVERSAMPLE, SIZE * _OVERSAMPLE))
    _draw(ImageDraw.Draw(image), Shape("red", kind, centre, radius), (255, 255, 255))
    return np.asarray(image.reduce(_OVERSAMPLE), dtype=np.float64)[..., 0] / 255


def draw_scene(domain: Domain, rng: np.random.Generator) -> Scene:
    """Draw a scene: distinct (colour, shape) pairs, boxes inside the image that overlap by IoU 0.05 at most."""
    count = int(rng.integers(domain.objects[0], domain.objects[1] + 1))
    pairs = rng.permutation(len(PAIRS))[:count]
    shapes: list[Shape] = []
    for index in pairs:
        colour, kind = PAIRS[index]
        for _ in range(30):
            radius = float(rng.uniform(*domain.radius))
            x, y = rng.uniform(radius + 0.5, SIZE - radius - 0.5, 2)
            candidate = Shape(colour, kind, (float(x), float(y)), radius)
            if all(box_iou(candidate.box, other.box) <= 0.05 for other in shapes):
                shapes.append(candidate)
                break
    return Scene(tuple(shapes), float(rng.uniform(0.2, 0.75)), domain.noise, int(rng.integers(2**31)))


def absent_pair(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """A (colour, shape) that the scene lacks; half the time its colour and its shape both occur apart."""
    present = {(s.colour, s.kind) for s in scene.shapes}
    missing = [pair for pair in PAIRS if pair not in present]
    colours, kinds = {c for c, _ in present}, {k for _, k in present}
    near = [(c, k) for c, k in missing if c in colours and k in kinds]
    pool = near if near and rng.random() < 0.5 else missing
    return pool[int(rng.integers(len(pool)))]


def question(colour: str, kind: str) -> str:
    """The referring expression: what to find."""
    return f"find the {colour} {kind}"


def plain_question(colour: str, kind: str) -> str:
    """The same request in the form that the embedded model learnt to answer without reasoning."""
    return f"box of the {colour} {kind}"


def thinking(shape: Shape) -> str:
    """The reasoning that the embedded model writes before it answers."""
    row, column = shape.cell
    return f"{shape.colour} {shape.kind} row {row} column {column}"


def target(shape: Shape | None) -> Objects:
    """The structured target of a referring question; zero boxes for an absent object."""
    return Objects() if shape is None else Objects((shape.box,), (shape.centre,))


def referring_samples(domain: Domain, count: int, seed: int, absent: float = 0.4, masks: bool = False) -> list[Sample]:
    """Referring questions about rendered scenes, one a scene.

    Args:
        domain: Where scenes are drawn from.
        count: Number of samples.
        seed: Seed of the whole list; a longer list begins with the shorter one.
        absent: Share of questions that name nothing in the picture.
        masks: Let samples bring their true mask, against which gIoU and mask rewards then measure; without, boxes are.
    """
    samples = []
    for index in range(count):
        rng = np.random.default_rng((seed, index))
        scene = draw_scene(domain, rng)
        if rng.random() < absent:
            colour, kind = absent_pair(scene, rng)
        else:
            shape = scene.shapes[int(rng.integers(len(scene.shapes)))]
            colour, kind = shape.colour, shape.kind
        found = scene.find(colour, kind)
        picture = (ImageRef(scene.render()),)
        meta = {} if found is None or not masks else {"mask": ShapeMask(found)}
        samples.append(Sample(f"{seed}-{index}", picture, question(colour, kind), target(found), meta=meta))
    return samples
