"""OmniACT: screenshots with an instruction and a script; used here for grounding its first pointing action."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visurf.benchmarks import Benchmark
from visurf.benchmarks.rows import (
    RowReport,
    boxes_on,
    check_split,
    decode_text,
    finish,
    image_path,
    numbers,
    read_bytes,
    read_json,
    require,
)
from visurf.geometry import inside
from visurf.types import Box, DataError, ImageRef, Point, Points, Sample

SPLITS = ("train", "val", "test")
# The module name may have lost its first letters; the arguments are read up to the line's last parenthesis.
_CALL = re.compile(r"^\s*(?:[A-Za-z]*\.)?([A-Za-z]+)\s*\((.*)\)\s*;?\s*$")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_CLICKS = frozenset({"click", "rightclick", "doubleclick", "leftclick", "middleclick", "tripleclick"})
_MOVES = frozenset({"moveto", "dragto"})


@dataclass(frozen=True)
class Script:
    """An instruction and what its script does: the action names in order, and where it first points, if it does."""

    instruction: str
    actions: tuple[str, ...]
    point: Point | None


def load(root: Path, split: str, *, report: RowReport | None = None) -> list[Sample]:
    """One sample per instruction whose script points somewhere: the point, and the smallest box that contains it.

    Args:
        root: Holds `SPLIT.json` and the folders it names.
        split: train, val or test.
        report: Counts what is bad or left out: scripts that only type or scroll, points outside every box, impossible boxes.
    """
    check_split(split, SPLITS, "OmniACT")
    report = report if report is not None else RowReport()
    path = root / f"{split}.json"
    index = read_json(path)
    if not isinstance(index, dict):
        raise DataError(f"{path}: expected an object of index to row, got {type(index).__name__}")
    screens: dict[Path, list[tuple[str, Box]]] = {}
    samples = []
    for key, row in index.items():
        with report.row(key):
            sample = _sample(key, row, root, f"{path}: row {key!r}", screens, report)
            if sample is not None:
                samples.append(sample)
    return finish(samples, path)


def _sample(
    key: str,
    row: Mapping[str, Any],
    root: Path,
    where: str,
    screens: dict[Path, list[tuple[str, Box]]],
    report: RowReport,
) -> Sample | None:
    task = image_path(root, require(row, "task", str, where), f"{where}, field 'task'")
    script = parse_script(decode_text(read_bytes(task), task, ("utf-8-sig", "cp1252")), str(task))
    if script.point is None:
        report.leave_out(key, "the script points nowhere")
        return None
    picture = ImageRef(_probe(image_path(root, require(row, "image", str, where), f"{where}, field 'image'"), ("",)))
    boxes_path = _probe(image_path(root, require(row, "box", str, where), f"{where}, field 'box'"), ("_boxes", ""))
    if boxes_path not in screens:
        screens[boxes_path] = read_boxes(boxes_path, picture, report)
    hit = [(name, box) for name, box in screens[boxes_path] if inside(script.point, box)]
    if not hit:
        report.leave_out(key, "no box contains the point")
        return None
    name, box = min(hit, key=lambda pair: (pair[1][2] - pair[1][0]) * (pair[1][3] - pair[1][1]))
    meta = {
        "actions": script.actions,
        "element": name,
        "image_id": str(picture.source),
    }
    return Sample(key, (picture,), script.instruction, Points((script.point,), (box,)), meta=meta)


def _probe(path: Path, endings: tuple[str, ...]) -> Path:
    """The path, or as web screens are really called: `screen_1.png` is `screen1.png`, its boxes `screen1_boxes.json`."""
    joined = re.sub(r"_(\d+)$", r"\1", path.stem)
    others = [path.with_name(f"{stem}{end}{path.suffix}") for stem in (joined, path.stem) for end in endings]
    return next((p for p in (path, *others) if p.exists()), path)


def parse_script(text: str, where: str) -> Script:
    """Read `Task: ...` and the calls below `Output Script:`, tolerating lost letters, any case and missing coordinates.

    A click without coordinates happens where the pointer was moved before. Nothing is evaluated.

    Raises:
        DataError: There is no instruction.
    """
    head, _, body = text.partition("Output Script:")
    instruction = head.strip().removeprefix("Task:").strip()
    if not instruction:
        raise DataError(f"{where}: expected 'Task: INSTRUCTION', got {text!r:.80}")
    actions: list[str] = []
    point: Point | None = None
    for line in body.splitlines():
        call = _CALL.match(line)
        if call is None:
            continue
        name = call.group(1).lower()
        actions.append(name)
        if point is None and name in _CLICKS | _MOVES:
            values = [float(v) for v in _NUMBER.findall(call.group(2))]
            point = (values[0], values[1]) if len(values) >= 2 else None
    return Script(instruction, tuple(actions), point)


def read_boxes(path: Path, picture: ImageRef, report: RowReport) -> list[tuple[str, Box]]:
    """Names and boxes of a screen's elements; impossible boxes are counted, not used."""
    data = read_json(path)
    if not isinstance(data, dict):
        raise DataError(f"{path}: expected an object of element to box, got {type(data).__name__}")
    elements = []
    for name, record in data.items():
        where = f"{path}: element {name!r}"
        try:
            corners = (
                *numbers(require(record, "top_left", list, where), 2, f"{where}, field 'top_left'"),
                *numbers(require(record, "bottom_right", list, where), 2, f"{where}, field 'bottom_right'"),
            )
            # A label may be a number or missing: it is only shown.
            elements.append((str(record.get("label", name)), boxes_on(picture, [corners], where)[0]))
        except DataError:
            report.leave_out(f"{path.name}:{name}", "impossible element box")
    return elements


BENCHMARK = Benchmark(
    name="omniact",
    task="gui",
    splits=SPLITS,
    load=load,
    metrics=("click_accuracy", "box_accuracy"),
    source="https://huggingface.co/datasets/Writer/omniact",
    licence="the card says Apache-2.0 at several revisions and MIT at another",
    notes="coordinates are pixels of the screenshot file; paper and files differ by one row per split",
)
