"""Oxford-IIIT Pets: `images/Breed_name_12.jpg`, and lists, trimaps and head boxes in `annotations/`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from visurf.benchmarks import Benchmark
from visurf.benchmarks.classification import Subject, class_sample, load_listed, read_lines
from visurf.benchmarks.masks import ImageMask
from visurf.benchmarks.rows import RowReport, check_split, decode_text, finish, read_bytes
from visurf.types import Box, DataError, ImageRef, Sample

SPLITS = ("trainval", "test", "visual_rft_test")
SUBJECT = Subject("pet", "breed")
# 1 is the animal, 2 the background, 3 the border that nobody decided.
_TRIMAP = ((1, 1), (3, 255))


def load(root: Path, split: str, *, test_list: Path | None = None, report: RowReport | None = None) -> list[Sample]:
    """One sample per listed picture; pictures that no list names are not part of the set.

    `meta["mask"]` is the trimap with the border as ignored and `meta["head_box"]` the head, where the set has them.

    Args:
        root: Holds `images/` and `annotations/`.
        split: trainval, test, or `visual_rft_test` with its `test_list`.
        test_list: The list of image, label and name.
        report: Counts what is bad.
    """
    check_split(split, SPLITS, "Pets")
    report = report if report is not None else RowReport()
    if split == "visual_rft_test":
        return load_listed(root, test_list, None, SUBJECT, report)
    path = root / "annotations" / f"{split}.txt"
    samples = []
    for number, line in read_lines(path):
        with report.row(line.split(" ")[0]):
            samples.append(_sample(root, line, f"{path}: line {number}"))
    return finish(samples, path)


def _sample(root: Path, line: str, where: str) -> Sample:
    fields = line.split()
    breed = re.fullmatch(r"([A-Za-z_]+)_\d+", fields[0]) if fields else None
    if len(fields) != 4 or breed is None or not all(f.isdigit() for f in fields[1:]) or fields[2] not in "12":
        raise DataError(f"{where}: expected 'Breed_name_12 CLASS SPECIES BREED' with SPECIES 1 or 2, got {line!r:.100}")
    name, label = breed.group(1), int(fields[1])
    cat = name[0].isupper()
    if cat != (fields[2] == "1"):
        raise DataError(f"{where}: expected species {1 if cat else 2} for {name!r} (capitalised names are cats), got {fields[2]}")
    meta: dict[str, Any] = {"species": "cat" if cat else "dog"}
    trimap = root / "annotations" / "trimaps" / f"{fields[0]}.png"
    if trimap.exists():
        meta["mask"] = ImageMask(trimap, values=_TRIMAP)
    xml = root / "annotations" / "xmls" / f"{fields[0]}.xml"
    if xml.exists():
        meta["head_box"] = read_head_box(xml)
    picture = ImageRef(root / "images" / f"{fields[0]}.jpg")
    return class_sample(fields[0], picture, label - 1, name.lower(), SUBJECT, **meta)


def read_head_box(path: Path) -> Box:
    """The head's box as half-open pixels from 0; the file counts pixels from 1 and includes the last.

    Read by pattern, not by an XML parser: four numbers are needed, and a parser would expand entities.
    """
    text = decode_text(read_bytes(path), path)
    values = []
    for name in ("xmin", "ymin", "xmax", "ymax"):
        found = re.search(rf"<{name}>\s*(-?\d+(?:\.\d+)?)\s*</{name}>", text)
        if found is None:
            raise DataError(f"{path}, field {name!r}: expected a number in <{name}>")
        values.append(float(found.group(1)))
    return values[0] - 1, values[1] - 1, values[2], values[3]


BENCHMARK = Benchmark(
    name="pets",
    task="classification",
    splits=SPLITS,
    load=load,
    metrics=("accuracy",),
    source="https://www.robots.ox.ac.uk/~vgg/data/pets/",
    licence="CC BY-SA 4.0 on the site; its README says research only",
    notes="some .jpg files are GIF or PNG; class ids are alphabetical regardless of case",
)
