"""The coefficients of one optimiser batch, token by token, under one global scale.

The scale counts the tokens and sequences of the whole step, over all micro-batches and processes and whether or not they go
through the network, so that losses are summed and never averaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visurf import parallel
from visurf.config import ObjectiveConfig
from visurf.mixing import ForeignTokens
from visurf.objective import sequence_weights
from visurf.paradigms import Paradigm
from visurf.shaping import Shaping
from visurf.types import Group


@dataclass(frozen=True)
class RowWeights:
    """What the tokens of a packed row weigh; tensors are (K,).

    Attributes:
        paradigm: Brings the token weight.
        mixing: Its hyperparameters.
        advantages: Coefficient of the clipped term; 0 on hints and on labels that are no members.
        weights: Scale of the clipped term and of the KL term.
        supervised: Coefficient of supervision times its scale; 0 on tokens that the policy wrote.
        foreign: Which tokens the policy did not write.
    """

    paradigm: Paradigm
    mixing: Mapping[str, float]
    advantages: Tensor
    weights: Tensor
    supervised: Tensor
    foreign: Tensor

    def taught(self, logprobs: Tensor, member: Tensor, entropies: Tensor | None = None) -> Tensor:
        """`supervised` with the paradigm's token weight on it, (K,), without gradient.

        Args:
            logprobs: (K,).
            member: (K,) number of each token's sequence.
            entropies: (K,) where the token weight needs them.
        """
        chosen = self.supervised.nonzero().squeeze(1)
        if self.paradigm.token_weight is None or not len(chosen):
            return self.supervised
        tokens = ForeignTokens(logprobs.detach()[chosen], member[chosen], None if entropies is None else entropies[chosen])
        factor = self.paradigm.token_weight(tokens, self.mixing)
        return self.supervised.index_copy(0, chosen, self.supervised[chosen] * factor)


@dataclass(frozen=True)
class Weighing:
    """Per sequence of a batch, (S,) each, on the CPU.

    Attributes:
        lengths: Tokens.
        foreign: Leading tokens that the policy did not write; all of a label's.
        members: Whether these take part in the clipped term, as those of a label in the group do.
        advantages: Coefficient of the clipped term.
        supervision: Coefficient of the supervised term.
        clipped_scale: Weight of a token in the clipped term.
        supervised_scale: Weight of a token in the supervised term.
        paradigm: Whose coefficients they are.
        mixing: Its hyperparameters.
    """

    lengths: Tensor
    foreign: Tensor
    members: Tensor
    advantages: Tensor
    supervision: Tensor
    clipped_scale: Tensor
    supervised_scale: Tensor
    paradigm: Paradigm
    mixing: Mapping[str, float]

    @classmethod
    def of(
        cls,
        groups: Sequence[Group],
        paradigm: Paradigm,
        mixing: Mapping[str, float],
        objective: ObjectiveConfig,
        most: int,
    ) -> Weighing:
        """Weigh a batch; all processes take part.

        Args:
            groups: This process's, with coefficients.
            paradigm: Whether labels are members, and how supervised tokens are averaged.
            mixing: Its hyperparameters.
            objective: How tokens are averaged.
            most: Tokens that a completion may have.
        """
        completions = [c for g in groups for c in g.completions]
        lengths = torch.tensor([len(c.token_ids) for c in completions], dtype=torch.long)
        label = torch.tensor([c.source == "label" for c in completions], dtype=torch.bool)
        foreign = torch.where(label, lengths, torch.tensor([c.hint for c in completions], dtype=torch.long))
        members = label & (paradigm.label == "member")
        clipped = torch.where(members, lengths, lengths - foreign)
        counts = (clipped.sum(), (~label | members).sum(), foreign.sum(), (foreign > 0).sum(), lengths.sum(), len(completions))
        total = parallel.total([float(c) for c in counts])
        average = objective.average
        if paradigm.scale == "joint":
            scales = (sequence_weights(lengths, average, total[4], total[5], most),) * 2
        else:
            scales = (
                sequence_weights(clipped, average, total[0], total[1], most),
                sequence_weights(foreign, average, total[2], total[3], most),
            )
        advantages = torch.tensor([a for g in groups for a in g.advantages])
        supervision = torch.tensor([s for g in groups for s in g.supervision or (0.0,) * len(g.completions)])
        return cls(lengths, foreign, members, advantages, supervision, *scales, paradigm, mixing)

    @property
    def shaping(self) -> Shaping | None:
        """Of a label's ratio; None where it has that of a rollout."""
        return Shaping("saturating", constant=self.mixing["constant"]) if self.paradigm.label_ratio == "saturating" else None

    def row(self, numbers: Sequence[int], device: torch.device) -> RowWeights:
        """The weights of a row that holds the sequences of these numbers, in this order."""
        chosen = torch.tensor(numbers, dtype=torch.long)
        lengths = self.lengths[chosen]
        at = torch.repeat_interleave(chosen, lengths)
        first = torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
        foreign = torch.arange(len(at)) - first < self.foreign[at]
        clipped = ~foreign | self.members[at]
        advantages = torch.where(clipped, self.advantages[at], 0.0)
        weights = torch.where(clipped, self.clipped_scale[at], self.supervised_scale[at]).float()
        supervised = torch.where(foreign, self.supervision[at] * self.supervised_scale[at], 0.0).float()
        on_device = [value.to(device) for value in (advantages, weights, supervised, foreign)]
        return RowWeights(self.paradigm, self.mixing, *on_device)
