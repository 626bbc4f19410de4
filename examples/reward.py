"""A reward of one's own: a box must not be much larger than what it shows. Used from a recipe:

reward:
  functions: {tight: examples/reward.py:tight}
  weights: {tight: 0.5}
"""

from visurf.types import Box, Completion, Objects, Sample


def area(boxes: tuple[Box, ...]) -> float:
    """Square pixels of the original image."""
    return sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in boxes)


def tight(completion: Completion, sample: Sample) -> float | None:
    """True area over answered area, at most 1; 0 for an answer that cannot be read, None where there is nothing to compare."""
    if not isinstance(sample.target, Objects) or not sample.target.boxes:
        return None  # abstains: the part is left out of this sample's total, and counted
    if not isinstance(completion.answer, Objects) or not completion.answer.boxes:
        return 0.0
    answered = area(completion.answer.boxes)
    return min(1.0, area(sample.target.boxes) / answered) if answered else 0.0
