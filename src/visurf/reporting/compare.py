"""Two models on the same samples: paired statistics, and pictures of where they differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from visurf.metrics.intervals import PairedComparison, bootstrap_statistic, paired_bootstrap
from visurf.reporting.groups import LONGEST_TEXT, quality
from visurf.reporting.page import embedded, render
from visurf.reporting.reading import distinct_names, parsed
from visurf.reporting.report import LARGEST, picture_data
from visurf.small_pictures import FOLDER, is_stored_name
from visurf.tasks.detection import DETECTION
from visurf.types import DataError

Record = Mapping[str, Any]
# Names under which measures are known; cIoU is the ratio of the sums of two of them.
NAMES = {
    "giou": "gIoU",
    "n_hit": "N-acc",
    "t_hit": "T-acc",
    "box_hit": "box accuracy",
    "right": "accuracy",
    "hit": "click accuracy",
}
_SUMS = ("intersection", "union")
# What describes the sample and not the answer.
_ABOUT = ("anomalous", "said")
_RESAMPLES = 2000


def read_records(path: Path) -> dict[str, dict[str, Any]]:
    """Sample id -> record, in the file's order.

    Args:
        path: records.jsonl of an evaluation, or the folder that it lies in.

    Raises:
        DataError: No such file, no records, a line that is none, or an id twice.
    """
    file = path / "records.jsonl" if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"{file}: no such file; expected records.jsonl of `visurf eval`, or the folder that it lies in")
    found: dict[str, dict[str, Any]] = {}
    # An evaluation has ended: unlike a run's log, its last line is whole with or without a line feed.
    for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        row = parsed(line)
        if row is None or not {"id", "text", "answer", "error", "measures"} <= row.keys():
            raise DataError(f"{file}:{number}: expected a record of `visurf eval` with id, text, answer, error and measures")
        if str(row["id"]) in found:
            raise DataError(f"{file}:{number}: the id {row['id']!r} is there twice")
        found[str(row["id"])] = row
    if not found:
        raise DataError(f"{file}: expected records of `visurf eval`, found none")
    return found


def columns(records: Sequence[Record]) -> dict[str, list[float | None]]:
    """Metric -> one value a record, None where it does not apply; reward, parse failures and truncation included."""
    names = dict.fromkeys(n for record in records for n in record["measures"] if n not in (*_SUMS, *_ABOUT))
    found: dict[str, list[float | None]] = {NAMES.get(n, n): [r["measures"].get(n) for r in records] for n in names}
    if all("reward" in r for r in records):
        found["reward"] = [r["reward"]["total"] for r in records]
    found["parse failed"] = [float(r["error"] is not None) for r in records]
    found["truncated"] = [float(bool(r.get("truncated"))) for r in records]
    return found


def statistics(first: Mapping[str, Record], second: Mapping[str, Record], seed: int = 0) -> tuple[list[dict[str, Any]], list[str]]:
    """Every metric of both with the paired difference, and notes on what could not be compared.

    Args:
        first: Id -> record.
        second: The same ids.
        seed: Of the resampling.

    Raises:
        DataError: The ids differ.
    """
    if first.keys() != second.keys():
        alone = sorted(first.keys() ^ second.keys())
        raise DataError(
            f"the records are of different samples: {len(alone)} ids are in one file only, the first is {alone[0]!r}; "
            "evaluate both models on the same data"
        )
    ids = list(first)
    sides = [[side[i] for i in ids] for side in (first, second)]
    left, right = (columns(side) for side in sides)
    rows, notes = [], []
    for name in (n for n in left if n in right):
        a, b = dict(zip(ids, left[name], strict=True)), dict(zip(ids, right[name], strict=True))
        if all(value is None for value in (*a.values(), *b.values())):
            continue
        try:
            rows.append(_row(name, paired_bootstrap(a, b, resamples=_RESAMPLES, seed=seed)))
        except ValueError as error:
            notes.append(f"{name} is left out: {error}")
    if all(name in record["measures"] for name in _SUMS for side in sides for record in side):
        above, below = ([{i: r["measures"][n] for i, r in zip(ids, side, strict=True)} for side in sides] for n in _SUMS)
        paired = paired_bootstrap(above[0], above[1], denominators=(below[0], below[1]), resamples=_RESAMPLES, seed=seed)
        rows.insert(1, _row("cIoU", paired))
    if all(_is_detection(record) for side in sides for record in side):
        rows += _precision(sides[0], sides[1], seed)
    return _adjusted(rows), notes


def _row(name: str, found: PairedComparison) -> dict[str, Any]:
    difference = found.difference
    return {
        "name": name,
        "first": found.first,
        "second": found.second,
        "difference": difference.value,
        "low": difference.low,
        "high": difference.high,
        "n": difference.n,
        "p": found.p_value,
        "clear": bool(difference.low > 0 or difference.high < 0),
    }


def _is_detection(record: Record) -> bool:
    return isinstance(record.get("target"), dict) and "confidences" in record["target"]


def _precision(first: Sequence[Record], second: Sequence[Record], seed: int) -> list[dict[str, Any]]:
    """Average precisions, which are no means: the difference is computed anew on every resample of images."""
    rows = []
    for name, metric in DETECTION.metrics.items():
        if metric.statistic is None:
            continue
        (count, of_first), (_, of_second) = metric.statistic(first), metric.statistic(second)
        difference = bootstrap_statistic(lambda i, a=of_first, b=of_second: b(i) - a(i), count, resamples=200, seed=seed)  # type: ignore[misc]
        values = metric.value(first), metric.value(second)
        rows.append(_row(name, PairedComparison(*values, difference, math.nan)))
    return rows


def _adjusted(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with p-values corrected for their number (Holm): whoever looks at ten metrics finds one at p = 0.1 by chance.

    >>> [row["holm"] for row in _adjusted([{"p": 0.01}, {"p": 0.04}])]
    [0.02, 0.04]
    """
    order = sorted((i for i, row in enumerate(rows) if math.isfinite(row["p"])), key=lambda i: rows[i]["p"])
    holm, largest = dict[int, float](), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * rows[index]["p"]))
        holm[index] = largest
    return [{**row, "holm": holm.get(index, math.nan)} for index, row in enumerate(rows)]


