"""Metrics of runs as curves: runs of the same settings are one band over seeds, long runs are thinned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from visurf.reporting.reading import RunFolder

# Most points of a curve; more than a chart has pixels.
POINTS = 600
# What differs between runs that are the same experiment.
_APART = ("seed", "out", "threads", "trackers", "checkpoint", "recording")
# Sections of the page, in order, with the metrics they hold by their first part.
SECTIONS = (
    ("Reward", ("reward", "abstained")),
    ("Held-out evaluation", ("validation",)),
    ("Label", ("label",)),
    ("Policy", ("policy", "loss")),
    ("Groups and completions", ("group", "rollout", "parse")),
    ("Time and throughput", ("time", "rate")),
    ("Other", ()),
)
# One line on what a curve means, for people who see it for the first time.
MEANINGS = {
    "reward/total": "Mean weighted reward of the rollouts.",
    "label/advantage": "Mean advantage of the label. It falls to 0 where rollouts reach the label.",
    "label/smoothed": "Share of labels that the rollouts reached, so that supervision switched itself off.",
    "label/reward": "Mean reward of the label before smoothing.",
    "label/nll": "Negative log-likelihood of label tokens: how surprised the policy is by the label.",
    "policy/entropy": "Mean -log p of sampled tokens. A fall to 0 means that sampling has lost its variety.",
    "policy/kl": "Estimated KL divergence from the reference model.",
    "policy/clip_frac": "Share of rollout tokens whose ratio was clipped.",
    "label/clip_frac": "Share of label tokens whose ratio was clipped.",
    "policy/approx_kl": "Estimated KL divergence from the policy that sampled.",
    "policy/grad_norm": "Norm of the gradient before clipping.",
    "group/zero_variance": "Share of groups whose members all earned the same: they teach nothing.",
    "group/rescued": "Share of groups whose rollouts all earned the same and only the label brought a signal.",
    "rollout/tokens": "Mean length of rollouts, in tokens.",
    "rollout/truncated": "Share of rollouts that were cut at the length limit.",
    "parse/failed": "Share of rollouts whose answer could not be read.",
    "time/step": "Seconds of a whole step.",
    "rate/tokens": "Tokens trained and sampled a second.",
}


def settings_key(run: RunFolder) -> str:
    """What two runs share that differ in their seeds only."""
    if not run.config:
        return str(run.path)
    return repr(sorted((name, repr(value)) for name, value in run.config.items() if name not in _APART))


def bundles(runs: Sequence[RunFolder]) -> list[list[int]]:
    """Indices of the runs that are drawn together: same settings, different seeds."""
    found: dict[str, list[int]] = {}
    for index, run in enumerate(runs):
        found.setdefault(settings_key(run), []).append(index)
    together: list[list[int]] = []
    for members in found.values():
        seeds = [runs[i].config.get("seed") for i in members]
        # The same seed twice is a repetition, not a spread over seeds.
        together += [members] if len(set(map(repr, seeds))) == len(seeds) else [[i] for i in members]
    return sorted(together)


def numbers(run: RunFolder, name: str) -> dict[int, float]:
    """Step -> value of one metric, where it is a finite number."""
    found = {}
    for row in run.metrics:
        value = row.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            found[int(row["step"])] = float(value)
    return found


def metric_names(runs: Sequence[RunFolder]) -> list[str]:
    """Every metric that some run has, in the order of sections and, within, of first appearance.

    Alarms are shown apart, and what was measured before the first step is the first point of its curve.
    """
    names = dict.fromkeys(name for run in runs for row in run.metrics for name in row)
    skipped = ("step", "stage", "paradigm", "validation/samples")
    apart = ("alarm/", "before/")
    return [n for n in names if n not in skipped and not n.startswith(apart) and any(numbers(run, n) for run in runs)]


def section_of(name: str) -> str:
    """Which section of the page a metric belongs to."""
    first = name.partition("/")[0]
    return next((title for title, heads in SECTIONS if first in heads), SECTIONS[-1][0])


def thinned(columns: Sequence[Sequence[float]], most: int = POINTS) -> list[list[float]]:
    """Columns of equal length reduced to `most` means of neighbours; the first column is the steps.

    >>> thinned([[1, 2, 3, 4], [0.0, 2.0, 4.0, 6.0]], 2)
    [[1.5, 3.5], [1.0, 5.0]]
    """
    count = len(columns[0])
    if count <= most:
        return [list(column) for column in columns]
    edges = [round(i * count / most) for i in range(most + 1)]
    return [[math.fsum(c[a:b]) / (b - a) for a, b in pairwise(edges)] for c in columns]


def series(runs: Sequence[RunFolder], members: Sequence[int], name: str) -> dict[str, Any] | None:
    """One curve: of a run, or the mean of several with the range over them; None where none has the metric.

    The mean is over the runs that have a step, and the range over the same.
    """
    values = [_before(runs[i], name) | numbers(runs[i], name) for i in members]
    steps = sorted({step for found in values for step in found})
    if not steps:
        return None
    at = [[found[step] for found in values if step in found] for step in steps]
    columns = [list(map(float, steps)), [math.fsum(v) / len(v) for v in at]]
    if len(members) > 1:
        columns += [[min(v) for v in at], [max(v) for v in at]]
    x, mean, *band = (_rounded(column) for column in thinned(columns))
    return {"x": x, "y": mean, **({"low": band[0], "high": band[1]} if band else {})}


def _before(run: RunFolder, name: str) -> dict[int, float]:
    """What a validation before the first step found, as step 0."""
    kind, _, metric = name.partition("/")
    found = numbers(run, f"before/{metric}") if kind == "validation" else {}
    return {0: next(iter(found.values()))} if found else {}


def _rounded(values: Sequence[float]) -> list[float]:
    """Six significant digits: more than a chart shows, and half the bytes."""
    return [float(f"{value:.6g}") for value in values]


def curves(runs: Sequence[RunFolder]) -> dict[str, Any]:
    """All curves of a report: the lines' labels, and per section its charts with one series (or null) a line."""
    together = bundles(runs)
    lines = [{"label": _label(runs, members), "runs": members} for members in together]
    charts: dict[str, list[Mapping[str, Any]]] = {title: [] for title, _ in SECTIONS}
    for name in metric_names(runs):
        drawn = [series(runs, members, name) for members in together]
        charts[section_of(name)].append({"name": name, "meaning": MEANINGS.get(name, ""), "series": drawn})
    sections = [{"title": title, "charts": charts[title]} for title, _ in SECTIONS if charts[title]]
    return {"lines": lines, "sections": sections}


def _label(runs: Sequence[RunFolder], members: Sequence[int]) -> str:
    if len(members) == 1:
        return runs[members[0]].name
    names = [runs[i].name for i in members]
    paradigm = runs[members[0]].config.get("paradigm", names[0])
    return f"{paradigm}, {len(members)} seeds ({names[0]}, ...)"
