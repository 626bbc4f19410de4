"""Samples from JSONL files, data-set rows and the rendered world; every problem is found before training starts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from visurf.config import DataConfig
from visurf.geometry import box_centre
from visurf.tasks.task import Task
from visurf.types import (
    Answer,
    Box,
    Choice,
    DataError,
    Detections,
    ImageRef,
    Number,
    Objects,
    Point,
    Points,
    Sample,
    Size,
    Text,
    check_boxes,
)

_FIELDS = {"id", "image", "question", "target", "response", "meta"}
_TARGETS = ("boxes", "points", "class", "number", "text", "choice")


@dataclass(frozen=True)
class DataSet:
    """Samples, and what became of the rest.

    Attributes:
        samples: In the file's order.
        skipped: Row name and problem of every row that was skipped.
        derived_points: How many points were derived from boxes because the file had none.
    """

    samples: tuple[Sample, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    derived_points: int = 0


def load_data(source: str, config: DataConfig, task: Task) -> DataSet:
    """Read and validate samples.

    Args:
        source: JSONL file, folder of a saved Hugging Face data set, or ``world:DOMAIN?count=N&seed=S&absent=SHARE``.
        config: Formats, and what a bad row does.
        task: Its target type is checked.

    Raises:
        DataError: A bad row (unless skipped), an empty or missing file; names file, line and field.
    """
    if source.startswith("world:"):
        if Objects not in task.targets:
            raise DataError(f"{source}: the rendered world asks referring questions, task {task.name!r} needs {task.target_names}")
        return DataSet(tuple(_world(source)))
    path = Path(source)
    if config.format != "jsonl":
        return _published_rows(path, config, task)
    if not path.is_file():
        raise DataError(f"{source}: no such file; data.train and data.validation name JSONL files")
    folder = Path(config.images) if config.images else path.parent
    samples: list[Sample] = []
    skipped: list[tuple[str, str]] = []
    seen: set[str] = set()
    derived = 0
    for number, line in _lines(path):
        where = f"{path}:{number}"
        try:
            sample, count = _sample(line, folder, config, where, task.targets)
            if sample.id in seen:
                raise DataError(f"{where}: field id: {sample.id!r} occurs twice")
            if not isinstance(sample.target, task.target):
                raise DataError(
                    f"{where}: field target: task {task.name!r} needs {task.target_names}, got {type(sample.target).__name__}"
                )
        except DataError as error:
            if config.on_bad_sample == "error":
                raise
            skipped.append((where, str(error)))
            continue
        seen.add(sample.id)
        samples.append(sample)
        derived += count
    if not samples:
        raise DataError(f"{path}: no usable sample ({len(skipped)} skipped)")
    return DataSet(tuple(samples), tuple(skipped), derived)


def _world(source: str) -> list[Sample]:
    from visurf.mini import world

    parts = urlsplit(source)
    options = dict(parse_qsl(parts.query))
    expected = f"expected world:{'|'.join(world.DOMAINS)}?count=N&seed=S&absent=SHARE"
    if parts.path not in world.DOMAINS or set(options) - {"count", "seed", "absent"}:
        raise DataError(f"{source}: {expected}")
    try:
        count, seed = int(options.get("count", 400)), int(options.get("seed", 0))
        absent = float(options.get("absent", 0.4))
    except ValueError as error:
        raise DataError(f"{source}: {expected}; {error}") from error
    return world.referring_samples(world.DOMAINS[parts.path], count, seed, absent)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    # Only "\n" ends a line: splitlines would also cut at U+2028 inside a question.
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    if text.lstrip().startswith("["):
        raise DataError(f"{path}: this is one JSON array; write one object per line (JSONL)")
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line


def _sample(line: str, folder: Path, config: DataConfig, where: str, wanted: tuple[type, ...]) -> tuple[Sample, int]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error})") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected an object, got {type(row).__name__}")
    missing = {"id", "question", "target"} - set(row)
    if missing:
        raise DataError(f"{where}: missing field {sorted(missing)[0]!r}; a row has {sorted(_FIELDS)}")
    if unknown := set(row) - _FIELDS:
        raise DataError(f"{where}: unknown field {sorted(unknown)[0]!r}; a row has {sorted(_FIELDS)} (put extras into meta)")
    if not isinstance(row["question"], str) or not row["question"].strip():
        raise DataError(f"{where}: field question: expected text, got {row['question']!r}")
    if not isinstance(row["id"], str | int) or isinstance(row["id"], bool):
        raise DataError(f"{where}: field id: expected text or a whole number, got {row['id']!r}")
    response = row.get("response")
    if response is not None and not isinstance(response, str):
        raise DataError(f"{where}: field response: expected text, got {response!r}")
    images = _images(row.get("image", []), folder, where)
    size: Size = (0, 0)
    for index, image in enumerate(images):
        try:
            found = image.size
        except DataError as error:
            raise DataError(f"{where}: field image: {error}") from error
        size = found if index == 0 else size
    target, derived = _target(row["target"], size, config, f"{where}: field target", wanted)
    meta = row.get("meta") or {}
    if not isinstance(meta, dict):
        raise DataError(f"{where}: field meta: expected keys and values, got {meta!r}")
    if isinstance(target, Objects | Points) and not images:
        raise DataError(f"{where}: missing field 'image'; boxes and points need one")
    return Sample(str(row["id"]), images, row["question"], target, response, meta), derived


def _images(value: Any, folder: Path, where: str) -> tuple[ImageRef, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(n, str) and n for n in names):
        raise DataError(f"{where}: field image: expected a path or a list of paths, got {value!r}")
    for name in names:
        pure = PurePosixPath(name.replace("\\", "/"))
        if pure.is_absolute() or ".." in pure.parts or (len(name) > 1 and name[1] == ":"):
            raise DataError(f"{where}: field image: {name!r} leaves the image folder; paths are relative to {folder}")
    return tuple(ImageRef(folder / n.replace("\\", "/")) for n in names)


def _target(value: Any, size: Size, config: DataConfig, where: str, wanted: tuple[type, ...]) -> tuple[Answer, int]:
    if isinstance(value, list):
        # The empty list is "no object"; a list of boxes is short for {"boxes": ...}.
        value = {"boxes": value}
    if not isinstance(value, dict) or len(kinds := [k for k in _TARGETS if k in value]) == 0:
        raise DataError(f"{where}: expected an empty list or one of {', '.join(_TARGETS)}, got {value!r}")
    if unknown := set(value) - set(_TARGETS) - ({"options"} if "choice" in value else set()):
        raise DataError(f"{where}: unknown key {sorted(unknown)[0]!r}; known: {', '.join(_TARGETS)}")
    if len(kinds) > 1 and set(kinds) != {"boxes", "points"}:
        raise DataError(f"{where}: {' and '.join(kinds)} exclude each other; give one of them, or boxes with points")
    if "class" in kinds or "text" in kinds:
        text = value.get("class", value.get("text"))
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{where}: expected text, got {text!r}")
        return Text(text.strip()), 0
    if "choice" in kinds:
        return _choice(value, where), 0
    if "number" in kinds:
        number = Number(str(value["number"]).strip())
        if not math.isfinite(number.value) or isinstance(value["number"], bool):
            raise DataError(f"{where}: expected a finite number, got {value['number']!r}")
        return number, 0
    if "boxes" not in kinds:
        return Points(_points(value["points"], size, config, where)), 0
    boxes = _boxes(value["boxes"], size, config, where)
    if "points" in kinds:
        points = _points(value["points"], size, config, where)
        if len(points) != len(boxes):
            raise DataError(f"{where}: {len(boxes)} boxes but {len(points)} points")
        return (Points(points, boxes) if Points in wanted else Objects(boxes, points)), 0
    if Detections in wanted:
        return Detections(boxes, (1.0,) * len(boxes)), 0
    return Objects(boxes, tuple(box_centre(b) for b in boxes)), len(boxes)


def _choice(value: Mapping[str, Any], where: str) -> Choice:
    letter, options = value["choice"], value.get("options")
    if not isinstance(options, list) or not options or not all(isinstance(o, str) and o.strip() for o in options):
        raise DataError(f"{where}: expected options, a list of texts, beside choice, got {options!r}")
    letters = [chr(ord("A") + i) for i in range(len(options))]
    if letter not in letters:
        raise DataError(f"{where}: expected choice to be one of {', '.join(letters)}, got {letter!r}")
    return Choice(letter, tuple(options))


def _scale(size: Size, config: DataConfig) -> tuple[float, float]:
    if config.frame == "pixel":
        return 1.0, 1.0
    return (size[0] / 1000, size[1] / 1000) if config.frame == "1000" else (float(size[0]), float(size[1]))


def _numbers(row: Any, count: int, where: str) -> list[float]:
    good = isinstance(row, Sequence) and not isinstance(row, str) and len(row) == count
    if not good or not all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in row):
        raise DataError(f"{where}: expected {count} finite numbers, got {row!r}")
    return [float(v) for v in row]


def _boxes(value: Any, size: Size, config: DataConfig, where: str) -> tuple[Box, ...]:
    if not isinstance(value, list):
        raise DataError(f"{where}: expected a list of boxes, got {value!r}")
    if value and size == (0, 0):
        raise DataError(f"{where}: boxes without an image")
    sx, sy = _scale(size, config)
    scaled = []
    for row in value:
        a, b, c, d = _numbers(row, 4, where)
        if config.box_format == "xywh":
            c, d = a + c, b + d
        scaled.append((a * sx, b * sy, c * sx, d * sy))
    return check_boxes(scaled, size, where)


def _points(value: Any, size: Size, config: DataConfig, where: str) -> tuple[Point, ...]:
    if not isinstance(value, list):
        raise DataError(f"{where}: expected a list of points, got {value!r}")
    sx, sy = _scale(size, config)
    points: list[Point] = []
    for row in value:
        x, y = _numbers(row, 2, where)
        x, y = x * sx, y * sy
        if not (-1 <= x <= size[0] + 1 and -1 <= y <= size[1] + 1):
            raise DataError(f"{where}: point {list(row)!r} leaves its image of {size[0]} x {size[1]} pixels")
        points.append((min(max(x, 0.0), size[0]), min(max(y, 0.0), size[1])))
    return tuple(points)


def _published_rows(path: Path, config: DataConfig, task: Task) -> DataSet:
    """Rows of a hub data set with the columns that Visual-RFT or VisionReasoner publish."""
    from visurf.benchmarks import virft, visionreasoner
    from visurf.benchmarks.rows import RowReport
    from visurf.benchmarks.tables import read_rows

    report = RowReport(config.on_bad_sample)
    rows = _saved_rows(path) if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file() else None
    rows = read_rows(path, "train") if rows is None else rows
    if config.format == "vision_reasoner":
        samples = visionreasoner.training_from_rows(rows, report=report)
    elif Text in task.targets:
        samples = virft.classification_from_rows(rows, report=report)
    else:
        samples = virft.detection_from_rows(rows, report=report)
    for sample in samples:
        if not isinstance(sample.target, task.target):
            raise DataError(f"{path}: task {task.name!r} needs {task.target_names}, format {config.format!r} gives another")
    return DataSet(tuple(samples), tuple(report.bad))


def _saved_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows of a folder written by the `datasets` library; images stay encoded."""
    from datasets import DatasetDict, Image, load_from_disk

    found = load_from_disk(str(path))
    table = found["train"] if isinstance(found, DatasetDict) else found
    for name, feature in table.features.items():
        if isinstance(feature, Image):
            table = table.cast_column(name, Image(decode=False))
    for index, row in enumerate(table):
        yield f"{path}, row {index}", row


def describe(data: DataSet) -> Mapping[str, int]:
    """Counts worth printing before a run."""
    empty = sum(isinstance(s.target, Objects) and not s.target.boxes for s in data.samples)
    counts = {"samples": len(data.samples), "no object": empty, "skipped": len(data.skipped)}
    return {**counts, "derived points": data.derived_points}
