"""Record files, and the summary of one evaluation that always names its failures."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from visurf.metrics.intervals import Interval, bootstrap_interval


@dataclass(frozen=True)
class Summary:
    """What one evaluation reports: every metric with its interval, and always how many answers failed.

    Attributes:
        n: Samples, one record each.
        metrics: Name to interval; `Interval.n` tells on how many samples the metric was defined.
        parse_failure_rate: Share of answers that could not be parsed.
        truncation_rate: Share of answers cut off by the length limit.
        parse_errors: Reason to count.
    """

    n: int
    metrics: Mapping[str, Interval]
    parse_failure_rate: Interval
    truncation_rate: Interval
    parse_errors: Mapping[str, int]


def summarise(
    metrics: Mapping[str, Sequence[float | None]],
    *,
    parse_errors: Sequence[str | None],
    truncated: Sequence[bool],
    resamples: int = 1000,
    seed: int = 0,
) -> Summary:
    """Means with 95 % intervals over one record per sample, and always the rates of failed and truncated answers.

    Args:
        metrics: Name to one value per sample, None where the metric does not apply to it (N-acc of a target sample). A
            failed answer has its value, usually 0, and is not None. A metric that applies nowhere becomes NaN.
        parse_errors: The reason, or None, per sample.
        truncated: Per sample.
        resamples: Number of resamples.
        seed: Of the generator.

    Raises:
        ValueError: No samples, lengths differ, or a value is not finite.
    """
    n = len(parse_errors)
    for name, column in {**metrics, "truncated": truncated}.items():
        if len(column) != n:
            raise ValueError(f"{name}: {len(column)} values for {n} samples; every sample has one record")
    intervals = {}
    for name, column in metrics.items():
        values = [v for i, v in enumerate(_finite(v, f"{name}, sample {i}") for i, v in enumerate(column)) if v is not None]
        empty = Interval(math.nan, math.nan, math.nan, 0)
        intervals[name] = bootstrap_interval(values, resamples=resamples, seed=seed) if values else empty
    return Summary(
        n=n,
        metrics=intervals,
        parse_failure_rate=bootstrap_interval([e is not None for e in parse_errors], resamples=resamples, seed=seed),
        truncation_rate=bootstrap_interval([bool(t) for t in truncated], resamples=resamples, seed=seed),
        parse_errors=dict(Counter(e for e in parse_errors if e is not None).most_common()),
    )


def read_record_values(path: str | Path, metric: str) -> dict[str, float | None]:
    """One metric of a record file: sample id to value, None where the record says null.

    Args:
        path: JSONL, one object per sample with `id` and the metric, either beside it or under `metrics`.
        metric: Its name.

    Raises:
        ValueError: A line is no object, lacks id or metric, repeats an id, or the value is no finite number.
    """
    values: dict[str, float | None] = {}
    # Only the line feed ends a record: splitlines would also cut at U+2028 inside a text.
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: not JSON ({error})") from error
        found = row if isinstance(row, dict) and metric in row else row.get("metrics", {}) if isinstance(row, dict) else {}
        if metric not in found or "id" not in row:
            raise ValueError(f"{where}: expected an object with 'id' and {metric!r}")
        if row["id"] in values:
            raise ValueError(f"{where}: id {row['id']!r} appears twice")
        values[row["id"]] = _finite(found[metric], f"{where}: {metric}")
    return values


def _finite(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float | np.number | np.bool_) or not math.isfinite(value):
        raise ValueError(f"{where}: expected a finite number, got {value!r}")
    return float(value)
