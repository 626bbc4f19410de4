"""Write the tables of docs/results/papers-in-miniature.md from the committed results, and the picture of training curves.

    python studies/page.py [--check] [--results docs/results/papers] [--page docs/results/papers-in-miniature.md]

Every table stands between ``<!-- NAME -->`` and ``<!-- end -->``; what is around them is written by hand.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from visurf.studies.analysis import Cell, cells, interval, start_cells

COLUMNS = (
    ("non-object gIoU", "nonobject", "held_out", "giou"),
    ("N-acc", "nonobject", "held_out", "n_acc"),
    ("reasoning gIoU", "reasoning", "held_out", "giou"),
    ("reasoning shifted gIoU", "reasoning", "shifted", "giou"),
    ("GUI accuracy", "gui", "held_out", "click_accuracy"),
    ("anomaly ROC-AUC", "anomaly", "held_out", "roc_auc"),
    ("lesion box accuracy", "lesion", "held_out", "box_accuracy"),
    ("counting accuracy", "counting", "held_out", "accuracy"),
)
PARADIGMS = ("sft", "rlvr", "sft_then_rlvr", "visurf")
NOT_RUN = "not run yet: `{}`"
COSTS = Path(__file__).parents[1] / "docs" / "results" / "papers-costs.json"
Results = dict[str, dict[str, Any]]


def value(run: dict[str, Any], test: str, metric: str) -> float:
    """A number of a run, NaN where it has none."""
    found = run.get("tests", {}).get(test, {}).get("summary", {}).get(metric)
    return math.nan if found is None else float(found)


def runs_of(results: dict[str, Any], name: str, axis: str = "paradigm") -> dict[str, dict[str, Any]]:
    """Seed -> run that is done, for one value of an axis; the start under every seed for ``baseline``."""
    if name == "baseline":
        return dict.fromkeys([""], next(run for run in results["runs"] if run["role"] == "start"))
    chosen = (r for r in results["runs"] if r["role"] == "run" and r["status"] == "done" and r["axes"][axis] == name)
    return {run["axes"]["seed"]: run for run in chosen}


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation in percent."""
    known = [v for v in values if not math.isnan(v)]
    if not known:
        return "-"
    mean = 100 * float(np.mean(known))
    return f"{mean:.1f}" + (f" ± {100 * float(np.std(known, ddof=1)):.1f}" if len(known) > 1 else "")


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def common_seeds(found: Results, names: Sequence[str]) -> list[str]:
    """Seeds of which every column has every paradigm."""
    sets = [set(runs_of(found[study], name)) for _, study, _, _ in COLUMNS for name in names]
    return sorted(set.intersection(*sets), key=int) if sets else []


def main_table(folder: str, paradigms: Sequence[str] = PARADIGMS) -> Callable[[Results], str]:
    """The table of all columns, ViSurf last, over the seeds of which all columns are there."""

    def write(found: Results) -> str:
        own = {study: found.get(f"{folder}-{study}") for _, study, _, _ in COLUMNS}
        there = {study: results for study, results in own.items() if results is not None}
        seeds = common_seeds(there, paradigms) if len(there) == len(own) else []
        return averages(there, seeds, paradigms) if seeds else NOT_RUN.format(f"python studies/run.py studies/{folder}/*.yaml")

    return write


def averages(own: Results, seeds: Sequence[str], paradigms: Sequence[str]) -> str:
    """Every column and their average by paradigm, over some seeds, and ViSurf's lead."""
    base = [value(runs_of(own[s], "baseline")[""], t, m) for _, s, t, m in COLUMNS]
    lines = [["baseline", *(f"{100 * v:.1f}" for v in base), f"{100 * np.mean(base):.1f}", "-"]]
    means: dict[str, list[float]] = {}
    for name in paradigms:
        grid = [[value(runs_of(own[s], name)[seed], t, m) for _, s, t, m in COLUMNS] for seed in seeds]
        average = [float(np.mean(row)) for row in grid]
        means[name] = average
        gain = 100 * (np.mean(average) / np.mean(base) - 1)
        columns = [spread([row[i] for row in grid]) for i in range(len(COLUMNS))]
        lines.append([name, *columns, spread(average), f"{gain:+.0f} %"])
    table = markdown(["", *(c[0] for c in COLUMNS), "average", "gain over baseline"], lines)
    said = [f"Means ± standard deviation over {len(seeds)} seed(s) ({', '.join(seeds)}), percent."]
    for name in paradigms[:-1]:
        said.append(f"Average of ViSurf less that of {name}, seed by seed: {difference(means['visurf'], means[name])}.")
    return table + "\n\n" + " ".join(said)


