"""LVIS v1 detection: `annotations/lvis_v1_{train,val}.json` (or beside `root`) on COCO 2017's images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from visurf.benchmarks import Benchmark
from visurf.benchmarks.coco_layout import detection_samples, read_coco
from visurf.benchmarks.rows import RowReport, check_split, find, image_path, numbers, require
from visurf.types import DataError, Sample

SPLITS = ("train", "val")


def annotation_file(root: Path, split: str) -> Path:
    """The annotation file: `root` itself where that is one."""
    if root.is_file():
        return root
    check_split(split, SPLITS, "LVIS v1")
    name = f"lvis_v1_{split}.json"
    return find(root, (f"annotations/{name}", name), "annotations")


def load(
    root: Path,
    split: str,
    *,
    classes: Sequence[str] | None = None,
    images: Path | None = None,
    all_absent: bool = False,
    absent: int | None = None,
    seed: int = 0,
    report: RowReport | None = None,
) -> list[Sample]:
    """Load (image, category) pairs.

    Only categories that annotators verified to be absent are asked as absent, since the others may be there unannotated.
    `meta["not_exhaustive"]` tells that perhaps not every object of the category is boxed.

    Args:
        root: Holds the annotation file, in `annotations/` or directly; or is the file.
        split: train or val.
        classes: Category names as the file spells them.
        images: The folder with `train2017` and `val2017`; `root` by default.
        all_absent: Ask every category that is not annotated, as the published few-shot protocol does.
        absent: How many absent categories to ask of each image; None for all eligible.
        seed: Of that draw.
        report: Counts what is bad or left out.
    """
    return load_file(
        annotation_file(root, split),
        images or (root.parent if root.is_file() else root),
        classes=classes,
        all_absent=all_absent,
        absent=absent,
        seed=seed,
        report=report,
    )


def load_file(
    annotations: Path,
    images: Path,
    *,
    classes: Sequence[str] | None = None,
    all_absent: bool = False,
    absent: int | None = None,
    seed: int = 0,
    report: RowReport | None = None,
) -> list[Sample]:
    """Load one annotation file in LVIS's layout, whatever its name; arguments as in `load`."""
    file = read_coco(annotations)
    samples = detection_samples(
        file,
        lambda image, where: lvis_image_path(images, image, where),
        classes=classes,
        absent=absent,
        candidates=(lambda image: None) if all_absent else (lambda image: category_ids(image, "neg_category_ids", annotations)),
        seed=seed,
        report=report,
    )
    not_exhaustive = {i: category_ids(image, "not_exhaustive_category_ids", annotations) for i, image in file.images.items()}
    for sample in samples:
        meta = sample.meta
        assert isinstance(meta, dict)
        meta["not_exhaustive"] = meta["category_id"] in not_exhaustive[meta["image_id"]]
        meta["frequency"] = file.category_records[meta["category_id"]].get("frequency")
    return samples


def category_ids(image: Mapping[str, Any], name: str, path: Path) -> set[int]:
    """One of an image's lists of category ids."""
    return {int(value) for value in numbers(image.get(name, []), None, f"{path}: image {image['id']}, field {name!r}")}


def lvis_image_path(images: Path, image: Mapping[str, Any], where: str) -> Path:
    """The image's path from the last two parts of its `coco_url`.

    `file_name` is missing in v1 and names a 2014 file in v0.5, and images of the val split lie in both folders of COCO 2017.
    """
    parts = require(image, "coco_url", str, where).split("/")
    if len(parts) < 2:
        raise DataError(f"{where}, field 'coco_url': expected a URL ending in FOLDER/FILE, got {image['coco_url']!r}")
    return image_path(images, "/".join(parts[-2:]), f"{where}, field 'coco_url'")


BENCHMARK = Benchmark(
    name="lvis",
    task="detection",
    splits=SPLITS,
    load=load,
    metrics=("lvis_ap", "ap50", "ap75"),
    source="https://www.lvisdataset.org/dataset",
    licence="annotations CC BY 4.0; images under the Flickr licence each names",
    notes="federated: absence is known only for neg_category_ids; names carry underscores and senses",
    annotations=annotation_file,
    federated=True,
)
