"""One sample's completions become a group: scores, reward controls, coefficients. Torch-free.

Source: ViSurf, arXiv 2510.10606, Algorithm 1, the lines between sampling and the update.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

from visurf.advantages import Baseline, Scale, group_advantages, is_flat, spread
from visurf.control import Controls, smooth
from visurf.mixing import Moment, Outcome
from visurf.paradigms import Paradigm
from visurf.scoring import Scorer
from visurf.types import Completion, Group, Sample, Score


def reached(scorer: Scorer, scores: Sequence[Score], label: Score) -> tuple[float, ...]:
    """Every score's accuracy as a fraction of the label's.

    Where the label itself earns no accuracy it is 1 for what earns as much and 0 for what earns less.
    """
    most = scorer.accuracy(label)
    found = [scorer.accuracy(score) for score in scores]
    return tuple(value / most if most > 0 else float(value >= most) for value in found)


def form_group(
    sample: Sample,
    rollouts: Sequence[Completion],
    label: Completion | None,
    scorer: Scorer,
    controls: Controls,
) -> Group:
    """Score the members of a group and apply the reward controls; coefficients come later.

    Args:
        sample: What the completions answer.
        rollouts: Read completions of the policy.
        label: The read label where it stands in the group, else None. It stands last.
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
    members, all_scores = (*rollouts, label), (*scores, label_score)
    share = reached(scorer, scores, label_score)
    return Group(sample, members, all_scores, (*rewards, reward), smoothed=smoothed, reached=share)


def compared_rewards(group: Group, paradigm: Paradigm) -> list[float]:
    """The rewards over which mean and deviation are taken: those of the rollouts, and the label's where it is a member."""
    label = paradigm.label == "member"
    return [r for c, r in zip(group.completions, group.rewards, strict=True) if label or c.source == "policy"]


def with_advantages(
    groups: Sequence[Group],
    paradigm: Paradigm,
    *,
    ddof: int = 1,
    eps: float = 1e-6,
    scale: Scale = "group",
    baseline: Baseline = "mean",
    batch_std: float | None = None,
    moment: Moment | None = None,
) -> list[Group]:
    """Give every sequence its coefficients: the group advantages (Eq. 6 and 7), and what the paradigm makes of them.

    A smoothed label gets exactly 0, a flat group all zeros. `batch_std` defaults to that of the rewards given here; several
    processes bring that of all. `moment` defaults to the first step, with the paradigm's own hyperparameters.
    """
    rewards = [compared_rewards(g, paradigm) for g in groups]
    if scale == "batch" and batch_std is None:
        batch_std = spread([r for of_group in rewards for r in of_group], ddof)
    moment = moment or Moment(mixing=paradigm.mixing)
    done = []
    for group, own in zip(groups, rewards, strict=True):
        found: tuple[float, ...] = ()
        if own:
            found = group_advantages(own, ddof=ddof, eps=eps, scale=scale, baseline=baseline, batch_std=batch_std)
        # A label that is no member stands last and has no advantage.
        advantages = found + (0.0,) * (len(group.completions) - len(own))
        if group.smoothed:
            advantages = tuple(0.0 if c.source == "label" else a for c, a in zip(group.completions, advantages, strict=True))
        done.append(_blended(dataclasses.replace(group, zero_variance=bool(own) and is_flat(own)), advantages, paradigm, moment))
    return done


def _blended(group: Group, advantages: tuple[float, ...], paradigm: Paradigm, moment: Moment) -> Group:
    """The group with the coefficients that its paradigm makes of the advantages."""
    if paradigm.blend is None:
        return dataclasses.replace(group, advantages=advantages)
    rollouts = [c for c in group.completions if c.source == "policy"]
    sampled = [v for c in rollouts for v in c.logprobs or ()]
    entropy = -sum(sampled) / len(sampled) if sampled else 0.0
    found = paradigm.blend(Outcome(advantages, group.reached, tuple(c.hint for c in rollouts), entropy), moment)
    return dataclasses.replace(group, advantages=found.advantages, supervision=found.supervision)


@dataclass
class Tally:
    """What the groups of a step add up to; tallies of several processes add up to that of all.

    Attributes:
        sums: Name -> (sum, count), reported as means.
        events: Name -> number of rollouts; reported as shares of all rollouts.
        rollouts: Number of rollouts.
    """

    sums: dict[str, tuple[float, float]] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)
    rollouts: int = 0

    def add(self, name: str, total: float, count: float) -> None:
        """Add to a sum."""
        before = self.sums.get(name, (0.0, 0.0))
        self.sums[name] = (before[0] + total, before[1] + count)

    def happened(self, name: str, times: int = 1) -> None:
        """Count an event of rollouts."""
        self.events[name] = self.events.get(name, 0) + times

    def merge(self, other: Tally) -> None:
        """Add another tally to this one."""
        for name, (total, count) in other.sums.items():
            self.add(name, total, count)
        for name, times in other.events.items():
            self.happened(name, times)
        self.rollouts += other.rollouts

    def metrics(self) -> dict[str, float]:
        """Means and shares; what nothing was counted for is left out."""
        means = {name: total / count for name, (total, count) in self.sums.items() if count}
        return means | ({name: times / self.rollouts for name, times in self.events.items()} if self.rollouts else {})


def tally(groups: Sequence[Group]) -> Tally:
    """What the groups of a step look like: flat, rescued and smoothed groups, label advantage, parse errors, reward parts.

    `group/rescued` is the share of groups whose rollouts all earned the same and only the label brought a signal. A part of the
    reward counts where it did not abstain.
    """
    rollouts = [(c, s) for g in groups for c, s in zip(g.completions, g.scores, strict=True) if c.source == "policy"]
    labels = [(g, i) for g in groups if (i := g.label_index) is not None]
    supervised = any(g.supervision for g in groups)
    found = Tally(rollouts=len(rollouts))
    found.add("group/zero_variance", sum(g.zero_variance for g in groups), len(groups))
    if rollouts:
        found.add("rollout/tokens", sum(len(c.token_ids) for c, _ in rollouts), len(rollouts))
        found.happened("rollout/truncated", sum(c.truncated for c, _ in rollouts))
        found.happened("parse/failed", sum(c.error is not None for c, _ in rollouts))
        if supervised and not labels:
            found.add("rollout/hint", sum(c.hint for c, _ in rollouts), len(rollouts))
    for completion, score in rollouts:
        if completion.error is not None:
            found.happened(f"parse/{completion.error.reason}")
        for name, value in score.parts.items():
            if value is None:
                found.happened(f"abstained/{name}")
            else:
                found.add(f"reward/{name}", value, 1)
        found.add("reward/total", score.total, 1)
    if labels and rollouts:
        found.add("label/advantage", sum(g.advantages[i] for g, i in labels), len(labels))
        # Of all that pulls in the step, |coefficient|, the part that is the label's.
        found.add("label/share", sum(abs(g.advantages[i]) for g, i in labels), sum(abs(a) for g, _ in labels for a in g.advantages))
        found.add("label/smoothed", sum(g.smoothed for g, _ in labels), len(labels))
        found.add("label/reward", sum(g.scores[i].total for g, i in labels), len(labels))
        rescued = [is_flat(g.rewards[:i]) and bool(g.advantages[i] or sum(g.supervision)) for g, i in labels]
        found.add("group/rescued", sum(rescued), len(labels))
    if supervised:
        found.add("label/supervision", sum(sum(g.supervision) for g in groups), len(groups))
    return found
