"""Columns of numbers, one a prompt, as short text: what paired tests need, small enough to commit. No torch."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Shares are kept in steps of 1 / 65,000; the highest code stands for "does not apply".
_STEPS, _NONE = 65000, 65535


def pack(values: Sequence[float | None]) -> dict[str, Any]:
    """A column as compressed text; None stands for prompts to which a measure does not apply.

    Returns:
        ``{"kind": "share" | "bit" | "float", "data": base64}``. `bit`: all 0 or 1, exact. `share`: within [0, 1], rounded to
        1/65000. `float`: float32.

    >>> unpack(pack([0.0, 1.0, None])).tolist()
    [0.0, 1.0, nan]
    """
    column = np.array([np.nan if v is None else v for v in values], dtype=np.float64)
    known = column[~np.isnan(column)]
    if np.isin(known, (0.0, 1.0)).all():
        kind, stored = "bit", np.where(np.isnan(column), 2, column).astype("u1")
    elif known.min() >= 0 and known.max() <= 1:
        kind, stored = "share", np.where(np.isnan(column), _NONE, np.round(column * _STEPS)).astype("<u2")
    else:
        kind, stored = "float", column.astype("<f4")
    return {"kind": kind, "data": base64.b64encode(zlib.compress(stored.tobytes(), 9)).decode("ascii")}


def unpack(packed: dict[str, Any]) -> NDArray[np.float64]:
    """The column, NaN where the measure does not apply.

    Raises:
        ValueError: It was not written by `pack`.
    """
    kinds = {"bit": "u1", "share": "<u2", "float": "<f4"}
    if packed.get("kind") not in kinds:
        raise ValueError(f"expected a packed column of kind {sorted(kinds)}, got {packed.get('kind')!r}")
    try:
        stored = np.frombuffer(zlib.decompress(base64.b64decode(packed["data"])), kinds[packed["kind"]])
    except (ValueError, zlib.error) as error:
        raise ValueError(f"a packed column cannot be read ({error})") from error
    found = stored.astype(np.float64)
    if packed["kind"] == "bit":
        return np.where(found == 2, np.nan, found)
    return np.where(found == _NONE, np.nan, found / _STEPS) if packed["kind"] == "share" else found
