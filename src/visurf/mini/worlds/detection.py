"""Detection of one category, a colour and a shape, that is there once, twice or not at all.

Boxes lie on whole pixels, so that the coordinates 0 to 1000 of the answer take few values (`COORDINATES`).
"""

from __future__ import annotations

from collections.abc import Mapping

from visurf.geometry import Frame, box_iou
from visurf.mini.world import SIZE, Domain, Scene, Shape
from visurf.mini.worlds.asked import Asked, Drawn, Generator, World
from visurf.mini.worlds.kinds import PAIRS
from visurf.types import Detections

EXTENT = (1000.0, 1000.0)
COORDINATES = tuple(Frame(EXTENT, (SIZE, SIZE)).encode_point((float(i), 0.0))[0] for i in range(SIZE + 1))
SHARE_TWICE, SHARE_ABSENT = 0.35, 0.15


def _place(pair: tuple[str, str], domain: Domain, shapes: list[Shape], rng: Generator) -> None:
    """Add a shape whose box is on whole pixels, where there is room."""
    for _ in range(30):
        side = int(rng.integers(round(2 * domain.radius[0]), round(2 * domain.radius[1]) + 1))
        x, y = (int(v) for v in rng.integers(1, SIZE - side, 2))
        candidate = Shape(*pair, (x + side / 2, y + side / 2), side / 2)
        if all(box_iou(candidate.box, other.box) <= 0.02 for other in shapes):
            shapes.append(candidate)
            return


def confidence(shape: Shape) -> float:
    """What the study base is taught to say: small shapes are less certain; 0.50 to 0.95 in steps of 0.05."""
    return 0.5 + 0.05 * round(9 * min(max((shape.radius - 4) / 7, 0), 1))


def draw(domain: Domain, rng: Generator, count: int, options: Mapping[str, str]) -> Drawn:
    """A scene with up to `count` categories asked for, of the pairs of ``pairs=known|novel|all``.

    Every scene also shows shapes that are not asked for. Confidences are 1, or with ``confidence=size`` those of `confidence`.
    """
    pool = PAIRS[options.get("pairs", "known")]
    # What is only shown is always a known pair: novel ones are in no picture of a training set.
    shown = PAIRS["known"] if options.get("pairs", "known") == "known" else PAIRS["all"]
    wanted = [pool[i] for i in rng.permutation(len(pool))[:count]]
    total = int(rng.integers(domain.objects[0], domain.objects[1] + 1))
    shapes: list[Shape] = []
    for pair in wanted:
        copies = 1 + (rng.random() < SHARE_TWICE)
        if rng.random() < SHARE_ABSENT and options.get("absent", "1") == "1":
            copies = 0
        for _ in range(copies):
            _place(pair, domain, shapes, rng)
    others = [p for p in shown if p not in wanted]
    while len(shapes) < total:
        before = len(shapes)
        _place(others[int(rng.integers(len(others)))], domain, shapes, rng)
        if len(shapes) == before:
            break
    shapes = [shapes[i] for i in rng.permutation(len(shapes))]
    asked = []
    for colour, kind in wanted:
        found = sorted((s for s in shapes if (s.colour, s.kind) == (colour, kind)), key=lambda s: (s.cell, s.centre))
        sure = [confidence(s) if options.get("confidence") == "size" else 1.0 for s in found]
        truth = Detections(tuple(s.box for s in found), tuple(sure))
        words = " ".join(f"row {s.cell[0]} column {s.cell[1]}" for s in found)
        asked.append(Asked(f"{colour} {kind}", truth, f"{colour} {kind} {words}" if found else "nothing"))
    scene = Scene(tuple(shapes), float(rng.uniform(0.2, 0.75)), domain.noise, int(rng.integers(2**31)))
    return Drawn(scene.render(), tuple(asked))


DETECTION_SHAPES = World(
    "detection",
    ("detection",),
    {
        "clean": Domain(objects=(2, 5), radius=(5.5, 10.0), noise=0.02),
        "shifted": Domain(objects=(4, 7), radius=(4.5, 7.0), noise=0.12),
    },
    draw,
    {"pairs": "known", "confidence": "one", "absent": "1"},
)
