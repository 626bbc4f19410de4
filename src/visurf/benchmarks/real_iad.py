"""Real-IAD: industrial anomalies in 30 categories seen from five views; membership of the splits is only in its JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from visurf.benchmarks import Benchmark
from visurf.benchmarks.coco_layout import readable
from visurf.benchmarks.masks import ImageMask
from visurf.benchmarks.rows import RowReport, check_split, find, finish, image_folder, image_path, read_json, require
from visurf.types import Answer, DataError, ImageRef, Masks, Objects, Sample, Text

SPLITS = ("train", "test")
DEFECTS = {
    "AK": "pit",
    "BX": "deformation",
    "CH": "abrasion",
    "HS": "scratch",
    "PS": "damage",
    "QS": "missing parts",
    "YW": "foreign objects",
    "ZW": "contamination",
}


def load(
    root: Path,
    split: str,
    *,
    form: Literal["boxes", "yes_no"] = "boxes",
    resolution: Literal["256", "512", "1024", "raw"] = "1024",
    json_folder: str = "realiad_jsons",
    categories: Sequence[str] | None = None,
    report: RowReport | None = None,
) -> list[Sample]:
    """One sample per picture. A normal one has no object as target; an anomalous one its mask, not decoded.

    A defective part seen from a side where the defect is hidden has no mask and counts as normal, as in the official loader;
    `meta["hidden_defect"]` tells.

    Args:
        root: Holds the JSON folder and `realiad_RESOLUTION`.
        split: train or test.
        form: `boxes` asks where the defect is, `yes_no` whether there is one.
        resolution: Which copy of the pictures.
        json_folder: Which setting: `realiad_jsons`, `realiad_jsons_sv` (single view), `realiad_jsons_fuiad_0.1`, ...
        categories: By default every category that has a JSON file.
        report: Counts what is bad.

    Raises:
        DataError: A file or field is wrong, or a category is unknown.
    """
    check_split(split, SPLITS, "Real-IAD")
    report = report if report is not None else RowReport()
    # Unpacking the archive often nests the folder in itself.
    folder = find(root, (f"{json_folder}/{json_folder}", json_folder), "annotations")
    known = sorted(path.stem for path in folder.glob("*.json") if not path.name.startswith("."))
    if unknown := sorted(set(categories or ()) - set(known)):
        raise DataError(f"{folder}: unknown categories {unknown}; there are {known}")
    pictures = image_folder(root, (f"realiad_{resolution}", f"realiad_{resolution}/realiad_{resolution}"))
    samples = []
    for category in categories or known:
        path = folder / f"{category}.json"
        data = read_json(path)
        meta = require(data, "meta", dict, str(path))
        prefix = image_path(pictures, require(meta, "prefix", str, f"{path}: meta"), f"{path}: meta, field 'prefix'")
        normal = require(meta, "normal_class", str, f"{path}: meta")
        for index, row in enumerate(require(data, split, list, str(path))):
            with report.row(f"{category}:{index}"):
                samples.append(_sample(row, f"{path}: {split} row {index}", prefix, normal, form))
    return finish(samples, folder)


def _sample(row: Mapping[str, Any], where: str, prefix: Path, normal: str, form: str) -> Sample:
    category, kind = require(row, "category", str, where), require(row, "anomaly_class", str, where)
    name = require(row, "image_path", str, where)
    picture = ImageRef(image_path(prefix, name, f"{where}, field 'image_path'"))
    mask_name = require(row, "mask_path", (str, type(None)), where)
    anomalous = mask_name is not None and kind != normal
    part = Path(name).stem
    meta: dict[str, Any] = {
        "category": category,
        "anomaly_class": kind,
        "defect": DEFECTS.get(kind, kind) if anomalous else None,
        "anomalous": anomalous,
        "hidden_defect": mask_name is None and kind != normal,
        # A part is its five views: their highest score is the part's.
        "part": "/".join(Path(name).parts[:-1]),
    }
    target: Answer = Objects()
    if anomalous:
        meta["mask"] = ImageMask(image_path(prefix, mask_name, f"{where}, field 'mask_path'"), picture)
        target = Masks((meta["mask"],))
    if form == "yes_no":
        question, target = f"Is there a defect on the {readable(category)}?", Text("yes" if anomalous else "no")
    else:
        question = f"the defect on the {readable(category)}"
    return Sample(f"{category}/{part}", (picture,), question, target, meta=meta)


_NOTES = "a defect that a view does not show counts as normal; one mask may hold several parts"
BENCHMARK = Benchmark(
    name="real_iad",
    task="anomaly",
    splits=SPLITS,
    load=load,
    metrics=("giou", "roc_auc", "n_acc", "t_acc"),
    source="https://github.com/Tencent/AnomalyDetection_Real-IAD",
    licence="data CC BY-NC-SA 4.0, code Apache-2.0",
    notes=_NOTES,
)
YES_NO = Benchmark(
    name="real_iad_yes_no",
    task="anomaly_yes_no",
    splits=SPLITS,
    load=partial(load, form="yes_no"),
    metrics=("roc_auc", "average_precision", "accuracy"),
    source=BENCHMARK.source,
    licence=BENCHMARK.licence,
    notes=_NOTES,
)
