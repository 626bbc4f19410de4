"""How supervision and reinforcement are mixed: the small functions that tell paradigms apart. Torch-free.

A paradigm gives every sequence two coefficients. The *advantage* weighs the clipped term (Eq. 8); the *supervision* weighs the
negative log-likelihood of the tokens that the policy did not write: a label, or the hint that a rollout began with. A token
weight may act on the latter. `visurf.paradigms` says which function belongs to whom.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Moment:
    """Where in its stage a run stands: steps done, steps of the stage, and the paradigm's hyperparameters."""

    step: int = 0
    steps: int = 1
    mixing: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a coefficient may depend on.

    Attributes:
        advantages: Of all sequences of the group, the rollouts first; 0 for a label that is no member.
        reached: The accuracy of every rollout as a fraction of the label's, see `visurf.groups.reached`.
        hints: Tokens that every rollout was given.
        entropy: Of the policy: the mean of -log p over the tokens that it sampled for this prompt.
    """

    advantages: tuple[float, ...]
    reached: tuple[float, ...] = ()
    hints: tuple[int, ...] = ()
    entropy: float = 0.0

    @property
    def rollouts(self) -> tuple[float, ...]:
        """Advantages of the rollouts."""
        return self.advantages[: len(self.hints)]

    def solved(self, success: float) -> list[bool]:
        """Which rollouts reach this fraction of the label's accuracy."""
        return [share >= success for share in self.reached]


@dataclass(frozen=True)
class Coefficients:
    """One advantage and one supervision a sequence, in the order of the group."""

    advantages: tuple[float, ...]
    supervision: tuple[float, ...]


Blend = Callable[[Outcome, Moment], Coefficients]


def _with_label(outcome: Outcome, rollouts: tuple[float, ...], supervision: float) -> Coefficients:
    """Coefficients of a group whose label stands last: those of the rollouts, and the label's supervision."""
    label = outcome.advantages[len(rollouts) :]
    return Coefficients((*rollouts, *label), (0.0,) * len(rollouts) + (supervision,) * len(label))


def imitate(outcome: Outcome, moment: Moment) -> Coefficients:
    """The label's negative log-likelihood alone (arXiv 2510.10606, Eq. 1)."""
    return _with_label(outcome, (0.0,) * len(outcome.hints), 1.0)


def imitate_solved(outcome: Outcome, moment: Moment) -> Coefficients:
    """The log-likelihood of the policy's own rollouts that are right: 1 for those, 0 for the others."""
    own = tuple(float(right) for right in outcome.solved(moment.mixing["success"]))
    return _with_label(outcome, own, 0.0)


def schedule(moment: Moment) -> float:
    """CHORD's mu: a linear rise to `mu_peak` over `mu_warmup` steps, then half a cosine to `mu_valley` over `mu_decay`.

    >>> found = [Moment(s, 9, {"mu_peak": 0.9, "mu_valley": 0.1, "mu_warmup": 2, "mu_decay": 4}) for s in (0, 1, 2, 4, 6, 8)]
    >>> [round(schedule(m), 3) for m in found]
    [0.0, 0.45, 0.9, 0.5, 0.1, 0.1]
    """
    peak, valley, warmup, decay = (moment.mixing[f"mu_{name}"] for name in ("peak", "valley", "warmup", "decay"))
    if moment.step < warmup:
        return peak * moment.step / warmup
    if moment.step >= warmup + decay:
        return valley
    return valley + (peak - valley) * 0.5 * (1 + math.cos(math.pi * (moment.step - warmup) / decay))


def interpolate(outcome: Outcome, moment: Moment) -> Coefficients:
    """(1 - mu) x advantage for rollouts, mu for the label (CHORD, arXiv 2508.11408)."""
    mu = schedule(moment)
    return _with_label(outcome, tuple((1 - mu) * a for a in outcome.rollouts), mu)


