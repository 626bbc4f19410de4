"""Stanford Cars 196: `cars_{train,test}/00001.jpg` and the MATLAB files of its devkit."""

from __future__ import annotations

import re
from pathlib import Path

from visurf.benchmarks import Benchmark
from visurf.benchmarks.classification import Subject, class_sample, load_listed, read_mat
from visurf.benchmarks.rows import RowReport, check_split, find, finish
from visurf.types import DataError, ImageRef, Sample

SPLITS = ("train", "test", "visual_rft_test")
SUBJECT = Subject("car", "model")


def year_first(name: str) -> str:
    """A devkit name in the wording of the published lists.

    >>> year_first("AM General Hummer SUV 2000")
    '2000 AM General Hummer SUV'
    """
    found = re.fullmatch(r"(.+) (\d{4})", name)
    return f"{found.group(2)} {found.group(1)}" if found else name


def load(root: Path, split: str, *, test_list: Path | None = None, report: RowReport | None = None) -> list[Sample]:
    """One sample per picture; ids carry the folder, because both folders begin at 00001.

    `meta["box"]` is the car, as half-open pixels from 0.

    Args:
        root: Holds the picture folders and `devkit/`, or the .mat files directly.
        split: train, test (needs `cars_test_annos_withlabels.mat`: the devkit's file has no classes), or `visual_rft_test`.
        test_list: For `visual_rft_test`: its list of image, label and name.
        report: Counts what is bad.
    """
    check_split(split, SPLITS, "Cars")
    report = report if report is not None else RowReport()
    if split == "visual_rft_test":
        return load_listed(root, test_list, None, SUBJECT, report)
    names = [
        year_first(str(name)) for name in read_mat(find(root, ("devkit/cars_meta.mat", "cars_meta.mat"), "names"), "class_names")
    ]
    annotations = "cars_train_annos.mat" if split == "train" else "cars_test_annos_withlabels.mat"
    path = find(root, (f"devkit/{annotations}", annotations), f"classes of the {split} split")
    samples = []
    for index, row in enumerate(read_mat(path, "annotations")):
        where = f"{path}: row {index}"
        with report.row(index):
            if row.dtype.names is None or "class" not in row.dtype.names:
                raise DataError(f"{where}, field 'class': expected a class from 1 to {len(names)}, but the field is missing")
            # Stored as uint8 and uint16, in which a difference wraps around.
            label, x1, y1, x2, y2 = (int(row[f]) for f in ("class", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2"))
            if not 1 <= label <= len(names):
                raise DataError(f"{where}, field 'class': expected 1 to {len(names)}, got {label}")
            name = str(row["fname"])
            if not re.fullmatch(r"\d+\.jpg", name):
                raise DataError(f"{where}, field 'fname': expected NUMBER.jpg, got {name!r}")
            box = (float(x1 - 1), float(y1 - 1), float(x2), float(y2))
            picture = ImageRef(root / f"cars_{split}" / name)
            identity = f"cars_{split}/{name.removesuffix('.jpg')}"
            samples.append(class_sample(identity, picture, label - 1, names[label - 1], SUBJECT, box=box))
    return finish(samples, path)


BENCHMARK = Benchmark(
    name="cars",
    task="classification",
    splits=SPLITS,
    load=load,
    metrics=("accuracy",),
    source="https://huggingface.co/datasets/tanganke/stanford_cars (the original site is gone)",
    licence="non-commercial research",
    notes="names are written with the year first, as in the published lists",
)