def difference(first: Sequence[float], second: Sequence[float]) -> str:
    """Mean of paired differences in points with its 95 % t interval."""
    from scipy.stats import t

    differences = 100 * (np.asarray(first) - np.asarray(second))
    mean = float(differences.mean())
    if len(differences) < 2:
        return f"{mean:+.1f} (one seed: no interval)"
    half = float(t.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / math.sqrt(len(differences)))
    return f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]"


def cell_line(cell: Cell, name: str, columns: Sequence[tuple[str, str, str]]) -> list[str]:
    """A row of numbers: mean, deviation over seeds, and where there are per-prompt measures the interval over both."""
    line = [name, str(len(cell.runs))]
    for _, test, metric in columns:
        text = spread([value(dict(run), test, metric) for run in cell.runs])
        found = interval(cell, test, metric) if cell.runs else None
        line.append(text + (f" [{100 * found.low:.1f}, {100 * found.high:.1f}]" if found is not None else ""))
    return line


def study_table(name: str, columns: Sequence[tuple[str, str, str]], command: str) -> Callable[[Results], str]:
    """A table of one study: a row for the starting model and for every cell; columns are (title, test, metric)."""

    def write(found: Results) -> str:
        if name not in found:
            return NOT_RUN.format(command)
        results = found[name]
        starts = [cell for cell in start_cells(results["runs"]) if cell.runs]
        lines = [cell_line(cell, ", ".join([*cell.axes.values(), "baseline"]), columns) for cell in starts]
        matching = results["study"]["matching"][0]["name"]
        lines += [cell_line(cell, cell.label, columns) for cell in cells(results["runs"], matching) if cell.runs]
        open_runs = sum(run["status"] != "done" for run in results["runs"])
        note = f"\n\n{open_runs} of {len(results['runs'])} runs are not there yet: `{command}`" if open_runs else ""
        return markdown(["", "runs", *(title for title, _, _ in columns)], lines) + note

    return write


TUNED = ("tuning-nonobject", "tuning-reasoning", "tuning-rivals_nonobject", "tuning-rivals_reasoning")


def tuning_rows(found: Results) -> list[list[str]]:
    """For every paradigm its validation gIoU on both tasks at every learning rate and, last, the rate with the best mean.

    A rate of which a task is not there (not run yet, or its run failed) is not chosen.
    """
    seen: dict[str, dict[str, list[float]]] = {}
    for name in TUNED:
        for run in found[name]["runs"] if name in found else ():
            if run["role"] == "run" and run["status"] == "done":
                rates = seen.setdefault(run["axes"]["paradigm"], {})
                rates.setdefault(run["axes"]["optimizer.lr"], []).append(value(run, "validation", "giou"))
    lines = []
    for paradigm, row in seen.items():
        whole = {rate: values for rate, values in row.items() if len(values) == 2}
        best = max(whole, key=lambda rate: float(np.mean(whole[rate])), default="-")
        lines.append([paradigm, *(" / ".join(f"{100 * v:.1f}" for v in values) for values in row.values()), best])
    return lines


def tuning(found: Results) -> str:
    """The table of `tuning_rows`."""
    if any(name not in found for name in TUNED[:2]):
        return NOT_RUN.format("python studies/run.py studies/tuning/*.yaml")
    rates = [str(rate) for rate in found["tuning-nonobject"]["study"]["axes"]["optimizer.lr"]]
    return markdown(["validation gIoU (non-object / reasoning)", *rates, "chosen"], tuning_rows(found))


_SIDE = (("side: clean counting", "side_counting", "accuracy"), ("side: clean finding", "side_finding", "box_iou"))
_NONOBJECT = (
    ("gIoU", "held_out", "giou"),
    ("N-acc", "held_out", "n_acc"),
    ("box IoU", "held_out", "box_iou"),
    ("reasons", "held_out", "thinking"),
    *_SIDE,
)
_REASONING = (
    ("gIoU", "held_out", "giou"),
    ("shifted gIoU", "shifted", "giou"),
    ("reasons", "held_out", "thinking"),
    *_SIDE,
)
_RUN = "python studies/run.py studies/{}.yaml"
HEADLINES = {study: (test, metric) for _, study, test, metric in reversed(COLUMNS)}


