"""Reading rows of a data set: every row becomes a sample, an error, or a counted line in the report.

Nothing here decodes an image. Files are untrusted: pickles may hold plain values only, image paths stay inside their folder.
"""

from __future__ import annotations

import io
import json
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NoReturn, TypeVar

from visurf.types import Box, DataError, ImageRef, Sample, Size, check_boxes, is_finite

T = TypeVar("T")


@dataclass
class RowReport:
    """What became of the rows of one load: how many were bad, which were left out by the data set's own rule, and why.

    Attributes:
        on_bad_sample: `error` raises at the first bad row, `skip` records it and goes on.
        bad: Row id and message of every bad row that was skipped.
        left_out: Reason to ids, for rows that are sound but not part of the task (a script without a click, a crowd region).
        remedy: What to do about a bad row, said where one is raised.
    """

    on_bad_sample: Literal["error", "skip"] = "error"
    bad: list[tuple[str, str]] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    remedy: str = ""

    @contextmanager
    def row(self, row_id: object) -> Iterator[None]:
        """Guard the reading of one row; a DataError inside is raised or recorded, as `on_bad_sample` says."""
        try:
            yield
        except DataError as error:
            if self.on_bad_sample == "error":
                # Rows are nested where a picture has several: the innermost has said it.
                if self.remedy and not str(error).endswith(self.remedy):
                    raise DataError(f"{error}; {self.remedy}") from error
                raise
            self.bad.append((str(row_id), str(error)))

    def leave_out(self, row_id: object, reason: str) -> None:
        """Count a sound row that does not belong to the task."""
        self.left_out.setdefault(reason, []).append(str(row_id))

    def summary(self) -> str:
        """One line per reason with its count and the first ids; empty when every row was used."""
        lines = [f"left out, {reason}: {len(ids)} ({_some(ids)})" for reason, ids in self.left_out.items()]
        if self.bad:
            lines.append(f"skipped as bad: {len(self.bad)} ({_some([i for i, _ in self.bad])}); first: {self.bad[0][1]}")
        return "\n".join(lines)


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")


def finish(samples: list[Sample], where: object) -> list[Sample]:
    """Check a finished list: not empty, and no id twice.

    Raises:
        DataError: No sample is left, or two samples share an id.
    """
    if not samples:
        raise DataError(f"{where}: expected at least one usable row, got none")
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise DataError(f"{where}: id {sample.id!r} occurs twice; ids must be unique")
        seen.add(sample.id)
    return samples


def require(row: Mapping[str, Any], name: str, kind: type[T] | tuple[type[T], ...], where: str) -> T:
    """A field of a row, checked to be there and of the right type (a bool is no number).

    Raises:
        DataError: The field is missing or of another type.
    """
    kinds = kind if isinstance(kind, tuple) else (kind,)
    expected = " or ".join(k.__name__ for k in kinds)
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: expected an object with field {name!r}, got {type(row).__name__}")
    if name not in row:
        raise DataError(f"{where}, field {name!r}: expected {expected}, but the field is missing (fields: {sorted(map(str, row))})")
    value = row[name]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise DataError(f"{where}, field {name!r}: expected {expected}, got {value!r:.100}")
    return value


def row_id(row: Any, name: str, default: object) -> object:
    """What a report calls a row: one of its fields, or its place when it has no such field."""
    return row.get(name, default) if isinstance(row, Mapping) else default


def numbers(value: Any, count: int | None, where: str) -> tuple[float, ...]:
    """Finite numbers from a list, a tuple or an array.

    Raises:
        DataError: Not a sequence, of another length, or an entry is no finite number.
    """
    entries = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(entries, list | tuple) or (count is not None and len(entries) != count):
        raise DataError(f"{where}: expected {'a list of' if count is None else count} numbers, got {value!r:.100}")
    for entry in entries:
        if not is_finite(entry):
            raise DataError(f"{where}: expected finite numbers, got {entry!r:.50} in {value!r:.100}")
    return tuple(float(entry) for entry in entries)


def xywh(value: Any, where: str) -> tuple[float, float, float, float]:
    """A COCO box (x, y, width, height) as xyxy."""
    x, y, w, h = numbers(value, 4, where)
    return x, y, x + w, y + h


def image_path(folder: Path, name: Any, where: str) -> Path:
    """The path of an image named in a data file, kept inside its folder. Backslashes count as separators.

    Raises:
        DataError: Not a relative path of plain parts: absolute, with a drive, a scheme or `..`.
    """
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise DataError(f"{where}: expected a relative image path, got {name!r:.100}")
    relative = PurePosixPath(name.replace("\\", "/"))
    if relative.is_absolute() or ".." in relative.parts or re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", name):
        raise DataError(f"{where}: image path {name!r} must be relative to {folder} and may not contain '..'")
    return folder / relative


