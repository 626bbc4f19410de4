"""COCO 2017 detection: `annotations/instances_{train,val}2017.json` and the image folders beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from visurf.benchmarks import Benchmark
from visurf.benchmarks.coco_layout import detection_samples, load_coco_layout, read_coco
from visurf.benchmarks.rows import RowReport, check_split, image_path
from visurf.types import DataError, Sample

SPLITS = ("train", "val")


def annotation_file(root: Path, split: str) -> Path:
    """The annotation file: `root` itself where that is one."""
    return root if root.is_file() else root / "annotations" / f"instances_{split}2017.json"


def load(
    root: Path,
    split: str,
    *,
    classes: Sequence[str] | None = None,
    absent: int | None = None,
    seed: int = 0,
    report: RowReport | None = None,
) -> list[Sample]:
    """Load (image, category) pairs; see `visurf.benchmarks.coco_layout.detection_samples` for the arguments.

    `root` may be any annotation file in this layout; its pictures then lie beside it and the split does not matter.
    """
    if root.is_file():
        return load_coco_layout(root, root.parent, classes=classes, absent=absent, seed=seed, report=report)
    check_split(split, SPLITS, "COCO 2017")
    file = read_coco(annotation_file(root, split))

    def path_of(image: Mapping[str, Any], where: str) -> Path:
        # Copies exist whose train and val files are exchanged; only the URL tells.
        folder = str(image.get("coco_url", "")).split("/")[-2:-1]
        if folder and folder[0] in ("train2017", "val2017") and folder[0] != f"{split}2017":
            raise DataError(f"{where}, field 'coco_url': expected a picture of {split}2017, got {image['coco_url']!r}")
        return image_path(root / f"{split}2017", image.get("file_name"), f"{where}, field 'file_name'")

    return detection_samples(file, path_of, classes=classes, absent=absent, seed=seed, report=report)


BENCHMARK = Benchmark(
    name="coco",
    task="detection",
    splits=SPLITS,
    load=load,
    metrics=("ap", "ap50", "ap75"),
    source="https://cocodataset.org/#download",
    licence="annotations CC BY 4.0; images under the Flickr licence each names",
    notes="boxes are floats; crowd regions are no targets; AP needs all images of the file, annotated or not",
    annotations=annotation_file,
)
