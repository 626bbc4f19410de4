"""Samples from JSONL files, data-set rows and the rendered world; every problem is found before training starts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from visurf.config import DataConfig
from visurf.demonstrations import read_response
from visurf.foreign_layouts import check_whole, remedy
from visurf.targets import image_refs, read_target
from visurf.tasks.task import Task
from visurf.types import (
    DataError,
    Demonstration,
    Detections,
    Masks,
    Objects,
    Points,
    Sample,
    Size,
    Text,
)

if TYPE_CHECKING:
    from visurf.benchmarks.rows import RowReport

_ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_FIELDS = {"id", "image", "question", "target", "response", "meta"}


@dataclass(frozen=True)
class DataSet:
    """Samples, and what became of the rest.

    Attributes:
        samples: In the file's order.
        skipped: Row name and problem of every row that was skipped.
        derived_points: How many points were derived from masks or boxes because the file had none.
    """

    samples: tuple[Sample, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    derived_points: int = 0


def load_data(source: str, config: DataConfig, task: Task) -> DataSet:
    """Read and validate samples.

    Args:
        source: JSONL file, folder or hub name of a data set in a published format, ``world:DOMAIN?count=N&seed=S&absent=SHARE``,
            ``world:KIND?domain=DOMAIN&count=N&seed=S`` with the options of `visurf.mini.worlds`,
            or ``benchmark:NAME?root=FOLDER&split=SPLIT`` with, maybe, ``classes=coco-8``, ``shots=4``, ``draw=6000``, ``seed=0``
            and options of the loader such as ``absent=2``.
        config: The folder that paths are relative to, formats, and what a bad row does.
        task: Its target type is checked.

    Raises:
        DataError: A bad row (unless skipped), an empty or missing file; names file, line and field.
    """
    if source.startswith("world:"):
        from visurf.mini import questions
        from visurf.mini.worlds import WORLDS, world_samples

        if urlsplit(source).path in WORLDS:
            return DataSet(tuple(world_samples(source, task.name)))
        if urlsplit(source).path in questions.KINDS:
            return DataSet(tuple(questions.word_samples(source, task)))
        if Objects not in task.targets:
            raise DataError(f"{source}: this world asks referring questions, task {task.name!r} needs {task.target_names}")
        return DataSet(tuple(_world(source)))
    if source.startswith("benchmark:"):
        return _benchmark(source, config, task)
    path = Path(config.root, source)
    if config.format != "jsonl":
        return _published_rows(path if path.exists() else Path(source), config, task)
    if not path.is_file():
        raise DataError(f"{path}: no such file; data.train and data.validation name JSONL files")
    folder = image_folder(config, path)
    samples: list[Sample] = []
    skipped: list[tuple[str, str]] = []
    seen: set[str] = set()
    derived = 0
    for number, line in numbered_lines(path):
        where = f"{path}:{number}"
        try:
            sample, count = _sample(line, folder, config, where, task.targets)
            if sample.id in seen:
                raise DataError(f"{where}: field id: {sample.id!r} occurs twice")
            sample = _settled(sample, task, f"{where}: field target")
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


def image_folder(config: DataConfig, rows: Path) -> Path:
    """What image paths in a file of rows are relative to."""
    return Path(config.root, config.images) if config.images else rows.parent


def _world(source: str) -> list[Sample]:
    from visurf.mini import world
    from visurf.mini.worlds import WORLDS

    parts = urlsplit(source)
    options = dict(parse_qsl(parts.query))
    kinds = f"or world:KIND?domain=... with one of {', '.join(WORLDS)}"
    expected = f"expected world:{'|'.join(world.DOMAINS)}?count=N&seed=S&absent=SHARE&masks=0|1, {kinds}"
    if parts.path not in world.DOMAINS or set(options) - {"count", "seed", "absent", "masks"}:
        raise DataError(f"{source}: {expected}")
    try:
        count, seed = int(options.get("count", 400)), int(options.get("seed", 0))
        absent, masks = float(options.get("absent", 0.4)), bool(int(options.get("masks", 0)))
    except ValueError as error:
        raise DataError(f"{source}: {expected}; {error}") from error
    return world.referring_samples(world.DOMAINS[parts.path], count, seed, absent, masks)


def benchmark_options(source: str) -> tuple[str, dict[str, Any]]:
    """The name in ``benchmark:NAME?root=FOLDER&split=SPLIT``, and its options.

    Raises:
        DataError: No root or no split, or an option that cannot be read.
    """
    from visurf.benchmarks import read_option

    name, _, query = source.removeprefix("benchmark:").partition("?")
    try:
        options: dict[str, Any] = {k: read_option(k, v) for k, v in parse_qsl(query)}
    except ValueError as error:
        raise DataError(f"{source}: an option is not valid YAML ({error})") from error
    if missing := {"root", "split"} - set(options):
        raise DataError(f"{source}: missing {sorted(missing)[0]!r}; expected benchmark:NAME?root=FOLDER&split=SPLIT")
    return name, options


def _benchmark(source: str, config: DataConfig, task: Task) -> DataSet:
    """Samples of a data set in its original layout, whole or few-shot."""
    from visurf.benchmarks import get_benchmark, loader_options
    from visurf.benchmarks.rows import RowReport
    from visurf.benchmarks.selection import draw, few_shot

    name, options = benchmark_options(source)
    root, split, seed = Path(config.root, str(options.pop("root"))), str(options.pop("split")), options.pop("seed", 0)
    shots, count, rare = options.pop("shots", None), options.pop("draw", None), options.get("classes") == "lvis-6"
    try:
        options = loader_options(options, config.root)
    except DataError as error:
        raise DataError(f"{source}: {error}") from error
    classes = options.pop("classes", None) if shots is not None else None
    report = RowReport(config.on_bad_sample)
    try:
        samples = get_benchmark(name).load(root, split, report=report, **options)
    except TypeError as error:
        raise DataError(f"{source}: the loader of {name!r} does not take one of {sorted(options)} ({error})") from error
    if shots is not None:
        samples = few_shot(samples, shots, classes=classes, seed=seed, at_most=rare)
    if count is not None:
        samples = draw(samples, count, seed=seed)
    derived = 0
    if Objects in task.targets:
        derived = sum(len(s.target.boxes) for s in samples if isinstance(s.target, Objects) and s.target.points is None)
        samples = _with_objects(samples, report)
    return DataSet(_all_settled(samples, task, source, report), tuple(report.bad), derived)


def _with_objects(samples: Sequence[Sample], report: RowReport) -> list[Sample]:
    """Samples whose masks became boxes; one whose masks cannot be read is a bad row."""
    from visurf.benchmarks.masks import with_objects

    found = []
    for sample in samples:
        with report.row(sample.id):
            found.append(with_objects(sample) if isinstance(sample.target, Objects | Masks) else sample)
    return found


def _settled(sample: Sample, task: Task, where: str) -> Sample:
    """A sample whose target, and whose own label's answer, are such as the task's answers can be.

    Raises:
        DataError: The target is of another kind, no answer could equal it, or the task cannot use the sample's meta.
    """
    if not isinstance(sample.target, task.targets):
        raise DataError(f"{where}: task {task.name!r} needs {task.target_names}, got {type(sample.target).__name__}")
    response = sample.response
    try:
        if task.check is not None:
            task.check(sample)
        if task.settle is None:
            return sample
        if isinstance(response, Demonstration) and response.answer is not None:
            response = replace(response, answer=task.settle(response.answer))
        return replace(sample, target=task.settle(sample.target), response=response)
    except DataError as error:
        raise DataError(f"{where}: task {task.name!r}: {error}") from error


def _all_settled(samples: Sequence[Sample], task: Task, source: object, report: RowReport) -> tuple[Sample, ...]:
    """As `_settled`. Of another kind is every row, so that one is never skipped."""
    settled = []
    for sample in samples:
        if not isinstance(sample.target, task.targets):
            kind = type(sample.target).__name__
            raise DataError(f"{source}: task {task.name!r} needs {task.target_names}, got {kind} (sample {sample.id})")
        with report.row(sample.id):
            settled.append(_settled(sample, task, f"{source}: sample {sample.id}"))
    return tuple(settled)


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a JSONL file that are not blank, with their numbers from 1; a byte order mark is passed over.

    Raises:
        DataError: Not UTF-8, or no JSONL as a whole, see `visurf.foreign_layouts.check_whole`.
    """
    # Only "\n" ends a line: splitlines would also cut at U+2028 inside a question.
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    check_whole(path, text)
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line


