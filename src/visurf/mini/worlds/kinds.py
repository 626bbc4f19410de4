"""Colours and shapes of the wide world: two shapes that the embedded model never saw, and pairs that nothing is trained on.

The pairs in `HELD_OUT` occur neither in the study base's pre-training nor in any training data: they are for measuring open
vocabulary. Each of their colours and each of their shapes is known from other pairs.
"""

from __future__ import annotations

from visurf.mini.world import COLOURS, SHAPES

NEW_SHAPES = ("ring", "star")
KINDS = (*SHAPES, *NEW_SHAPES)
HELD_OUT = (("red", "ring"), ("blue", "ring"), ("purple", "ring"), ("green", "star"), ("yellow", "star"), ("cyan", "star"))
ALL_PAIRS = tuple((colour, kind) for colour in COLOURS for kind in KINDS)
KNOWN_PAIRS = tuple(pair for pair in ALL_PAIRS if pair not in HELD_OUT)
PAIRS = {"known": KNOWN_PAIRS, "novel": HELD_OUT, "all": ALL_PAIRS}


def plural(kind: str) -> str:
    """The plural of a shape's name."""
    return "crosses" if kind == "cross" else f"{kind}s"
