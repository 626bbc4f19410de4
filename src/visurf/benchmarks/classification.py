"""What the fine-grained classification sets share: the sample, MATLAB files, and the published test lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from visurf.benchmarks.coco_layout import readable
from visurf.benchmarks.rows import RowReport, decode_text, finish, image_path, read_bytes
from visurf.types import DataError, ImageRef, Sample, Text

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Subject:
    """How a question names what is classified: a plant by its species, a pet by its breed."""

    noun: str
    slot: str


def class_sample(sample_id: str, picture: ImageRef, label: int, name: str, subject: Subject, **meta: Any) -> Sample:
    """A sample whose target is a class name as one writes it; `meta["class_name"]` keeps the list's spelling."""
    question = f"What {subject.slot} is the {subject.noun} in the image?"
    fields = {"label": label, "class_name": name, "noun": subject.noun, "slot": subject.slot, **meta}
    return Sample(sample_id, (picture,), question, Text(readable(name)), meta=fields)


def read_mat(path: Path, name: str) -> NDArray[Any]:
    """One variable of a MATLAB file, squeezed to one dimension.

    Raises:
        DataError: The file cannot be read or lacks the variable.
    """
    import numpy as np
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        data = loadmat(str(path), squeeze_me=True)
    except (OSError, ValueError, TypeError, NotImplementedError, MatReadError) as error:
        raise DataError(f"{path}: cannot be read as a MATLAB file ({error})") from error
    if name not in data:
        raise DataError(f"{path}: expected a variable {name!r}, got {sorted(k for k in data if not k.startswith('_'))}")
    return np.atleast_1d(data[name])


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Numbers and texts of the lines of a list, without comments and blank ones."""
    lines = decode_text(read_bytes(path), path, ("utf-8-sig", "cp1252")).split("\n")
    return [(n, line.strip()) for n, line in enumerate(lines, start=1) if line.strip() and not line.startswith("#")]


def read_test_list(path: Path) -> list[tuple[int, str, int, str]]:
    """Line number, image path, label (from 0) and class name of a published test list (tab-separated, one header line).

    Raises:
        DataError: A line has not three fields, or its label is no number.
    """
    rows = []
    for number, line in read_lines(path)[1:]:
        fields = line.split("\t")
        if len(fields) != 3 or not fields[1].isdigit():
            raise DataError(f"{path}: line {number}: expected image, label from 0 and name separated by tabs, got {line!r:.100}")
        rows.append((number, fields[0], int(fields[1]), fields[2]))
    return rows


def load_listed(
    root: Path, test_list: Path | None, names: Sequence[str] | None, subject: Subject, report: RowReport
) -> list[Sample]:
    """The samples of a published test list; its names must agree with `names` where those are given.

    The list's paths begin with the data set's folder, which `root` may already be. An id is the path without its extension,
    since stems can repeat between folders.
    """
    if test_list is None:
        raise DataError("split 'visual_rft_test': expected test_list, the file of image, label and name")
    samples = []
    for number, name, label, class_name in read_test_list(test_list):
        where = f"{test_list}: line {number}"
        with report.row(name):
            if names is not None and (label >= len(names) or names[label].lower() != class_name.lower()):
                expected = repr(names[label]) if label < len(names) else f"a label below {len(names)}"
                raise DataError(f"{where}: expected {expected} for label {label}, got {class_name!r}")
            path = image_path(root, name, where)
            inner = PurePosixPath(*PurePosixPath(name).parts[1:])
            path = root / inner if not path.exists() and (root / inner).parent.is_dir() else path
            sample_id = str(inner.with_suffix("")) if inner.suffix else str(inner)
            samples.append(class_sample(sample_id, ImageRef(path), label, class_name, subject))
    return finish(samples, test_list)
