"""Signs that a reward deceives: it rises while held-out accuracy falls, thinking collapses, or only the format is learned.

Pure functions over the rows of a metrics.jsonl, for a run that goes on and for one that is over. No torch.

Accuracy is measured at evaluations only. A reward at an evaluation is its mean over the steps since the one before; where a
supervised stage has none, what is said of rewards begins anew with the evaluations after it. What counts
as a rise or a fall must exceed what chance does: for accuracy what neighbouring evaluations differ by, at most the standard
error of a share over the validation samples; for rewards what neighbouring steps differ by.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from visurf.config import Config
from visurf.curves import Curve, CurveReader, Row, rank_correlation, read_curve
from visurf.naming import look_up
from visurf.tasks import TASKS, RewardSettings

Kind = Literal["accuracy_falls", "thinking_collapses", "format_only"]
KINDS: tuple[Kind, ...] = ("accuracy_falls", "thinking_collapses", "format_only")


@dataclass(frozen=True)
class Alarm:
    """What was seen, at which step, in words."""

    kind: Kind
    step: int
    message: str


@dataclass(frozen=True)
class Limits:
    """From when on something counts.

    Attributes:
        points: Fewest evaluations before any alarm.
        errors: How many standard errors a change must exceed; there are many looks at a run.
        least: And this much at least, of accuracy.
        collapse: Thinking has collapsed when its share is below this part of what it was.
        thinking: Only a model that thought in this share of its answers can stop thinking.
        format_share: Share of the reward's rise that is due to format alone.
        format_points: Fewest evaluations at which `format_only` can begin to hold: form is often learnt first, rightness behind it.
        patience: Evaluations in a row at which `format_only` must hold, so that it is said at the tenth at the earliest.
    """

    points: int = 4
    errors: float = 3.0
    least: float = 0.03
    collapse: float = 0.5
    thinking: float = 0.5
    format_share: float = 0.8
    format_points: int = 8
    patience: int = 3


def correlations(rows: Sequence[Row], accuracy: str) -> dict[str, float]:
    """Spearman's rank correlation of every reward part with held-out accuracy over the evaluations of a run.

    Returns:
        Over the evaluations since when the part has been there without a gap; NaN for a part or an accuracy that never changes
        there, and for fewer than three.
    """
    curve = read_curve(rows, accuracy)
    found = {}
    for part, values in curve.rewards.items():
        gaps = [index + 1 for index, value in enumerate(values) if math.isnan(value)]
        start = gaps[-1] if gaps else 0
        found[part] = rank_correlation(values[start:], curve.accuracy[start:])
    return found


def find_alarms(
    rows: Sequence[Row], accuracy: str, format_parts: Collection[str] = (), limits: Limits | None = None
) -> list[Alarm]:
    """The first alarm of every kind, in the order of their steps.

    Args:
        rows: Of a metrics.jsonl, in order.
        accuracy: Name of the validation metric.
        format_parts: Parts of the reward that pay for form, not for being right.
        limits: From when on something counts.
    """
    return alarms_of(read_curve(rows, accuracy), format_parts, limits)


def alarms_of(curve: Curve, format_parts: Collection[str] = (), limits: Limits | None = None) -> list[Alarm]:
    """See `find_alarms`."""
    limits = limits or Limits()
    found: dict[Kind, Alarm] = {}
    for count in range(limits.points, len(curve.steps) + 1):
        for kind, message in _at(curve, count, format_parts, limits).items():
            found.setdefault(kind, Alarm(kind, curve.steps[count - 1], message))
    return sorted(found.values(), key=lambda alarm: alarm.step)


def _at(curve: Curve, count: int, format_parts: Collection[str], limits: Limits) -> dict[Kind, str]:
    """The alarms that hold at an evaluation, with what they say."""
    rewarded = curve.rewarded(count)
    found = _of_rewards(rewarded, format_parts, limits) if len(rewarded.steps) >= limits.points else {}
    thinking = curve.thinking[:count]
    first = curve.began if math.isfinite(curve.began) else thinking[0] if thinking else 0.0
    if thinking and first >= limits.thinking and max(thinking[-2:]) < limits.collapse * first:
        found["thinking_collapses"] = f"{first:.0%} of held-out answers reasoned at first, now {thinking[-1]:.0%}"
    return found


def _of_rewards(curve: Curve, format_parts: Collection[str], limits: Limits) -> dict[Kind, str]:
    """The alarms about rewards that hold at the last evaluation of a curve on which the total has no gap."""
    found: dict[Kind, str] = {}
    count = len(curve.steps)
    accuracy, total, noise = curve.accuracy, curve.rewards["total"], curve.noise["total"]
    change, margin = _change(accuracy), max(limits.least, limits.errors * _error(curve, count))
    rise, rising = _change(total), _rising(curve, limits)
    # A part that rises is what the policy is led by, whatever the others lose, unless the whole reward is lost too.
    led = rise > limits.errors * noise or (rising and rise > -limits.errors * noise)
    if led and noise > 0 and change < -margin and rank_correlation(range(count), accuracy) < 0:
        parts = ", ".join(f"{name} ({rank:+.2f})" for name, rank in rising.items()) or "none"
        found["accuracy_falls"] = (
            f"held-out accuracy fell by {-change:.3f} while the reward changed by {rise:+.3f}; "
            f"parts that rose, with their rank correlation to accuracy: {parts}"
        )
    held = range(count - limits.patience + 1, count + 1)
    if held.start >= limits.format_points and all(_only_format(curve, n, format_parts, limits) for n in held):
        found["format_only"] = f"the reward rose by {rise:.3f}, nearly all of it for form; held-out accuracy did not rise"
    return found


def _change(values: Sequence[float]) -> float:
    """The mean of the last two less the mean of the first two."""
    return (values[-1] + values[-2] - values[0] - values[1]) / 2


def _only_format(curve: Curve, count: int, format_parts: Collection[str], limits: Limits) -> bool:
    parts = {name: _change(values[:count]) for name, values in curve.rewards.items() if name != "total"}
    form = sum(change for name, change in parts.items() if name in format_parts)
    rise = sum(max(change, 0.0) for change in parts.values())
    noise = math.sqrt(sum(curve.noise[name] ** 2 for name in parts if name in format_parts))
    if form <= max(limits.errors * noise, limits.least) or form < limits.format_share * rise:
        return False
    accuracy = curve.accuracy[:count]
    # Not even a hint of a rise: no more than a standard error, and no clear trend.
    return _change(accuracy) <= curve.error and not rank_correlation(range(count), accuracy) > 0.5


def _rising(curve: Curve, limits: Limits) -> dict[str, float]:
    """The parts that rose, with their rank correlation to accuracy."""
    found = {}
    for name, values in curve.rewards.items():
        change = _change(values)
        if name != "total" and change > limits.errors * curve.noise[name] and change > 0:
            found[name] = rank_correlation(values, curve.accuracy)
    return found


def _error(curve: Curve, count: int) -> float:
    """Standard error of one accuracy: of a share, or less where enough evaluations of the same samples differ by less."""
    if count < 8:
        return curve.error
    squares = [(b - a) ** 2 / 2 for a, b in pairwise(curve.accuracy[:count])]
    return min(curve.error, math.sqrt(math.fsum(squares) / len(squares)))


class Watch:
    """Looks at a run while it goes on; what it keeps grows with the evaluations, not with the steps.

    Attributes:
        raised: Alarms so far.
    """

    def __init__(self, accuracy: str, format_parts: Collection[str] = ()) -> None:
        """Begin with a run that has no step.

        Args:
            accuracy: Name of the validation metric.
            format_parts: Parts of the reward that pay for form.
        """
        self.format_parts = format_parts
        self.raised: dict[Kind, Alarm] = {}
        self._reader = CurveReader(accuracy)

    def remember(self, rows: Iterable[Row]) -> None:
        """Steps of an earlier part of the run."""
        for row in rows:
            self._reader.read(row)
        self.raised = {alarm.kind: alarm for alarm in alarms_of(self._reader.curve(), self.format_parts)}

    def see(self, step: int, metrics: Row) -> list[Alarm]:
        """One more step; returns the alarms that it raises, each kind once a run."""
        if not self._reader.read({"step": step, **metrics}):
            return []
        found = [a for a in alarms_of(self._reader.curve(), self.format_parts) if a.kind not in self.raised]
        self.raised |= {alarm.kind: alarm for alarm in found}
        return found


def watched(config: Config) -> tuple[str, list[str]]:
    """The validation metric of a run, and the parts of its reward that pay for form."""
    task = look_up(config.task.name, TASKS, "task")
    parts = task.parts(RewardSettings(config.reward.variant, config.reward.frame))
    return config.evaluation.metric or task.headline, [name for name, part in parts.items() if part.about != "accuracy"]


def read_metrics(path: Path, length: int | None = None) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, or of its first `length` bytes; none where there is no file. A line cut off ends them."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_bytes()[:length].decode("utf-8", errors="replace").split("\n"):
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found
