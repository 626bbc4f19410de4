"""Results as a markdown page. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from visurf.alarms import KINDS
from visurf.studies.analysis import (
    Cell,
    Comparison,
    asked_metrics,
    cells,
    comparisons,
    dig,
    interval,
    side_drops,
    start_cells,
)
from visurf.studies.costs import UNITS
from visurf.studies.gains import Gain, gains_over_start
from visurf.studies.plan import SEED


def write_page(results: Mapping[str, Any], found: Sequence[Comparison] | None = None) -> str:
    """The whole page.

    Args:
        results: What results.json holds.
        found: Its comparisons, where they have been computed already.
    """
    study, runs = results["study"], results["runs"]
    parts = [f"# {results['name']}", study["about"].strip(), _made(results)]
    if results.get("choices"):
        parts.append(_tuning(results))
    parts.append(_probes(runs))
    for matching in (m["name"] for m in study["matching"]):
        parts.append(f"## {matching[:1].upper()}{matching[1:]}")
        known = cells(runs, matching)
        parts += [f"**{test}**\n\n{_test_table(known, start_cells(runs), test, study)}" for test in study["tests"]]
        parts += [_gains(*gains_over_start(results, matching, test), test) for test in study["tests"]]
        parts.append(f"**Costs** (means over seeds)\n\n{_cost_table(known)}")
        side = _side_table(known)
        parts += [f"**Side tasks**: accuracy before and after training, and the drop\n\n{side}"] if side else []
    parts.append(_alarms(runs))
    tested = comparisons(results) if found is None else found
    parts.append(_comparisons(tested))
    failed = [run for run in runs if run["status"] != "done"]
    if failed:
        parts.append(_failures(failed))
    return "\n\n".join(part for part in parts if part) + "\n"


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A markdown table; bars in cells are escaped."""
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in (head, *lines)]
    drawn = ["| " + " | ".join(line) + " |" for line in escaped]
    return "\n".join([drawn[0], "|" + "---|" * len(head), *drawn[1:]])


def number(value: float | None, spread: float = math.nan) -> str:
    """Three digits, with the spread where there is one; a dash for nothing."""
    if value is None or math.isnan(value):
        return "-"
    if math.isnan(spread):
        return f"{value:.3f}"
    return f"{value:.3f} ± {spread:.3f}"


def start_label(cell: Cell) -> str:
    """What tables call a starting checkpoint."""
    return f"start {cell.label}" if cell.axes else cell.name


def _difference(value: float, low: float, high: float) -> str:
    """With its interval, where there is one: a single prompt has none."""
    return f"{value:+.3f}" + ("" if math.isnan(low) else f" [{low:+.3f}, {high:+.3f}]")


def _probability(value: float) -> str:
    return f"{value:.4f}" if value >= 0.00005 else "<0.0001"


def _made(results: Mapping[str, Any]) -> str:
    counts: dict[str, int] = {}
    for run in results["runs"]:
        counts[run["status"]] = counts.get(run["status"], 0) + 1
    seconds = sum(dig(run, "costs", "seconds") or 0.0 for run in results["runs"])
    made = ", ".join(f"{count} {status}" for status, count in counts.items())
    versions = ", ".join(f"{name} {version}" for name, version in results.get("versions", {}).items())
    return f"`{results['command']}`; runs: {made}; {seconds / 3600:.2f} hours of training steps in all; {versions}."


def _tuning(results: Mapping[str, Any]) -> str:
    tuning = results["study"]["tuning"]
    lines = []
    for run in (r for r in results["runs"] if r["role"] == "tuning"):
        picked = any(c["axes"].items() <= run["axes"].items() and c["chosen"] == run["chosen"] for c in results["choices"])
        tried = ", ".join(f"{k} = {v}" for k, v in run["chosen"].items())
        lines.append([", ".join(run["axes"].values()), tried, number(run.get("score")), "chosen" if picked else ""])
    budget = f"on `{tuning['validation']}`, seed {tuning['seed']}, before any test was opened; the {tuning['best']} wins"
    return f"## Tuning\n\n{tuning['metric'] or 'Headline metric'} {budget}.\n\n" + table(["run", "tried", "score", ""], lines)


def _test_table(known: Sequence[Cell], starts: Sequence[Cell], test: str, study: Mapping[str, Any]) -> str:
    everyone = [run for cell in (*starts, *known) for run in cell.runs]
    asked = asked_metrics(study, everyone, test)
    shown = list(dict.fromkeys((*asked, "thinking", "parse_failed")))
    shown = [m for m in shown if any(dig(run, "tests", test, "summary", m) is not None for run in everyone)]
    lines = []
    for cell in (*starts, *known):
        name = start_label(cell) if cell in starts else cell.label
        cellwise = [name, f"{len(cell.runs)}" + (f" ({len(cell.failed)} failed)" if cell.failed else "")]
        for position, metric in enumerate(shown):
            value, spread = cell.mean("tests", test, "summary", metric) or (None, math.nan)
            found = interval(cell, test, metric) if position < len(asked) and cell.runs else None
            ends = f" [{found.low:.3f}, {found.high:.3f}]" if found is not None and not math.isnan(found.low) else ""
            cellwise.append(number(value, spread) + ends)
        lines.append(cellwise)
    return table(["run", "seeds", *shown], lines)


