"""Commands to look at results: the report of runs, the comparison of two models, one answer drawn."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visurf.cli.asking import asked_config
from visurf.cli.runs import quiet_libraries

if TYPE_CHECKING:
    from visurf.answering import Answered

EXIT_UNREAD = 3
USAGE = """\
the report of runs, as one HTML file      visurf report RUN [RUN ...]
the same while they train, on 127.0.0.1   visurf report RUN --watch
where two evaluations differ              visurf report --compare RECORDS_A RECORDS_B
"""
_OVERRIDE = re.compile(r"[a-z_]+(\.[a-z_]+)*=")
_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


def add(commands: Any) -> None:
    """Add the commands of this group."""
    report = commands.add_parser("report", description=USAGE, formatter_class=argparse.RawDescriptionHelpFormatter)
    report.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run folders, or folders of run folders")
    report.add_argument("--out", type=Path, metavar="FILE.html", help="default: report.html in the run folder, or here for several")
    report.add_argument("--watch", action="store_true", help="serve the page on 127.0.0.1 and refresh it while runs go on")
    report.add_argument("--port", type=int, default=0, help="of --watch (default: a free one)")
    report.add_argument(
        "--compare", nargs=2, type=Path, metavar=("RECORDS_A", "RECORDS_B"), help="two evaluations of the same data"
    )
    report.set_defaults(run=_report)

    predict = commands.add_parser(
        "predict",
        description="ask a model about a picture, a folder or the rows of a JSONL file; exit code 3 where an answer cannot be read",
    )
    predict.add_argument("model", metavar="MODEL", help="folder of a run or in the hub's layout, hub name, mini")
    predict.add_argument("place", type=Path, metavar="IMAGE", help="a picture, a folder of pictures, or a JSONL file")
    predict.add_argument("question", nargs="?", default="", metavar="QUESTION")
    predict.add_argument("--segment", nargs="?", const="classical", metavar="NAME", help="masks: classical, or a SAM 2 checkpoint")
    predict.add_argument(
        "--out", type=Path, metavar="PLACE", help="of a picture: the drawn picture; of many: a JSONL file, or a folder for both"
    )
    predict.add_argument("--recipe", help="take task, prompt and limits from this recipe (default: a run's own)")
    predict.add_argument("override", nargs="*", metavar="key=value", help="such as task.name=counting rollout.max_tokens=300")
    predict.set_defaults(run=_predict)


def _report(options: argparse.Namespace) -> int:
    if options.compare:
        if options.runs or options.watch:
            raise ValueError(f"--compare takes two evaluations and no runs:\n{USAGE}")
        return _compare(options)
    if not options.runs:
        raise ValueError(f"expected a run folder:\n{USAGE}")
    from visurf.reporting.reading import find_runs

    if options.watch:
        return _watch(find_runs(options.runs), options.port)
    from visurf.reporting.report import write_report

    runs = find_runs(options.runs)
    out = options.out or (runs[0] / "report.html" if len(runs) == 1 else Path("report.html"))
    size = write_report(runs, out).stat().st_size
    print(f"{out} ({size / 1e6:.1f} MB, {len(runs)} run{'s' if len(runs) > 1 else ''})")
    return 0


def _watch(runs: list[Path], port: int) -> int:
    from visurf.reporting.watch import Server

    with Server(runs, port) as server:
        print(f"{server.address} shows {len(runs)} run{'s' if len(runs) > 1 else ''}; Ctrl-C ends it", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0


def _compare(options: argparse.Namespace) -> int:
    from visurf.reporting.compare import write_comparison

    out = options.out or Path("comparison.html")
    first, second = options.compare
    data = write_comparison(first, second, out)
    width = max(len(row["name"]) for row in data["statistics"])
    print(f"{data['samples']} samples; difference: {data['names'][1]} - {data['names'][0]}, 95 % interval")
    for row in data["statistics"]:
        numbers = f"{row['first']:8.4f} {row['second']:8.4f} {row['difference']:+8.4f}"
        print(
            f"{row['name']:<{width}} {numbers}  [{row['low']:+.4f}, {row['high']:+.4f}]  p {row['p']:.3f}, Holm {row['holm']:.3f}"
        )
    for note in data["notes"]:
        print(note)
    print(f"{out}: {data['differing']} samples differ")
    return 0


def _predict(options: argparse.Namespace) -> int:
    # Rows bring their own questions: what stands in its place then is a setting.
    if _OVERRIDE.match(options.question):
        options.override.insert(0, options.question)
        options.question = ""
    config = asked_config(options, {})
    quiet_libraries()
    from visurf.answering import ask, read_questions
    from visurf.naming import look_up
    from visurf.segmenter import load_segmenter
    from visurf.tasks import TASKS

    task = look_up(config.task.name, TASKS, "task")
    samples = read_questions(options.place, options.question, task, config.data)
    segmenter = load_segmenter(options.segment) if options.segment else None
    answers = ask(config, task, samples, segmenter)
    if options.place.is_dir() or options.place.suffix == ".jsonl":
        return _many(answers, options.out)
    (found,) = answers
    print(f"thinking  {harmless(found.row()['thinking']) or '-'}")
    print(f"answer    {json.dumps(found.row()['answer'], ensure_ascii=True) if found.error is None else '-'}")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        found.drawn().save(options.out)
        print(f"drawn in  {options.out}")
    if found.error is not None:
        print(f"visurf: the answer cannot be read ({found.error.reason}): {harmless(found.text)}", file=sys.stderr)
        return EXIT_UNREAD
    return 0


def _many(answers: Any, out: Path | None) -> int:
    """One line of JSON an answer; drawings too where the place to write is a folder."""
    folder = out if out is not None and out.suffix != ".jsonl" else None
    file = folder / "predictions.jsonl" if folder else out
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    lines = file.open("w", encoding="utf-8") if file is not None else sys.stdout
    unread = count = 0
    try:
        for count, found in enumerate(answers, 1):
            lines.write(json.dumps(found.row(), ensure_ascii=True) + "\n")
            lines.flush()
            unread += found.error is not None
            if folder is not None:
                _draw(found, folder / f"{count:06d}.png")
    finally:
        if file is not None:
            lines.close()
    print(f"{count} answers, {unread} of them cannot be read{f'; in {file}' if file else ''}", file=sys.stderr)
    return EXIT_UNREAD if unread else 0


def _draw(found: Answered, path: Path) -> None:
    """The drawing of one answer; a picture that cannot be read has its reason in the rows."""
    if found.error is None or found.error.reason != "unreadable_picture":
        found.drawn().save(path)


def harmless(text: str) -> str:
    r"""Text that a terminal shows and does not obey: control characters and marks of direction as escapes.

    >>> harmless("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    return _OBEYED.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
