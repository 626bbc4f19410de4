"""A task of one's own: read a clock in minutes, with a reward that falls with the distance on the dial. Used from a recipe:

task: {name: examples/task.py:CLOCK}

and rows such as {"id": 1, "image": "clock.png", "question": "What is the time?", "target": {"number": 125}}.
"""

from visurf.geometry import Frame
from visurf.parsing import parse_number
from visurf.rewards.visionreasoner import thinking_format
from visurf.tasks.task import Metric, Part, RewardSettings, Task
from visurf.types import Answer, Number, ParseError, Sample

DIAL = 12 * 60


def minutes_off(truth: Number, answer: Answer | None) -> float | None:
    """Distance on the dial in minutes, at most half a turn; None for an answer that is none."""
    if not isinstance(answer, Number) or not 0 <= answer.value < DIAL:
        return None
    apart = abs(truth.value - answer.value) % DIAL
    return min(apart, DIAL - apart)


def closeness(sample: Sample, answer: Answer | None) -> float:
    """1 for the minute, 0 for an hour off or more, or for no answer."""
    off = minutes_off(sample.target, answer)
    return 0.0 if off is None else max(0.0, 1 - off / 60)


def parts(settings: RewardSettings) -> dict[str, Part]:
    return {
        # The largest value each can give, and what the eliminate control and the smoothing test look at.
        "thinking_format": Part(lambda c, _: thinking_format(c.text), 1.0, "thinking"),
        "accuracy": Part(lambda c, s: closeness(s, c.answer), 1.0, "accuracy"),
    }


def parse(text: str, sample: Sample, frame: Frame) -> Number | ParseError:
    return parse_number(text)


CLOCK = Task(
    name="clock",
    prompts={"default": "{question} Think in <think> </think>, then give minutes since twelve in <answer> </answer>."},
    default_prompt="default",
    target=Number,
    label_text=lambda target, frame, align: f"<answer>{target.text}</answer>",
    parse=parse,
    parts=parts,
    judge=lambda sample, answer: {"close": closeness(sample, answer)},
    metrics={"closeness": Metric("close"), "within_6_minutes": Metric("close", at_least=0.9)},
    headline="closeness",
)
