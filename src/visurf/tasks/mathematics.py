"""Mathematical reasoning: a number, an expression or an option."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from visurf.geometry import Frame
from visurf.metrics.mathvista import IntegerRule, mathvista_correct, normalise_mathvista
from visurf.parsing import parse_choice, parse_number, parse_text
from visurf.rewards import visionreasoner
from visurf.rewards.grading import GradingError, GradingTimeout
from visurf.rewards.mathematics import answer_accuracy, symbolic_match
from visurf.tasks import answers
from visurf.tasks.task import Metric, Part, RewardSettings, Task
from visurf.types import Answer, Choice, Completion, Number, ParseError, Sample, Text


def parse(text: str, sample: Sample, frame: Frame) -> Choice | Number | Text | ParseError:
    """An option where the target is one; else a number, or the text of what is no plain number, such as a fraction.

    What names no option of a problem of MathVista stays the text it is: its script takes the nearest option.
    """
    if isinstance(sample.target, Choice):
        choice = parse_choice(text, sample.target.options)
        return parse_text(text) if isinstance(choice, ParseError) and _is_mathvista(sample) else choice
    if isinstance(sample.target, Number):
        number = parse_number(text)
        if isinstance(number, Number):
            return number
    return parse_text(text)


def _is_mathvista(sample: Sample) -> bool:
    return "question_type" in sample.meta and "answer_type" in sample.meta


def _graded(sample: Sample, answer: Answer | None) -> float | None:
    """1 for an equal answer, plainly or by math-verify; None where the comparison was stopped or the library failed."""
    if answer is None or answers.equal(sample.target, answer):
        return float(answer is not None)
    if isinstance(sample.target, Choice) or (isinstance(sample.target, Number) and isinstance(answer, Number)):
        # Options and plain numbers are compared as what they are; a symbolic library would add nothing but time.
        return 0.0
    try:
        return float(symbolic_match(f"${answers.written(answer)}$", f"${answers.written(sample.target)}$"))
    except (GradingTimeout, GradingError):
        return None


def parts(settings: RewardSettings) -> dict[str, Part]:
    """Thinking format 1, accuracy 1.

    `sound` compares options and plain numbers as such and everything else by math-verify; `published` and `paper` grade the
    first single-line answer as Seg-Zero's released reward does. A comparison stopped at its time limit abstains.
    """

    def published(completion: Completion, sample: Sample) -> float | None:
        try:
            return answer_accuracy(completion.text, answers.written(sample.target))
        except GradingTimeout:
            return None

    def sound(completion: Completion, sample: Sample) -> float | None:
        return _graded(sample, completion.answer)

    return {
        "thinking_format": Part(lambda c, _: visionreasoner.thinking_format(c.text), 1.0, "thinking"),
        "accuracy": Part(sound if settings.variant == "sound" else published, 1.0, "accuracy"),
    }


def mathvista_flag(meta: Mapping[str, Any], extraction: str | None, rule: IntegerRule) -> bool:
    """Whether an extraction is right by MathVista's script: normalise by kind of answer, then compare as text.

    Args:
        meta: The problem's question_type, answer_type, choices, precision and answer.
        extraction: What was taken out of a response; None is never right.
        rule: Which of the two published rules reads integers.
    """
    if extraction is None:
        return False
    fields = {name: meta[name] for name in ("question_type", "answer_type", "choices", "precision")}
    return mathvista_correct(normalise_mathvista(extraction, **fields, integer_rule=rule), meta["answer"])


def judge(sample: Sample, answer: Answer | None) -> dict[str, float | None]:
    """`right`: 1 or 0; for a problem of MathVista `mathvista` and `mathvista_older`, by its script and the older one.

    MathVista compares texts, so its problems need no symbolic library.
    """
    if _is_mathvista(sample):
        said = None if answer is None else answers.written(answer)
        return {
            "mathvista": float(mathvista_flag(sample.meta, said, "int(float(x))")),
            "mathvista_older": float(mathvista_flag(sample.meta, said, "int(x)")),
        }
    return {"right": _graded(sample, answer) or 0.0}


MATHEMATICS = Task(
    name="mathematics",
    prompts=answers.PROMPTS,
    default_prompt="default",
    target=(Number, Text, Choice),
    label_text=answers.render,
    parse=parse,
    parts=parts,
    judge=judge,
    metrics={
        "accuracy": Metric("right"),
        "mathvista": Metric("mathvista"),
        "mathvista_older": Metric("mathvista_older"),
    },
    slots=answers.SLOTS,
    settle=answers.settle,
)
