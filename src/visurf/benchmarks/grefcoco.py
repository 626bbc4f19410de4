"""gRefCOCO: expressions that name one, several or no object. `grefcoco/grefs(unc).json` and `grefcoco/instances.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visurf.benchmarks import Benchmark
from visurf.benchmarks.coco_layout import CocoFile, annotation_mask, read_coco
from visurf.benchmarks.masks import UnionMask
from visurf.benchmarks.refcoco import IMAGE_FOLDERS, sentences
from visurf.benchmarks.rows import (
    RowReport,
    check_split,
    find,
    finish,
    image_folder,
    image_path,
    read_json,
    read_pickle,
    require,
    row_id,
    xywh,
)
from visurf.types import DataError, Objects, Sample, check_boxes

SPLITS = ("train", "val", "testA", "testB")


def load(root: Path, split: str, *, images: Path | None = None, report: RowReport | None = None) -> list[Sample]:
    """One sample per expression. `meta["mask"]` is the union of its objects, `meta["object_masks"]` one mask per box.

    The JSON is preferred to the pickle beside it, which in old copies is from before the re-release of 2023-08.

    Args:
        root: Holds `grefcoco/` and the images.
        split: train, val, testA or testB.
        images: The folder of COCO's train2014 pictures, when it is elsewhere.
        report: Counts what is bad or left out; crowd regions among an expression's objects are dropped and counted.
    """
    check_split(split, SPLITS, "gRefCOCO")
    report = report if report is not None else RowReport()
    places = [f"{folder}grefs(unc).{kind}" for kind in ("json", "p") for folder in ("grefcoco/", "")]
    path = find(root, places, "expressions")
    references = read_json(path) if path.suffix == ".json" else read_pickle(path)
    if not isinstance(references, list):
        raise DataError(f"{path}: expected a list of references, got {type(references).__name__}")
    file = read_coco(path.parent / "instances.json")
    by_id = {a["id"]: a for annotations in file.annotations.values() for a in annotations}
    folder = images or image_folder(root, IMAGE_FOLDERS)
    samples: list[Sample] = []
    for index, reference in enumerate(references):
        where = f"{path}: row {index}"
        with report.row(row_id(reference, "ref_id", index)):
            if require(reference, "split", str, where) == split:
                samples += _reference(reference, where, file, by_id, folder, report)
    return finish(samples, f"{path} split {split}")


def _annotation_ids(reference: Mapping[str, Any], where: str) -> list[int]:
    """The objects' ids; empty for an expression that names nothing, which is written as the id -1 and as a flag."""
    value: Any = require(reference, "ann_id", (int, list), where)
    ids: list[int] = value if isinstance(value, list) else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise DataError(f"{where}, field 'ann_id': expected integers, got {ids!r:.100}")
    no_target = ids in ([-1], [])
    if "no_target" in reference and bool(reference["no_target"]) != no_target:
        raise DataError(f"{where}, field 'no_target': {reference['no_target']!r} contradicts ann_id {ids}")
    return [] if no_target else ids


def _reference(
    reference: Mapping[str, Any],
    where: str,
    file: CocoFile,
    by_id: Mapping[int, Mapping[str, Any]],
    folder: Path,
    report: RowReport,
) -> list[Sample]:
    image_id = require(reference, "image_id", int, where)
    if image_id not in file.images:
        raise DataError(f"{where}, field 'image_id': {image_id} is not in {file.path}")
    size = file.size(image_id)
    ref_id = require(reference, "ref_id", int, where)
    ids = _annotation_ids(reference, where)
    annotations = []
    for identity in ids:
        if identity not in by_id or by_id[identity]["image_id"] != image_id:
            raise DataError(f"{where}, field 'ann_id': {identity} is no annotation of image {image_id} in {file.path}")
        if by_id[identity].get("iscrowd", 0):
            # The reference loader skips them too, so a target may lose a part.
            report.leave_out(f"{ref_id}:{identity}", "crowd region among an expression's objects")
        else:
            annotations.append(by_id[identity])
    if ids and not annotations:
        raise DataError(f"{where}, field 'ann_id': expected at least one object that is no crowd region, got {ids}")
    boxes = check_boxes([xywh(a.get("bbox"), f"{where}, its bbox") for a in annotations], size, f"{where}, its bbox")
    masks = tuple(annotation_mask(a, size, f"{where}, annotation {a['id']}") for a in annotations)
    path = image_path(folder, file.images[image_id].get("file_name"), f"{file.path}: image {image_id}")
    picture = file.picture(image_id, path)
    meta = {
        "ref_id": ref_id,
        "image_id": image_id,
        "ann_ids": tuple(ids),
        "no_target": not ids,
        "mask": UnionMask(masks, size),
        "object_masks": masks,
    }
    return [
        Sample(f"{ref_id}_{sent_id}", (picture,), text, Objects(boxes), meta={**meta, "sent_id": sent_id})
        for sent_id, text in sentences(reference, where)
    ]


BENCHMARK = Benchmark(
    name="grefcoco",
    task="referring",
    splits=SPLITS,
    load=load,
    metrics=("giou", "ciou", "n_acc", "t_acc"),
    source="https://github.com/henghuiding/gRefCOCO",
    licence="CC BY-NC-SA 4.0 (annotations); images under the Flickr licence each names",
    notes="use the re-release of 2023-08 or later; pictures are COCO train2014",
)
