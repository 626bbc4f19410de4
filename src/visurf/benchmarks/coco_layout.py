"""Any data set in COCO's annotation layout: reading the file, and one detection sample per (image, category)."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visurf.benchmarks.masks import PolygonMask, RunLengthMask
from visurf.benchmarks.rows import RowReport, check_size, finish, image_path, numbers, read_json, require, xywh
from visurf.types import Box, DataError, Detections, ImageRef, LazyMask, Sample, Size, check_boxes


@dataclass(frozen=True)
class CocoFile:
    """One annotation file, indexed.

    Attributes:
        path: The file.
        images: Image id to its record.
        annotations: Image id to the annotations on it, in file order; an image without annotations has an empty list.
        categories: Category id to name, in file order.
        category_records: Category id to its whole record.
    """

    path: Path
    images: Mapping[int, Mapping[str, Any]]
    annotations: Mapping[int, list[Mapping[str, Any]]]
    categories: Mapping[int, str]
    category_records: Mapping[int, Mapping[str, Any]]
    _pictures: dict[int, ImageRef] = field(default_factory=dict, compare=False, repr=False)

    def size(self, image_id: int) -> Size:
        """Width and height as the file states them."""
        where = f"{self.path}: image {image_id}"
        return _side(self.images[image_id], "width", where), _side(self.images[image_id], "height", where)

    def picture(self, image_id: int, path: Path) -> ImageRef:
        """An image's picture, one for all of its samples; its header is read once.

        Raises:
            DataError: The picture has another size than the file states.
        """
        if image_id not in self._pictures:
            image = ImageRef(path)
            check_size(image, self.size(image_id), f"{self.path}: image {image_id}")
            self._pictures[image_id] = image
        return self._pictures[image_id]


def _side(record: Mapping[str, Any], name: str, where: str) -> int:
    # Programs that keep a table of pictures write 640.0.
    value = require(record, name, (int, float), where)
    if isinstance(value, float) and not value.is_integer():
        raise DataError(f"{where}, field {name!r}: expected a whole number of pixels, got {value!r}")
    return int(value)


def read_coco(path: Path, *, keep: Callable[[Mapping[str, Any]], bool] | None = None) -> CocoFile:
    """Read and index an annotation file.

    Args:
        path: The JSON file.
        keep: Which annotations to keep, to save memory; None keeps all.

    Raises:
        DataError: A section or field is missing, an id occurs twice, or an annotation's image or category is unknown.
    """
    data = read_json(path)
    images = _by_id(require(data, "images", list, str(path)), f"{path}: images")
    records = _by_id(require(data, "categories", list, str(path)), f"{path}: categories")
    annotations: dict[int, list[Mapping[str, Any]]] = {image_id: [] for image_id in images}
    seen: set[int] = set()
    for index, annotation in enumerate(require(data, "annotations", list, str(path))):
        where = f"{path}: annotations row {index}"
        identity = require(annotation, "id", int, where)
        image_id = require(annotation, "image_id", int, where)
        if identity in seen:
            raise DataError(f"{where}, field 'id': {identity} occurs twice")
        if image_id not in images:
            raise DataError(f"{where}, field 'image_id': expected the id of an image of this file, got {image_id}")
        if require(annotation, "category_id", int, where) not in records:
            raise DataError(f"{where}, field 'category_id': {annotation['category_id']} is not in the file's categories")
        seen.add(identity)
        if keep is None or keep(annotation):
            annotations[image_id].append(annotation)
    names = {i: require(record, "name", str, f"{path}: category {i}") for i, record in records.items()}
    return CocoFile(path, images, annotations, names, records)


def _by_id(rows: Sequence[Any], where: str) -> dict[int, Mapping[str, Any]]:
    indexed: dict[int, Mapping[str, Any]] = {}
    for index, row in enumerate(rows):
        identity = require(row, "id", int, f"{where} row {index}")
        if identity in indexed:
            raise DataError(f"{where} row {index}, field 'id': {identity} occurs twice")
        indexed[identity] = row
    return indexed


def annotation_mask(annotation: Mapping[str, Any], size: Size, where: str) -> LazyMask:
    """The mask of an annotation, not decoded: polygons, or run lengths for a crowd.

    Raises:
        DataError: The segmentation is neither, or its run lengths are of another image size.
    """
    segmentation = require(annotation, "segmentation", (list, dict), where)
    if isinstance(segmentation, dict):
        height, width = (int(v) for v in numbers(segmentation.get("size"), 2, f"{where}, field 'segmentation.size'"))
        if (width, height) != size:
            raise DataError(
                f"{where}, field 'segmentation.size': expected height, width of the image {size}, got {height}, {width}"
            )
        counts = require(segmentation, "counts", (str, list), where)
        return RunLengthMask(counts if isinstance(counts, str) else tuple(int(v) for v in numbers(counts, None, where)), size)
    return PolygonMask(tuple(numbers(polygon, None, f"{where}, field 'segmentation'") for polygon in segmentation), size)


def chosen_categories(file: CocoFile, classes: Sequence[str] | None) -> dict[int, str]:
    """Ids and names of the classes asked for, in the order given; None for all.

    Raises:
        DataError: A class is not in the file.
    """
    if classes is None:
        return dict(file.categories)
    ids = {name: i for i, name in file.categories.items()}
    if missing := [name for name in classes if name not in ids]:
        raise DataError(f"{file.path}: classes {missing} are not among its {len(ids)} categories")
    return {ids[name]: name for name in classes}


def detection_samples(
    file: CocoFile,
    path_of: Callable[[Mapping[str, Any], str], Path],
    *,
    classes: Sequence[str] | None = None,
    absent: int | None = None,
    candidates: Callable[[Mapping[str, Any]], set[int] | None] = lambda image: None,
    seed: int = 0,
    report: RowReport | None = None,
) -> list[Sample]:
    """One sample per (image, category), present and absent ones: "find every CATEGORY".

    The target's confidences are 1. Crowd regions are no boxes: they stand in `meta["crowd_boxes"]`; a pair that has crowd
    regions only is neither present nor absent and is left out of the samples (and counted).

    Args:
        file: The annotations.
        path_of: Image record and place in the file to the image's path.
        classes: Category names; None for all of the file.
        absent: How many absent categories to ask of each image, drawn by seed; None for every one.
        candidates: The absent categories that are known to be absent from an image; None for all (LVIS knows only some).
        seed: Of the draw.
        report: Counts what is bad or left out.
    """
    report = report if report is not None else RowReport()
    names = chosen_categories(file, classes)
    samples = []
    for image_id, image in file.images.items():
        with report.row(image_id):
            where = f"{file.path}: image {image_id}"
            size, picture = file.size(image_id), (file.picture(image_id, path_of(image, where)),)
            present: dict[int, list[Mapping[str, Any]]] = {}
            for annotation in file.annotations[image_id]:
                present.setdefault(annotation["category_id"], []).append(annotation)
            known = candidates(image)
            missing = [c for c in names if c not in present and (known is None or c in known)]
            if absent is not None and absent < len(missing):
                drawn = set(random.Random(f"{seed}/{image_id}").sample(missing, absent))
                missing = [c for c in missing if c in drawn]
            asked = {*present, *missing}
            for category_id in (c for c in names if c in asked):
                sample_id = f"{image_id}_{category_id}"
                with report.row(sample_id):
                    boxes, crowds = _split_crowd(present.get(category_id, []), size, file.path)
                    if crowds and not boxes:
                        report.leave_out(sample_id, "only a crowd region")
                        continue
                    samples.append(_pair(sample_id, picture, names[category_id], boxes, image_id, category_id, crowds))
    return finish(samples, file.path)


def _split_crowd(annotations: Sequence[Mapping[str, Any]], size: Size, path: Path) -> tuple[tuple[Box, ...], tuple[Box, ...]]:
    boxes: dict[bool, list[Box]] = {False: [], True: []}
    for annotation in annotations:
        where = f"{path}: annotation {annotation['id']}, field 'bbox'"
        checked = check_boxes([xywh(annotation.get("bbox"), where)], size, where)
        boxes[annotation.get("iscrowd", 0) == 1].extend(checked)
    return tuple(boxes[False]), tuple(boxes[True])


def _pair(
    sample_id: str,
    picture: tuple[ImageRef, ...],
    category: str,
    boxes: tuple[Box, ...],
    image_id: int,
    category_id: int,
    crowds: tuple[Box, ...],
) -> Sample:
    meta: dict[str, Any] = {"image_id": image_id, "category_id": category_id, "category": category}
    if crowds:
        meta["crowd_boxes"] = crowds
    return Sample(sample_id, picture, readable(category), Detections(boxes, (1.0,) * len(boxes)), meta=meta)


def readable(category: str) -> str:
    """A category as one writes it in a prompt; `meta["category"]` keeps the file's spelling.

    >>> readable("bow_(weapon)")
    'bow (weapon)'
    """
    return category.replace("_", " ")


def load_coco_layout(
    annotations: Path,
    images: Path,
    *,
    classes: Sequence[str] | None = None,
    absent: int | None = None,
    seed: int = 0,
    report: RowReport | None = None,
) -> list[Sample]:
    """Detection samples of any data set in COCO's layout: an annotation file, and the folder its `file_name`s refer to."""
    file = read_coco(annotations)
    return detection_samples(
        file,
        lambda image, where: image_path(images, image.get("file_name"), f"{where}, field 'file_name'"),
        classes=classes,
        absent=absent,
        seed=seed,
        report=report,
    )
