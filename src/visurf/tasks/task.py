"""What a task is: a plain value that brings prompt, label text, parser, rewards and metrics together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from visurf.geometry import Frame
from visurf.rewards import Variant
from visurf.types import Answer, Completion, ParseError, Sample

RewardFunction = Callable[[Completion, Sample], float | None]
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """One named part of a reward.

    Attributes:
        function: (completion, sample) -> a float in [minimum, maximum], or None to abstain.
        maximum: What a perfect completion earns.
        about: What it pays for. The eliminate control acts on `thinking`, smoothing may compare `accuracy`.
        batch: The same for several completions of one sample at once, where that is another computation; None to call
            `function` for each.
    """

    function: RewardFunction
    maximum: float
    about: Literal["thinking", "format", "accuracy"]
    batch: Callable[[Sequence[Completion], Sample], Sequence[float | None]] | None = None


@dataclass(frozen=True)
class RewardSettings:
    """What a task's rewards can be told: which variant, and the frame (width, height) of pixel thresholds."""

    variant: Variant = "sound"
    frame: tuple[float, float] = (840.0, 840.0)


@dataclass(frozen=True)
class Task:
    """A visual task.

    Attributes:
        name: What recipes call it.
        prompts: Named prompt templates; ``{question}`` is where the sample's question goes.
        default_prompt: The template for users' own data.
        target: The type of its targets.
        label_text: (target, frame, align) -> the label's answer as the policy writes it, or as raw JSON when not aligned.
        parse: (text, sample, frame) -> answer in original pixels, or a named error.
        parts: Settings -> the reward's named parts, each with weight 1.
        judge: (sample, answer or None) -> per-sample measures that `metrics` averages.
        metrics: Records -> named metrics, fractions.
        headline: The metric by which checkpoints are compared.
        prepare_question: What is done to a question before it goes into a template, by template name.
    """

    name: str
    prompts: Mapping[str, str]
    default_prompt: str
    target: type
    label_text: Callable[[Any, Frame, bool], str]
    parse: Callable[[str, Sample, Frame], Answer | ParseError]
    parts: Callable[[RewardSettings], dict[str, Part]]
    judge: Callable[[Sample, Answer | None], dict[str, float | None]]
    metrics: Callable[[Sequence[Record]], dict[str, float]]
    headline: str = "accuracy"
    prepare_question: Mapping[str, Callable[[str], str]] = field(default_factory=dict)

    def prompt(self, sample: Sample, template: str = "") -> str:
        """The user's turn for a sample.

        Args:
            sample: Brings the question.
            template: A name of `prompts`, or a text with ``{question}``; empty for the default.

        Raises:
            ValueError: Neither a known name nor a template.
        """
        name = template or self.default_prompt
        if name not in self.prompts and "{question}" not in name:
            raise ValueError(f"task {self.name}: prompt {name!r} is neither one of {sorted(self.prompts)} nor holds {{question}}")
        question = self.prepare_question.get(name, str)(sample.question)
        return self.prompts.get(name, name).replace("{question}", question)


def mean(values: Sequence[float | None]) -> float:
    """The mean of what is not None; NaN when nothing is left."""
    numbers = [v for v in values if v is not None]
    return sum(numbers) / len(numbers) if numbers else float("nan")


def has_thinking(text: str) -> bool:
    """Whether a completion reasons before it answers: a non-empty thought in front of the answer."""
    start, end = text.find("<think>"), text.find("</think>")
    return 0 <= start < end and bool(text[start + len("<think>") : end].strip()) and text.find("<answer>", end) > 0