def rewards_and_accuracy(found: Results) -> str:
    """How reward and accuracy changed over the same steps of the reinforced runs of the main table."""
    from visurf.curves import rank_correlation

    lines = []
    for name in ("rlvr", "sft_then_rlvr", "visurf"):
        tasks: list[list[tuple[float, float]]] = []
        for study, (test, metric) in HEADLINES.items():
            results = found.get(f"table1-{study}")
            if results is not None:
                start = value(runs_of(results, "baseline")[""], test, metric)
                tasks.append([changes(run, metric, start, value(run, test, metric)) for run in runs_of(results, name).values()])
        pairs = [pair for task in tasks for pair in task]
        if pairs:
            up = [gain for rise, gain in pairs if rise > 0]
            ranks = [rank_correlation(*map(list, zip(*task, strict=True))) for task in tasks]
            known = [rank for rank in ranks if not math.isnan(rank)]
            mean = f"{np.mean(known):+.2f} ({min(known):+.1f} to {max(known):+.1f})" if known else "-"
            lines.append([name, str(len(pairs)), str(len(up)), str(sum(gain < 0 for gain in up)), mean])
    if not lines:
        return NOT_RUN.format("python studies/run.py studies/table1/*.yaml")
    head = ["", "runs", "reward rose", "of these accuracy fell", "rank correlation of the two changes within a task, mean (range)"]
    return markdown(head, lines)


def changes(run: Mapping[str, Any], metric: str, start: float, end: float) -> tuple[float, float]:
    """The change of the reward of a run and that of accuracy over the same steps.

    Accuracy is the held-out one, from `start` to `end`. A run that begins with a supervised stage was not asked the held-out
    questions where its rewards begin: its accuracy is that of validation, from the end of that stage on.
    """
    reward = run["curves"]["reward/total"]
    values = [point[1] for point in reward]
    rise = float(np.mean(values[-5:]) - np.mean(values[:5]))
    before = [score for step, score in run["curves"][f"validation/{metric}"] if step < reward[0][0]]
    return rise, (run["curves"][f"validation/{metric}"][-1][1] - before[-1] if before else end - start)


