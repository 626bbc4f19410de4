"""Counting and adding on shapes of few colours, in a picture or told in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from visurf.geometry import box_iou
from visurf.mini.world import COLOURS, SHAPES, SIZE, Domain, Scene, Shape
from visurf.mini.worlds.asked import Asked, Drawn, Generator, World
from visurf.mini.worlds.kinds import plural
from visurf.types import Number


@dataclass(frozen=True)
class Crowd:
    """Scenes of shapes whose colours are few.

    Attributes:
        scene: Number, size and grain.
        colours: Smallest and largest number of colours in a scene.
        told: Tell the scene in words, without a picture.
    """

    scene: Domain
    colours: tuple[int, int]
    told: bool = False


def crowd(domain: Crowd, rng: Generator) -> Scene:
    """A scene; every pair of colour and shape occurs at most once."""
    number = int(rng.integers(domain.colours[0], domain.colours[1] + 1))
    colours = [list(COLOURS)[i] for i in rng.permutation(len(COLOURS))[:number]]
    pairs = [(colour, kind) for colour in colours for kind in SHAPES]
    wanted = int(rng.integers(domain.scene.objects[0], domain.scene.objects[1] + 1))
    shapes: list[Shape] = []
    for index in rng.permutation(len(pairs))[:wanted]:
        for _ in range(30):
            radius = float(rng.uniform(*domain.scene.radius))
            x, y = (float(v) for v in rng.uniform(radius + 0.5, SIZE - radius - 0.5, 2))
            colour, kind = pairs[index]
            candidate = Shape(colour, kind, (x, y), radius)
            if all(box_iou(candidate.box, other.box) <= 0.05 for other in shapes):
                shapes.append(candidate)
                break
    return Scene(tuple(shapes), float(rng.uniform(0.2, 0.75)), domain.scene.noise, int(rng.integers(2**31)))


def told(scene: Scene) -> str:
    """The scene in words: its shapes in the order in which they were drawn."""
    return "scene : " + " , ".join(f"{s.colour} {s.kind}" for s in scene.shapes) + " . "


def _ask(scene: Scene, rng: Generator, *, told: bool) -> Asked:
    """How many of a colour, of a shape, or of two shapes together; mostly of what is there."""
    pick = scene.shapes[int(rng.integers(len(scene.shapes)))]
    form = rng.random()
    if form < 0.45:
        colour = pick.colour if rng.random() < 0.8 else list(COLOURS)[int(rng.integers(len(COLOURS)))]
        chosen, what = [s for s in scene.shapes if s.colour == colour], f"{colour} shapes"
    else:
        kinds = [pick.kind]
        if form > 0.75:
            kinds.append([k for k in SHAPES if k != pick.kind][int(rng.integers(len(SHAPES) - 1))])
        chosen, what = [s for s in scene.shapes if s.kind in kinds], " and ".join(plural(k) for k in kinds)
    # The reasoning is one text: in reading order of the picture, or as told.
    ordered = chosen if told else sorted(chosen, key=lambda s: (s.cell, s.centre[0]))
    listed = " ".join(f"{s.colour} {s.kind}" for s in ordered)
    return Asked(f"how many {what} are there ?", Number(str(len(chosen))), listed or "nothing")


def draw(domain: Crowd, rng: Generator, count: int, options: Mapping[str, str]) -> Drawn:
    """A scene with up to `count` questions."""
    scene = crowd(domain, rng)
    found = {asked.question: asked for asked in (_ask(scene, rng, told=domain.told) for _ in range(count))}
    if not domain.told:
        return Drawn(scene.render(), tuple(found.values()))
    prefix = told(scene)
    return Drawn(None, tuple(replace(asked, question=prefix + asked.question) for asked in found.values()))


_CLEAN = Domain(objects=(2, 6), radius=(5.0, 10.0), noise=0.02)
_CROWDED = Domain(objects=(5, 9), radius=(4.0, 7.0), noise=0.1)

COUNTING_SHAPES = World(
    "counting",
    ("counting", "mathematics"),
    {
        "clean": Crowd(_CLEAN, (2, 3)),
        "shifted": Crowd(_CROWDED, (2, 3)),
        "told": Crowd(_CLEAN, (2, 3), told=True),
        "told_shifted": Crowd(_CROWDED, (2, 3), told=True),
    },
    draw,
)
