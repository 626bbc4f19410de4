"""From results.json to what can be said: cells with intervals, paired comparisons, forgetting. No torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from visurf.metrics.intervals import Interval
from visurf.studies.columns import unpack
from visurf.studies.plan import SEED
from visurf.studies.statistics import Measured, Paired, compare, holm, of_prompts, of_resamples

if TYPE_CHECKING:
    from numpy.typing import NDArray

Run = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """Runs that differ in their seed only.

    Attributes:
        axes: Without the seed; of a starting checkpoint only what tells it from others.
        runs: Those that can be used, by seed.
        failed: Those that cannot.
    """

    axes: Mapping[str, str]
    runs: tuple[Run, ...]
    failed: tuple[Run, ...] = ()

    @property
    def label(self) -> str:
        """Its values in words."""
        return ", ".join(self.axes.values()) or "all"

    @property
    def name(self) -> str:
        """The name of its first run: of a starting checkpoint, which has one, its own."""
        return str((*self.runs, *self.failed)[0]["name"])

    def mean(self, *keys: str) -> tuple[float, float] | None:
        """Mean and standard deviation over runs of a number, found under nested keys; None where no run has it."""
        values = [v for run in self.runs if (v := dig(run, *keys)) is not None]
        if not values:
            return None
        return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


@dataclass(frozen=True)
class Comparison:
    """Two cells on one metric of one test.

    Attributes:
        matching: What was equal.
        test: Its name.
        metric: Its name.
        first: Label of the first.
        second: Label of the second.
        found: The second minus the first.
        corrected: The p-value after Holm's correction over all comparisons of the study.
        note: What one must know, such as seeds without a partner.
    """

    matching: str
    test: str
    metric: str
    first: str
    second: str
    found: Paired
    corrected: float = math.nan
    note: str = ""


def dig(run: Any, *keys: str) -> Any:
    """A value under nested keys, or None."""
    for key in keys:
        run = run.get(key) if isinstance(run, Mapping) else None
    return run


def cells(runs: Sequence[Run], matching: str) -> list[Cell]:
    """The runs of a matching by their axes without the seed."""
    groups: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in runs:
        if run["role"] == "run" and matching in run["matching"]:
            groups.setdefault(tuple((a, v) for a, v in run["axes"].items() if a != SEED), []).append(run)
    places = {(a, v): place for place, (a, v) in enumerate(dict.fromkeys((a, v) for r in runs for a, v in r["axes"].items()))}
    ordered = sorted(groups, key=lambda axes: [places[one] for one in axes])
    return [_cell(dict(axes), groups[axes]) for axes in ordered]


def start_cells(runs: Iterable[Run]) -> list[Cell]:
    """The starting checkpoints."""
    return [_cell(dict(run["axes"]), [run]) for run in runs if run["role"] == "start"]


def _cell(axes: dict[str, str], members: Sequence[Run]) -> Cell:
    done = [run for run in members if run["status"] == "done"]
    return Cell(axes, tuple(done), tuple(run for run in members if run["status"] != "done"))


def start_of(cell: Cell, starts: Sequence[Cell]) -> Cell | None:
    """The checkpoint that a cell's runs began with, which they name; None where it could not be measured.

    Runs of older results name none: then it is the start that shares the most axes with them, where there is one such.
    """
    members = {s.name: s for s in starts}
    named = {run["start"] for run in (*cell.runs, *cell.failed) if "start" in run}
    if not named:
        fitting = [s for s in starts if s.axes.items() <= cell.axes.items()]
        most = max((len(s.axes) for s in fitting), default=0)
        named = {s.name for s in fitting if len(s.axes) == most}
    found = members.get(named.pop()) if len(named) == 1 else None
    return found if found is not None and found.runs else None


def asked_metrics(study: Mapping[str, Any], runs: Sequence[Run], test: str) -> list[str]:
    """What tables show and tests compare of a test: the study's metrics, or where the test has none of them its task's headline."""
    asked = [m for m in study["metrics"] if any(dig(run, "tests", test, "summary", m) is not None for run in runs)]
    if asked:
        return asked
    headlines = [name for run in runs if (name := dig(run, "tests", test, "headline")) is not None]
    # Older results do not name it; what was kept for every prompt beside it is known.
    columns = (dig(run, "tests", test, "columns") or {} for run in runs)
    kept = (n for n in itertools.chain.from_iterable(columns) if n not in ("thinking", "tokens"))
    return list(dict.fromkeys(headlines or kept))


def values(run: Run, test: str, metric: str) -> tuple[NDArray[np.float64], NDArray[np.float64] | None] | None:
    """Per-prompt values of a metric, and what their sum is divided by; None for a run or a metric without such."""
    column = dig(run, "tests", test, "columns", metric)
    if column is None or "value" not in column:
        return None
    return unpack(column["value"]), unpack(column["per"]) if "per" in column else None


def has_measures(run: Run, test: str, metric: str) -> bool:
    """Whether a run's metric can be set beside that of others, prompt by prompt or resample by resample."""
    column = dig(run, "tests", test, "columns", metric)
    if column is None or dig(run, "tests", test, "summary", metric) is None:
        return False
    return bool(np.isfinite(unpack(column["value"] if "value" in column else column["drawn"])).any())


