"""ViSurf in a run of verl: a group advantage by name, the reward controls on its batches, and rewards as ``compute_score``.

verl gives a registered advantage estimator rewards, masks and group ids, but no word on which row is a label, and it has no place
where a label's tokens enter a batch. A trainer that puts labels into its batches calls `visurf_advantage` itself with `is_label`;
by its registered name every row is a rollout, which is rlvr with visurf's flat-group rule. Written for verl 0.9.1, which this
module imports only in `register`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from visurf.advantages import group_advantages
from visurf.control import smooth
from visurf.geometry import Frame
from visurf.scoring import Scorer
from visurf.types import Completion, Sample

if TYPE_CHECKING:
    from torch import Tensor

NAME = "visurf"


def register(name: str = NAME) -> None:
    """Make `visurf_advantage` known to verl, for ``algorithm.adv_estimator=visurf``; call it once in every process.

    Raises:
        ImportError: verl is not installed.
        ValueError: verl knows another estimator by that name.
    """
    from verl.trainer.ppo.core_algos import register_adv_est

    register_adv_est(name)(visurf_advantage)


def visurf_advantage(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: Sequence[Any],
    epsilon: float = 1e-6,
    norm_adv_by_std_in_grpo: bool = True,
    config: Any = None,
    *,
    is_label: Sequence[bool] | None = None,
    smoothing: bool = True,
) -> tuple[Tensor, Tensor]:
    """Group advantages of every response, as verl's estimators return them: (advantages, returns), which are the same.

    Args:
        token_level_rewards: (B, T); a response's reward is their sum.
        response_mask: (B, T), 1 for the response's tokens.
        index: (B,) which prompt a row answers; rows of a group may stand anywhere.
        epsilon: Added to the standard deviation.
        norm_adv_by_std_in_grpo: False divides by nothing; ``config.norm_adv_by_std_in_grpo`` goes before it.
        config: verl's algorithm settings, or None.
        is_label: (B,) which rows are labels, at most one a group; None for no labels.
        smoothing: Give a label that its rollouts reach their mean, which makes its advantage 0.

    Raises:
        ValueError: A group has two labels, or sizes do not agree.

    Source: ViSurf, arXiv 2510.10606, Eq. 6 and 7 and the smooth control.
    """
    rewards = token_level_rewards.detach().double().sum(dim=-1).tolist()
    marks = [False] * len(rewards) if is_label is None else [bool(mark) for mark in is_label]
    if not len(rewards) == len(index) == len(marks):
        raise ValueError(f"{len(rewards)} responses, {len(index)} group ids, {len(marks)} marks of labels")
    normalise = config.get("norm_adv_by_std_in_grpo", norm_adv_by_std_in_grpo) if config is not None else norm_adv_by_std_in_grpo
    groups: dict[Any, list[int]] = {}
    for row, group in enumerate(index):
        groups.setdefault(group, []).append(row)
    coefficients = np.zeros(len(rewards))
    for group, rows in groups.items():
        coefficients[rows] = _coefficients(group, rows, rewards, marks, smoothing, epsilon, bool(normalise))
    found = token_level_rewards.new_tensor(coefficients).unsqueeze(-1) * response_mask
    return found, found


def _coefficients(
    group: Any, rows: list[int], rewards: list[float], marks: list[bool], smoothing: bool, epsilon: float, normalise: bool
) -> list[float]:
    labels = [row for row in rows if marks[row]]
    if len(labels) > 1:
        raise ValueError(f"group {group!r} has {len(labels)} labels; a group has one at most")
    values = {row: rewards[row] for row in rows}
    smoothed = False
    if labels and smoothing:
        values[labels[0]], smoothed = smooth([rewards[row] for row in rows if not marks[row]], rewards[labels[0]])
    found = group_advantages(list(values.values()), eps=epsilon, scale="group" if normalise else "none")
    return [0.0 if smoothed and marks[row] else a for row, a in zip(values, found, strict=True)]


def score_function(
    scorer: Scorer,
    sample: Callable[[Any, dict[str, Any]], Sample],
    *,
    frame: Callable[[Sample], Frame] = lambda sample: Frame((1000.0, 1000.0), sample.size),
) -> Callable[..., dict[str, float]]:
    """A task's reward as verl's ``compute_score``: ``score``, and every part that did not abstain for its log.

    Args:
        scorer: The task with its parts and weights.
        sample: (ground truth, read from JSON where it is a text that is JSON; extra info) -> sample.
        frame: The coordinate frame that the model writes in.

    Raises:
        RewardError: When called: see `Scorer.score`.
    """

    def compute_score(
        data_source: str, solution_str: str, ground_truth: Any, extra_info: dict[str, Any] | None = None, **_: Any
    ) -> dict[str, float]:
        truth = sample(_plain(ground_truth), dict(extra_info or {}))
        read = scorer.read(Completion(solution_str, (), None, None), truth, frame(truth))
        score = scorer.score(read, truth)
        return {"score": score.total, **{name: value for name, value in score.parts.items() if value is not None}}

    return compute_score


def _plain(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value
