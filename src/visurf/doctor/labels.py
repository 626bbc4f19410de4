"""Whether every label, rendered and read back, is its target, and earns what it can. Torch-free.

The bound is that of the frame: encoding and decoding moves no border by more than one of its units (`Frame.rounding_bound`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from visurf.control import Controls
from visurf.doctor.findings import Section, many
from visurf.doctor.pictures import draw_frames, outlines
from visurf.geometry import Frame, box_iou
from visurf.scoring import RewardError, Scorer, label_completion
from visurf.tasks import answers
from visurf.tasks.task import Task
from visurf.types import Answer, Choice, DataError, Demonstration, Detections, Number, Objects, Points, Sample, Text

FrameOf = Callable[[Sample], Frame | None]
# Least IoU of a box with what the frame makes of it, below which the published rewards call it a miss.
EXPRESSED = 0.5
DRAWN = 6
# The reward of a segmenter's masks has no maximum that a label is bound to reach.
NO_MAXIMUM = ("mask_iou",)


@dataclass(frozen=True)
class Problem:
    """A label that does not come back, or does not earn its maximum.

    Attributes:
        kind: ``mismatch``, ``reward``, ``small`` or ``failed``.
        sample: Whose.
        message: What was expected and what came.
        read: What the label says, where it could be read.
        frame: The model's.
    """

    kind: str
    sample: Sample
    message: str
    read: Answer | None
    frame: Frame


def check_labels(
    samples: Sequence[Sample], frame_of: FrameOf, scorer: Scorer, controls: Controls, *, deliberate: bool
) -> tuple[Section, Section]:
    """Render, read and score the label of every sample.

    Args:
        samples: Those with pictures that open.
        frame_of: The model's frame for a sample; None where it is not known.
        scorer: Of the recipe.
        controls: Of the recipe; a label that is not aligned is raw JSON and not held against the frame.
        deliberate: The reward is a published or paper variant, whose quirks are a warning.

    Returns:
        The section of labels, and that of boxes too small for the frame.
    """
    section, small = Section("labels", "Labels, rendered and read back"), Section("small", "Boxes and the model's frame")
    found: list[Problem] = []
    checked = unknown = boxes = 0
    for sample in samples:
        frame = frame_of(sample)
        if frame is None:
            unknown += 1
            continue
        checked += 1
        boxes += len(outlines(sample.target)[0])
        found += problems(sample, frame, scorer, controls)
    section.facts["labels checked"] = checked
    if unknown:
        section.not_made.append(f"{many(unknown, 'label')}: the model's frame for them is not known")
    if not controls.align:
        section.not_made.append(
            "labels against the model's frame: controls.align is off, so labels are raw JSON of original pixels"
        )
    best, eliminated = maximum(scorer), sum(p.maximum for p in scorer.parts.values() if p.about == "thinking")
    section.facts["largest total"] = f"{best:g}, of which thinking {eliminated:g}"
    _report(section, found, deliberate)
    if boxes:
        small.facts["boxes"] = boxes
        _report_small(small, [p for p in found if p.kind == "small"])
    elif checked:
        small.not_made.append("the targets have no boxes")
    else:
        small.not_made.append("the model's frame is not known")
    return section, small


def maximum(scorer: Scorer) -> float:
    """The largest total of all parts whose maximum is known."""
    return math.fsum(scorer.weights.get(n, 1.0) * p.maximum for n, p in scorer.parts.items() if _bounded(n, p.maximum))


def _bounded(name: str, value: float) -> bool:
    return math.isfinite(value) and name not in NO_MAXIMUM


def problems(sample: Sample, frame: Frame, scorer: Scorer, controls: Controls) -> Iterator[Problem]:
    """What is wrong with one sample's label; nothing for a label as it should be."""
    task, own = scorer.task, own_frame(scorer.task, frame)
    try:
        label = scorer.read(label_completion(task, sample, frame, controls), sample, frame)
    except (DataError, ValueError, TypeError) as error:
        yield Problem("failed", sample, f"cannot be rendered: {error}", None, own)
        return
    wanted = sample.target
    if isinstance(sample.response, Demonstration) and sample.response.answer is not None:
        wanted = sample.response.answer
    read = label.answer
    if label.error is not None:
        message = f"cannot be read back: {label.error.reason} ({label.error.detail}) in {label.text[:200]!r}"
        yield Problem("mismatch", sample, message, None, own)
        return
    difference = differs(wanted, read, own) if controls.align else ""
    if difference:
        yield Problem("mismatch", sample, difference, read, own)
        return
    too_small = list(inexpressible(wanted, read)) if controls.align else []
    try:
        score = scorer.score_label(label, sample, controls)
    except RewardError as error:
        yield Problem("failed", sample, f"its reward fails: {error}", read, own)
        return
    short = _short(scorer, score.parts, eliminated=not label.has_reasoning and controls.eliminate)
    if too_small:
        yield Problem("small", sample, "; ".join(too_small), read, own)
    elif short and is_coarse(wanted, own):
        yield Problem("small", sample, f"the frame rounds the label until {short}", read, own)
    elif short and controls.align:
        yield Problem("reward", sample, short, read, own)


