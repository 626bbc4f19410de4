"""The three reward controls that keep a label honest as a member of the group.

Order: *align* when the label is rendered, *eliminate* when it is scored, *smooth* last. Each can be switched off alone.

Source: ViSurf, arXiv 2510.10606, section on reward control.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from visurf.types import Score


@dataclass(frozen=True)
class Controls:
    """Which controls act.

    Attributes:
        align: Write the label exactly as the policy writes answers; off: as raw JSON.
        eliminate: Pay a label without reasoning nothing for thinking; off: pay it in full.
        smooth: Give a label that the rollouts reach the rollouts' mean reward, which makes its advantage 0.
        smooth_compare: Whether "reach" compares total rewards or the accuracy parts.
    """

    align: bool = True
    eliminate: bool = True
    smooth: bool = True
    smooth_compare: Literal["total", "accuracy"] = "total"


def acting(controls: Controls, names: Collection[str]) -> Controls:
    """The controls that are on and named; a paradigm names those that belong to it.

    >>> acting(Controls(align=False), ("align", "eliminate"))
    Controls(align=False, eliminate=True, smooth=False, smooth_compare='total')
    """
    align, eliminate, smooth = (getattr(controls, name) and name in names for name in ("align", "eliminate", "smooth"))
    return replace(controls, align=align, eliminate=eliminate, smooth=smooth)


def eliminate(score: Score, thinking: Mapping[str, float], weights: Mapping[str, float], *, on: bool) -> Score:
    """Set what a label without reasoning earns for thinking: nothing when on, the maximum when off.

    Args:
        score: The label's score.
        thinking: The maximum of each reward part that pays for thinking.
        weights: Weight of every part.
        on: Whether the control acts.
    """
    parts = {name: ((0.0 if on else thinking[name]) if name in thinking else value) for name, value in score.parts.items()}
    return Score(parts, total(parts, weights))


def total(parts: Mapping[str, float | None], weights: Mapping[str, float]) -> float:
    """The weighted sum of the parts that did not abstain; a part without a weight counts once."""
    return sum(weights.get(name, 1.0) * value for name, value in parts.items() if value is not None)


def smooth(rollouts: Sequence[float], label: float, compared: tuple[Sequence[float], float] | None = None) -> tuple[float, bool]:
    """The label's reward after smoothing, and whether smoothing fired.

    If the best rollout reaches the label (not strictly), the label gets the rollouts' mean, so its advantage vanishes and the
    supervision switches itself off where the policy already succeeds.

    Args:
        rollouts: Total rewards of the rollouts.
        label: Total reward of the label.
        compared: What decides instead of the totals: the rollouts' and the label's accuracy.

    >>> smooth([4.0, 6.0], 6.0), smooth([4.0, 5.0], 6.0)
    ((5.0, True), (6.0, False))
    """
    if not rollouts:
        return label, False
    of_rollouts, of_label = (rollouts, label) if compared is None else compared
    if max(of_rollouts) >= of_label:
        return sum(rollouts) / len(rollouts), True
    return label, False
