"""Choosing training rows by class and seed, the same rows on every machine whatever the order of the file."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from visurf.types import DataError, Detections, Masks, Objects, Sample, Text


def class_of(sample: Sample) -> str:
    """The class a sample counts for: its category, or the text of its target.

    Raises:
        DataError: It has neither.
    """
    if "category" in sample.meta:
        return str(sample.meta["category"])
    if isinstance(sample.target, Text):
        return str(sample.meta.get("class_name", sample.target.text))
    raise DataError(f"sample {sample.id}: expected a category or a class name, got a {type(sample.target).__name__} target")


def is_present(sample: Sample) -> bool:
    """Whether the truth holds at least one object; a target that names no objects counts as present."""
    target = sample.target
    if isinstance(target, Objects | Detections):
        return bool(target.boxes)
    return bool(target.masks) if isinstance(target, Masks) else True


def few_shot(
    samples: Sequence[Sample],
    shots: int,
    *,
    classes: Sequence[str] | None = None,
    seed: int = 0,
    at_most: bool = False,
    key: Callable[[Sample], str] = class_of,
) -> list[Sample]:
    """`shots` samples of each class, drawn by seed; classes in the order given, ids sorted within a class.

    A class's draw depends on its own samples only, so a list extended by a class keeps the others' draws. Samples whose
    truth holds no object are not drawn.

    Args:
        samples: The pool, in any order.
        shots: Images a class.
        classes: Which classes; None for all that occur, sorted.
        seed: Of the draw.
        at_most: Take what there is when a class has fewer ("10-shot" LVIS has 1 to 10 images a class).
        key: The class of a sample.

    Raises:
        DataError: A class has fewer samples than asked for, or none.
    """
    pool: dict[str, list[Sample]] = {}
    for sample in samples:
        if is_present(sample):
            pool.setdefault(key(sample), []).append(sample)
    chosen = []
    for name in classes if classes is not None else sorted(pool):
        found = sorted(pool.get(name, []), key=lambda s: s.id)
        if not found or (len(found) < shots and not at_most):
            raise DataError(f"class {name!r}: expected {shots} samples, got {len(found)} of {len(samples)} rows")
        drawn = random.Random(f"{seed}/{name}").sample(found, min(shots, len(found)))
        chosen += sorted(drawn, key=lambda s: s.id)
    return chosen


def draw(samples: Sequence[Sample], count: int, *, seed: int = 0) -> list[Sample]:
    """`count` samples drawn by seed, sorted by id (the 6,000 base-class rows of the open-vocabulary run).

    Raises:
        DataError: There are fewer.
    """
    if count > len(samples):
        raise DataError(f"expected at least {count} samples to draw from, got {len(samples)}")
    return sorted(random.Random(f"{seed}").sample(sorted(samples, key=lambda s: s.id), count), key=lambda s: s.id)