def gate(outcome: Outcome, moment: Moment) -> Coefficients:
    """The label alone where at most a share `gate` of the rollouts is right, else the rollouts alone (HPT, arXiv 2509.04419)."""
    solved = outcome.solved(moment.mixing["success"])
    if sum(solved) <= moment.mixing["gate"] * len(solved):
        return _with_label(outcome, (0.0,) * len(outcome.hints), moment.mixing["supervision"])
    return _with_label(outcome, outcome.rollouts, 0.0)


def add_to_hard(outcome: Outcome, moment: Moment) -> Coefficients:
    """All rollouts, and the label too where at most a share `hard` of them is right (MIFO, arXiv 2510.04454)."""
    solved = outcome.solved(moment.mixing["success"])
    hard = sum(solved) <= moment.mixing["hard"] * len(solved)
    return _with_label(outcome, outcome.rollouts, moment.mixing["supervision"] if hard else 0.0)


def by_entropy(outcome: Outcome, moment: Moment) -> Coefficients:
    """SRFT: 0.5 exp(-H) for the label's likelihood; 0.1 exp(H) for right rollouts and -1 for wrong ones (arXiv 2506.19767).

    The label keeps its advantage as well.
    """
    right, wrong = moment.mixing["right"] * math.exp(outcome.entropy), -moment.mixing["wrong"]
    own = tuple(right if ok else wrong for ok in outcome.solved(moment.mixing["success"]))
    return _with_label(outcome, own, moment.mixing["supervision"] * math.exp(-outcome.entropy))


def teach_hints(outcome: Outcome, moment: Moment) -> Coefficients:
    """Advantages for what rollouts wrote, a constant for the hints they were given (UFT, arXiv 2505.16984)."""
    weight = moment.mixing["supervision"]
    return Coefficients(outcome.advantages, tuple(weight if given else 0.0 for given in outcome.hints))


def teach_each_hint_once(outcome: Outcome, moment: Moment) -> Coefficients:
    """As `teach_hints`, but a hint that several rollouts share counts once (TRAPO, arXiv 2512.17636)."""
    weight, hints = moment.mixing["supervision"], outcome.hints
    return Coefficients(outcome.advantages, tuple(weight / hints.count(given) if given else 0.0 for given in hints))


@dataclass(frozen=True)
class ForeignTokens:
    """Tokens that the policy did not write, flat: detached log-probs, sequence, and entropy where the paradigm needs it; (K,) each.

    The tokens of a sequence are neighbours and in order.
    """

    logprobs: Tensor
    member: Tensor
    entropy: Tensor | None = None


TokenWeight = Callable[[ForeignTokens, Mapping[str, float]], "Tensor"]


def uncertain(tokens: ForeignTokens, mixing: Mapping[str, float]) -> Tensor:
    """The weight p (1 - p): what the policy is sure of, or finds impossible, counts little (CHORD-phi, arXiv 2508.11408)."""
    p = tokens.logprobs.exp()
    return p * (1 - p)


def trusted(tokens: ForeignTokens, mixing: Mapping[str, float]) -> Tensor:
    """The weight min(1, p / alpha): the pull of unlikely tokens fades (trust-region SFT of TRAPO, arXiv 2512.17636)."""
    return (tokens.logprobs.exp() / mixing["alpha"]).clamp(max=1)


def continued(tokens: ForeignTokens, mixing: Mapping[str, float]) -> Tensor:
    """How likely the policy would go on as the sequence does: exp of sum_k discount^k log p of the k-th next token.

    At least `floor`, and 1 for the last token of a sequence (PEAR, arXiv 2602.01058; docs/paradigms.md says what was assumed).
    """
    discount, member, reach = mixing["discount"], tokens.member, 1
    sums = tokens.logprobs.clone()
    # Doubling: after n rounds every entry sums itself and its next 2^n - 1 neighbours of the same sequence.
    while reach < len(sums):
        same = member[reach:] == member[:-reach]
        later = sums[reach:].clone().masked_fill(~same, 0)
        sums[:-reach] += discount**reach * later
        reach *= 2
    after = sums.new_zeros(len(sums))
    after[:-1] = discount * sums[1:].masked_fill(member[1:] != member[:-1], 0)
    return after.exp().clamp(min=mixing["floor"])


