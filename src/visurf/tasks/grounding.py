"""Reasoning grounding (LISA) in Visual-RFT's form: one box ``(x1,y1),(x2,y2)``, integers 0 to 1000 (arXiv 2503.01785)."""

from __future__ import annotations

import json

from visurf.geometry import Frame
from visurf.parsing import parse_corners
from visurf.rewards import visual_rft
from visurf.tasks import segmentation
from visurf.tasks.task import Part, RewardSettings, Task
from visurf.types import Answer, Box, Completion, DataError, Objects, ParseError, Sample

# Published prompt with its typos: Liuziyu77/Visual-RFT. It never says in which frame the numbers are; the published labels
# are in 0-1000 whatever the model.
PUBLISHED = (
    "Output the bounding box in the image corresponding to the instruction: {question}. "
    "Output the thinking process in <think> </think> and your grouding box. "
    'Following "<think> thinking process </think>\n<answer>(x1,y1),(x2,y2)</answer>)" format.'
)
EXPLICIT = PUBLISHED + " Coordinates are integers between 0 and 1000."
EXTENT = (1000.0, 1000.0)


def _box(target: Objects) -> Box:
    if not target.boxes:
        raise ValueError("grounding needs a true box, got none; ask what may be absent with the task referring")
    return target.boxes[0]


def render_answer(target: Objects, frame: Frame, align: bool = True) -> str:
    """The first box of a label; a JSON list of original pixels when not aligned.

    Raises:
        ValueError: There is no box.
    """
    if not align:
        return f"<answer>{json.dumps([round(v) for v in _box(target)])}</answer>"
    x1, y1, x2, y2 = Frame(EXTENT, frame.image_size).encode_box(_box(target))
    return f"<answer>({x1},{y1}),({x2},{y2})</answer>"


def parse(text: str, sample: Sample, frame: Frame) -> Objects | ParseError:
    """See `visurf.parsing.parse_corners`; the frame is 0-1000 whatever the model's."""
    return parse_corners(text, Frame(EXTENT, frame.image_size))


def settle(target: Answer) -> Answer:
    """A target with a box to answer.

    Raises:
        DataError: There is none.
    """
    if isinstance(target, Objects) and not target.boxes:
        raise DataError("expected a box, got none; ask what may be absent with the task referring")
    return target


def parts(settings: RewardSettings) -> dict[str, Part]:
    """Format 1 (the whole text is a thought and an answer), generalised IoU + 1: see `visurf.rewards.visual_rft.grounding`."""

    def accuracy(completion: Completion, sample: Sample) -> float:
        assert isinstance(sample.target, Objects)
        if settings.variant != "published" and not isinstance(completion.answer, Objects):
            return 0.0
        label = render_answer(sample.target, Frame(EXTENT, sample.size))
        return visual_rft.grounding(completion.text, label, variant=settings.variant)

    return {
        "format": Part(lambda c, _: visual_rft.thinking_format(c.text), 1.0, "thinking"),
        "accuracy": Part(accuracy, 2.0, "accuracy"),
    }


def judge(sample: Sample, answer: Answer | None) -> dict[str, float | None]:
    """See `visurf.tasks.segmentation.measure`."""
    return segmentation.measure(sample, answer)


GROUNDING = Task(
    name="grounding",
    prompts={"published": PUBLISHED, "explicit": EXPLICIT, "bare": "{question}"},
    default_prompt="explicit",
    target=Objects,
    label_text=render_answer,
    parse=parse,
    parts=parts,
    judge=judge,
    metrics={name: metric for name, metric in segmentation.METRICS.items() if name in ("giou", "ciou", "box_iou", "box_accuracy")},
    headline="box_iou",
    settle=settle,
    extent=EXTENT,
)