def _sample(line: str, folder: Path, config: DataConfig, where: str, wanted: tuple[type, ...]) -> tuple[Sample, int]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error})") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected an object, got {type(row).__name__}")
    if _ESCAPED_HALF.search(line) and (half := _half_pair(row)):
        raise DataError(f"{where}: expected text, got half a surrogate pair: {half}; write both halves, or the character itself")
    missing = {"id", "question", "target"} - set(row)
    if missing and (foreign := remedy(row)):
        raise DataError(f"{where}: {foreign}")
    if missing:
        raise DataError(f"{where}: missing field {sorted(missing)[0]!r}; a row has {sorted(_FIELDS)}")
    if unknown := set(row) - _FIELDS:
        raise DataError(f"{where}: unknown field {sorted(unknown)[0]!r}; a row has {sorted(_FIELDS)} (put extras into meta)")
    if not isinstance(row["question"], str) or not row["question"].strip():
        raise DataError(f"{where}: field question: expected text, got {row['question']!r}")
    if not isinstance(row["id"], str | int) or isinstance(row["id"], bool):
        raise DataError(f"{where}: field id: expected text or a whole number, got {row['id']!r}")
    images = image_refs(row.get("image", []), folder, where)
    size: Size = (0, 0)
    for index, image in enumerate(images):
        try:
            found = image.size
        except DataError as error:
            raise DataError(f"{where}: field image: {error}") from error
        size = found if index == 0 else size
    target, derived = read_target(row["target"], size, config, f"{where}: field target", wanted, folder)
    response = read_response(row.get("response"), size, config, f"{where}: field response", wanted, folder)
    meta = row.get("meta") or {}
    if not isinstance(meta, dict):
        raise DataError(f"{where}: field meta: expected keys and values, got {meta!r}")
    if isinstance(target, Objects | Points) and not images:
        raise DataError(f"{where}: missing field 'image'; boxes and points need one")
    return Sample(str(row["id"]), images, row["question"], target, response, meta), derived


