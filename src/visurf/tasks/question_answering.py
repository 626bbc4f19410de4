"""Free questions about an image: a short text, right as its data set counts it."""

from __future__ import annotations

from visurf.geometry import Frame
from visurf.metrics.text import anls_score, relaxed_correct
from visurf.parsing import parse_text
from visurf.tasks import answers
from visurf.tasks.task import Metric, Task
from visurf.types import Answer, DataError, ParseError, Sample, Text

SCORINGS = ("exact", "relaxed", "anls")


def parse(text: str, sample: Sample, frame: Frame) -> Text | ParseError:
    """See `visurf.parsing.parse_text`."""
    return parse_text(text)


def _scoring(sample: Sample) -> str:
    scoring = sample.meta.get("scoring", "exact")
    if scoring not in SCORINGS:
        raise DataError(f"sample {sample.id}: meta 'scoring': expected one of {SCORINGS}, got {scoring!r}")
    return str(scoring)


def check(sample: Sample) -> None:
    """Refuse what `right` cannot use.

    Raises:
        DataError: An unknown scoring, or accepted answers that are no list of texts, or all blank.
    """
    accepted = sample.meta.get("answers")
    # A blank one among others only stands for "nothing", which nobody can answer.
    texts = isinstance(accepted, list | tuple) and all(isinstance(a, str) for a in accepted)
    if _scoring(sample) == "anls" and accepted is not None and not (texts and (not accepted or any(map(str.strip, accepted)))):
        raise DataError(f"sample {sample.id}: meta 'answers': expected a list of texts, got {accepted!r:.100}")


def right(sample: Sample, answer: Answer | None) -> float:
    """How right an answer is, as ``meta["scoring"]`` says; 0 for one that could not be parsed.

    `relaxed`: 1 or 0 by ChartQA's relaxed comparison. `anls`: DocVQA's similarity to the nearest of ``meta["answers"]``, 0
    or at least 0.5. `exact`, the default: 1 for the same text up to case, underscores, spaces and a final stop.

    Raises:
        DataError: An unknown scoring.
    """
    scoring = _scoring(sample)
    if not isinstance(answer, Text) or not isinstance(sample.target, Text):
        return 0.0
    if scoring == "relaxed":
        return float(relaxed_correct(answer.text, sample.target.text))
    if scoring == "anls":
        return anls_score(answer.text, sample.meta.get("answers") or (sample.target.text,))
    return answers.right_answer(sample, answer)


def judge(sample: Sample, answer: Answer | None) -> dict[str, float | None]:
    """`right`, and the same under the name of the data set's metric; ChartQA's halves apart too."""
    value = right(sample, answer)
    scoring, part = sample.meta.get("scoring", "exact"), sample.meta.get("part")
    if scoring == "anls":
        return {"anls": value}
    if scoring == "exact":
        return {"right": value}
    halves = {f"relaxed_{half}": value if part == half else None for half in ("human", "augmented")} if part else {}
    return {"relaxed": value, **halves}


QUESTION_ANSWERING = Task(
    name="question_answering",
    prompts=answers.PROMPTS,
    default_prompt="default",
    target=Text,
    label_text=answers.render,
    parse=parse,
    parts=answers.parts_of(right),
    judge=judge,
    metrics={
        "accuracy": Metric("right"),
        "relaxed_accuracy": Metric("relaxed"),
        "relaxed_accuracy_human": Metric("relaxed_human"),
        "relaxed_accuracy_augmented": Metric("relaxed_augmented"),
        "anls": Metric("anls"),
    },
    slots=answers.SLOTS,
    settle=answers.settle,
    check=check,
)
