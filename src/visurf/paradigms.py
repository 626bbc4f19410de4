"""Paradigms as values: what enters a group, which controls act, what each sequence's coefficients are. See docs/paradigms.md.

Everything that is not said here is the same for all of them: data, prompts, rewards, log-probs, the objective, logs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from visurf import mixing
from visurf.mixing import Blend, Hints, TokenWeight


@dataclass(frozen=True)
class Paradigm:
    """One way to post-train.

    Attributes:
        name: What a recipe calls it.
        rollouts: Whether the policy is sampled.
        label: What the label is: a `member` of the group, whose reward enters mean and deviation; `beside` it, supervised or
            only compared with; the source of `hint`s; or None.
        controls: The reward controls that act on it, each if the configuration has it on.
        blend: Turns a group's advantages into its coefficients; None leaves them and supervises nothing.
        label_ratio: The label's ratio in the objective: that of a rollout, or f(p) = p / (p + `constant`) without clipping.
        token_weight: Weighs the supervised tokens; None weighs them all 1.
        entropies: Whether the token weight needs entropies, which cost a forward of the supervised sequences.
        hints: How rollouts are guided by the label.
        scale: Supervised tokens are averaged by themselves (`own`) or together with all others (`joint`).
        mixing: Its hyperparameters and their defaults, set by ``mixing.NAME`` in a recipe.
        stages: Paradigms that run one after the other instead.
        source: Where it was published.

    Raises:
        ValueError: The parts do not fit together.
    """

    name: str
    rollouts: bool = True
    label: Literal["member", "beside", "hint"] | None = None
    controls: tuple[str, ...] = ("align", "eliminate")
    blend: Blend | None = None
    label_ratio: Literal["clipped", "saturating"] = "clipped"
    token_weight: TokenWeight | None = None
    entropies: bool = False
    hints: Hints | None = None
    scale: Literal["own", "joint"] = "own"
    mixing: Mapping[str, float] = field(default_factory=dict)
    stages: tuple[str, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        """Refuse what would silently do nothing."""
        if self.label not in (None, "member", "beside", "hint"):
            raise ValueError(f"paradigm {self.name!r}: label must be 'member', 'beside', 'hint' or None, got {self.label!r}")
        if (self.label == "hint") != (self.hints is not None):
            raise ValueError(f"paradigm {self.name!r}: label 'hint' and `hints` go together")
        if not self.rollouts and self.blend is None:
            raise ValueError(f"paradigm {self.name!r}: without rollouts a `blend` must supervise the label")
        if self.label_ratio == "saturating" and "constant" not in self.mixing:
            raise ValueError(f"paradigm {self.name!r}: label_ratio 'saturating' needs the hyperparameter 'constant'")


_ALL = ("align", "eliminate", "smooth")
# A rollout counts as right if its accuracy is at least this fraction of the label's.
_SUCCESS = {"success": 0.5}

SFT = Paradigm("sft", rollouts=False, label="beside", blend=mixing.imitate, source="arXiv 2510.10606, Eq. 1")
RLVR = Paradigm("rlvr", source="GRPO, arXiv 2402.03300; arXiv 2510.10606, Eq. 2-4")
VISURF = Paradigm("visurf", label="member", controls=_ALL, source="arXiv 2510.10606, Eq. 6-10, Algorithm 1")
ABLATIONS = tuple(
    Paradigm(
        f"visurf_no_{name}",
        label="member",
        controls=tuple(control for control in _ALL if control != name),
        source="arXiv 2510.10606, ablation of the reward controls",
    )
    for name in _ALL
)
LUFFY = Paradigm(
    "luffy",
    label="member",
    label_ratio="saturating",
    mixing={"constant": 0.1},
    source="LUFFY, arXiv 2504.14945, policy shaping",
)
_MU = {"mu_warmup": 0.0, "mu_decay": 200.0}
CHORD = Paradigm(
    "chord",
    label="beside",
    blend=mixing.interpolate,
    token_weight=mixing.uncertain,
    mixing={"mu_peak": 0.1, "mu_valley": 0.1, **_MU},
    source="CHORD-phi, arXiv 2508.11408",
)
CHORD_MU = Paradigm(
    "chord_mu",
    label="beside",
    blend=mixing.interpolate,
    mixing={"mu_peak": 0.9, "mu_valley": 0.05, **_MU},
    source="CHORD-mu, arXiv 2508.11408",
)
SRFT = Paradigm(
    "srft",
    label="member",
    blend=mixing.by_entropy,
    label_ratio="saturating",
    mixing={"supervision": 0.5, "right": 0.1, "wrong": 1.0, "constant": 0.1, **_SUCCESS},
    source="SRFT, arXiv 2506.19767",
)
HPT = Paradigm(
    "hpt",
    label="beside",
    blend=mixing.gate,
    mixing={"gate": 0.0, "supervision": 1.0, **_SUCCESS},
    source="HPT, arXiv 2509.04419",
)
MIFO = Paradigm(
    "mifo",
    label="beside",
    blend=mixing.add_to_hard,
    token_weight=mixing.most_uncertain,
    entropies=True,
    mixing={"hard": 0.25, "share": 0.2, "supervision": 1.0, **_SUCCESS},
    source="MIFO, arXiv 2510.04454, after the abstract",
)
TRAPO = Paradigm(
    "trapo",
    label="hint",
    blend=mixing.teach_each_hint_once,
    token_weight=mixing.trusted,
    hints=Hints(mixing.halves, mixing.where_needed),
    scale="joint",
    mixing={"alpha": 0.1, "supervision": 1.0, **_SUCCESS},
    source="TRAPO, arXiv 2512.17636",
)
UFT = Paradigm(
    "uft",
    label="hint",
    blend=mixing.teach_hints,
    hints=Hints(mixing.all_at_once, mixing.annealed),
    mixing={"hint_low": 0.05, "hint_high": 0.95, "hint_steps": 0.6, "supervision": 0.001},
    source="UFT, arXiv 2505.16984",
)
PEAR = Paradigm(
    "pear",
    rollouts=False,
    label="beside",
    blend=mixing.imitate,
    token_weight=mixing.continued,
    mixing={"discount": 0.9, "floor": 0.1},
    source="PEAR, arXiv 2602.01058, token level, after the abstract",
)
SELF_SFT = Paradigm(
    "self_sft",
    label="beside",
    blend=mixing.imitate_solved,
    mixing=_SUCCESS,
    source="the later SFT stages of OpenVLThinker, arXiv 2503.17352",
)
SFT_THEN_RLVR = Paradigm("sft_then_rlvr", stages=("sft", "rlvr"), source="arXiv 2510.10606, the two-stage baseline")
PEAR_THEN_RLVR = Paradigm("pear_then_rlvr", stages=("pear", "rlvr"), source="arXiv 2602.01058")
OPENVLTHINKER = Paradigm(
    "openvlthinker",
    stages=("sft", "rlvr", "self_sft", "rlvr", "self_sft", "rlvr"),
    source="OpenVLThinker, arXiv 2503.17352, three SFT-RL cycles",
)

_MIXED = (LUFFY, CHORD, CHORD_MU, SRFT, HPT, MIFO, TRAPO, UFT, PEAR, SELF_SFT)
_STAGED = (SFT_THEN_RLVR, PEAR_THEN_RLVR, OPENVLTHINKER)
PARADIGMS = {p.name: p for p in (SFT, RLVR, VISURF, *ABLATIONS, *_MIXED, *_STAGED)}
