"""``visurf data``: look at data sets in their original layout, convert others, and make labels of a model's answers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from visurf.cli.asking import asked_config
from visurf.cli.runs import add_mode, quiet_libraries


def add(commands: Any) -> None:
    """Add the commands of this group."""
    data = commands.add_parser("data", description="show a data set; convert COCO, YOLO or CSV; a model's answers as labels")
    kinds = data.add_subparsers(dest="what", metavar="COMMAND", required=True)

    show = kinds.add_parser("show", help="counts per split, picture sizes, broken rows; a contact sheet")
    show.add_argument("name", metavar="NAME", help="a data set (an unknown name lists them), or pkg.module:NAME")
    show.add_argument("path", type=Path, metavar="PATH", help="its folder")
    show.add_argument("--split", action="append", dest="splits", metavar="NAME", help="only this one (repeatable)")
    show.add_argument("--sheet", type=Path, metavar="FILE.png", help="draw samples with their labels")
    show.add_argument("--check", type=int, default=500, metavar="N", help="picture headers read a split (default 500)")
    show.add_argument("--seed", type=int, default=0, help="of the pictures checked and drawn (default 0)")
    show.set_defaults(run=_show)

    distil = kinds.add_parser("distil", help="write a model's own accepted answers as labels with reasoning")
    distil.add_argument("model", metavar="MODEL", help="folder of a run or in the hub's layout, hub name, mini")
    distil.add_argument("source", metavar="DATA", help="what a recipe names as data.train: JSONL, benchmark:..., world:...")
    distil.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl", help="goes on where it stood if begun before")
    distil.add_argument("--recipe", help="take task, prompt, reward and limits from this recipe (default: a run's own)")
    distil.add_argument("--samples", type=int, metavar="K", help="answers a prompt (default: rollout.group_size)")
    distil.add_argument("--temperature", type=float, metavar="T", help="default: rollout.temperature")
    distil.add_argument("--keep", choices=("best", "shortest", "all"), default="best", help="of the accepted (default best)")
    distil.add_argument("--min-reward", type=float, metavar="R", help="accept from here (default: 4/5 of the largest total)")
    distil.add_argument("--copy-images", action="store_true", help="copy pictures beside the rows")
    distil.add_argument("override", nargs="*", metavar="key=value", help="such as task.name=counting rollout.max_tokens=300")
    distil.set_defaults(run=_distil)
    add_mode(distil)

    convert = kinds.add_parser("convert", help="write the project's JSONL")
    layouts = convert.add_subparsers(dest="layout", metavar="LAYOUT", required=True)
    coco = layouts.add_parser("coco", help="a JSON file in COCO's or LVIS's layout")
    coco.add_argument("annotations", type=Path, metavar="FILE.json")
    coco.add_argument("--images", type=Path, required=True, help="the picture folder")
    coco.add_argument("--class", action="append", dest="classes", metavar="NAME", help="only this category (repeatable)")
    yolo = layouts.add_parser("yolo", help="a folder of pictures and one of label files")
    yolo.add_argument("images", type=Path, metavar="IMAGES")
    yolo.add_argument("labels", type=Path, metavar="LABELS")
    yolo.add_argument("--names", type=Path, required=True, help="data.yaml, or a text file with one class name a line")
    table = layouts.add_parser("csv", help="a table with columns image, question and what is true")
    table.add_argument("table", type=Path, metavar="FILE.csv")
    table.add_argument("--images", type=Path, required=True, help="the picture folder")
    table.add_argument("--box-format", choices=("xyxy", "xywh"), default="xyxy", help="of the box columns (default xyxy)")
    for layout in (coco, yolo, table):
        layout.add_argument("out", type=Path, metavar="OUT.jsonl")
        layout.add_argument("--on-bad-row", choices=("error", "skip"), default="error", help="stop at it, or leave it out, counted")
        layout.set_defaults(run=_convert)
    for layout in (coco, yolo):
        asked = layout.add_mutually_exclusive_group()
        absent = "how many classes that a picture does not hold are asked of it (default 1); -1 for all"
        # A text: argparse takes a value that is the default itself for none given, and would not see the conflict.
        asked.add_argument("--absent", type=int, default="1", metavar="N", help=absent)
        if layout is yolo:
            asked.add_argument("--only-present", action="store_const", dest="absent", const=0, help="the same as --absent 0")
        layout.add_argument("--seed", type=int, default=0, help="of the absent classes (default 0)")
        layout.add_argument("--question", default="{category}", help="the question; {category} stands for the class")


def _show(options: argparse.Namespace) -> int:
    from visurf.benchmarks import get_benchmark
    from visurf.benchmarks.rows import check_split
    from visurf.benchmarks.show import format_summaries, show

    benchmark = get_benchmark(options.name)
    for split in options.splits or ():
        check_split(split, benchmark.splits, benchmark.name)
    drawn = {"splits": options.splits, "sheet": options.sheet, "check": options.check, "seed": options.seed}
    print(format_summaries(show(benchmark, options.path, **drawn)))
    if options.sheet is not None:
        print(f"drawn in {options.sheet}")
    return 0


def _distil(options: argparse.Namespace) -> int:
    # A path on the command line is relative to where the command is started, not to the recipe's data.root.
    source = str(Path(options.source).absolute()) if Path(options.source).exists() else options.source
    asked = {"group_size": options.samples, "temperature": options.temperature}
    rollout = {name: value for name, value in asked.items() if value is not None}
    config = asked_config(options, {"data": {"train": source}, "rollout": rollout})
    quiet_libraries()
    import json

    from visurf.distillation import distil
    from visurf.terminal import Terminal
    from visurf.whole_files import finite_or_null

    kept = {"keep": options.keep, "min_reward": options.min_reward, "copy_images": options.copy_images}
    with Terminal(0, options.mode) as terminal:

        def count(done: int, total: int) -> None:
            terminal.count(done, total, "answering")

        summary = distil(config, options.out, **kept, progress=count)
    if options.mode == "json":
        print(json.dumps(finite_or_null(summary), allow_nan=False))
        return 0
    for name, value in summary.items():
        print(f"{name:<22} {value:.4f}" if isinstance(value, float) else f"{name:<22} {value}")
    if found := summary["rows_with_coordinates"]:
        print(f"{found} thoughts name coordinates, in the frame of {options.model}: right only for a student with that frame")
    print(f"rows in {options.out}")
    return 0


def _convert(options: argparse.Namespace) -> int:
    from visurf.benchmarks.convert import from_coco, write_jsonl
    from visurf.benchmarks.convert_csv import from_csv
    from visurf.benchmarks.convert_yolo import from_yolo, read_yolo_names
    from visurf.benchmarks.rows import RowReport

    if not options.images.is_dir():
        raise ValueError(f"{options.images}: no such folder; it is where the pictures are looked for")
    report = RowReport(options.on_bad_row, remedy="--on-bad-row skip leaves bad rows out, counted")
    match options.layout:
        case "coco":
            rows = from_coco(
                options.annotations,
                options.images,
                question=options.question,
                classes=options.classes,
                absent=None if options.absent < 0 else options.absent,
                seed=options.seed,
                report=report,
            )
        case "yolo":
            rows = from_yolo(
                options.images,
                options.labels,
                read_yolo_names(options.names),
                question=options.question,
                absent=None if options.absent < 0 else options.absent,
                seed=options.seed,
                report=report,
            )
        case _:
            rows = from_csv(options.table, options.images, box_format=options.box_format, report=report)
    count = write_jsonl(rows, options.out)
    if summary := report.summary():
        print(summary)
    empty = sum(row["target"] == [] for row in rows)
    print(f"{count} rows, {empty} of them without an object, in {options.out}")
    return 0
