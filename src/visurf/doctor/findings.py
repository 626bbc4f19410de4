"""What a check found: findings with a remedy, facts, histograms and pictures. Torch-free."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["error", "warning"]
# Samples named with a finding; the rest is counted.
NAMED = 12


@dataclass(frozen=True)
class Picture:
    """A drawn sample.

    Attributes:
        caption: What it shows.
        png: The file.
    """

    caption: str
    png: bytes


@dataclass(frozen=True)
class Finding:
    """Something to mend or to know.

    Attributes:
        level: An error keeps the run from doing what it should; a warning costs quality, time or memory.
        message: What is wrong, with numbers.
        remedy: What to change.
        samples: Names of all samples it concerns, each maybe with what was seen.
    """

    level: Level
    message: str
    remedy: str = ""
    samples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Histogram:
    """How often values occur.

    Attributes:
        title: What was counted.
        values: All of them.
        limit: A value that must not be exceeded, or None.
    """

    title: str
    values: tuple[float, ...]
    limit: float | None = None

    def bins(self, most: int = 12) -> list[tuple[float, float, int]]:
        """(from, to, count) of equal bins over the range of the values, both ends counted where values are whole; none for none."""
        if not self.values:
            return []
        low, high = min(self.values), max(self.values)
        if low == high:
            return [(low, high, len(self.values))]
        whole = all(float(v).is_integer() for v in self.values)
        width = math.ceil((high - low + 1) / most) if whole else (high - low) / most
        count = math.ceil((high - low + 1) / width) if whole else most
        places = Counter(min(int((v - low) / width), count - 1) for v in self.values)
        return [(low + i * width, low + (i + 1) * width - whole, places[i]) for i in range(count)]


@dataclass(frozen=True)
class Table:
    """Rows under a head, for the page and the terminal."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass
class Section:
    """One check.

    Attributes:
        name: Its key in the JSON file.
        title: What people read.
        facts: Name to value, in order.
        findings: What is wrong.
        histograms: Of lengths.
        tables: Of whatever needs one.
        pictures: Of samples.
        not_made: What was not checked, each with the reason.
    """

    name: str
    title: str
    facts: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    histograms: list[Histogram] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    not_made: list[str] = field(default_factory=list)

    def error(self, message: str, remedy: str = "", samples: Sequence[str] = ()) -> None:
        """Add an error."""
        self.findings.append(Finding("error", message, remedy, tuple(samples)))

    def warn(self, message: str, remedy: str = "", samples: Sequence[str] = ()) -> None:
        """Add a warning."""
        self.findings.append(Finding("warning", message, remedy, tuple(samples)))

    @property
    def verdict(self) -> str:
        """``error``, ``warning``, ``not made`` or ``clear``: the worst of what was found."""
        levels = {finding.level for finding in self.findings}
        if levels:
            return "error" if "error" in levels else "warning"
        return "not made" if self.not_made and not self.facts else "clear"


@dataclass(frozen=True)
class Diagnosis:
    """All checks of a recipe.

    Attributes:
        recipe: What was checked.
        sections: In order.
        seconds: What it took.
        about: What the page's head says: model, data, versions.
    """

    recipe: str
    sections: tuple[Section, ...]
    seconds: float
    about: Mapping[str, str]

    def count(self, level: Level) -> int:
        """How many findings have a level."""
        return sum(finding.level == level for section in self.sections for finding in section.findings)

    @property
    def conclusion(self) -> str:
        """The last line: errors, warnings or all clear."""
        errors, warnings = self.count("error"), self.count("warning")
        if not errors and not warnings:
            return "all clear"
        parts = [f"{n} {word}{'s' if n > 1 else ''}" for n, word in ((errors, "error"), (warnings, "warning")) if n]
        return ", ".join(parts)

    @property
    def exit_code(self) -> int:
        """1 with an error, else 0."""
        return 1 if self.count("error") else 0


def many(count: int, noun: str, plural: str = "") -> str:
    """A number with its noun.

    >>> many(1, "box", "boxes"), many(2000, "sample")
    ('1 box', '2,000 samples')
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