def own_frame(task: Task, frame: Frame) -> Frame:
    """The frame that a task's answers are in."""
    return frame if task.extent is None else Frame(task.extent, frame.image_size)


def _short(scorer: Scorer, parts: object, *, eliminated: bool) -> str:
    """Which parts pay a label less than their maximum; empty for none."""
    assert isinstance(parts, dict)
    missing = []
    for name, part in scorer.parts.items():
        value = parts.get(name)
        if not _bounded(name, part.maximum) or value is None or (part.about == "thinking" and eliminated):
            continue
        if value < part.maximum - 1e-9:
            missing.append(f"{name} pays {value:g} of {part.maximum:g}")
    return ", ".join(missing)


def differs(target: Answer, read: Answer | None, frame: Frame) -> str:
    """How an answer differs from a target by more than the frame's rounding; empty where it does not."""
    if isinstance(target, Choice | Number | Text):
        # A class name or text may be written in another case; a number in another form.
        return "" if answers.equal(target, read) else f"says {read!r}, the target is {target!r}"
    boxes, points = outlines(target)
    said, said_points = outlines(read)
    if len(said) != len(boxes) and not isinstance(target, Points):
        return f"has {many(len(said), 'box', 'boxes')}, the target has {len(boxes)}"
    bound = frame.rounding_bound()
    if not isinstance(target, Points):
        for box, other in zip(boxes, said, strict=True):
            if not _within(box, other, bound):
                return f"says box {_numbers(other)}, the target is {_numbers(box)}; the frame rounds by {_numbers(bound)} at most"
    if isinstance(target, Detections) and isinstance(read, Detections):
        for confidence, written in zip(target.confidences, read.confidences, strict=True):
            if abs(confidence - written) > 0.005 + 1e-9:
                return f"says confidence {written:g}, the target is {confidence:g}"
    if points and (isinstance(target, Points | Objects)):
        if len(said_points) != len(points):
            return f"has {many(len(said_points), 'point')}, the target has {len(points)}"
        for point, near in zip(points, said_points, strict=True):
            if not _within(point, near, bound):
                return f"says point {_numbers(near)}, the target is {_numbers(point)}"
    return ""


def _within(values: Sequence[float], others: Sequence[float], bound: tuple[float, float]) -> bool:
    return all(abs(v - o) <= bound[i % 2] * (1 + 1e-9) for i, (v, o) in enumerate(zip(values, others, strict=True)))


def _numbers(values: Sequence[float]) -> str:
    return f"({', '.join(f'{v:.4g}' for v in values)})"


def inexpressible(target: Answer, read: Answer | None) -> Iterator[str]:
    """Boxes of a target whose nearest box in the frame, which the label says, does not overlap them enough to count as found."""
    if isinstance(target, Points):
        return
    for box, other in zip(outlines(target)[0], outlines(read)[0], strict=True):
        iou = box_iou(box, other)
        if iou <= EXPRESSED:
            yield f"{box[2] - box[0]:.4g} x {box[3] - box[1]:.4g} pixels; IoU {iou:.2f} in the frame"


def is_coarse(target: Answer, frame: Frame) -> bool:
    """Whether a target has a side below three units of the frame, so that rounding decides what it earns."""
    unit = frame.rounding_bound()
    return any(min((b[2] - b[0]) / unit[0], (b[3] - b[1]) / unit[1]) < 3 for b in outlines(target)[0])


def _report(section: Section, found: Sequence[Problem], deliberate: bool) -> None:
    kinds = {kind: [p for p in found if p.kind == kind] for kind in ("failed", "mismatch", "reward")}
    if some := kinds["failed"]:
        section.error(f"labels that cannot be used: {len(some):,}", "mend or leave out these samples", _lines(some))
    if some := kinds["mismatch"]:
        section.error(
            f"labels that do not come back as their target: {len(some):,}",
            "a response must answer in the model's frame; {thinking, answer} is rendered in any (docs/data.md)",
            _lines(some),
        )
    if some := kinds["reward"]:
        add = section.warn if deliberate else section.error
        remedy = "reward.variant=sound pays right answers in full" if deliberate else "the reward does not pay what is true"
        add(f"labels that are right and do not earn their maximum: {len(some):,}", remedy, _lines(some))
    for problem in [*kinds["mismatch"], *kinds["reward"]][:DRAWN]:
        picture = draw_frames(problem.sample, problem.read, problem.frame, f"{problem.sample.id}: {problem.message}")
        if picture is not None:
            section.pictures.append(picture)


def _report_small(section: Section, found: Sequence[Problem]) -> None:
    if not found:
        return
    section.warn(
        f"samples with boxes too small for the model's frame, on which no answer can earn the full reward: {len(found):,}",
        "raise model.max_pixels (or crop the pictures), or leave these samples out",
        _lines(found),
    )
    for problem in found[:DRAWN]:
        picture = draw_frames(problem.sample, problem.read, problem.frame, f"{problem.sample.id}: {problem.message}")
        if picture is not None:
            section.pictures.append(picture)


def _lines(found: Sequence[Problem]) -> list[str]:
    return [f"{p.sample.id}: {p.message}" for p in found]
