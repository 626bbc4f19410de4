"""Answers to probe a reward with: the right one, honest wrong ones, and what an answer deserves by its geometry. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from visurf.doctor.pictures import outlines
from visurf.geometry import Frame, box_centre, box_iou, inside
from visurf.tasks import answers
from visurf.tasks.task import Task
from visurf.types import Answer, Box, Choice, Detections, Masks, Number, Objects, Point, Points, Sample, Size, Text

THOUGHT = "I look at the picture."
CONFIDENCE = 0.9
# Of an image's sides: a point this near to a true one, or a box whose borders are, may earn something with good reason.
NEAR = 0.06
NEAR_IOU = 0.3


@dataclass(frozen=True)
class Setting:
    """One sample to probe with.

    Attributes:
        task: Renders answers.
        sample: Whose target is true.
        frame: The model's.
        names: Texts of all targets of the data, for tasks that answer in words.
    """

    task: Task
    sample: Sample
    frame: Frame
    names: tuple[str, ...] = ()

    def write(self, answer: Answer) -> str:
        """An answer as the policy writes it: thought, answer tags."""
        return f"<think>{THOUGHT}</think>{self.task.label_text(answer, self.frame, True)}"

    def content(self, answer: Answer) -> str:
        """What stands between the answer tags."""
        return self.task.label_text(answer, self.frame, True).removeprefix("<answer>").removesuffix("</answer>")

    def say(self, content: str, thought: str = THOUGHT) -> str:
        """Any content as the policy writes it."""
        return f"<think>{thought}</think><answer>{content}</answer>"

    @property
    def size(self) -> Size:
        """Of the sample's first image."""
        return self.sample.size

    @property
    def true_boxes(self) -> Sequence[Box]:
        """Of the target."""
        return outlines(self.sample.target)[0]

    @property
    def one_box(self) -> bool:
        """Whether the task's answer holds one box only, as reasoning grounding does."""
        if not self.true_boxes or isinstance(self.sample.target, Points):
            return False
        several = self.boxes([self.true_boxes[0], near_miss(self.true_boxes[0], self.size)])
        return self.content(several) == self.content(self.boxes(self.true_boxes[:1]))

    def boxes(self, boxes: Sequence[Box]) -> Answer:
        """Boxes as the kind of answer that the task gives."""
        if isinstance(self.sample.target, Detections):
            return Detections(tuple(boxes), (CONFIDENCE,) * len(boxes))
        return Objects(tuple(boxes), tuple(box_centre(b) for b in boxes))

    def write_many(self, boxes: Sequence[Box]) -> str:
        """Several boxes, also where the task asks for one."""
        if not self.one_box:
            return self.write(self.boxes(boxes))
        return self.say(" ".join(self.content(self.boxes([b])) for b in boxes))


def right(setting: Setting) -> str:
    """The target, after a thought."""
    target = setting.sample.target
    if isinstance(target, Detections):
        target = Detections(target.boxes, (CONFIDENCE,) * len(target.boxes))
    return setting.write(target)


def wrong(setting: Setting) -> str:
    """An honest wrong answer: as many boxes as there are, each beside its object; another class; another number."""
    target = setting.sample.target
    match target:
        case Objects() | Detections() | Masks():
            boxes = setting.true_boxes
            missed = [near_miss(b, setting.size) for b in boxes] or [middle(setting.size)]
            return setting.write(setting.boxes(missed))
        case Points():
            return setting.write(Points(tuple(far_point(p, target, setting.size) for p in target.points)))
        case Choice():
            letters = [chr(ord("A") + i) for i in range(max(len(target.options), 2))]
            return setting.write(Choice(next(x for x in letters if x != target.letter), target.options))
        case Number():
            return setting.write(Number(f"{target.value + 1:g}"))
    return setting.write(Text(other_text(target, setting.names)))


def other_text(target: Text, names: Sequence[str]) -> str:
    """Another class of the data, or words that are none; the opposite of yes or no."""
    said = answers.normalise(target.text)
    if said in ("yes", "no"):
        return "no" if said == "yes" else "yes"

    def unlike(name: str) -> bool:
        # A name that shares no word is no part of the right one either.
        return not set(answers.normalise(name).split()) & set(said.split()) and answers.normalise(name) not in said

    return next((n for n in names if unlike(n) and said not in answers.normalise(n)), "nothing of that kind")


def near_miss(box: Box, size: Size) -> Box:
    """A box of the same size beside its middle, IoU 0.25; where there is no room, a corner of it with the same IoU."""
    x1, y1, x2, y2 = box
    across, down = 0.6 * (x2 - x1), 0.6 * (y2 - y1)
    for dx, dy in ((across, 0.0), (-across, 0.0), (0.0, down), (0.0, -down)):
        moved = (x1 + dx, y1 + dy, x2 + dx, y2 + dy)
        if moved[0] >= 0 and moved[1] >= 0 and moved[2] <= size[0] and moved[3] <= size[1]:
            return moved
    return x1, y1, (x1 + x2) / 2, (y1 + y2) / 2


def middle(size: Size) -> Box:
    """A box in the middle of an image, an eighth of each side."""
    width, height = size
    return width * 7 / 16, height * 7 / 16, width * 9 / 16, height * 9 / 16


def far_point(point: Point, target: Points, size: Size) -> Point:
    """The place on a coarse grid that is nearest to a point and neither near a true point nor in a true box."""
    grid = [((i + 0.5) / 8 * size[0], (j + 0.5) / 8 * size[1]) for i in range(8) for j in range(8)]
    free = [p for p in grid if not _near_point(p, target.points, size, 1.6) and not any(inside(p, b) for b in target.boxes or ())]
    return min(free, key=lambda p: math.dist(p, point), default=(0.0, 0.0))


def deserved(setting: Setting, answer: Answer | None) -> float:
    """The share, 0 to 1, of what a right answer earns that an answer deserves by what it says.

    Answers in words deserve all or nothing. Of boxes and points, those that lie on or near a true one count, each true one once,
    over the larger count.
    """
    target = setting.sample.target
    if answer is None:
        return 0.0
    if isinstance(target, Choice | Number | Text):
        return float(answers.equal(target, answer))
    boxes, points = outlines(answer)
    true, true_points = outlines(target)
    if isinstance(target, Points):
        hits = sum(_near_point(p, true_points, setting.size, 1.0) or any(inside(p, b) for b in true) for p in points)
        return min(hits, len(true_points)) / max(len(points), len(true_points), 1)
    if not true:
        return float(not boxes)
    near = sum(any(_near(box, other, setting.size) for other in true) for box in boxes)
    if points and near < len(boxes):
        near = max(near, sum(any(inside(p, b) for b in true) or _near_point(p, true_points, setting.size, 1.0) for p in points))
    return min(near, len(true)) / max(len(boxes), len(true))


def _near(box: Box, other: Box, size: Size) -> bool:
    gap = sum(abs(a - b) / size[i % 2] for i, (a, b) in enumerate(zip(box, other, strict=True))) / 4
    return box_iou(box, other) >= NEAR_IOU or gap < NEAR / 3


def _near_point(point: Point, others: Sequence[Point], size: Size, factor: float) -> bool:
    return any(math.hypot((point[0] - x) / size[0], (point[1] - y) / size[1]) < NEAR * factor for x, y in others)
