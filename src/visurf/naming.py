"""Looking things up by name: a table's key, ``pkg.module:NAME`` or ``path/to/file.py:NAME``."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
# Methods by names that are none of ours -> how they are said here; the first word is the name.
ELSEWHERE = {
    "grpo": "rlvr",
    "rl": "rlvr",
    "rft": "rlvr",
    "visual_rft": "rlvr",
    "gspo": "rlvr objective.ratio=sequence",
    "dapo": "rlvr objective.clip_high=0.28",
    "cispo": "rlvr objective.surrogate=cispo",
    "dr_grpo": "rlvr advantage.scale=none objective.average=constant",
    "rloo": "rlvr advantage.baseline=others advantage.scale=none",
    "finetune": "sft",
    "sft_grpo": "sft_then_rlvr",
    "sft_then_grpo": "sft_then_rlvr",
}
# What is no paradigm here -> the one that comes nearest; the first word is the name.
NEAREST = {
    "ppo": "rlvr: the mean of the group takes the critic's place",
    "dpo": "rlvr: rewards of the model's own answers take the place of pairs, which are not read",
    "lora": "visurf model.lora.rank=64: adapters are a setting of every paradigm",
}


def suggestion(name: str, known: Mapping[str, object] | list[str]) -> str:
    """A hint for a mistyped name: what it is called here or the nearest known one, and the whole list."""
    spelt = {one.casefold(): one for one in known}
    listed = f" Known: {', '.join(sorted(known))}"
    key = name.casefold().replace("-", "_")
    for introduced, table in (("here that is", ELSEWHERE), ("nearest is", NEAREST)):
        said = table.get(key, "")
        if re.split(r"\W", said)[0] in known:
            return f"; {introduced} {said}.{listed}"
    near = difflib.get_close_matches(name.casefold(), list(spelt), n=1)
    return (f"; did you mean {spelt[near[0]]!r}?" if near else ".") + listed


def load_object(reference: str) -> Any:
    """Import ``pkg.module:NAME`` or ``file.py:NAME``.

    Raises:
        ValueError: The reference has another form, the file or module is missing, or it lacks the name.
    """
    place, _, name = reference.rpartition(":")
    if not place or not name:
        raise ValueError(f"expected pkg.module:NAME or path/to/file.py:NAME, got {reference!r}")
    if place.endswith(".py"):
        path = Path(place)
        if not path.is_file():
            raise ValueError(f"{reference!r}: no such file {path}")
        spec = importlib.util.spec_from_file_location(f"visurf_user_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        # Dataclasses and pickles of the module look it up by name.
        sys.modules[module.__name__] = module
        spec.loader.exec_module(module)
    else:
        try:
            module = importlib.import_module(place)
        except ModuleNotFoundError as error:
            raise ValueError(f"{reference!r}: cannot import {place!r} ({error})") from error
    if not hasattr(module, name):
        raise ValueError(f"{reference!r}: {place} has no {name!r}{suggestion(name, vars(module))}")
    return getattr(module, name)


def look_up(name: str, table: Mapping[str, T], what: str) -> T:
    """A table's entry, or an object named from outside.

    Raises:
        ValueError: Unknown name; the message suggests the nearest.
    """
    if name in table:
        return table[name]
    if ":" in name:
        found: T = load_object(name)
        return found
    raise ValueError(f"unknown {what} {name!r}{suggestion(name, table)}")
