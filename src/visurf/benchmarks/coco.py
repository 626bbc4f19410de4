"""COCO 2017 detection: `annotations/instances_{train,val}2017.json` and the image folders beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from visurf.benchmarks import Benchmark
from visurf.benchmarks.coco_layout import load_coco_layout
from visurf.benchmarks.rows import RowReport, check_split
from visurf.types import Sample

SPLITS = ("train", "val")


def load(
    root: Path,
    split: str,
    *,
    classes: Sequence[str] | None = None,
    absent: int | None = None,
    seed: int = 0,
    report: RowReport | None = None,
) -> list[Sample]:
    """Load (image, category) pairs; see `visurf.benchmarks.coco_layout.detection_samples` for the arguments."""
    check_split(split, SPLITS, "COCO 2017")
    annotations = root / "annotations" / f"instances_{split}2017.json"
    return load_coco_layout(annotations, root / f"{split}2017", classes=classes, absent=absent, seed=seed, report=report)


BENCHMARK = Benchmark(
    name="coco",
    task="detection",
    splits=SPLITS,
    load=load,
    metrics=("ap", "ap50", "ap75"),
    source="https://cocodataset.org/#download",
    licence="annotations CC BY 4.0; images under the Flickr licence each names",
    notes="boxes are floats; crowd regions are no targets; AP needs all images of the file, annotated or not",
)
