"""Groups for the viewer: which ones are embedded, and what about each one can be filtered."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from visurf.reporting.reading import RunFolder, parsed
from visurf.small_pictures import is_stored_name

# How right an answer is, in [0, 1]: the first of these that the task measured and that applies to the sample.
QUALITY = ("giou", "iou", "box_iou", "target_iou", "hit", "right", "relaxed", "anls")
RIGHT_FROM = 0.5
# A reward is high from this share of what the label earned, or of the run's highest where there is no label.
HIGH_FROM = 0.75
# A longer text is cut in the page, and says so; the run folder has all of it.
LONGEST_TEXT = 20_000
# Pictures of a sample that are embedded.
_PICTURES = 4

FILTERS = {
    "wrong": "All wrong: no rollout is right (quality below 0.5)",
    "rescued": "Label rescued: all rollouts earned the same, only the label brought a signal",
    "flat": "Zero variance: every member earned the same, the group teaches nothing",
    "parse": "Parse error: some rollout's answer could not be read",
    "truncated": "Truncated: some rollout was cut at the length limit",
    "hollow": "High reward, low IoU: a rollout earned at least 3/4 of the label's reward with quality below 0.5",
}


def spread_order(count: int) -> Iterator[int]:
    """Indices so that every beginning of the order covers the range evenly: 0, the middle, the quarters, ...

    >>> list(spread_order(5))
    [0, 4, 2, 1, 3]
    """
    bits = max(count - 1, 0).bit_length()
    for number in range(1 << bits):
        index = int(f"{number:0{bits}b}"[::-1], 2) if bits else 0
        if index < count:
            yield index


def quality(measures: Mapping[str, Any]) -> float | None:
    """How right an answer is, see `QUALITY`; None where nothing was measured.

    >>> quality({"giou": 0.25, "n_hit": None}), quality({"iou": None, "right": 1.0}), quality({})
    (0.25, 1.0, None)
    """
    for name in QUALITY:
        value = measures.get(name)
        if isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    return None


def flags(row: Mapping[str, Any], highest: float) -> list[str]:
    """Which of `FILTERS` hold for a group.

    Args:
        row: Of rollouts.jsonl.
        highest: The highest reward known of the run, for groups without a label.
    """
    rollouts = [m for m in row["members"] if m["source"] == "policy"]
    label = next((m for m in row["members"] if m["source"] == "label"), None)
    high = HIGH_FROM * (label["total"] if label else highest)
    known = [(m, quality(m.get("measures") or {})) for m in rollouts]
    found = {
        "wrong": any(q is not None for _, q in known) and all(q is None or q < RIGHT_FROM for _, q in known),
        "rescued": bool(row.get("rescued")),
        "flat": bool(row.get("zero_variance")),
        "parse": any(m["error"] is not None for m in rollouts),
        "truncated": any(m["truncated"] for m in rollouts),
        "hollow": any(q is not None and q < RIGHT_FROM and m["total"] >= high > 0 for m, q in known),
    }
    return [name for name, holds in found.items() if holds]


def chosen_groups(runs: Sequence[RunFolder], budget: int) -> tuple[list[dict[str, Any]], list[dict[str, int]]]:
    """Groups to embed, spread evenly over each run, and how many of how many.

    Args:
        runs: Each gets an equal share of the budget, the later ones also what the earlier left.
        budget: Bytes for rows and, once each, their pictures as base64.

    Returns:
        Rows by run and step, with `run`, `flags`, and of every member its `quality`; and per run `shown`, `recorded` and `damaged`.
    """
    found: list[dict[str, Any]] = []
    counts, left = [], budget
    for index, run in enumerate(runs):
        share, paid = left // (len(runs) - index), set[str]()
        rows: dict[int, dict[str, Any]] = {}
        damaged = spent = 0
        for place in spread_order(len(run.groups)):
            row = parsed(run.groups[place])
            if row is None or not _is_group(row):
                damaged += 1
                continue
            pictures = [p for p in row.get("pictures") or () if is_stored_name(p)][:_PICTURES]
            cost = len(run.groups[place]) + sum(_encoded_bytes(run, p) for p in pictures if p not in paid)
            if spent + cost > share:
                break
            paid.update(pictures)
            spent += cost
            rows[place] = row | {"run": index, "pictures": pictures}
        found += _marked([rows[place] for place in sorted(rows)])
        counts.append({"shown": len(rows), "recorded": len(run.groups), "damaged": damaged})
        left -= spent
    return found, counts


def _encoded_bytes(run: RunFolder, name: str) -> int:
    try:
        return (run.path / "pictures" / name).stat().st_size * 4 // 3 + 64
    except OSError:
        return 0


def _is_group(row: Mapping[str, Any]) -> bool:
    """Whether a row has what the page needs; one of an earlier version may lack the rest."""
    members = row.get("members")
    needed = {"source", "text", "error", "truncated", "total", "reward", "advantage", "parts"}
    return isinstance(members, list) and bool(members) and all(isinstance(m, dict) and needed <= m.keys() for m in members)


def _marked(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    highest = max((m["total"] for row in rows for m in row["members"]), default=0.0)
    return [row | {"flags": flags(row, highest), "members": [_shown(m) for m in row["members"]]} for row in rows]


def _shown(member: Mapping[str, Any]) -> dict[str, Any]:
    """A member as the page needs it."""
    text = str(member["text"])
    cut = {"text": text[:LONGEST_TEXT], "cut": len(text)} if len(text) > LONGEST_TEXT else {}
    return {**member, "quality": quality(member.get("measures") or {}), **cut}
