"""A diagnosis as text for the terminal and as plain values for JSON. Torch-free."""

from __future__ import annotations

import base64
import dataclasses
import textwrap
from collections.abc import Iterator
from typing import Any

from visurf.doctor.findings import NAMED, Diagnosis, Finding, Histogram, Section, Table

MARKS = {"error": "ERROR", "warning": "warning", "clear": "ok", "not made": "-"}
WIDTH = 118
BAR = 30
# Tables of long texts belong on the page.
WIDEST = 60


def section_text(section: Section) -> str:
    """One section: its verdict, facts, histograms and findings."""
    lines = [f"{MARKS[section.verdict]:<8}{section.title}"]
    if section.facts:
        facts = ", ".join(f"{name} {value}" for name, value in section.facts.items())
        lines += _wrapped(facts, 8)
    for histogram in section.histograms:
        lines += _histogram(histogram)
    for table in section.tables:
        lines += _table(table)
    for finding in section.findings:
        lines += _finding(finding)
    for reason in section.not_made:
        lines += _wrapped(f"not checked: {reason}", 8)
    return "\n".join(printable(line) for line in lines)


def printable(text: str) -> str:
    """Without control characters: what models and data wrote must not steer a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def _wrapped(text: str, indent: int) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * indent, break_long_words=True)


def _finding(finding: Finding) -> Iterator[str]:
    yield from _wrapped(f"{finding.level}: {finding.message}", 8)
    if finding.remedy:
        yield from _wrapped(f"-> {finding.remedy}", 10)
    for name in finding.samples[:3]:
        yield from _wrapped(printable(name)[:220], 12)
    if len(finding.samples) > 3:
        yield f"            and {len(finding.samples) - 3:,} more"


def _histogram(histogram: Histogram) -> Iterator[str]:
    bins = histogram.bins()
    most = max((count for *_, count in bins), default=0)
    limit = "" if histogram.limit is None else f" (limit {histogram.limit:,.0f})"
    yield f"        {histogram.title}{limit}"
    for low, high, count in bins:
        edge = f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"
        yield f"        {edge:>18} {'#' * round(BAR * count / most):<{BAR}} {count:,}"


def _table(table: Table) -> Iterator[str]:
    widths = [max(len(row[i]) for row in (table.head, *table.rows)) for i in range(len(table.head))]
    if max(widths) > WIDEST:
        return
    yield f"        {table.title}"
    for row in (table.head, *table.rows):
        yield "        " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def as_dict(diagnosis: Diagnosis) -> dict[str, Any]:
    """Everything but the pictures, which are counted; histograms as bins."""
    return {
        "recipe": diagnosis.recipe,
        "conclusion": diagnosis.conclusion,
        "exit_code": diagnosis.exit_code,
        "errors": diagnosis.count("error"),
        "warnings": diagnosis.count("warning"),
        "seconds": round(diagnosis.seconds, 2),
        "about": dict(diagnosis.about),
        "sections": [_section(section) for section in diagnosis.sections],
    }


def _section(section: Section) -> dict[str, Any]:
    return {
        "name": section.name,
        "verdict": section.verdict,
        "facts": section.facts,
        "findings": [dataclasses.asdict(finding) for finding in section.findings],
        "histograms": [{"title": h.title, "limit": h.limit, "bins": h.bins()} for h in section.histograms],
        "tables": [dataclasses.asdict(table) for table in section.tables],
        "pictures": len(section.pictures),
        "not_made": section.not_made,
    }


def named(finding: Finding) -> tuple[tuple[str, ...], int]:
    """The samples that a page names, and how many more there are."""
    return finding.samples[:NAMED], max(len(finding.samples) - NAMED, 0)


def embedded(png: bytes) -> str:
    """A picture as the address of an image inside a page."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