def boxes_on(image: ImageRef, boxes: Sequence[Sequence[float]], where: str, *, inverted: str = "") -> tuple[Box, ...]:
    """Boxes (xyxy, original pixels) checked against their picture's header; without the picture, only their order is.

    Args:
        image: Their picture.
        boxes: The boxes.
        where: File, row and field, for the message.
        inverted: See `visurf.types.check_boxes`.

    Raises:
        DataError: A box is empty, inverted, not finite or leaves its picture.
    """
    here = not isinstance(image.source, str | Path) or Path(image.source).exists()
    # Far beyond any picture; adding one pixel to it must still be exact.
    return check_boxes(boxes, image.size if here else (1 << 40, 1 << 40), where, inverted=inverted)


def check_size(image: ImageRef, stated: Size, where: str) -> None:
    """Hold what an annotation file says of a picture against its header, where there is a picture with a readable one.

    Args:
        image: The picture.
        stated: Width and height as the file states them.
        where: File and row, for the message.

    Raises:
        DataError: The picture has another size, so that coordinates for the one are wrong on the other.
    """
    if isinstance(image.source, str | Path) and not Path(image.source).exists():
        return
    try:
        size = image.size
    except DataError:
        # Who opens it says so; it is no reason to know fewer samples here than without any pictures.
        return
    if size != stated:
        why = ""
        if size == stated[::-1] and image.turned:
            why = "; its EXIF data turn it, the annotations seem to be for the picture as stored"
        elif size == stated[::-1]:
            why = "; are width and height exchanged?"
        raise DataError(
            f"{where}, fields 'width' and 'height': expected the size of {image.name}, {size[0]} x {size[1]} pixels upright, "
            f"got {stated[0]} x {stated[1]}{why}"
        )


def find(root: Path, candidates: Sequence[str], what: str) -> Path:
    """The first of several places that exists under `root`.

    Raises:
        DataError: None exists; names every place that was tried.
    """
    for candidate in candidates:
        if (root / candidate).exists():
            return root / candidate
    raise DataError(f"{root}: {what} not found; looked for {', '.join(candidates)}")


def image_folder(root: Path, candidates: Sequence[str]) -> Path:
    """The first image folder that exists, else the first candidate: predictions are scored without any picture at hand."""
    return next((root / c for c in candidates if (root / c).is_dir()), root / candidates[0])


def check_split(split: str, splits: Sequence[str], name: str) -> None:
    """Refuse a split that the data set does not have.

    Raises:
        DataError: Unknown split; names the known ones.
    """
    if split not in splits:
        raise DataError(f"{name}: unknown split {split!r}; expected one of {', '.join(splits)}")


def decode_text(data: bytes, path: Path, encodings: Sequence[str] = ("utf-8-sig",)) -> str:
    """Bytes to text by the first encoding that fits; a byte order mark is dropped.

    Raises:
        DataError: None fits.
    """
    for encoding in encodings:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise DataError(f"{path}: expected text in {' or '.join(encodings)}")


def read_bytes(path: Path) -> bytes:
    """A whole file.

    Raises:
        DataError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_json(path: Path, encodings: Sequence[str] = ("utf-8-sig",)) -> Any:
    """A JSON file.

    Raises:
        DataError: Missing, undecodable or not JSON; names line and column.
    """
    text = decode_text(read_bytes(path), path, encodings)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error})") from error


def read_json_list(path: Path) -> list[Any]:
    """A JSON file whose top level is a list."""
    rows = read_json(path)
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a JSON list of rows, got {type(rows).__name__}")
    return rows


def read_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    r"""Line numbers and rows of a JSONL file, or of a JSON array that carries the extension by mistake.

    Lines end at ``\n`` only: U+2028 and friends are legal inside a JSON string. Blank lines are passed over.

    Raises:
        DataError: A line is not JSON; names the line.
    """
    text = decode_text(read_bytes(path), path)
    if text.lstrip()[:1] == "[":
        for index, row in enumerate(read_json_list(path)):
            yield index + 1, row
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: line {number}: not valid JSON ({error})") from error


class _PlainUnpickler(pickle._Unpickler):
    """Unpickles lists, dicts, strings and numbers; anything that names code is refused.

    The unpickler that is written in Python: the other one allocates as much memory as any number in the file says.
    """

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module}.{name}; only plain values are allowed")

    def persistent_load(self, pid: object) -> NoReturn:
        raise pickle.UnpicklingError("it refers to outside objects; only plain values are allowed")


def read_pickle(path: Path) -> Any:
    """A pickle (Python 2 or 3) of plain values: every global is refused, so opening a file runs no code.

    Raises:
        DataError: Not a pickle, or one that holds more than plain values.
    """
    data = read_bytes(path)
    try:
        # latin1 maps every byte of a Python 2 str; utf-8 text in it comes out readable through `repair_latin1`.
        return _PlainUnpickler(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:  # a broken file makes the opcodes fail in nearly any way
        raise DataError(f"{path}: refused as a pickle of plain values ({error})") from error


def repair_latin1(text: str) -> str:
    """Undo the latin1 reading of a Python 2 byte string that was utf-8.

    >>> repair_latin1("cafÃ©")
    'café'
    """
    try:
        return text.encode("latin1").decode("utf-8")
    except UnicodeError:
        return text
