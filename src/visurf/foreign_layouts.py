"""Files and rows in other programs' layouts: what they are known by, and what makes this project's rows of them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visurf.types import DataError

_EXAMPLE = '{"id": 1, "image": "a.jpg", "question": "the cat", "target": [[10, 20, 50, 80]]}'
_SCRIPT = "examples/convert_rows.py rewrites such rows (docs/coming-from.md#your-rows)"
_PUBLISHED = f"{_SCRIPT}, data.format=visual_rft reads a data set in Visual-RFT's own layout"
# Fields by which rows are known -> what reads them.
_FIELDS = {
    "messages": _SCRIPT,
    "conversations": _SCRIPT,
    "conversation": _SCRIPT,
    "instruction": _SCRIPT,
    "problem": _PUBLISHED,
    "solution": _PUBLISHED,
}
_TABLES = (".csv", ".tsv")


def remedy(row: Mapping[str, Any]) -> str:
    """What is said of a row in another program's layout; empty where it is in none that is known."""
    for name, reader in _FIELDS.items():
        if name in row:
            return (
                f"a row with {name!r} is in another program's layout; expected rows such as {_EXAMPLE} (docs/own-data.md); {reader}"
            )
    return ""


def check_whole(path: Path, text: str) -> None:
    """Refuse a file that is no JSONL as a whole.

    Args:
        path: Its name tells a table.
        text: What stands in it.

    Raises:
        DataError: A table, one JSON array, COCO's layout, or one JSON object over several lines; says what makes rows of it.
    """
    text = text.strip()
    if path.suffix.casefold() in _TABLES and not text.startswith(("{", "[")):
        raise DataError(f"{path}: this is a table; {_convert('csv', path)}")
    if not text.startswith(("{", "[")):
        return
    # Of several rows only the first is read: what follows it is no JSON any more.
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        whole = None
    if text.startswith("["):
        first = whole[0] if whole else None
        said = remedy(first) if isinstance(first, dict) else ""
        raise DataError(f"{path}: this is one JSON array; {said or 'write one object per line (JSONL)'}")
    if isinstance(whole, dict) and {"images", "annotations"} <= whole.keys():
        raise DataError(f"{path}: this is COCO's layout; {_convert('coco', path)}")
    if whole is not None and "\n" in text:
        raise DataError(f"{path}: this is one JSON object over several lines; write each object on one line (JSONL)")


def _convert(layout: str, path: Path) -> str:
    command = ["visurf", "data", "convert", layout, str(path), "--images", "FOLDER", str(path.with_suffix(".jsonl"))]
    return f"`{shlex.join(command)}` makes rows of it (docs/own-data.md)"
