"""What another program produced, judged as if the model had said it: files of predictions -> an `Evaluation`. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from visurf.benchmarks import get_benchmark
from visurf.eligibility import check_choices, comparable
from visurf.geometry import Frame
from visurf.judging import Evaluation, Record, choose_pairs, conclude, judge, load_samples, task_for, unasked
from visurf.metrics.detection import ConfidenceSource
from visurf.metrics.segmentation import Convention
from visurf.tags import load_json
from visurf.tasks import with_segmenter
from visurf.tasks.segmentation import Segment
from visurf.tasks.task import Task
from visurf.types import Completion, DataError, Detections, Masks, Objects, ParseError, Points, Sample, Text, is_finite

Kind = Literal["completions", "extractions", "coco"]
MISSING = "no_prediction"
_FIELDS: dict[Kind, tuple[str, ...]] = {
    "completions": ("id", "completion"),
    "extractions": ("pid", "extraction"),
    "coco": ("image_id", "category_id", "bbox", "score"),
}


def evaluate_predictions(  # noqa: PLR0913 - every argument but the first four has a default and is a setting of its own
    name: str,
    path: str | Path,
    split: str,
    predictions: str | Path | Sequence[Mapping[str, Any]],
    *,
    frame: str = "pixel",
    task: str = "",
    options: Mapping[str, Any] | None = None,
    exist_check: str = "none",
    confidence: ConfidenceSource = "model",
    convention: Convention | None = None,
    segment: Segment | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Evaluate what another program produced on a benchmark: one verdict per sample, never fewer.

    Args:
        name: The benchmark's name.
        path: The data set in its original layout.
        split: Its split.
        predictions: A file for `read_predictions`, or its rows. A sample without a row counts as a failure and is named.
        frame: What coordinates in completions are in: ``pixel`` of the original image, ``1000``, or ``WxH``. Tasks whose
            format fixes 0-1000 (detection, grounding) read no other; boxes of COCO results are always original pixels.
        task: Another task than the benchmark's, for sets with rows of several kinds.
        options: Further arguments of the benchmark's loader.
        exist_check: For detection: ``none``, ``oracle`` or ``map FILE``; predictions on pairs it leaves out do not count.
        confidence: Where the scores of detections come from. COCO results bring theirs, this only names them; of completions
            they are what the model wrote, or computed.
        convention: Adds a published mask evaluation's numbers; needs true masks.
        segment: Turns answered boxes and points into masks; without it their union of boxes is compared with the true mask.
        resamples: Of the 95 % bootstrap intervals.
        seed: Of the bootstrap.

    Raises:
        DataError: A file, row, id or frame is wrong, or no prediction belongs to a sample.
    """
    benchmark, root = get_benchmark(name), Path(path)
    rows = read_predictions(predictions) if isinstance(predictions, str | Path) else list(predictions)
    samples, notes = load_samples(benchmark, root, split, options)
    chosen = task_for(benchmark, samples, task)
    # An empty list is "nothing found anywhere" for detections, and no prediction at all for everything else.
    kind = kind_of(rows) if rows or chosen.name != "detection" else "coco"
    check_choices(chosen, confidence=confidence, convention=convention, exist_check=exist_check, scored=kind == "coco")
    if segment is not None:
        chosen = with_segmenter(chosen, segment)
    asked = {sample.id for sample in samples}
    if chosen.name == "detection":
        pairs = choose_pairs(samples, exist_check)
        asked = {sample.id for sample in pairs.asked}
        notes |= {"exist_check": pairs.rule, "exist_check_rate": f"{pairs.rate:.4f}"}
    detections: list[Mapping[str, Any]] | None = None
    if kind == "coco":
        detections = _asked_detections(rows, samples, asked)
        read = _coco(rows, samples)
        missing: list[str] = []
        unknown: list[str] = []
    else:
        by_id = _by_id(rows, kind)
        unknown = sorted(set(by_id) - {s.id for s in samples})
        if rows and len(unknown) == len(by_id):
            raise DataError(f"no prediction belongs to a sample: ids such as {unknown[0]!r}, expected such as {samples[0].id!r}")
        samples, left_out = comparable(samples, chosen)
        missing = [s.id for s in samples if s.id in asked and s.id not in by_id]
        notes |= left_out | ({"frame": frame} if kind == "completions" else {})
        read = {s.id: _read(by_id.get(s.id), s, chosen, kind, frame) for s in samples if s.id in asked}
    found = [_record(s, read[s.id], chosen) if s.id in asked else unasked(s, chosen) for s in samples]
    return conclude(
        benchmark,
        root,
        split,
        chosen,
        found,
        samples=samples,
        detections=detections,
        confidence=confidence,
        convention=convention,
        notes=notes,
        missing=missing,
        unknown=unknown,
        resamples=resamples,
        seed=seed,
    )


