"""Fine-grained classification: the name of a class, in Visual-RFT's form (arXiv 2503.01785)."""

from __future__ import annotations

from visurf.geometry import Frame
from visurf.parsing import parse_text
from visurf.rewards import visual_rft
from visurf.tasks import answers
from visurf.tasks.task import Metric, Part, RewardSettings, Task
from visurf.types import Answer, Completion, DataError, ParseError, Sample, Text

# Published prompt: Liuziyu77/Visual-RFT; noun and slot per data set (plant/species, pet/breed, aircraft/model, car/model).
PUBLISHED = (
    "This is an image containing {a_noun}. Please identify the {slot} of the {noun} based on the image. "
    "Output the thinking process in <think> </think> and final answer in <answer> </answer> tags. "
    "The output answer format should be as follows:\n"
    "<think> ... </think> <answer>{slot} name</answer>\n"
    "Please strictly follow the format."
)
VOWELS = "aeiou"


def _noun(sample: Sample) -> str:
    return str(sample.meta.get("noun", "object"))


def _a_noun(sample: Sample) -> str:
    return f"{'an' if _noun(sample)[:1].lower() in VOWELS else 'a'} {_noun(sample)}"


def _slot(sample: Sample) -> str:
    return str(sample.meta.get("slot", "class"))


def parse(text: str, sample: Sample, frame: Frame) -> Text | ParseError:
    """See `visurf.parsing.parse_text`."""
    return parse_text(text)


def _name(sample: Sample) -> str:
    assert isinstance(sample.target, Text)
    return sample.target.text


def parts(settings: RewardSettings) -> dict[str, Part]:
    """Format 1 (the whole text is a thought and an answer), accuracy 1: see `visurf.rewards.visual_rft.classification`."""

    def accuracy(completion: Completion, sample: Sample) -> float:
        return visual_rft.classification(completion.text, _name(sample), variant=settings.variant)

    return {
        "format": Part(lambda c, _: visual_rft.thinking_format(c.text), 1.0, "thinking"),
        "accuracy": Part(accuracy, 1.0, "accuracy"),
    }


def judge(sample: Sample, answer: Answer | None) -> dict[str, float | None]:
    """`right`: the class name, word for word; `right_substring`: either name contains the other, as published."""
    said = f"<answer>{answer.text}</answer>" if isinstance(answer, Text) else ""
    if not said:
        return {"right": 0.0, "right_substring": 0.0}
    return {
        "right": visual_rft.classification(said, _name(sample)),
        "right_substring": visual_rft.classification(said, _name(sample), variant="published"),
    }


def settle(target: Answer) -> Answer:
    """A class name that an answer can give, see `visurf.tasks.answers.settle`.

    Raises:
        DataError: It cannot be answered, or nothing is left of it once articles and full stops do not count.
    """
    if isinstance(target, Text) and not visual_rft.class_words(target.text):
        raise DataError(f"expected the name of a class, got {target.text!r:.100}")
    return answers.settle(target)


CLASSIFICATION = Task(
    name="classification",
    prompts={"published": PUBLISHED, "question": answers.PROMPT, "bare": "{question}"},
    default_prompt="published",
    target=Text,
    label_text=answers.render,
    parse=parse,
    parts=parts,
    judge=judge,
    metrics={"accuracy": Metric("right"), "accuracy_published": Metric("right_substring")},
    slots={"noun": _noun, "a_noun": _a_noun, "slot": _slot, **answers.SLOTS},
    settle=settle,
)
