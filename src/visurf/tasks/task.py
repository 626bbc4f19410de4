"""What a task is: a plain value that brings prompt, label text, parser, rewards and metrics together."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from visurf.geometry import Frame
from visurf.metrics.intervals import Interval, bootstrap_interval, bootstrap_statistic
from visurf.rewards import Variant
from visurf.types import Answer, Completion, ParseError, Sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

RewardFunction = Callable[[Completion, Sample], float | None]
Record = Mapping[str, Any]
# Records -> how many units are resampled, and the value for given units (indices, with repetitions).
Statistic = Callable[[Sequence[Record]], tuple[int, Callable[["NDArray[np.intp]"], float]]]
_SLOT = re.compile(r"\{([a-z_]+)\}")


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
class Metric:
    """One number over all records of an evaluation, a fraction unless the task says otherwise.

    Attributes:
        measure: The per-sample measure that is averaged; where it is None the metric does not apply to the sample.
        denominator: Another measure: the metric is then the sum of the first over the sum of this one.
        at_least: The metric is the share of samples whose measure reaches this.
        statistic: Instead of all that, what is no mean: ROC-AUC, AP.
    """

    measure: str = ""
    denominator: str = ""
    at_least: float | None = None
    statistic: Statistic | None = None

    def applies(self, records: Sequence[Record]) -> bool:
        """Whether any record knows the measure, be it None."""
        return self.statistic is not None or any(self.measure in r["measures"] for r in records)

    def value(self, records: Sequence[Record]) -> float:
        """The number; NaN where nothing is left to average."""
        if self.statistic is not None:
            count, statistic = self.statistic(records)
            return statistic(np.arange(count))
        above, below = self._columns(records)
        total = math.fsum(below)
        return math.fsum(above) / total if total else math.nan

    def interval(self, records: Sequence[Record], *, resamples: int = 1000, seed: int = 0) -> Interval:
        """The number with its 95 % bootstrap interval."""
        if self.statistic is not None:
            count, statistic = self.statistic(records)
            return bootstrap_statistic(statistic, count, resamples=resamples, seed=seed)
        above, below = self._columns(records)
        if not above:
            return Interval(math.nan, math.nan, math.nan, 0)
        return bootstrap_interval(above, denominators=below, resamples=resamples, seed=seed)

    def _columns(self, records: Sequence[Record]) -> tuple[list[float], list[float]]:
        pairs = []
        for record in records:
            value = record["measures"].get(self.measure)
            if value is not None:
                value = value if self.at_least is None else float(value >= self.at_least)
                pairs.append((float(value), float(record["measures"][self.denominator]) if self.denominator else 1.0))
        return [a for a, _ in pairs], [b for _, b in pairs]


@dataclass(frozen=True)
class Task:
    """A visual task.

    Attributes:
        name: What recipes call it.
        prompts: Named prompt templates; ``{question}`` is where the sample's question goes, other slots are in `slots`.
        default_prompt: The template for users' own data.
        target: The type, or types, of its targets; the first is what labels in JSONL become.
        label_text: (target, frame, align) -> the label's answer as the policy writes it, or as raw JSON when not aligned.
        parse: (text, sample, frame) -> answer in original pixels, or a named error.
        parts: Settings -> the reward's named parts, each with weight 1.
        judge: (sample, answer or None) -> per-sample measures that `metrics` are made of.
        metrics: Named metrics.
        headline: The metric by which checkpoints are compared.
        prepare_question: What is done to a question before it goes into a template, by template name.
        slots: Further slots of the templates, each with what a sample puts into it.
        options: Two answers; evaluation adds the first's log-prob less the second's as ``score``, for a ranking.
        settle: A target when its row is read -> the same as its parser would give it; a DataError for one that no answer can
            equal. None where every target of the type can be answered.
        check: A DataError for a sample whose meta its rewards cannot use; None where they use none.
        extent: Width and height of the frame that its answers are in, where that is not the model's.
    """

    name: str
    prompts: Mapping[str, str]
    default_prompt: str
    target: type | tuple[type, ...]
    label_text: Callable[[Any, Frame, bool], str]
    parse: Callable[[str, Sample, Frame], Answer | ParseError]
    parts: Callable[[RewardSettings], dict[str, Part]]
    judge: Callable[[Sample, Answer | None], dict[str, float | None]]
    metrics: Mapping[str, Metric]
    headline: str = "accuracy"
    prepare_question: Mapping[str, Callable[[str], str]] = field(default_factory=dict)
    slots: Mapping[str, Callable[[Sample], str]] = field(default_factory=dict)
    options: tuple[str, str] | None = None
    settle: Callable[[Answer], Answer] | None = None
    check: Callable[[Sample], None] | None = None
    extent: tuple[float, float] | None = None

    @property
    def targets(self) -> tuple[type, ...]:
        """The types of its targets."""
        return self.target if isinstance(self.target, tuple) else (self.target,)

    @property
    def target_names(self) -> str:
        """The types of its targets, in words."""
        return " or ".join(t.__name__ for t in self.targets)

    def prompt(self, sample: Sample, template: str = "") -> str:
        """The user's turn for a sample.

        Args:
            sample: Brings the question and what the slots ask for.
            template: A name of `prompts`, or a text with ``{question}`` or another slot; empty for the default.

        Raises:
            ValueError: Neither a known name nor a template.
        """
        name = template or self.default_prompt
        fill = {"question": lambda s: self.prepare_question.get(name, str)(s.question), **self.slots}
        if name not in self.prompts and not any(f"{{{slot}}}" in name for slot in fill):
            raise ValueError(f"task {self.name}: prompt {name!r} is neither one of {sorted(self.prompts)} nor holds {{question}}")
        # One pass, so that braces inside a question stay what they are; braces of no slot stay too.
        return _SLOT.sub(lambda m: fill[m[1]](sample) if m[1] in fill else m[0], self.prompts.get(name, name))

    def values(self, records: Sequence[Record]) -> dict[str, float]:
        """Every metric whose measure the records know."""
        return {name: metric.value(records) for name, metric in self.metrics.items() if metric.applies(records)}


def has_thinking(text: str) -> bool:
    """Whether a completion reasons before it answers: a non-empty thought in front of the answer."""
    start, end = text.find("<think>"), text.find("</think>")
    return 0 <= start < end and bool(text[start + len("<think>") : end].strip()) and text.find("<answer>", end) > 0
