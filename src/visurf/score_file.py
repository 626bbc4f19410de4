"""``visurf score``: any reward over a file of completions. Torch-free.

A row is ``{"id", "completion", "target", ...}``; docs/rewards.md says which fields each reward needs. The result has one row for
each: ``{"id", "parts", "total"}``, in the same order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from visurf.control import total
from visurf.naming import suggestion
from visurf.rewards import Variant
from visurf.rewards.grading import GradingError, GradingTimeout
from visurf.score_rewards import REWARDS, Options
from visurf.score_rows import Row
from visurf.scoring import function_part
from visurf.types import Answer, Completion, DataError, Number, Points, Sample, Text

Rate = Callable[[Row], Mapping[str, float | None]]
# How much of a text a message quotes.
_QUOTED = 200


@dataclass(frozen=True)
class Scores:
    """What came of a file.

    Attributes:
        rows: How many rows were scored.
        means: The mean of every part, and of the totals, over the rows in which it is a number.
        abstained: How often a part, or ``total``, had no value.
        skipped: File and line, and the problem, of every bad row.
    """

    rows: int
    means: Mapping[str, float]
    abstained: Mapping[str, int]
    skipped: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """A line for each part, and what was left out."""
        lines = [f"{name:<18} {value:10.4f}" for name, value in self.means.items()]
        lines += [f"{name} has no value in {count} rows" for name, count in self.abstained.items()]
        if self.skipped:
            lines.append(f"{len(self.skipped)} bad rows skipped; the first: {': '.join(self.skipped[0])}")
        return "\n".join([*lines, f"{self.rows} rows scored"])


def score_file(
    reward: str,
    source: Path,
    write: Callable[[Mapping[str, Any]], object],
    *,
    variant: Variant | None = None,
    on_bad_row: Literal["error", "skip"] = "error",
    symbolic: bool = True,
    time_limit: float | None = None,
) -> Scores:
    """Score every row of a JSONL file.

    Args:
        reward: A name of `visurf.score_rewards.REWARDS`, or a function as in a recipe (`visurf.scoring.function_part`).
        source: The file.
        write: Called with every row of the result, in order. Numbers that are not finite, which only published rewards give,
            are the texts "NaN", "Infinity" and "-Infinity".
        variant: None for the reward's default.
        on_bad_row: `error` stops at the first bad row, `skip` leaves it out, counted.
        symbolic: See `visurf.score_rewards.Options`.
        time_limit: Seconds one row may take in a function or in a symbolic library; None for no limit and for 10.

    Raises:
        DataError: A bad row: names file, line and field; or the file cannot be read, or holds no row.
        ValueError: Unknown reward, or it has not the variant.
        ImportError: A library that the reward needs is not installed.
    """
    rate = _rate(reward, variant, symbolic, time_limit)
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    abstained: dict[str, int] = {}
    skipped: list[tuple[str, str]] = []
    rows = 0
    for where, line in _lines(source):
        try:
            identity, parts = _scored(line, rate)
        except DataError as error:
            if on_bad_row == "error":
                raise DataError(f"{where}, {error}") from error
            skipped.append((where, str(error)))
            continue
        rows += 1
        for name, value in parts.items():
            if value is None:
                abstained[name] = abstained.get(name, 0) + 1
            elif math.isfinite(value):
                sums[name], counts[name] = sums.get(name, 0.0) + value, counts.get(name, 0) + 1
        values = {name: _written(value) for name, value in parts.items()}
        whole = values.pop("total")
        write({"id": identity, "parts": values, "total": whole})
    if not rows and not skipped:
        raise DataError(f"{source}: no rows")
    return Scores(rows, {name: sums[name] / counts[name] for name in sums}, abstained, tuple(skipped))


def _rate(reward: str, variant: Variant | None, symbolic: bool, time_limit: float | None) -> Rate:
    if reward not in REWARDS:
        if ":" not in reward:
            raise ValueError(f"unknown reward {reward!r}{suggestion(reward, REWARDS)}, or pkg.module:function, or file.py:function")
        if variant is not None:
            raise ValueError(f"{reward!r} has no variants")
        return _own_function(reward, time_limit or 0.0)
    known = REWARDS[reward]
    if variant is not None and variant not in known.variants:
        raise ValueError(f"reward {reward!r} has no variant {variant!r}; it has {', '.join(known.variants)}")
    options = Options(variant or known.variants[0], symbolic, time_limit or Options.limit_s)

    def rate(row: Row) -> Mapping[str, float]:
        try:
            return known.rate(row, options)
        except (GradingError, GradingTimeout) as error:
            raise DataError(f"field 'completion': {error}") from error
        except (ValueError, ArithmeticError, RecursionError) as error:
            if isinstance(error, DataError) and str(error).startswith("field "):
                raise
            # What a reward itself cannot use is its label, but for a few published ones that fail on what was predicted.
            about = "target" if "target" in known.fields and "prediction" not in str(error) else "completion"
            raise DataError(f"field {about!r}: {error}") from error

    return rate


def _own_function(reference: str, limit_s: float) -> Rate:
    part = function_part(reference, prompt=lambda sample: sample.question, limit_s=limit_s)
    name = reference.rpartition(":")[2]

    def rate(row: Row) -> Mapping[str, float | None]:
        completion = Completion(row.completion, (), None, None)
        try:
            value = part.function(completion, _sample(row.values))
            value = None if value is None else float(value)
        except Exception as error:
            raise DataError(f"field 'completion': {reference} raised {error!r} on {row.completion!r:.{_QUOTED}}") from error
        if value is not None and not math.isfinite(value):
            raise DataError(f"field 'completion': {reference} returned {value!r} on {row.completion!r:.{_QUOTED}}")
        return {name: value, "total": value if value is None else total({name: value}, {})}

    return rate


def _sample(values: Mapping[str, Any]) -> Sample:
    """A row as the sample that a user's function gets: every other field is in its meta, and so is the target as written."""
    question = values.get("question", values.get("prompt", ""))
    meta = {name: value for name, value in values.items() if name not in ("id", "completion", "question")}
    return Sample(str(values["id"]), (), question if isinstance(question, str) else "", _target(values.get("target")), meta=meta)


