"""Small files that are there in whole or not at all, whenever a process is killed; and rows as they are read again."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def write_whole(path: Path, text: str) -> None:
    """Write a text under another name, then give it its own; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSONL file in whole."""
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_rows(path: Path) -> list[Any]:
    """The values of a JSONL file.

    Raises:
        ValueError: A line is no JSON, or the file no UTF-8.
    """
    # Only the line feed ends a row: splitlines would also cut at U+2028 or U+0085 inside a text.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def finite_or_null(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with null in place of numbers that JSON does not have: NaN and infinity."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