def read_predictions(path: str | Path) -> list[Mapping[str, Any]]:
    """Rows of a predictions file: JSONL, a JSON list (COCO results), or MathVista's object of pid to row.

    Raises:
        DataError: The file cannot be read, or a row is no object.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error})") from error
    rows: list[Any] = []
    first = text.lstrip()[:1]
    if first == "[" or (first == "{" and path.suffix == ".json"):
        data = load_json(text)
        rows = list(data.values()) if isinstance(data, dict) else data
    else:
        # Only the line feed ends a row: splitlines would also cut at U+2028 inside a completion.
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    rows.append(json.loads(line))
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{path}:{number}: not JSON ({error})") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(f"{path}: row {number}: expected an object, got {type(row).__name__}")
    return rows


def kind_of(rows: Sequence[Mapping[str, Any]]) -> Kind:
    """Which kind of predictions rows are, by the fields of all of them.

    Raises:
        DataError: A row has not the fields of the first row's kind.
    """
    if not rows:
        return "completions"
    kinds = [kind for kind, fields in _FIELDS.items() if all(name in rows[0] for name in fields)]
    if not kinds:
        expected = "; ".join(f"{kind}: {', '.join(fields)}" for kind, fields in _FIELDS.items())
        raise DataError(f"prediction 1: expected the fields of one kind ({expected}), got {sorted(rows[0])}")
    for number, row in enumerate(rows, 1):
        if absent := [name for name in _FIELDS[kinds[0]] if name not in row]:
            raise DataError(f"prediction {number}: missing field {absent[0]!r}; {kinds[0]} have {', '.join(_FIELDS[kinds[0]])}")
    return kinds[0]


def frame_of(name: str, sample: Sample) -> Frame:
    """The frame of a sample's completions: ``pixel`` of the original image, ``1000``, or ``WxH``.

    Raises:
        DataError: Another name, or the image cannot be read.
    """
    if not isinstance(sample.target, Objects | Detections | Points | Masks):
        # Words and numbers need no frame, and their images need not be at hand.
        return Frame((1000.0, 1000.0), (1000, 1000))
    width, x, height = name.partition("x")
    size = sample.size
    if name == "pixel":
        return Frame((float(size[0]), float(size[1])), size)
    if name == "1000":
        return Frame((1000.0, 1000.0), size)
    if x and width.isdecimal() and height.isdecimal() and int(width) and int(height):
        return Frame((float(width), float(height)), size)
    raise DataError(f"frame: expected pixel, 1000 or WxH such as 840x840, got {name!r}")


def _by_id(rows: Sequence[Mapping[str, Any]], kind: Kind) -> dict[str, Mapping[str, Any]]:
    key = "pid" if kind == "extractions" else "id"
    found: dict[str, Mapping[str, Any]] = {}
    for number, row in enumerate(rows, 1):
        value = row.get("completion")
        if kind == "completions" and value is not None and not isinstance(value, str):
            raise DataError(f"prediction {number}, field 'completion': expected text or null, got {value!r:.100}")
        if (identity := str(row[key])) in found:
            raise DataError(f"prediction {number}: {key} {identity!r} occurs twice")
        found[identity] = row
    return found


def _read(row: Mapping[str, Any] | None, sample: Sample, task: Task, kind: Kind, frame: str) -> tuple[Completion, float | None]:
    """A prediction as a completion, and its score for a ranking if it has one; no prediction is a failure of its own."""
    value = None if row is None else row["extraction" if kind == "extractions" else "completion"]
    score = None if row is None else row.get("score")
    if score is not None and not is_finite(score):
        raise DataError(f"prediction {sample.id!r}, field 'score': expected a finite number, got {score!r:.100}")
    if row is None or value is None:
        return Completion("", (), None, ParseError(MISSING)), score
    truncated = row.get("truncated") is True
    if kind == "extractions":
        if isinstance(sample.target, Objects | Detections | Points | Masks):
            raise DataError(f"prediction {sample.id!r}: extractions are texts, task {task.name!r} needs completions")
        return Completion(str(value), (), Text(str(value)), None, truncated=truncated), score
    answer = task.parse(value, sample, frame_of(frame, sample))
    if isinstance(answer, ParseError):
        return Completion(value, (), None, answer, truncated=truncated), score
    return Completion(value, (), answer, None, truncated=truncated), score


def _record(sample: Sample, read: tuple[Completion, float | None], task: Task) -> Record:
    record = judge(sample, read[0], task)
    return record if read[1] is None else {**record, "score": float(read[1])}


def _place(row: Mapping[str, Any]) -> tuple[Any, Any]:
    return row["image_id"], row["category_id"]


def _coco(rows: Sequence[Mapping[str, Any]], samples: Sequence[Sample]) -> dict[str, tuple[Completion, float | None]]:
    """COCO results by sample; a pair without any is answered with no objects."""
    by_pair: dict[tuple[Any, Any], list[Mapping[str, Any]]] = {}
    for number, row in enumerate(rows, 1):
        values = [*row["bbox"], row["score"]] if isinstance(row["bbox"], list) else []
        if len(values) != 5 or not all(map(is_finite, values)):
            raise DataError(f"prediction {number}: expected bbox as x, y, width, height and a finite score, got {dict(row)!r:.200}")
        by_pair.setdefault(_place(row), []).append(row)
    found: dict[str, tuple[Completion, float | None]] = {}
    for sample in samples:
        if "category_id" not in sample.meta:
            raise DataError(f"sample {sample.id!r} has no category id; COCO results need a data set in COCO's layout")
        given = by_pair.get(_place(sample.meta), [])
        boxes = tuple((x, y, x + w, y + h) for x, y, w, h in (row["bbox"] for row in given))
        answer = Detections(boxes, tuple(float(row["score"]) for row in given))
        found[sample.id] = (Completion("", (), answer, None), None)
    return found


def _asked_detections(rows: Sequence[Mapping[str, Any]], samples: Sequence[Sample], asked: set[str]) -> list[Mapping[str, Any]]:
    """The results without those on pairs that the existence check left out; pairs that are no samples stay."""
    left_out = {_place(sample.meta) for sample in samples if sample.id not in asked}
    return [row for row in rows if _place(row) not in left_out]