def _target(value: Any) -> Answer:
    """The target as in data files; what is in another layout as its JSON text."""
    try:
        if isinstance(value, dict) and "points" in value and "boxes" not in value:
            return Points(tuple((float(x), float(y)) for x, y in value["points"]))
        if isinstance(value, list) or (isinstance(value, dict) and "boxes" in value):
            return Row({"target": value}).objects()
    except (TypeError, ValueError, ArithmeticError):
        return Text(json.dumps(value))
    if isinstance(value, dict) and set(value) <= {"class", "text", "number"} and len(value) == 1:
        ((kind, value),) = value.items()
        return Number(str(value)) if kind == "number" else Text(str(value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Number(str(value))
    return Text(value if isinstance(value, str) else json.dumps(value))


def _scored(line: Any, rate: Rate) -> tuple[Any, Mapping[str, float | None]]:
    if isinstance(line, str):
        try:
            line = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"not valid JSON ({error})") from error
    if not isinstance(line, dict):
        raise DataError(f"expected an object with id and completion, got {type(line).__name__}")
    row = Row(line)
    identity = row.field("id", (str, int), "text or a whole number")
    # Read before the reward asks for it: some look at the target first.
    assert isinstance(row.completion, str)
    return identity, rate(row)


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    r"""Places and lines of a JSONL file, or rows of a JSON array that carries the extension by mistake."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    if text.lstrip()[:1] == "[":
        try:
            rows = cast("list[Any]", json.loads(text))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: not valid JSON ({error})") from error
        yield from ((f"{path}: row {number}", row) for number, row in enumerate(rows, 1))
        return
    # Only "\n" ends a line: splitlines would also cut at U+2028 inside a text.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{path}: line {number}", line


def _written(value: float | None) -> float | str | None:
    if value is None or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
