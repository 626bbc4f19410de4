"""Paradigms as values: what enters a group, which controls act, how each member's coefficient is computed.

| paradigm | rollouts | label joins | controls | coefficient |
|---|---|---|---|---|
| sft | 0 | yes | align | 1 |
| rlvr | G | no | none | (r - mean) / std over G |
| visurf | G | yes | align, eliminate, smooth | (r - mean) / std over G + 1 |
| sft_then_rlvr | two stages of the above | | | |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Paradigm:
    """One way to post-train.

    Attributes:
        name: What a recipe calls it.
        rollouts: Whether the policy is sampled.
        label: Whether the label joins the group.
        coefficient: `advantage`: group advantages (Eq. 6 and 7). `one`: every member counts 1, which is the negative
            log-likelihood (Eq. 1); the ratio's denominator is then the current policy.
        stages: Paradigms that run one after the other instead.
        source: Where it was published.
    """

    name: str
    rollouts: bool = True
    label: bool = False
    coefficient: Literal["advantage", "one"] = "advantage"
    stages: tuple[str, ...] = ()
    source: str = ""


SFT = Paradigm("sft", rollouts=False, label=True, coefficient="one", source="arXiv 2510.10606, Eq. 1")
RLVR = Paradigm("rlvr", source="GRPO, arXiv 2402.03300; arXiv 2510.10606, Eq. 2-4")
VISURF = Paradigm("visurf", label=True, source="arXiv 2510.10606, Eq. 6-10, Algorithm 1")
SFT_THEN_RLVR = Paradigm("sft_then_rlvr", stages=("sft", "rlvr"), source="arXiv 2510.10606, the two-stage baseline")

PARADIGMS = {p.name: p for p in (SFT, RLVR, VISURF, SFT_THEN_RLVR)}
