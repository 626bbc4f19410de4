"""Steps whose loss, gradient or log-probs are not finite: they are skipped, and what was in them is told.

An optimiser that takes one such gradient never recovers: its moments stay infinite. So weights and optimiser state are left as they
are. The learning rate's schedule goes on, since it is a function of the number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from visurf import parallel
from visurf.group_rows import group_row
from visurf.types import Group


class NonFiniteError(RuntimeError):
    """Too many steps in a row had to be skipped; holds a diagnosis."""


@dataclass
class Findings:
    """What of one optimiser batch is not finite, on this process.

    Attributes:
        kinds: Of `rollout log-probs`, `log-probs`, `loss` and `gradient`.
        numbers: Sequences whose log-probs are not.
        skipped: Whether an optimiser step was skipped, on all processes.
    """

    kinds: set[str] = field(default_factory=set)
    numbers: set[int] = field(default_factory=set)
    skipped: bool = False

    def look_at_rollouts(self, groups: Sequence[Group]) -> None:
        """See whether the rollouts were drawn from numbers."""
        number = 0
        for group in groups:
            for completion in group.completions:
                if completion.logprobs and not math.isfinite(sum(completion.logprobs)):
                    self.kinds.add("rollout log-probs")
                    self.numbers.add(number)
                number += 1

    def look_at_row(self, loss: Tensor, logprobs: Tensor, member: Tensor) -> None:
        """See whether a row's loss, a scalar, and its log-probs, (K,) of the sequences `member`, are finite."""
        fine = torch.isfinite(logprobs.detach())
        if bool(fine.all() & torch.isfinite(loss.detach())):
            return
        self.kinds.add("loss")
        if not bool(fine.all()):
            self.kinds.add("log-probs")
            self.numbers |= set(member[~fine.to(member.device)].tolist())

    def look_at_gradient(self, norm: Tensor) -> None:
        """See whether the gradient's norm, a scalar, is finite."""
        if not math.isfinite(float(norm)):
            self.kinds.add("gradient")

    def anywhere(self) -> bool:
        """Whether anything was found on any process; all of them ask."""
        found = parallel.total([float(bool(self.kinds))])[0] > 0
        self.skipped = self.skipped or found
        return found


def incident_rows(step: int, findings: Findings, groups: Sequence[Group]) -> tuple[list[str], list[dict[str, Any]]]:
    """What of a skipped step was not finite, and what the step was made of, over all processes.

    Args:
        step: Number of the step, from 1.
        findings: This process's.
        groups: This process's, with scores and advantages.

    Returns:
        Kinds of findings, and for every group its row of rollouts.jsonl with ``nonfinite``: what was found in the step, and
        ``nonfinite_members``: which members have such log-probs.
    """
    kinds, rows, first = sorted(set(parallel.gather(sorted(findings.kinds)))), [], 0
    for group in groups:
        count = len(group.completions)
        bad = [n - first for n in sorted(findings.numbers) if first <= n < first + count]
        rows.append({**group_row(step, group), "nonfinite": kinds, "nonfinite_members": bad})
        first += count
    return kinds, parallel.rejoin(rows)


def diagnosis(
    kinds: Sequence[str], rows: Sequence[Mapping[str, Any]], in_a_row: int, network: nn.Module, rate: float, folder: str
) -> str:
    """Why a run stops after so many skipped steps, and what to try.

    Args:
        kinds: See `incident_rows`.
        rows: See `incident_rows`.
        in_a_row: Skipped steps.
        network: Whose weights are looked at.
        rate: Learning rate of the last step.
        folder: Where the rows of all of them are.
    """
    spoilt = [name for name, p in network.named_parameters() if not bool(torch.isfinite(p.detach()).all())]
    members = sum(len(row["members"]) for row in rows)
    bad = [(row["id"], len(row["nonfinite_members"])) for row in rows if row["nonfinite_members"]]
    if spoilt:
        cause = (
            f"{len(spoilt)} parameters hold values that are not finite, the first is {spoilt[0]}: no step can mend that. "
            "Begin anew from a sound checkpoint"
        )
    elif bad and sum(count for _, count in bad) <= members / 2:
        cause = f"few sequences are concerned, those of samples {[name for name, _ in bad[:5]]}: look at them first"
    else:
        cause = "the weights are finite: arithmetic overflows. Lower optimizer.lr, or compute with model.autocast: off"
    return (
        f"{in_a_row} steps in a row were skipped because of values that are not finite ({', '.join(kinds)}; learning rate "
        f"{rate:g}). {cause[0].upper()}{cause[1:]}. The samples, texts and rewards of these steps "
        f"are in {folder}; weights and optimiser are as they were before them. optimizer.max_skipped says how many end a run"
    )
