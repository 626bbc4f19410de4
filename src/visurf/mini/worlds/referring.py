"""Referring questions, some of which name nothing in the picture: the world of the embedded model, and milder shifts of it."""

from __future__ import annotations

from collections.abc import Mapping

from visurf.mini import world
from visurf.mini.world import Domain, Shape
from visurf.mini.worlds.asked import Asked, Drawn, Generator, World

DOMAINS = {**world.DOMAINS, "grainy": Domain(objects=(3, 6), radius=(4.5, 8.5), noise=0.1)}


def draw(domain: Domain, rng: Generator, count: int, options: Mapping[str, str]) -> Drawn:
    """A scene with `count` questions; the share ``absent`` of them names what is not there."""
    scene = world.draw_scene(domain, rng)
    asked = []
    for _ in range(count):
        found: Shape | None = None
        if rng.random() < float(options.get("absent", "0.4")):
            colour, kind = world.absent_pair(scene, rng)
        else:
            found = scene.shapes[int(rng.integers(len(scene.shapes)))]
            colour, kind = found.colour, found.kind
        thinking = "nothing" if found is None else world.thinking(found)
        asked.append(Asked(world.question(colour, kind), world.target(found), thinking))
    return Drawn(scene.render(), tuple(asked))


REFERRING_SHAPES = World("referring", ("referring", "anomaly"), DOMAINS, draw, {"absent": "0.4"})
