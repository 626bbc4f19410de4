"""What is in a data set: counts per split, sizes, the share of no-target and broken rows, and a contact sheet."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from visurf.benchmarks import Benchmark
from visurf.benchmarks.rows import RowReport
from visurf.benchmarks.selection import is_present
from visurf.drawing import draw_answer
from visurf.types import Choice, DataError, Detections, Masks, Number, Objects, Points, Sample, Size, Text


@dataclass(frozen=True)
class SplitSummary:
    """One split in numbers.

    Attributes:
        split: Its name.
        samples: Usable rows.
        pictures: Distinct pictures, by path; in-memory pictures count each.
        no_target: Samples whose truth is "no object".
        bad: Rows that could not be used.
        left_out: Reason to count, for rows that are sound but not part of the task.
        checked: Pictures whose header was read.
        unreadable: Of those, how many could not be.
        smallest: Smallest width and height among the checked, each on its own.
        median: Median width and height.
        largest: Largest width and height.
        first_problem: The message of the first bad row or unreadable picture.
        error: Why the split could not be loaded at all; the counts are zero then.
    """

    split: str
    samples: int = 0
    pictures: int = 0
    no_target: int = 0
    bad: int = 0
    left_out: tuple[tuple[str, int], ...] = ()
    checked: int = 0
    unreadable: int = 0
    smallest: Size = (0, 0)
    median: Size = (0, 0)
    largest: Size = (0, 0)
    first_problem: str = ""
    error: str = ""

    @property
    def no_target_share(self) -> float:
        """Share of samples whose truth is "no object"."""
        return self.no_target / self.samples if self.samples else 0.0

    @property
    def broken_share(self) -> float:
        """Share of the rows that are bad."""
        return self.bad / (self.samples + self.bad) if self.samples + self.bad else 0.0

    @property
    def unreadable_share(self) -> float:
        """Share of the checked pictures that cannot be read."""
        return self.unreadable / self.checked if self.checked else 0.0


def summarise(samples: Sequence[Sample], split: str, report: RowReport, *, check: int = 500, seed: int = 0) -> SplitSummary:
    """Count a loaded split; reads the headers of at most `check` pictures, drawn by seed."""
    pictures = {str(p.name) if isinstance(p.source, str | Path) else str(id(p)): p for s in samples for p in s.images}
    drawn = [pictures[k] for k in random.Random(seed).sample(sorted(pictures), min(check, len(pictures)))]
    sizes, problems = [], [message for _, message in report.bad]
    for picture in drawn:
        try:
            sizes.append(picture.size)
        except DataError as error:
            problems.append(str(error))
    table = np.array(sizes or [(0, 0)])
    low, middle, high = ((int(v[0]), int(v[1])) for v in (table.min(axis=0), np.median(table, axis=0), table.max(axis=0)))
    return SplitSummary(
        split=split,
        samples=len(samples),
        pictures=len(pictures),
        no_target=sum(not is_present(sample) for sample in samples),
        bad=len(report.bad),
        left_out=tuple((reason, len(ids)) for reason, ids in report.left_out.items()),
        checked=len(drawn),
        unreadable=len(drawn) - len(sizes),
        smallest=low,
        median=middle,
        largest=high,
        first_problem=problems[0] if problems else "",
    )


def show(
    benchmark: Benchmark,
    root: Path,
    *,
    splits: Sequence[str] | None = None,
    sheet: Path | None = None,
    check: int = 500,
    seed: int = 0,
    **options: Any,
) -> list[SplitSummary]:
    """Load every split, count it, and draw a contact sheet of the first split that loads.

    Args:
        benchmark: The data set.
        root: Where it lies.
        splits: Which splits; all by default. One that cannot be loaded is a summary with its error.
        sheet: Where to write the PNG; None draws nothing.
        check: How many picture headers to read a split.
        seed: Of the draws.
        options: Passed on to the loader.

    Raises:
        DataError: No split at all could be loaded.
    """
    summaries = []
    drawn = False
    for split in splits or benchmark.splits:
        report = RowReport("skip")
        try:
            samples = benchmark.load(root, split, report=report, **options)
        except DataError as error:
            summaries.append(SplitSummary(split, bad=len(report.bad), error=str(error)))
            continue
        summaries.append(summarise(samples, split, report, check=check, seed=seed))
        if sheet is not None and not drawn:
            contact_sheet(samples, sheet, seed=seed)
            drawn = True
    if all(summary.error for summary in summaries):
        raise DataError(f"{benchmark.name} at {root}: no split could be loaded; {summaries[0].split}: {summaries[0].error}")
    return summaries


def format_summaries(summaries: Sequence[SplitSummary]) -> str:
    """The summaries as a table in plain text, with what went wrong below it."""
    counts = f"{'samples':>9}{'pictures':>10}{'no target':>11}{'bad rows':>10}{'unreadable':>12}"
    lines = [f"{'split':<16}{counts}  sizes (smallest, median, largest)"]
    notes = []
    for s in summaries:
        if s.error:
            lines.append(f"{s.split:<16}{'-':>9}  not loaded: {s.error}")
            continue
        sizes = ", ".join(f"{w} x {h}" for w, h in (s.smallest, s.median, s.largest)) if s.checked > s.unreadable else "-"
        counts = f"{s.samples:>9}{s.pictures:>10}{s.no_target_share:>11.1%}{s.broken_share:>10.1%}{s.unreadable_share:>12.1%}"
        lines.append(f"{s.split:<16}{counts}  {sizes}")
        if s.unreadable:
            notes.append(f"{s.split}: {s.unreadable} of {s.checked} pictures checked cannot be read")
        notes += [f"{s.split}: left out, {reason}: {count}" for reason, count in s.left_out]
        if s.first_problem:
            notes.append(f"{s.split}: first problem: {s.first_problem}")
    return "\n".join(lines + notes)


def label_text(sample: Sample) -> str:
    """A sample's truth in a few words."""
    target = sample.target
    if isinstance(target, Objects | Detections):
        count = len(target.boxes)
        return "no object" if not count else f"{count} box{'es' if count > 1 else ''}"
    if isinstance(target, Points):
        return f"{len(target.points)} point{'s' if len(target.points) > 1 else ''}"
    if isinstance(target, Masks):
        return "mask"
    if isinstance(target, Choice):
        index = ord(target.letter) - ord("A")
        return f"{target.letter}: {target.options[index]}" if index < len(target.options) else target.letter
    return target.text if isinstance(target, Text | Number) else ""