def _cost_table(known: Sequence[Cell]) -> str:
    lines = []
    for cell in known:
        numbers = [cell.mean("steps"), *(cell.mean("costs", unit) for unit in UNITS)]
        lines.append([cell.label, *("-" if n is None else f"{n[0]:.4g}" for n in numbers)])
    return table(["run", "steps", *UNITS], lines)


def _side_table(known: Sequence[Cell]) -> str:
    names = list(dict.fromkeys(n for cell in known for run in cell.runs for n in side_drops(run)))
    lines = []
    for cell in known:
        line = [cell.label]
        for name in names:
            pairs = [side_drops(run)[name] for run in cell.runs if name in side_drops(run)]
            if not pairs:
                line.append("-")
                continue
            before, after = (sum(p[i] for p in pairs) / len(pairs) for i in (0, 1))
            line.append(f"{before:.3f} → {after:.3f} ({before - after:+.3f})")
        lines.append(line)
    return table(["run", *names], lines) if names else ""


def _gains(metric: str, found: Sequence[tuple[str, str, Gain]], test: str) -> str:
    """Gains over the start by difficulty and by length, of the first metric."""
    lines = [
        [label, kind, gain.group, str(gain.prompts), _difference(gain.gain, gain.low, gain.high)] for label, kind, gain in found
    ]
    if not lines:
        return ""
    by = "by how often the start's sampled answers were right, and by the length of its greedy answer"
    said = f"**{test}: gain in {metric} over the start**, {by}"
    return f"{said}\n\n" + table(["run", "by", "prompts whose start is", "prompts", "gain"], lines)


def _probes(runs: Sequence[Mapping[str, Any]]) -> str:
    """What the starting checkpoints can do, where they were probed."""
    lines: list[list[str]] = []
    head: list[str] = []
    skipped: list[str] = []
    for run in (r for r in runs if r["role"] == "start"):
        for test, measured in (run.get("tests") or {}).items():
            found = measured.get("probe")
            if "not_probed" in measured:
                skipped.append(f"{run['name']} was not probed on {test}: {measured['not_probed']}.")
            if found is None:
                continue
            numbers = {f"pass@{k}": v for k, v in found["pass_at"].items()}
            numbers |= {n: found[n] for n in ("label_nll", "entropy", "reward_variance", "flat", "label_rescues")}
            head = head or ["start", "test", *numbers]
            lines.append([run["name"], test, *(number(v) for v in numbers.values())])
    parts = [table(head, lines)] if lines else []
    return "\n\n".join(["## Starting checkpoints", *parts, *skipped]) if parts or skipped else ""


def _alarms(runs: Sequence[Mapping[str, Any]]) -> str:
    """Alarms and rank correlations of the runs that evaluated while they trained, by axes without the seed."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        if run["role"] == "run" and any(n.startswith("validation/") for n in run.get("curves") or {}):
            groups.setdefault(", ".join(v for a, v in run["axes"].items() if a != SEED) or "all", []).append(run)
    lines = []
    for label, members in groups.items():
        line = [label, str(len(members))]
        for kind in KINDS:
            at = [str(run["alarms"][kind]["step"]) for run in members if kind in run.get("alarms", {})]
            line.append(f"{len(at)} (step {', '.join(at)})" if at else "0")
        parts = dict.fromkeys(name for run in members for name in run.get("correlations", {}))
        told = []
        for part in parts:
            known = [v for run in members if (v := run.get("correlations", {}).get(part)) is not None]
            told.append(f"{part} {sum(known) / len(known):+.2f}" if known else f"{part} -")
        lines.append([*line, ", ".join(told)])
    if not lines:
        return ""
    said = "Runs in which each alarm was raised, and the mean rank correlation of each part of the reward with held-out accuracy."
    return f"## Deceptive rewards\n\n{said}\n\n" + table(["run", "seeds", *KINDS, "correlation"], lines)


def _comparisons(found: Sequence[Comparison]) -> str:
    if not found:
        return ""
    lines = [
        [
            one.matching,
            one.test,
            one.metric,
            f"{one.first} → {one.second}",
            _difference(one.found.difference.value, one.found.difference.low, one.found.difference.high),
            _probability(one.found.p_value),
            _probability(one.corrected),
            number(one.found.over_prompts),
            number(one.found.over_seeds),
            str(one.found.seeds) + (f" ({one.note})" if one.note else ""),
        ]
        for one in found
    ]
    said = (
        "The second minus the first, on the same prompts and seeds. 95 % intervals and p-values are about other seeds (Student's t "
        f"over theirs) and other prompts together; the corrected p is Holm's over all {len(found)} rows. Effect sizes: d over "
        "prompts (mean difference by its standard deviation), g over seeds (likewise, corrected for few)."
    )
    if any(one.found.seeds == 1 for one in found):
        said += (
            " Where there is one seed (prompts only), interval and p are about other prompts for these very models: training again"
            " with another seed may well turn such a difference round."
        )
    head = ["matching", "test", "metric", "first → second", "difference", "p", "corrected p", "d", "g", "seeds"]
    return f"## Comparisons\n\n{said}\n\n{table(head, lines)}"


def _failures(failed: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        [f"{run['role']} {run['name']}", f"{run['status']} {run.get('stage', '')}".strip(), run.get("error", "").strip()[-300:]]
        for run in failed
    ]
    return "## Runs without a result\n\n" + table(["run", "status", "error"], lines)
