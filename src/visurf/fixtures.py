"""Checks against recorded results of published implementations.

A fixture file is one JSON object with ``cases``, each with ``id``, ``input`` and ``expected``; its file name is its family.
Where an implementation failed, the expected value is ``{"raises": "Name"}``, and any error here agrees with it. Numbers that
are not finite are the texts "NaN", "Infinity" and "-Infinity".
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visurf.types import DataError

_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
SHOWN = 5


@dataclass(frozen=True)
class Family:
    """How a family of cases is checked.

    Attributes:
        runner: ``module:function`` of a function from a case to values in the layout of its ``expected``.
        tolerance: Largest relative or absolute difference; 0 for exact. Or a function of the case.
    """

    runner: str
    tolerance: float | Callable[[Mapping[str, Any]], float] = 0.0

    def load(self) -> Callable[[Mapping[str, Any]], Any]:
        """Import the runner."""
        module, name = self.runner.split(":")
        function: Callable[[Mapping[str, Any]], Any] = getattr(importlib.import_module(module), name)
        return function


@dataclass(frozen=True)
class Raised:
    """Stands for the value of a computation that failed."""

    error: str


@dataclass(frozen=True)
class Disagreement:
    """One case whose values differ."""

    id: Any
    expected: Any
    got: Any


@dataclass(frozen=True)
class Result:
    """The outcome of one file; prints its first disagreements and then one line of counts."""

    family: str
    total: int
    disagreements: tuple[Disagreement, ...]

    @property
    def agreed(self) -> int:
        """The number of cases that agree."""
        return self.total - len(self.disagreements)

    def __str__(self) -> str:
        """Lines of disagreements, then ``NAME: 272 of 272 agree``."""
        lines = [f"case {d.id}: expected {d.expected!r}, got {d.got!r}" for d in self.disagreements[:SHOWN]]
        if len(self.disagreements) > SHOWN:
            lines.append(f"and {len(self.disagreements) - SHOWN} more")
        return "\n".join([*lines, f"{self.family}: {self.agreed} of {self.total} agree"])


FAMILIES: dict[str, Family] = {
    "visionreasoner": Family("visurf.rewards.published_cases:visionreasoner_case", 1e-9),
    "segzero": Family("visurf.rewards.published_cases:segzero_case"),
    "visual_rft_detection": Family("visurf.rewards.published_cases:visual_rft_detection_case", 1e-9),
    "visual_rft_lisa": Family("visurf.rewards.published_cases:visual_rft_lisa_case", 1e-9),
    "visual_rft_classification": Family("visurf.rewards.published_cases:visual_rft_classification_case"),
    "vlm_r1_rec": Family("visurf.rewards.published_cases:vlm_r1_rec_case", 1e-9),
    "vlm_r1_detection": Family("visurf.rewards.published_cases:vlm_r1_detection_case", 1e-9),
    "vlm_r1_text": Family("visurf.rewards.published_cases:vlm_r1_text_case", 1e-9),
    "vlm_r1_aux": Family("visurf.rewards.published_cases:vlm_r1_aux_case", 1e-9),
    "r1v_math": Family("visurf.rewards.published_cases:r1v_math_case"),
}


def check_file(path: Path | str, *, families: Mapping[str, Family] = FAMILIES) -> Result:
    """Compute every case of a fixture file and compare.

    Raises:
        DataError: The file's name is no known family, or it has not the layout of fixtures.
        ImportError: A library that the family needs is not installed.
    """
    path = Path(path)
    if path.stem not in families:
        raise DataError(f"{path}: unknown family {path.stem!r}; known are {', '.join(sorted(families))}")
    try:
        cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
        checked = [(case["id"], case["input"], case["expected"]) for case in cases]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a fixture file: {error!r}") from error
    family = families[path.stem]
    runner = family.load()
    disagreements = []
    for case, (identifier, _, expected) in zip(cases, checked, strict=True):
        got = attempt(runner, case)
        tolerance = family.tolerance(case) if callable(family.tolerance) else family.tolerance
        if not agrees(expected, got, tolerance):
            disagreements.append(Disagreement(identifier, expected, got))
    return Result(path.stem, len(checked), tuple(disagreements))


def attempt(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """The value of a call, or `Raised` where it fails; a missing library is not a result and is raised."""
    try:
        return function(*arguments, **named)
    except ImportError:
        raise
    except Exception as error:  # noqa: BLE001 - that it fails is the value to be compared
        return Raised(f"{type(error).__name__}: {error}")


def agrees(expected: Any, got: Any, tolerance: float) -> bool:
    """Whether computed values agree with recorded ones; keys that were not recorded do not count.

    >>> agrees({"iou": "NaN"}, {"iou": float("nan"), "more": 1}, 0.0), agrees([1.0], [1.1], 0.05)
    (True, False)
    >>> agrees({"raises": "KeyError"}, 0, 0.0), agrees({"raises": "KeyError"}, Raised("DataError"), 0.0)
    (False, True)
    """
    if isinstance(expected, Mapping):
        if set(expected) == {"raises"}:
            return isinstance(got, Raised)
        return isinstance(got, Mapping) and all(key in got and agrees(v, got[key], tolerance) for key, v in expected.items())
    if hasattr(got, "tolist"):
        got = got.tolist()
    if isinstance(expected, list):
        same_length = isinstance(got, list | tuple) and len(got) == len(expected)
        return same_length and all(agrees(e, g, tolerance) for e, g in zip(expected, got, strict=True))
    if isinstance(got, int | float) and not isinstance(got, bool):
        expected = _NOT_FINITE.get(expected, expected) if isinstance(expected, str) else expected
        if isinstance(expected, int | float) and not isinstance(expected, bool):
            both_nan = math.isnan(expected) and math.isnan(got)
            return both_nan or math.isclose(expected, got, rel_tol=tolerance, abs_tol=tolerance)
    return type(expected) is type(got) and bool(expected == got)