def _half_pair(row: Mapping[str, Any]) -> str | None:
    r"""Half of a pair of escapes such as ``\ud83d``, which JSON can write and no tokenizer or UTF-8 file can take; or None."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        return ascii(error.object[error.start])
    return None


def _published_rows(path: Path, config: DataConfig, task: Task) -> DataSet:
    """Rows of a hub data set with the columns that Visual-RFT or VisionReasoner publish."""
    from visurf.benchmarks import virft, visionreasoner
    from visurf.benchmarks.rows import RowReport
    from visurf.benchmarks.tables import read_rows

    report = RowReport(config.on_bad_sample)
    saved = any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))
    rows = read_rows(path, "train") if path.exists() and not saved else _dataset_rows(path)
    if config.format == "vision_reasoner":
        samples = visionreasoner.training_from_rows(rows, report=report)
    elif Text in task.targets:
        samples = virft.classification_from_rows(rows, report=report)
    else:
        samples = virft.detection_from_rows(rows, report=report)
    return DataSet(_all_settled(samples, task, f"{path} (format {config.format!r})", report), tuple(report.bad))


def _dataset_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows of a folder written by the `datasets` library, or of a hub data set's train split; images stay encoded."""
    from datasets import DatasetDict, Image, load_dataset, load_from_disk

    found = load_from_disk(str(path)) if path.exists() else load_dataset(str(path), split="train")
    table = found["train"] if isinstance(found, DatasetDict) else found
    for name, feature in table.features.items():
        if isinstance(feature, Image):
            table = table.cast_column(name, Image(decode=False))
    for index, row in enumerate(table):
        yield f"{path}, row {index}", row


def describe(data: DataSet) -> Mapping[str, int]:
    """Counts worth printing before a run."""
    empty = sum(isinstance(s.target, Objects | Detections) and not s.target.boxes for s in data.samples)
    counts = {"samples": len(data.samples), "no object": empty, "skipped": len(data.skipped)}
    return {**counts, "derived points": data.derived_points}
