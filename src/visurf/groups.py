"""One sample's completions become a group: scores, reward controls, advantages. Torch-free.

Source: ViSurf, arXiv 2510.10606, Algorithm 1, the lines between sampling and the update.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from visurf.advantages import Scale, group_advantages, is_flat, spread
from visurf.control import Controls, smooth
from visurf.paradigms import Paradigm
from visurf.scoring import Scorer
from visurf.types import Completion, Group, Sample


def form_group(
    sample: Sample,
    rollouts: Sequence[Completion],
    label: Completion | None,
    scorer: Scorer,
    controls: Controls,
) -> Group:
    """Score the members of a group and apply the reward controls; advantages come later.

    Args:
        sample: What the completions answer.
        rollouts: Read completions of the policy.
        label: The read label where it joins, else None. It stands last in the group.
        scorer: Rates rollouts and label by the same functions.
        controls: Eliminate acts in the label's score, smooth on its reward.
    """
    scores = scorer.score_all(rollouts, sample)
    rewards = [score.total for score in scores]
    if label is None:
        return Group(sample, tuple(rollouts), tuple(scores), tuple(rewards))
    label_score = scorer.score_label(label, sample, controls)
    reward, smoothed = label_score.total, False
    if controls.smooth:
        compared = None
        if controls.smooth_compare == "accuracy":
            compared = ([scorer.accuracy(s) for s in scores], scorer.accuracy(label_score))
        reward, smoothed = smooth(rewards, reward, compared)
    return Group(sample, (*rollouts, label), (*scores, label_score), (*rewards, reward), smoothed=smoothed)


def with_advantages(
    groups: Sequence[Group],
    paradigm: Paradigm,
    *,
    ddof: int = 1,
    eps: float = 1e-6,
    scale: Scale = "group",
    batch_std: float | None = None,
) -> list[Group]:
    """Give every member its coefficient: its group advantage (Eq. 6 and 7), or 1 where the paradigm says so.

    A smoothed label gets exactly 0, a flat group all zeros. `batch_std` defaults to that of the
    rewards given here; several processes bring that of all.
    """
    if paradigm.coefficient == "one":
        return [dataclasses.replace(g, advantages=(1.0,) * len(g.completions)) for g in groups]
    if scale == "batch" and batch_std is None:
        batch_std = spread([r for g in groups for r in g.rewards], ddof)
    done = []
    for group in groups:
        advantages = group_advantages(group.rewards, ddof=ddof, eps=eps, scale=scale, batch_std=batch_std)
        if group.smoothed:
            advantages = tuple(0.0 if c.source == "label" else a for c, a in zip(group.completions, advantages, strict=True))
        done.append(dataclasses.replace(group, advantages=advantages, zero_variance=is_flat(group.rewards)))
    return done


def group_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """What the groups of a step look like: shares of flat, rescued and smoothed groups, label advantage, parse errors.

    `group/rescued` is the share of groups whose rollouts all earned the same and only the label brought a signal.
    """
    rollouts = [c for g in groups for c in g.completions if c.source == "policy"]
    labels = [(g, i) for g in groups if (i := g.label_index) is not None]
    found: dict[str, float] = {"group/zero_variance": sum(g.zero_variance for g in groups) / len(groups)}
    if rollouts:
        found["rollout/tokens"] = sum(len(c.token_ids) for c in rollouts) / len(rollouts)
        found["rollout/truncated"] = sum(c.truncated for c in rollouts) / len(rollouts)
        scores = [s for g in groups for c, s in zip(g.completions, g.scores, strict=True) if c.source == "policy"]
        for name in scores[0].parts:
            abstained = sum(s.parts[name] is None for s in scores)
            if abstained:
                found[f"abstained/{name}"] = abstained / len(scores)
        found["parse/failed"] = sum(c.error is not None for c in rollouts) / len(rollouts)
        for completion in rollouts:
            if completion.error is not None:
                key = f"parse/{completion.error.reason}"
                found[key] = found.get(key, 0.0) + 1 / len(rollouts)
    if labels and rollouts:
        found["label/advantage"] = sum(g.advantages[i] for g, i in labels) / len(labels)
        found["label/smoothed"] = sum(g.smoothed for g, _ in labels) / len(labels)
        found["label/reward"] = sum(g.scores[i].total for g, i in labels) / len(labels)
        found["group/rescued"] = sum(
            is_flat([r for j, r in enumerate(g.rewards) if j != i]) and not g.zero_variance for g, i in labels
        ) / len(labels)
    return found
