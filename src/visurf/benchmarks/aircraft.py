"""FGVC-Aircraft 2013b: `data/images/0034309.jpg` and `data/images_variant_SPLIT.txt`."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visurf.benchmarks import Benchmark
from visurf.benchmarks.classification import Subject, class_sample, load_listed, read_lines
from visurf.benchmarks.rows import RowReport, check_split, find, finish
from visurf.types import Box, DataError, ImageRef, Sample

SPLITS = ("train", "val", "trainval", "test", "visual_rft_test")
SUBJECT = Subject("aircraft", "model")
BANNER_ROWS = 20


@dataclass(frozen=True)
class WithoutBanner:
    """Fetches a picture without the copyright banner at its bottom."""

    path: Path

    def __call__(self) -> bytes:
        """The picture re-encoded, without loss."""
        image = ImageRef(self.path).load()
        stream = io.BytesIO()
        image.crop((0, 0, image.width, max(image.height - BANNER_ROWS, 1))).save(stream, format="PNG", compress_level=1)
        return stream.getvalue()


def load(
    root: Path,
    split: str,
    *,
    crop_banner: bool = False,
    test_list: Path | None = None,
    report: RowReport | None = None,
) -> list[Sample]:
    """One sample per picture; the class is the variant.

    Args:
        root: Holds `data/`, directly or in `fgvc-aircraft-2013b/`.
        split: train, val, trainval, test, or `visual_rft_test` with its `test_list`.
        crop_banner: Cut the 20 rows with the copyright line from every picture.
        test_list: The list of image, label and name.
        report: Counts what is bad.
    """
    check_split(split, SPLITS, "FGVC-Aircraft")
    report = report if report is not None else RowReport()
    if split == "visual_rft_test":
        return load_listed(root, test_list, None, SUBJECT, report)
    folder = find(root, ("data/variants.txt", "fgvc-aircraft-2013b/data/variants.txt", "variants.txt"), "variants.txt").parent
    variants = {name: index for index, (_, name) in enumerate(read_lines(folder / "variants.txt"))}
    boxes = _boxes(folder / "images_box.txt")
    path = folder / f"images_variant_{split}.txt"
    samples = []
    for number, line in read_lines(path):
        # Names hold spaces and slashes; only the first space separates.
        image, _, variant = line.partition(" ")
        with report.row(image):
            if variant not in variants or not image.isdigit():
                raise DataError(
                    f"{path}: line {number}: expected an image number and one of {len(variants)} variants, got {line!r}"
                )
            place = folder / "images" / f"{image}.jpg"
            meta: dict[str, Any] = {"box": boxes[image]} if image in boxes else {}
            picture = ImageRef(WithoutBanner(place) if crop_banner else place)
            samples.append(class_sample(image, picture, variants[variant], variant, SUBJECT, **meta))
    return finish(samples, path)


def _boxes(path: Path) -> dict[str, Box]:
    """The aircraft's boxes as half-open pixels from 0; the file counts from 1 and includes the last."""
    boxes = {}
    for number, line in read_lines(path) if path.exists() else ():
        fields = line.split()
        if len(fields) != 5 or not all(field.isdigit() for field in fields):
            raise DataError(f"{path}: line {number}: expected image x1 y1 x2 y2, got {line!r:.80}")
        x1, y1, x2, y2 = (float(value) for value in fields[1:])
        boxes[fields[0]] = (x1 - 1, y1 - 1, x2, y2)
    return boxes


BENCHMARK = Benchmark(
    name="aircraft",
    task="classification",
    splits=SPLITS,
    load=load,
    metrics=("accuracy",),
    source="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
    licence="non-commercial research",
    notes="100 variants and 10,000 pictures in 2013b; each picture ends in a copyright banner",
)
