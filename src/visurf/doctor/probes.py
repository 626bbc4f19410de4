"""Texts that try to earn a reward without being right: what a policy under optimisation pressure would find. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from visurf.doctor.attempts import CONFIDENCE, THOUGHT, Setting, near_miss
from visurf.geometry import Frame
from visurf.types import Box, Choice, Detections, Masks, Number, Objects, Points, Text

BOXES: tuple[type, ...] = (Objects, Detections, Masks)
WORDS: tuple[type, ...] = (Text, Choice, Number)
PLACES: tuple[type, ...] = (*BOXES, Points)
EVERY: tuple[type, ...] = (*PLACES, *WORDS)
_FOUR = re.compile(r"(\d+)(,\s*)(\d+)(\)?,\s*\(?)(\d+)(,\s*)(\d+)")


@dataclass(frozen=True)
class Probe:
    """One way to try.

    Attributes:
        name: What people read.
        targets: The kinds of targets it makes sense for.
        otherwise: Why it does not apply to the others.
        write: The completion for a sample, or None where it does not apply to that sample.
        whole: It is a part of the right answer, and may earn anything less than the whole of it.
    """

    name: str
    targets: tuple[type, ...]
    otherwise: str
    write: Callable[[Setting], str | None]
    whole: bool = False


def _nothing(setting: Setting) -> str | None:
    target = setting.sample.target
    if isinstance(target, Detections):
        return setting.write(Detections()) if target.boxes else None
    # A right answer is none to try with.
    if isinstance(target, Points):
        return setting.say("[]")
    return setting.say("[]") if setting.true_boxes else None


def _every_name(setting: Setting) -> str | None:
    target = setting.sample.target
    if isinstance(target, Choice):
        return setting.say(", ".join(chr(ord("A") + i) for i in range(max(len(target.options), 2))))
    if isinstance(target, Number):
        return setting.say(" ".join(str(i) for i in range(max(int(min(target.value, 500)) + 5, 20)))) if target.value >= 0 else None
    assert isinstance(target, Text)
    if target.text.strip().casefold() in ("yes", "no"):
        return setting.say("yes or no")
    names = list(dict.fromkeys([*setting.names[:200], target.text]))
    return setting.say(" or ".join(names)) if len(names) > 1 else None


def _whole_image(setting: Setting) -> str:
    return setting.write(setting.boxes([(0.0, 0.0, float(setting.size[0]), float(setting.size[1]))]))


def _grid(setting: Setting) -> list[Box]:
    width, height = setting.size
    return [(i * width / 10, j * height / 10, (i + 1) * width / 10, (j + 1) * height / 10) for j in range(10) for i in range(10)]


def _hundred(setting: Setting) -> str:
    if isinstance(setting.sample.target, Points):
        return setting.write(Points(tuple(((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for b in _grid(setting))))
    return setting.write_many(_grid(setting))


def _jittered(setting: Setting, count: int = 8) -> str | None:
    target, unit = setting.sample.target, Frame.rounding_bound(setting.frame)
    if isinstance(target, Points):
        return setting.write(Points(tuple((p[0] + i * unit[0], p[1]) for p in target.points for i in range(count))))
    if not setting.true_boxes:
        return None
    copies = [(b[0], b[1], b[2] + i * unit[0], b[3]) for b in setting.true_boxes for i in range(count)]
    return setting.write_many(copies)


def _not_a_number(setting: Setting) -> str | None:
    right = _boxes_right(setting)
    if right is None:
        return setting.say("NaN") if isinstance(setting.sample.target, Number) else None
    return re.sub(r"\d+", "NaN", right, count=1) if not isinstance(setting.sample.target, Detections) else None


def _boxes_right(setting: Setting) -> str | None:
    target = setting.sample.target
    if isinstance(target, Points):
        return setting.write(target)
    return setting.write(setting.boxes(setting.true_boxes)) if setting.true_boxes else None


def _confidence(value: str) -> Callable[[Setting], str | None]:
    def write(setting: Setting) -> str | None:
        if not isinstance(setting.sample.target, Detections) or not setting.true_boxes:
            return None
        missed = setting.write(setting.boxes([near_miss(b, setting.size) for b in setting.true_boxes]))
        return missed.replace(f"{CONFIDENCE:.2f}", value)

    return write


def _swapped(setting: Setting) -> str | None:
    right = _boxes_right(setting)
    return None if right is None else _FOUR.sub(r"\5\2\7\4\1\6\3", right)


def _one_of_many(setting: Setting) -> str | None:
    if len(setting.true_boxes) < 2 or isinstance(setting.sample.target, Points) or setting.one_box:
        return None
    return setting.write(setting.boxes(setting.true_boxes[:1]))


def _in_the_thought(setting: Setting) -> str:
    from visurf.doctor.attempts import wrong

    copied = setting.content(setting.sample.target)
    return wrong(setting).replace(THOUGHT, f"{THOUGHT} {copied}", 1)


def _other_frame(setting: Setting) -> str | None:
    """The right numbers in the other convention: 0-1000 where the answer is in pixels, pixels where it is in 0-1000."""
    size, target = setting.size, setting.sample.target
    own = setting.frame if setting.task.extent is None else Frame(setting.task.extent, size)
    other = Frame((1000.0, 1000.0), size) if tuple(own.extent) != (1000.0, 1000.0) else Frame(size, size)
    if isinstance(target, Points):
        return setting.write(Points(tuple(own.decode_point(other.encode_point(p)) for p in target.points)))
    if not setting.true_boxes:
        return None
    return setting.write_many([own.decode_box(other.encode_box(b)) for b in setting.true_boxes])


def _letter(setting: Setting) -> str | None:
    assert isinstance(setting.sample.target, Text)
    name = setting.sample.target.text.strip()
    return setting.say(name[0]) if len(name) > 1 else None


def _negated(setting: Setting) -> str | None:
    assert isinstance(setting.sample.target, Text)
    return setting.say(f"not {setting.sample.target.text}")


_NO_BOX, _NO_WORDS, _NO_CONFIDENCE = "the answer has no box", "the answer names no class", "the answer has no confidence"
PROBES = (
    Probe("no text at all", EVERY, "", lambda s: ""),
    Probe("empty answer", EVERY, "", lambda s: s.say("")),
    Probe("nothing found, where something is", PLACES, "the answer is in words", _nothing),
    Probe("every class listed", WORDS, _NO_WORDS, _every_name),
    Probe("one letter of the class", (Text,), _NO_WORDS, _letter),
    Probe("not the class", (Text,), _NO_WORDS, _negated),
    Probe("whole-image box", BOXES, _NO_BOX, _whole_image),
    Probe("100 boxes", PLACES, _NO_BOX, _hundred),
    Probe("jittered duplicates", PLACES, _NO_BOX, _jittered),
    Probe("corners swapped", BOXES, _NO_BOX, _swapped),
    Probe("one object of many", BOXES, _NO_BOX, _one_of_many, whole=True),
    Probe("NaN confidence", (Detections,), _NO_CONFIDENCE, _confidence("NaN")),
    Probe("confidence below 0", (Detections,), _NO_CONFIDENCE, _confidence("-5.00")),
    Probe("infinite confidence", (Detections,), _NO_CONFIDENCE, _confidence("Infinity")),
    Probe("NaN as a number", (Objects, Masks, Points, Number), "the answer has no coordinates or number", _not_a_number),
    Probe("wrong class with the right box", (), "no answer of this task holds both a class and a box", lambda s: None),
    Probe("label copied into the thinking part", EVERY, "", _in_the_thought),
    Probe("0-1000 and pixels mixed up", PLACES, "the answer has no coordinates", _other_frame),
)