def differing(first: Mapping[str, Record], second: Mapping[str, Record]) -> list[tuple[str, float | None]]:
    """Ids whose answers or scores differ, with the difference in quality (second - first); the largest first."""
    found: list[tuple[str, float | None]] = []
    for name, a in first.items():
        b = second[name]
        one, two = quality(a["measures"]), quality(b["measures"])
        difference = None if one is None or two is None else two - one
        if difference or a["answer"] != b["answer"] or a["error"] != b["error"]:
            found.append((name, difference))
    return sorted(found, key=lambda pair: -abs(pair[1] or 0.0))


def comparison_data(first: Path, second: Path, largest: int = LARGEST) -> dict[str, Any]:
    """Everything the comparison page shows.

    Args:
        first: Records of one model.
        second: Of another, on the same samples.
        largest: Bytes of the page; samples with the largest differences come first.

    Raises:
        DataError: Records are missing, wrong, or of different samples.
    """
    records = [read_records(path) for path in (first, second)]
    rows, notes = statistics(records[0], records[1])
    folders = [path if path.is_dir() else path.parent for path in (first, second)]
    names = distinct_names([f if f.name else path for f, path in zip(folders, (first, second), strict=True)])
    if names[0] == names[1]:
        names = distinct_names([first, second])
    order = differing(records[0], records[1])
    data: dict[str, Any] = {"kind": "compare", "names": names, "samples": len(records[0]), "statistics": rows, "notes": notes}
    data |= {"differing": len(order), "items": [], "pictures": {}}
    left = largest - len(render(data, ""))
    for name, difference in order:
        item, picture = _item(name, difference, records, folders)
        left -= len(embedded(item)) + 1
        if picture is not None and item["picture"] not in data["pictures"]:
            left -= len(picture) + 40
        if left < 0:
            break
        data["items"].append(item)
        if picture is not None:
            data["pictures"][item["picture"]] = picture
    return data


def _item(
    name: str, difference: float | None, records: Sequence[Mapping[str, Record]], folders: Sequence[Path]
) -> tuple[dict[str, Any], str | None]:
    """One sample with what both said, and its picture from whichever folder has it."""
    pair = [side[name] for side in records]
    picture, key = None, None
    for folder, record in zip(folders, pair, strict=True):
        key = next((p for p in record.get("pictures") or () if is_stored_name(p)), None)
        picture = picture_data(folder / FOLDER / key) if key else None
        if picture is not None:
            break
    about = next((r for r in pair if r.get("size")), pair[0])
    sides = [
        {
            "text": str(r["text"])[:LONGEST_TEXT],
            "answer": r["answer"],
            "error": r["error"],
            "masks": r.get("masks") or [],
            "quality": quality(r["measures"]),
        }
        for r in pair
    ]
    item = {
        "id": name,
        "question": pair[0].get("question", ""),
        "size": about.get("size"),
        "target": pair[0].get("target"),
        "target_masks": about.get("target_masks") or [],
        "picture": key if picture is not None else None,
        "difference": difference,
        "sides": sides,
    }
    return item, picture


def write_comparison(first: Path, second: Path, out: Path) -> dict[str, Any]:
    """Write the comparison page and return what it shows.

    Raises:
        DataError: As `comparison_data`.
    """
    data = comparison_data(first, second)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(render(data, f"{data['names'][0]} and {data['names'][1]}"), encoding="utf-8")
    return data
