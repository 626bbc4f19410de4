"""A few groups sampled with the model itself: what the policy can read, earn and learn from before anything is trained."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from visurf.advantages import is_flat
from visurf.config import Config
from visurf.doctor.findings import Section, Table
from visurf.groups import form_group, tally, with_advantages
from visurf.loop import Loop
from visurf.paradigms import VISURF
from visurf.preparation import frozen_policy, make_scorer
from visurf.tasks import Task
from visurf.types import Group, Sample

PROMPTS = 8
SHOWN = 8
# On a processor without a GPU, models above this size would sample for minutes.
MOST_ON_CPU = 200_000_000


@dataclass(frozen=True)
class Sampled:
    """What was sampled, and how long it took in seconds."""

    groups: Sequence[Group]
    seconds: float


def sample_groups(config: Config, task: Task, samples: Sequence[Sample], prompts: int = PROMPTS) -> Sampled:
    """Groups of some samples as a step of ViSurf would form them, with the recipe's sampling and reward; nothing is trained.

    Args:
        config: The recipe; adapters are left out, since new ones change nothing.
        task: Of the recipe.
        samples: `prompts` of them are drawn evenly.
        prompts: How many groups.

    Raises:
        RewardError: A reward failed on a rollout.
    """
    model, policy = frozen_policy(config, config.model.path)
    loop = Loop(config, VISURF, model, policy, make_scorer(config, task))
    step = max(len(samples) // prompts, 1)
    chosen = samples[::step][:prompts]
    began = time.perf_counter()
    with torch.no_grad():
        encoded = [model.encode_prompt(s, task.prompt(s, config.task.prompt)) for s in chosen]
        drawn = loop.draw(encoded, 0, 0, config.rollout.group_size)
        labels = loop.labels(encoded)
        groups = []
        for prompt, rollouts, label in zip(encoded, drawn, labels, strict=True):
            read = [loop.scorer.read(loop.complete(r), prompt.sample, prompt.frame) for r in rollouts]
            groups.append(form_group(prompt.sample, read, label, loop.scorer, loop.controls))
    settings = config.advantage
    formed = with_advantages(groups, VISURF, ddof=settings.ddof, eps=settings.eps, scale=settings.scale, baseline=settings.baseline)
    return Sampled(formed, time.perf_counter() - began)


def check_rollouts(sampled: Sampled, group_size: int) -> Section:
    """What the groups say about the recipe."""
    section = Section("rollouts", "Rollouts of the model itself")
    groups = sampled.groups
    found: Mapping[str, float] = tally(groups).metrics()
    rewards = [[r for r, c in zip(g.rewards, g.completions, strict=True) if c.source == "policy"] for g in groups]
    spreads = [statistics.pstdev(r) for r in rewards if len(r) > 1]
    flat = sum(is_flat(r) for r in rewards) / max(len(groups), 1)
    parsed = 1 - found.get("parse/failed", 0.0)
    section.facts |= {
        "rollouts": f"{len(groups)} prompts x {group_size}, {sampled.seconds:.1f} s",
        "parse rate": round(parsed, 3),
        "cut at rollout.max_tokens": round(found.get("rollout/truncated", 0.0), 3),
        "mean tokens": round(found.get("rollout/tokens", 0.0), 1),
        "mean reward": round(found.get("reward/total", 0.0), 3),
        "reward spread within a group": round(statistics.fmean(spreads), 3) if spreads else 0.0,
        "flat groups (rollouts alone)": round(flat, 3),
        "label: mean advantage": round(found.get("label/advantage", 0.0), 3),
        "label: share smoothed": round(found.get("label/smoothed", 0.0), 3),
        "label: flat groups it rescues": round(found.get("group/rescued", 0.0), 3),
    }
    _judge(section, found, parsed, flat)
    section.tables.append(_examples(groups))
    return section


def _judge(section: Section, found: Mapping[str, float], parsed: float, flat: float) -> None:
    if parsed < 0.5:
        reasons = sorted(
            ((v, k.removeprefix("parse/")) for k, v in found.items() if k.startswith("parse/") and k != "parse/failed")
        )
        most = f"; mostly {reasons[-1][1]}" if reasons else ""
        section.warn(
            f"only {parsed:.0%} of the rollouts can be read{most}",
            "look at them below; try another task.prompt, or a stage of sft first (paradigm=sft_then_rlvr)",
        )
    if found.get("rollout/truncated", 0.0) > 0.2:
        section.warn(f"{found['rollout/truncated']:.0%} of the rollouts are cut", "raise rollout.max_tokens")
    if flat > 0.8:
        label = "; with its label visurf still learns from them" if found.get("group/rescued", 0.0) > 0.5 * flat else ""
        section.warn(
            f"in {flat:.0%} of the groups all rollouts earn the same: RLVR alone learns nothing from them{label}",
            "raise rollout.temperature or rollout.group_size, or choose samples the model sometimes gets right",
        )
    if found.get("label/smoothed", 0.0) > 0.8:
        section.warn(
            f"the rollouts reach the label in {found['label/smoothed']:.0%} of the groups: little is new to the model",
            "choose harder samples",
        )


def _examples(groups: Sequence[Group]) -> Table:
    rows = []
    for group in groups[:SHOWN]:
        for index in (0, len(group.completions) - 1):
            completion = group.completions[index]
            said = completion.error.reason if completion.error else "read"
            rows.append(
                (
                    group.sample.id,
                    completion.source,
                    completion.text[:400],
                    said,
                    f"{group.rewards[index]:.2f}",
                    f"{group.advantages[index]:+.2f}",
                )
            )
    return Table(
        "The first rollout and the label of each prompt", ("sample", "from", "text", "parser", "reward", "advantage"), tuple(rows)
    )