def most_uncertain(tokens: ForeignTokens, mixing: Mapping[str, float]) -> Tensor:
    """The share `share` of each sequence's tokens at which the policy's entropy is highest, their weights adding up to its length.

    Source: MIFO, arXiv 2510.04454.
    """
    if tokens.entropy is None:
        raise ValueError("the weight by entropy needs the tokens' entropies")
    member = tokens.member
    order = tokens.entropy.argsort(descending=True, stable=True)
    order = order[member[order].argsort(stable=True)]
    counts = member.bincount()
    kept = (counts * mixing["share"]).ceil()
    place = member.new_ones(len(member)).cumsum(0) - 1 - (counts.cumsum(0) - counts)[member[order]]
    weights = tokens.entropy.new_zeros(len(member))
    weights[order] = ((place < kept[member[order]]) * (counts / kept.clamp(min=1))[member[order]]).to(weights.dtype)
    return weights


@dataclass(frozen=True)
class HintRequest:
    """What the length of a hint may depend on.

    Attributes:
        round: Number of the round, from 0.
        solved: Which rollouts of earlier rounds are right.
        length: Tokens of the label, its end included.
        random: Draws of this prompt and step.
        moment: Where the run stands.
    """

    round: int
    solved: tuple[bool, ...]
    length: int
    random: np.random.Generator
    moment: Moment


@dataclass(frozen=True)
class Hints:
    """How rollouts are guided: a group is sampled in rounds, and each round may be given the label's first tokens.

    Attributes:
        split: Group size -> rollouts of each round.
        tokens: How many of the label's tokens a round is given; the whole label leaves nothing to sample.
    """

    split: Callable[[int], tuple[int, ...]]
    tokens: Callable[[HintRequest], int]


def all_at_once(group_size: int) -> tuple[int, ...]:
    """One round."""
    return (group_size,)


def halves(group_size: int) -> tuple[int, ...]:
    """Half of the group, half of the rest, half of the rest, the rest; rounds of none are left out.

    >>> halves(8), halves(4), halves(2)
    ((4, 2, 1, 1), (2, 1, 1), (1, 1))
    """
    sizes, left = [], group_size
    for _ in range(3):
        sizes.append((left + 1) // 2 if left > 1 else left)
        left -= sizes[-1]
    return tuple(size for size in (*sizes, left) if size)


def annealed(request: HintRequest) -> int:
    """UFT: binomially many of the label's tokens; the probability falls by half a cosine and ends after `hint_steps` of the steps.

    Source: arXiv 2505.16984, Eq. B.1.
    """
    moment, mixing = request.moment, request.moment.mixing
    last = mixing["hint_steps"] * moment.steps
    if moment.step >= last:
        return 0
    low, high = mixing["hint_low"], mixing["hint_high"]
    p = low + 0.5 * (high - low) * (1 + math.cos(math.pi * (moment.step + 1) / last))
    return int(request.random.binomial(request.length - 1, min(max(p, 0.0), 1.0)))


# TRAPO's rounds after the first: guided if fewer than this share of the rollouts so far is right, then by this share of the label.
_ENOUGH, _GUIDANCE = (0.5, 2 / 3, 1.0), (0.25, 0.5, 1.0)


def where_needed(request: HintRequest) -> int:
    """TRAPO: nothing in the first round, then a growing part of the label while too few rollouts are right (arXiv 2512.17636)."""
    if request.round == 0 or sum(request.solved) >= _ENOUGH[request.round - 1] * len(request.solved):
        return 0
    return int(_GUIDANCE[request.round - 1] * request.length)
