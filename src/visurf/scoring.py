"""Completions become scores: parse once, apply every part, weigh; nothing ever becomes a silent 0."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from visurf.control import Controls, eliminate, total
from visurf.demonstrations import render_demonstration
from visurf.geometry import Frame
from visurf.naming import load_object
from visurf.rewards.adapters import from_trl, limited, split_prefix, style_of
from visurf.segmenter import Segmenter
from visurf.tasks.task import Part, Task
from visurf.types import Completion, Demonstration, ParseError, Sample, Score


class RewardError(RuntimeError):
    """A reward raised or returned no number; names the part, the sample and the completion."""


@dataclass
class Scorer:
    """A task's reward, ready to use.

    Attributes:
        task: Parses completions and renders labels.
        parts: The named parts.
        weights: Weight of each part; 1 where not named.
        on_error: `stop` raises; `abstain` leaves the part out of the total and counts it in `failed`.
        failed: How often each part failed so far and abstained for it.
        segmenter: Draws the masks that a part compares, where one does.
    """

    task: Task
    parts: Mapping[str, Part]
    weights: Mapping[str, float] = field(default_factory=dict)
    on_error: str = "stop"
    failed: dict[str, int] = field(default_factory=dict)
    segmenter: Segmenter | None = None

    def __post_init__(self) -> None:
        """Refuse weights of parts that do not exist."""
        unknown = set(self.weights) - set(self.parts)
        if unknown:
            raise ValueError(f"reward.weights names {sorted(unknown)}, the parts are {sorted(self.parts)}")

    def read(self, completion: Completion, sample: Sample, frame: Frame) -> Completion:
        """The completion with its answer or its parse error."""
        answer = self.task.parse(completion.text, sample, frame)
        if isinstance(answer, ParseError):
            return dataclasses.replace(completion, answer=None, error=answer)
        return dataclasses.replace(completion, answer=answer, error=None)

    def score(self, completion: Completion, sample: Sample) -> Score:
        """Every part of a completion that was `read`, and the weighted total.

        Raises:
            RewardError: A part raised or returned NaN or no number, and `on_error` is `stop`.
        """
        return self.score_all([completion], sample)[0]

    def score_all(self, completions: Sequence[Completion], sample: Sample) -> list[Score]:
        """`score` of several completions of one sample; a part that rates them together gets them together."""
        columns = {name: self._column(name, part, completions, sample) for name, part in self.parts.items()}
        rows = [{name: column[i] for name, column in columns.items()} for i in range(len(completions))]
        return [Score(values, total(values, self.weights)) for values in rows]

    def _column(self, name: str, part: Part, completions: Sequence[Completion], sample: Sample) -> list[float | None]:
        """What one part gives every completion, after `on_error`."""
        found: Sequence[Any]
        if part.batch is None:
            found = [_attempt(part.function, completion, sample) for completion in completions]
        else:
            found = _attempt(part.batch, completions, sample)
            if isinstance(found, Exception):
                found = [found] * len(completions)
        return [self._checked(name, value, completion, sample) for value, completion in zip(found, completions, strict=True)]

    def _checked(self, name: str, value: Any, completion: Completion, sample: Sample) -> float | None:
        """A finite number, or None for an abstention, which is counted where it stands for a failure."""
        if not isinstance(value, Exception):
            value = None if value is None else _attempt(float, value)
        if value is None or (not isinstance(value, Exception) and math.isfinite(value)):
            return value
        if self.on_error == "stop":
            problem = value if isinstance(value, Exception) else None
            seen = f"raised {problem!r}" if problem is not None else f"returned {value!r}"
            raise RewardError(
                f"reward {name!r} {seen} on sample {sample.id!r}, completion {completion.text[:2000]!r}. "
                "Fix the function, or set reward.on_error: abstain to leave such parts out, counted"
            ) from problem
        self.failed[name] = self.failed.get(name, 0) + 1
        return None

    def score_label(self, label: Completion, sample: Sample, controls: Controls) -> Score:
        """The label's score by the same functions, after the eliminate control.

        A label that brings its own reasoning is paid like any completion.
        """
        score = self.score(label, sample)
        if label.has_reasoning:
            return score
        thinking = {name: part.maximum for name, part in self.parts.items() if part.about == "thinking"}
        return eliminate(score, thinking, self.weights, on=controls.eliminate)

    def accuracy(self, score: Score) -> float:
        """The weighted sum of the parts that pay for accuracy."""
        return total({n: v for n, v in score.parts.items() if self.parts[n].about == "accuracy"}, self.weights)


def _attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """The value of a call, or the exception it raised."""
    try:
        return function(*arguments)
    except Exception as error:  # noqa: BLE001 - a user's function may raise anything; it is reported with its sample
        return error


def function_part(reference: str, *, prompt: Callable[[Sample], str], limit_s: float = 0.0) -> Part:
    """A user's function as a part that pays for accuracy, without a known maximum.

    Args:
        reference: ``pkg.module:function`` or ``file.py:function``, called as (completion, sample), or as TRL does if it has an
            argument ``completions``. The prefixes ``plain:``, ``trl:`` and ``trl-chat:`` (conversational) say it expressly.
        prompt: What TRL-style functions get as the prompt.
        limit_s: Seconds one call may take, 0 for no limit.

    Raises:
        ValueError: There is no such function.
    """
    asked, place = split_prefix(reference)
    function = load_object(place)
    if not callable(function):
        raise ValueError(f"{reference!r}: expected a function, got {type(function).__name__}")
    style = asked or style_of(function)
    if style == "plain":
        return Part(limited(function, limit_s), math.inf, "accuracy")
    batch = from_trl(function, conversational=style == "trl-chat", prompt=prompt, limit_s=limit_s)
    return Part(lambda completion, sample: batch([completion], sample)[0], math.inf, "accuracy", batch)


def label_completion(task: Task, sample: Sample, frame: Frame, controls: Controls) -> Completion:
    """The label as a completion, not yet tokenised: answer-only, or the sample's own response with its reasoning.

    Warns:
        UserWarning: A demonstration's reasoning names coordinates of another frame than the model's.
    """
    response = sample.response
    if isinstance(response, Demonstration):
        text = render_demonstration(task, response, sample.target, frame, controls.align)
        return Completion(text, (), None, None, source="label", has_reasoning=True)
    if response is not None:
        return Completion(response, (), None, None, source="label", has_reasoning=True)
    text = task.label_text(sample.target, frame, controls.align)
    return Completion(text, (), None, None, source="label", has_reasoning=False)