def measured(runs: Sequence[Run], test: str, metric: str) -> Measured:
    """A metric of runs of which `has_measures` is true, and which were asked the same prompts.

    Raises:
        ValueError: They were not.
    """
    columns = [dig(run, "tests", test, "columns", metric) for run in runs]
    if all("drawn" in column for column in columns):
        known = np.array([dig(run, "tests", test, "summary", metric) for run in runs], dtype=np.float64)
        return of_resamples(known, np.stack([unpack(column["drawn"]) for column in columns]), columns[0]["units"])
    above = np.stack([unpack(column["value"]) for column in columns])
    return of_prompts(above, np.stack([unpack(c["per"]) for c in columns]) if "per" in columns[0] else None)


def same_prompts(runs: Iterable[Run], test: str) -> bool:
    """Whether runs were asked the same prompts."""
    return len({dig(run, "tests", test, "prompts") for run in runs}) == 1


def interval(cell: Cell, test: str, metric: str) -> Interval | None:
    """A cell's mean with its interval over seeds and prompts; None where there are no measures, or of different prompts.

    Args:
        cell: Its runs that have measures enter.
        test: Its name.
        metric: Its name.
    """
    usable = [run for run in cell.runs if has_measures(run, test, metric)]
    return measured(usable, test, metric).interval() if same_prompts(usable, test) else None


def comparisons(results: Mapping[str, Any]) -> list[Comparison]:
    """All pairs that the study compares, and every cell with its start, corrected together.

    Args:
        results: What results.json holds.
    """
    study, runs = results["study"], results["runs"]
    axis, against = study["compare"]["axis"], study["compare"]["against"]
    starts = start_cells(runs)
    found: list[Comparison] = []
    seen: set[tuple[str, ...]] = set()
    for matching in (m["name"] for m in study["matching"]):
        known = [cell for cell in cells(runs, matching) if cell.runs]
        pairs = [(s, c) for c in known if (s := start_of(c, starts)) is not None]
        pairs += [_ordered(a, b, axis, against) for a, b in itertools.combinations(known, 2) if _comparable(a, b, axis, against)]
        for first, second in pairs:
            # Runs that serve two matchings are tested once: a test repeated would be corrected for twice.
            names = (*(r["name"] for r in first.runs), "/", *(r["name"] for r in second.runs))
            if names in seen:
                continue
            seen.add(names)
            for test in study["tests"]:
                found += _compare(first, second, matching, test, study)
    corrected = holm([one.found.p_value for one in found])
    return [Comparison(**{**one.__dict__, "corrected": p}) for one, p in zip(found, corrected, strict=True)]


def _comparable(first: Cell, second: Cell, axis: str, against: str) -> bool:
    differing = {a for a in first.axes if first.axes[a] != second.axes.get(a)}
    return differing == {axis} and (not against or against in (first.axes[axis], second.axes[axis]))


def _ordered(first: Cell, second: Cell, axis: str, against: str) -> tuple[Cell, Cell]:
    """The one that others are compared with comes second: a positive difference speaks for it."""
    return (second, first) if against and first.axes[axis] == against else (first, second)


def _compare(first: Cell, second: Cell, matching: str, test: str, study: Mapping[str, Any]) -> list[Comparison]:
    found = []
    label = "start" if first.runs[0]["role"] == "start" else first.label
    for metric in asked_metrics(study, [*first.runs, *second.runs], test):
        usable = [pair for pair in _paired_runs(first, second) if all(has_measures(run, test, metric) for run in pair)]
        if not same_prompts(itertools.chain.from_iterable(usable), test):
            continue
        one, two = (measured([pair[side] for pair in usable], test, metric) for side in (0, 1))
        lost = len(_seeds(first) | _seeds(second)) - len(usable)
        notes = [f"{lost} seeds without a partner"] if lost else []
        notes += ["prompts only"] if len(usable) == 1 else []
        found.append(Comparison(matching, test, metric, label, second.label, compare(one, two), note="; ".join(notes)))
    return found


def _paired_runs(first: Cell, second: Cell) -> list[tuple[Run, Run]]:
    """Runs of the same seed; a starting checkpoint is the partner of every run."""
    if first.runs[0]["role"] == "start":
        return [(first.runs[0], run) for run in second.runs]
    by_seed = {run["axes"].get(SEED): run for run in first.runs}
    return [(by_seed[s], run) for run in second.runs if (s := run["axes"].get(SEED)) in by_seed]


def _seeds(cell: Cell) -> set[str | None]:
    """The seeds of a cell's runs, failed ones too; a starting checkpoint has none."""
    return {run["axes"].get(SEED) for run in (*cell.runs, *cell.failed) if run["role"] != "start"}


def side_drops(run: Run) -> dict[str, tuple[float, float]]:
    """Side task -> its score before training and after."""
    curves = run.get("curves") or {}
    names = [n.removeprefix("side/").removesuffix("/before") for n in curves if n.startswith("side/") and n.endswith("/before")]
    return {n: (curves[f"side/{n}/before"][0][1], curves[f"side/{n}"][-1][1]) for n in names if curves.get(f"side/{n}")}