def draw_label(sample: Sample) -> Image.Image:
    """The first picture of a sample with its truth drawn on it: boxes, points, and masks as a tint (ignored pixels grey).

    Raises:
        DataError: The picture or a mask cannot be decoded.
    """
    image = sample.images[0].load()
    target = sample.target
    masks = target.load() if isinstance(target, Masks) else ()
    if not masks and "mask" in sample.meta and is_present(sample):
        masks = (sample.meta["mask"].load(),)
    return draw_answer(image, target, masks, name=f"sample {sample.id}")


def contact_sheet(
    samples: Sequence[Sample], path: Path, *, count: int = 12, columns: int = 4, cell: int = 320, seed: int = 0
) -> None:
    """Write a PNG of samples drawn by seed, each with its truth drawn and its question and truth as text below.

    A sample that cannot be drawn shows why instead.
    """
    chosen = random.Random(seed).sample(list(samples), min(count, len(samples)))
    columns = max(1, min(columns, len(chosen)))
    caption = 44
    rows = max(1, -(-len(chosen) // columns))
    sheet = Image.new("RGB", (columns * cell, rows * (cell + caption)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for index, sample in enumerate(chosen):
        left, top = index % columns * cell, index // columns * (cell + caption)
        try:
            picture = draw_label(sample)
            picture.thumbnail((cell - 8, cell - 8))
            sheet.paste(picture, (left + (cell - picture.width) // 2, top + (cell - picture.height) // 2))
            truth = label_text(sample)
        except DataError as error:
            truth = str(error)
            pen.rectangle((left + 4, top + 4, left + cell - 4, top + cell - 4), outline=(230, 60, 50), width=2)
        for line, text in enumerate((sample.question, f"-> {truth}")):
            printable = " ".join(text.split())[: cell // 6].encode("latin-1", "replace").decode("latin-1")
            pen.text((left + 6, top + cell + 2 + 20 * line), printable, fill="black", font=font)
    sheet.save(path)
