"""Which settings differ between two recipes, key by key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def differences(before: Any, now: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The dotted name of every setting that differs, and both values.

    Args:
        before: Nested plain values.
        now: The same of the other, in whose order the names come.
        where: The dotted name of both. Sections without the same keys differ as a whole.

    >>> list(differences({"steps": 5, "data": {"train": "a", "root": ""}}, {"steps": 5, "data": {"train": "b", "root": ""}}))
    [('data.train', 'a', 'b')]
    """
    if before == now:
        return
    if isinstance(before, Mapping) and isinstance(now, Mapping) and before.keys() == now.keys():
        for key in now:
            yield from differences(before[key], now[key], f"{where}.{key}" if where else str(key))
    else:
        yield where, before, now
