"""ISIC 2018 Task 1: dermoscopic pictures and the mask of their one lesion, in paired folders."""

from __future__ import annotations

import re
from pathlib import Path

from visurf.benchmarks import Benchmark
from visurf.benchmarks.masks import ImageMask
from visurf.benchmarks.rows import RowReport, check_split, finish
from visurf.types import DataError, ImageRef, Masks, Sample

SPLITS = ("train", "val", "test")
_FOLDER = {"train": "Training", "val": "Validation", "test": "Test"}
_PICTURE = re.compile(r"ISIC_\d+\.(jpg|jpeg|png)", re.IGNORECASE)
QUESTION = "the skin lesion"


def load(root: Path, split: str, *, report: RowReport | None = None) -> list[Sample]:
    """One sample per picture; the target is the lesion's mask, not decoded.

    Args:
        root: Holds `ISIC2018_Task1-2_*_Input` and `ISIC2018_Task1_*_GroundTruth` (copies may add a suffix such as `_x2`).
        split: train, val or test.
        report: Counts what is bad or left out: licence and superpixel files among the pictures.
    """
    check_split(split, SPLITS, "ISIC 2018")
    report = report if report is not None else RowReport()
    pictures = _folder(root, f"ISIC2018_Task1-2_{_FOLDER[split]}_Input")
    truths = _folder(root, f"ISIC2018_Task1_{_FOLDER[split]}_GroundTruth")
    samples = []
    for path in sorted(pictures.iterdir()):
        if not _PICTURE.fullmatch(path.name):
            report.leave_out(path.name, "not a picture of the set")
            continue
        with report.row(path.stem):
            truth = truths / f"{path.stem}_segmentation.png"
            if not truth.exists():
                raise DataError(f"{path}: expected its mask at {truth}, which does not exist")
            picture = ImageRef(path)
            mask = ImageMask(truth, picture, threshold=127)
            samples.append(Sample(path.stem, (picture,), QUESTION, Masks((mask,)), meta={"mask": mask}))
    return finish(samples, pictures)


def _folder(root: Path, name: str) -> Path:
    found = sorted(path for path in root.glob(f"{name}*") if path.is_dir())
    if len(found) != 1:
        raise DataError(f"{root}: expected one folder {name}, got {[path.name for path in found] or 'none'}")
    nested = found[0] / found[0].name
    return nested if nested.is_dir() else found[0]


BENCHMARK = Benchmark(
    name="isic2018",
    task="lesion",
    splits=SPLITS,
    load=load,
    metrics=("giou", "box_accuracy", "thresholded_jaccard"),
    source="https://challenge.isic-archive.com/data/#2018",
    licence="CC BY-NC 4.0 for the set (single pictures are CC0)",
    notes="pictures overlap with the 2016 and 2017 sets; some are over 6,000 pixels wide",
)
