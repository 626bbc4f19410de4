"""RefCOCO, RefCOCO+ and RefCOCOg as the refer toolkit has them: `NAME/refs(SPLIT_BY).p` and `NAME/instances.json`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from visurf.benchmarks import Benchmark
from visurf.benchmarks.coco_layout import CocoFile, annotation_mask, read_coco
from visurf.benchmarks.rows import (
    RowReport,
    check_split,
    finish,
    image_folder,
    image_path,
    read_pickle,
    repair_latin1,
    require,
    row_id,
    xywh,
)
from visurf.types import DataError, Objects, Sample, check_boxes

IMAGE_FOLDERS = ("images/mscoco/images/train2014", "images/train2014", "train2014")
SPLITS = {"unc": ("train", "val", "testA", "testB"), "google": ("train", "val", "test"), "umd": ("train", "val", "test")}


def load(
    root: Path,
    split: str,
    *,
    dataset: Literal["refcoco", "refcoco+", "refcocog"] = "refcoco",
    split_by: Literal["unc", "umd", "google"] | None = None,
    expressions: Literal["all", "first"] = "all",
    images: Path | None = None,
    report: RowReport | None = None,
) -> list[Sample]:
    """One sample per expression: the published trial. The target is one box; `meta["mask"]` is its mask, not decoded.

    Args:
        root: Holds the folders of the data sets and the images.
        split: train, val, testA or testB (unc); train, val or test (umd, google).
        dataset: Which of the three.
        split_by: Who split it; unc for RefCOCO and RefCOCO+, umd for RefCOCOg. google shares images between train and val.
        expressions: `first` takes one expression a reference, as some evaluations do; papers do not compare with that.
        images: The folder of COCO's train2014 pictures, when it is elsewhere.
        report: Counts what is bad or left out.
    """
    report = report if report is not None else RowReport()
    split_by = split_by or ("umd" if dataset == "refcocog" else "unc")
    check_split(split, SPLITS[split_by], f"{dataset} ({split_by})")
    path = root / dataset / f"refs({split_by}).p"
    references = read_pickle(path)
    if not isinstance(references, list):
        raise DataError(f"{path}: expected a list of references, got {type(references).__name__}")
    file = read_coco(root / dataset / "instances.json")
    by_id = {a["id"]: a for annotations in file.annotations.values() for a in annotations}
    folder = images or image_folder(root, IMAGE_FOLDERS)
    samples: list[Sample] = []
    for index, reference in enumerate(references):
        where = f"{path}: row {index}"
        with report.row(row_id(reference, "ref_id", index)):
            if require(reference, "split", str, where) == split:
                samples += _reference(reference, where, file, by_id, folder, first_only=expressions == "first")
    return finish(samples, f"{path} split {split}")


def _reference(
    reference: Mapping[str, Any],
    where: str,
    file: CocoFile,
    by_id: Mapping[int, Mapping[str, Any]],
    folder: Path,
    *,
    first_only: bool,
) -> list[Sample]:
    annotation_id = require(reference, "ann_id", int, where)
    if annotation_id not in by_id:
        raise DataError(f"{where}, field 'ann_id': {annotation_id} is not in {file.path}")
    annotation = by_id[annotation_id]
    image_id = require(reference, "image_id", int, where)
    if annotation["image_id"] != image_id:
        raise DataError(f"{where}, field 'image_id': expected {annotation['image_id']} as its annotation has, got {image_id}")
    size = file.size(image_id)
    boxes = check_boxes([xywh(annotation.get("bbox"), f"{where}, its bbox")], size, f"{where}, its bbox")
    mask = annotation_mask(annotation, size, f"{where}, annotation {annotation_id}")
    # The reference's own file_name ends with the annotation's id and names no file.
    path = image_path(folder, file.images[image_id].get("file_name"), f"{file.path}: image {image_id}")
    picture = file.picture(image_id, path)
    meta = {
        "ref_id": require(reference, "ref_id", int, where),
        "image_id": image_id,
        "ann_ids": (annotation_id,),
        "category": file.categories[annotation["category_id"]],
        "mask": mask,
        "object_masks": (mask,),
    }
    return [
        Sample(f"{meta['ref_id']}_{sent_id}", (picture,), text, Objects(boxes), meta={**meta, "sent_id": sent_id})
        for sent_id, text in sentences(reference, where)[: 1 if first_only else None]
    ]


def sentences(reference: Mapping[str, Any], where: str) -> list[tuple[int, str]]:
    """Ids and cleaned texts of a reference's expressions.

    Raises:
        DataError: It has none, or one is empty.
    """
    found = []
    for index, sentence in enumerate(require(reference, "sentences", list, where)):
        place = f"{where}, sentence {index}"
        text = repair_latin1(require(sentence, "sent", str, place)).strip()
        if not text:
            raise DataError(f"{place}, field 'sent': expected an expression, got an empty text")
        found.append((require(sentence, "sent_id", int, place), text))
    if not found:
        raise DataError(f"{where}, field 'sentences': expected at least one expression")
    return found


def _benchmark(name: Literal["refcoco", "refcoco+", "refcocog"], splits: tuple[str, ...], notes: str) -> Benchmark:
    return Benchmark(
        name=name,
        task="referring",
        splits=splits,
        load=partial(load, dataset=name),
        metrics=("box_accuracy", "giou", "ciou"),
        source="https://github.com/lichengunc/refer",
        licence="toolkit Apache-2.0; annotations unlabelled; images under the Flickr licence each names",
        notes=notes,
    )


_SEEN = "every picture is in COCO train2014: a model trained on COCO detection has seen the test pictures"
REFCOCO = _benchmark("refcoco", SPLITS["unc"], f"testA are people, testB other objects; one trial per expression; {_SEEN}")
REFCOCO_PLUS = _benchmark("refcoco+", SPLITS["unc"], f"no location words; one trial per expression; {_SEEN}")
REFCOCOG = _benchmark("refcocog", SPLITS["umd"], f"longer expressions; the google split leaks pictures into val; {_SEEN}")