def told(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Number of runs, of those with an alarm, and how many of which kind there were."""
    kinds = [kind for run in runs for kind in run.get("alarms", {})]
    counted = ", ".join(f"{kind}: {kinds.count(kind)}" for kind in dict.fromkeys(kinds)) or "none"
    return [str(len(runs)), str(sum(bool(run.get("alarms")) for run in runs)), counted]


def alarms(found: Results) -> str:
    """How many reinforced runs of the main table raised an alarm, by paradigm and kind."""
    tables = [results for name, results in found.items() if name.startswith("table1-")]
    lines = []
    for name in ("rlvr", "sft_then_rlvr", "visurf"):
        runs = [run for results in tables for run in runs_of(results, name).values()]
        if runs:
            lines.append([name, *told(runs)])
    if not lines:
        return NOT_RUN.format("python studies/run.py studies/table1/*.yaml")
    return markdown(["", "runs", "with an alarm", "alarms"], lines)


def deception(found: Results) -> str:
    """How many runs raised an alarm, by the reward that was planted, and what became of the answers."""
    results = found.get("alarms-deception")
    if results is None:
        return NOT_RUN.format("python studies/run.py studies/alarms/deception.yaml")
    lines = [["baseline", "", "", "", "", spread([value(runs_of(results, "baseline")[""], "held_out", "box_iou")])]]
    for name in results["study"]["axes"]["reward"]:
        runs = list(runs_of(results, name, "reward").values())
        if runs:
            reward = [[point[1] for point in run["curves"]["reward/total"]] for run in runs]
            rise = float(np.mean([np.mean(curve[-5:]) - np.mean(curve[:5]) for curve in reward]))
            lines.append([name, *told(runs), f"{rise:+.2f}", spread([value(run, "held_out", "box_iou") for run in runs])])
    return markdown(["planted", "runs", "with an alarm", "alarms", "rise of the reward", "held-out box IoU"], lines)


def costs(found: Results) -> str:
    """What a step of each paradigm costs, as `studies/costs.py` measured it; of the studies' results nothing is needed."""
    del found
    if not COSTS.exists():
        return NOT_RUN.format("python studies/costs.py --json docs/results/papers-costs.json")
    measured = json.loads(COSTS.read_text())
    head = ["", "seconds", "of SFT's", "sampling", "training", "tokens sampled", "tokens trained", "GFLOP", "peak MiB"]
    lines = []
    for row in measured["rows"]:
        ratio = f"{row['ratio']:.1f} ({row['ratios'][0]:.1f}-{row['ratios'][1]:.1f})"
        times = [f"{row[name]:.2f}" for name in ("rollout", "training")]
        rest = [f"{row['sampled']:,.0f}", f"{row['trained']:,.0f}", f"{row['flops'] / 1e9:.1f}", f"{row['mib']:.0f}"]
        lines.append([row["paradigm"], f"{row['seconds']:.2f}", ratio, *times, *rest])
    return markdown(head, lines) + f"\n\n`{measured['command']}`; medians."


_VISUAL_RFT = "python studies/run.py studies/visual_rft/{}.yaml"
_REASSESSING = "python studies/run.py studies/reassessing/{}.yaml"
_ACCURACY = (("accuracy", "held_out", "accuracy"), ("reasons", "held_out", "thinking"))
_BOTH = (("pictures", "pictures", "accuracy"), ("words", "words", "accuracy"))
_AP = (("AP, known pairs", "known", "ap"), ("AP, held-out pairs", "novel", "ap"), ("IoU, held-out pairs", "novel", "iou"))
TABLES: dict[str, Callable[[Results], str]] = {
    "classification": study_table("visual_rft-classification", _ACCURACY, _VISUAL_RFT.format("classification")),
    "detection": study_table("visual_rft-detection", _AP, _VISUAL_RFT.format("detection")),
    "sizes": study_table("reassessing-sizes", _ACCURACY, _REASSESSING.format("sizes")),
    "scale": study_table("reassessing-scale", _ACCURACY, _REASSESSING.format("scale")),
    "modalities": study_table("reassessing-modalities", _BOTH, _REASSESSING.format("modalities")),
    "rewards": rewards_and_accuracy,
    "costs": costs,
    "alarms": alarms,
    "deception": deception,
    "abandoned": study_table("abandoned-anomaly", (("ROC-AUC", "held_out", "roc_auc"),), _RUN.format("abandoned/anomaly")),
    "tuning": tuning,
    "table1": main_table("table1"),
    "table2": main_table("table2"),
    "equal_compute": main_table("equal_compute", ("sft", "sft_then_rlvr", "visurf")),
    "equal_updates": main_table("equal_updates", ("sft", "visurf")),
    "table1-nonobject": study_table("table1-nonobject", _NONOBJECT, _RUN.format("table1/nonobject")),
    "table1-reasoning": study_table("table1-reasoning", _REASONING, _RUN.format("table1/reasoning")),
    "ablation-nonobject": study_table("ablation-nonobject", _NONOBJECT, _RUN.format("ablation/nonobject")),
    "ablation-reasoning": study_table("ablation-reasoning", _REASONING, _RUN.format("ablation/reasoning")),
    "stages-nonobject": study_table("stages-nonobject", _NONOBJECT, _RUN.format("stages/nonobject")),
    "rivals-nonobject": study_table("rivals-nonobject", _NONOBJECT, _RUN.format("rivals/nonobject")),
    "rivals-reasoning": study_table("rivals-reasoning", _REASONING, _RUN.format("rivals/reasoning")),
}


# Tables whose numbers come from files of their own, and not from the studies that were run.
_ELSEWHERE = ("costs",)


def fill(page: str, found: Results) -> str:
    """The page with its tables written anew.

    Raises:
        ValueError: It asks for a table that nobody writes.
    """

    def write(match: re.Match[str]) -> str:
        if match[1] not in TABLES:
            raise ValueError(f"no table {match[1]!r}; known: {', '.join(TABLES)}")
        return f"<!-- {match[1]} -->\n{TABLES[match[1]](found)}\n<!-- end -->"

    return re.sub(r"<!-- ([\w-]+) -->\n.*?<!-- end -->", write, page, flags=re.DOTALL)


def read(folder: Path) -> Results:
    """Name of a study -> its results."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def printed(found: Results) -> str:
    """The tables of studies that were run, the main one last, where a terminal shows it."""
    names = sorted((name for name in TABLES if name not in _ELSEWHERE), key=lambda name: name == "table1")
    tables = {name: TABLES[name](found) for name in names}
    return "\n\n".join(f"{name}\n\n{table}" for name, table in tables.items() if NOT_RUN.partition(":")[0] not in table) + "\n"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("docs/results/papers"))
    parser.add_argument("--page", type=Path, default=Path("docs/results/papers-in-miniature.md"))
    parser.add_argument("--check", action="store_true", help="only say whether the page is up to date")
    parser.add_argument("--print", action="store_true", help="print the tables instead of writing the page")
    options = parser.parse_args()
    found = read(options.results)
    if options.print:
        sys.stdout.write(printed(found))
        return 0
    before = options.page.read_text()
    after = fill(before, found)
    if options.check:
        return int(before != after)
    options.page.write_text(after)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
