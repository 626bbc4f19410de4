"""Reasoning segmentation: which shape is meant follows from size or place, not from its name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from visurf.mini import world
from visurf.mini.world import Domain, Scene, Shape
from visurf.mini.worlds.asked import Asked, Drawn, Generator, World

SIZE_RATIO = 1.2
MARGIN = 6.0
# Direction -> (axis, sign): in a picture y grows downwards.
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "above": (1, -1), "below": (1, 1)}
EXTREMES = {"left": (0, -1), "right": (0, 1), "top": (1, -1), "bottom": (1, 1)}


def _thinking(shape: Shape) -> str:
    return world.thinking(shape)


def by_size(shapes: tuple[Shape, ...]) -> Iterator[tuple[str, Shape]]:
    """Questions such as "find the largest red one": the extreme of at least two shapes of a colour, `SIZE_RATIO` from the next."""
    for colour in dict.fromkeys(s.colour for s in shapes):
        of = sorted((s for s in shapes if s.colour == colour), key=lambda s: s.radius)
        if len(of) > 1 and of[-1].radius >= SIZE_RATIO * of[-2].radius:
            yield f"find the largest {colour} one", of[-1]
        if len(of) > 1 and of[1].radius >= SIZE_RATIO * of[0].radius:
            yield f"find the smallest {colour} one", of[0]


def by_extreme(shapes: tuple[Shape, ...]) -> Iterator[tuple[str, Shape]]:
    """Questions such as "find the left circle": the outermost of at least two of a kind, `MARGIN` pixels from the next."""
    for kind in dict.fromkeys(s.kind for s in shapes):
        of = [s for s in shapes if s.kind == kind]
        if len(of) < 2:
            continue
        for word, (axis, sign) in EXTREMES.items():
            first, second = sorted(of, key=lambda s: -sign * s.centre[axis])[:2]
            if sign * (first.centre[axis] - second.centre[axis]) >= MARGIN:
                yield f"find the {word} {kind}", first


def by_relation(shapes: tuple[Shape, ...]) -> Iterator[tuple[str, Shape]]:
    """Questions such as "find the one above the red circle": the only shape in that direction within 45 degrees."""
    for anchor in shapes:
        for word, (axis, sign) in DIRECTIONS.items():
            found = []
            for other in shapes:
                along = sign * (other.centre[axis] - anchor.centre[axis])
                across = abs(other.centre[1 - axis] - anchor.centre[1 - axis])
                if other is not anchor and along > across:
                    found.append(other)
            if len(found) == 1:
                of = " of" if word in ("left", "right") else ""
                yield f"find the one {word}{of} the {anchor.colour} {anchor.kind}", found[0]


RULES = (by_size, by_extreme, by_relation)


def questions(scene: Scene) -> list[list[tuple[str, Shape]]]:
    """All questions about a scene that have one answer, by rule."""
    return [list(rule(scene.shapes)) for rule in RULES]


def draw(domain: Domain, rng: Generator, count: int, options: Mapping[str, str]) -> Drawn:
    """A scene with up to `count` questions; rules are equally likely, scenes without any question are drawn again."""
    while True:
        scene = world.draw_scene(domain, rng)
        pools = [pool for pool in questions(scene) if pool]
        if pools:
            break
    asked = {}
    for _ in range(count):
        pool = pools[int(rng.integers(len(pools)))]
        text, shape = pool[int(rng.integers(len(pool)))]
        asked[text] = Asked(text, world.target(shape), _thinking(shape))
    return Drawn(scene.render(), tuple(asked.values()))


REASONING = World(
    "reasoning",
    ("reasoning_segmentation", "referring", "grounding"),
    {
        "clean": Domain(objects=(3, 6), radius=(5.0, 10.0), noise=0.02),
        "crowded": Domain(objects=(4, 7), radius=(4.5, 8.5), noise=0.08),
        "shifted": Domain(objects=(5, 8), radius=(4.0, 7.0), noise=0.14),
    },
    draw,
)
