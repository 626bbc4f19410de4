"""LISA's reasoning grounding as Visual-RFT writes it: `lisa_SPLIT.json` (pixels) or `lisa_SPLIT_sft.json` (0-1000)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visurf.benchmarks import Benchmark
from visurf.benchmarks.rows import (
    RowReport,
    boxes_on,
    check_split,
    find,
    finish,
    image_path,
    numbers,
    read_json_list,
    require,
)
from visurf.geometry import Frame
from visurf.types import DataError, ImageRef, Objects, Sample

SPLITS = ("train", "val", "test")
_IMAGE = re.compile(r"<img>([^<]*)</img>")
_QUESTION = re.compile(r"corresponding to the instruction:\s*(.*)", re.DOTALL)
_CORNERS = re.compile(r"\(\s*(\d+)\s*,\s*(\d+)\s*\)\s*,\s*\(\s*(\d+)\s*,\s*(\d+)\s*\)")


def load(root: Path, split: str, *, images: Path | None = None, report: RowReport | None = None) -> list[Sample]:
    """One sample per instruction; the target is the boxes the file gives (of the first shape only, as published).

    Args:
        root: Holds the JSON.
        split: train, val or test.
        images: What image paths are relative to; `root` by default.
        report: Counts what is bad or left out.
    """
    check_split(split, SPLITS, "LISA grounding")
    report = report if report is not None else RowReport()
    path = find(root, (f"lisa_{split}.json", f"lisa_{split}_sft.json"), "instructions")
    samples: list[Sample] = []
    for index, row in enumerate(read_json_list(path)):
        where = f"{path}: row {index}"
        with report.row(index):
            chat = isinstance(row, dict) and "conversations" in row
            samples += (_from_chat if chat else _from_pixels)(row, index, images or root, where)
    return finish(samples, path)


def _from_pixels(row: Mapping[str, Any], index: int, folder: Path, where: str) -> list[Sample]:
    picture = ImageRef(image_path(folder, require(row, "image_path", str, where), f"{where}, field 'image_path'"))
    field = f"{where}, field 'boxes'"
    boxes = boxes_on(picture, [numbers(box, 4, field) for box in require(row, "boxes", list, where)], field)
    if not boxes:
        raise DataError(f"{field}: expected at least one box, got none")
    instructions = require(row, "instruction", (list, str), where)
    instructions = [instructions] if isinstance(instructions, str) else instructions
    if not instructions or not all(isinstance(text, str) and text.strip() for text in instructions):
        raise DataError(f"{where}, field 'instruction': expected texts, got {instructions!r:.100}")
    return [Sample(f"{index}_{n}", (picture,), text.strip(), Objects(boxes)) for n, text in enumerate(instructions)]


def _from_chat(row: Mapping[str, Any], index: int, folder: Path, where: str) -> list[Sample]:
    turns = [require(turn, "value", str, f"{where}, turn {n}") for n, turn in enumerate(require(row, "conversations", list, where))]
    if len(turns) != 2:
        raise DataError(f"{where}, field 'conversations': expected a question and an answer, got {len(turns)} turns")
    image, question, corners = _IMAGE.search(turns[0]), _QUESTION.search(turns[0]), _CORNERS.search(turns[1])
    if image is None or question is None or corners is None:
        raise DataError(f"{where}, field 'conversations': expected <img>, an instruction and (x1,y1),(x2,y2), got {turns!r:.200}")
    picture = ImageRef(image_path(folder, image.group(1).strip(), f"{where}, its <img>"))
    box = Frame((1000, 1000), picture.size).decode_box([float(v) for v in corners.groups()])
    boxes = boxes_on(picture, [box], f"{where}, its answer")
    return [Sample(str(row.get("id", index)), (picture,), question.group(1).strip(), Objects(boxes))]


BENCHMARK = Benchmark(
    name="lisa_grounding",
    task="grounding",
    splits=SPLITS,
    load=load,
    metrics=("box_iou", "giou"),
    source="https://github.com/Liuziyu77/Visual-RFT",
    licence="code Apache-2.0, data CC BY-NC 4.0",
    notes="boxes are of each picture's first shape only; the 0-1000 file was rounded down",
)
