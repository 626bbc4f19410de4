"""The command that measures: a model or another program's predictions, on a JSONL file or a benchmark."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visurf.cli.asking import asked_config, asked_of_task
from visurf.cli.runs import add_mode, quiet_libraries

if TYPE_CHECKING:
    from visurf.judging import Evaluation

USAGE = """\
measure a model on a JSONL file        visurf eval MODEL DATA.jsonl
measure a model on a benchmark         visurf eval MODEL --benchmark NAME --data PATH
judge what another program produced    visurf eval --benchmark NAME --data PATH --predictions FILE
"""
# A setting is named by words and dots; the address of a data set may hold an equals sign too.
_CHANGE = re.compile(r"[\w.]+=")
_OUT = Path("evaluation")
# As in visurf.metrics, which the command line does not import to say its help.
CONFIDENCES = ("model", "log_prob", "constant", "box_area")
CONVENTIONS = ("gres", "lisa", "seg_zero", "visionreasoner", "visual_rft")
# What one way to measure has no use for; it would be ignored.
_BENCHMARK_ONLY = ("data", "split", "predictions", "frame", "exist_check", "confidence", "convention", "option")
_MODEL_ONLY = ("recipe", "out", "limit", "override")
# Where a benchmark has several splits and none was named: the one its papers report.
_REPORTED = ("testmini", "val", "validation", "test", "testA")


def add(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("eval", description=USAGE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", metavar="MODEL", help="folder of a run or in the hub's layout, hub name, mini")
    parser.add_argument("jsonl", nargs="?", metavar="DATA.jsonl")
    parser.add_argument("--recipe", help="take task, prompt, reward and limits from this recipe (default: a run's own)")
    parser.add_argument("--out", type=Path, help="folder of records.jsonl and summary.json (default evaluation)")
    parser.add_argument("--force", action="store_true", help="write over an evaluation that is there")
    parser.add_argument("--benchmark", metavar="NAME", help="a data set in its original layout, see docs/datasets.md")
    parser.add_argument("--data", type=Path, metavar="PATH", help="where the benchmark lies")
    parser.add_argument("--split", help="default: the one its papers report")
    parser.add_argument("--predictions", type=Path, metavar="FILE", help="JSONL of id and completion, or COCO results")
    parser.add_argument("--records", type=Path, metavar="FILE", help="write one verdict per sample here")
    parser.add_argument("--frame", help="of coordinates in predictions: pixel, 1000 or WxH (default pixel)")
    parser.add_argument("--exist-check", help="detection: none, oracle, 'map FILE' or model (default none)")
    parser.add_argument("--confidence", choices=CONFIDENCES, help="detection: where scores come from (default model)")
    parser.add_argument("--convention", choices=CONVENTIONS, help="segmentation: add a published evaluation's numbers")
    parser.add_argument("--segment", metavar="NAME", help="turn boxes into masks: classical, or a SAM 2 checkpoint")
    parser.add_argument("--option", action="append", default=[], metavar="key=value", help="of the benchmark's loader")
    parser.add_argument("--limit", type=int, metavar="N", help="a model answers only so many samples, from the first (0 for all)")
    parser.add_argument("override", nargs="*", metavar="key=value")
    parser.set_defaults(run=_eval)
    add_mode(parser)


def _eval(options: argparse.Namespace) -> int:
    # key=value may have landed in a positional that was left out.
    for name in ("model", "jsonl"):
        value = getattr(options, name)
        if value is not None and _CHANGE.match(value) and not Path(value).exists():
            options.override.insert(0, value)
            setattr(options, name, None)
    if options.limit is not None and options.limit < 0:
        raise ValueError(f"--limit takes 0 (all samples) or more, got {options.limit}")
    if options.benchmark:
        return _on_benchmark(options)
    if options.model is None or options.jsonl is None:
        raise ValueError(f"expected a model and a JSONL file, or a benchmark:\n{USAGE}")
    _refuse(options, _BENCHMARK_ONLY, "only with --benchmark NAME")
    out = _free(options)
    # A path on the command line is relative to where the command is started, not to the recipe's data.root.
    data = str(Path(options.jsonl).absolute()) if Path(options.jsonl).exists() else options.jsonl
    config = asked_config(options, {"data": {"validation": data}, "evaluation": {"limit": options.limit or 0}})
    quiet_libraries()
    from visurf.terminal import Terminal
    from visurf.training import evaluate
    from visurf.whole_files import finite_or_null

    kept = {"records": options.records, "segment": _segment(options.segment)}
    with Terminal(0, options.mode) as terminal:
        summary = evaluate(config, out, lambda done, total: terminal.count(done, total, "evaluating"), **kept)
    if options.mode == "json":
        print(json.dumps(finite_or_null(summary), allow_nan=False))
    else:
        for name, value in summary.items():
            print(f"{name:<14} {value:.4f}")
        print(f"records in {out / 'records.jsonl'}")
    return 0


def _free(options: argparse.Namespace) -> Path:
    """The folder to write to.

    Raises:
        ValueError: An earlier evaluation there would be lost.
    """
    out = options.out or _OUT
    if (out / "records.jsonl").exists() and not options.force:
        raise ValueError(f"{out} holds an evaluation already; name another folder with --out, or write over it with --force")
    return out


def _refuse(options: argparse.Namespace, names: tuple[str, ...], why: str) -> None:
    """Name the options that were given and would be ignored."""
    given = [n for n in names if getattr(options, n) not in (None, [])]
    if given:
        named = ", ".join("key=value" if n == "override" else f"--{n.replace('_', '-')}" for n in given)
        raise ValueError(f"{named}: {why}:\n{USAGE}")


def _segment(name: str | None) -> Any:
    """What makes masks of answers, or None."""
    if name is None:
        return None
    from visurf.segmenter import load_segmenter, union_mask

    return union_mask(load_segmenter(name))


def _on_benchmark(options: argparse.Namespace) -> int:
    from visurf.benchmarks import get_benchmark, read_options
    from visurf.judging import write_records

    if options.data is None or (options.predictions is None) == (options.model is None):
        raise ValueError(f"a benchmark needs --data, and either a model or --predictions:\n{USAGE}")
    if options.jsonl is not None:
        raise ValueError(f"{options.jsonl}: a benchmark brings its own samples; leave out the file, or --benchmark:\n{USAGE}")
    if options.predictions is not None:
        _refuse(options, _MODEL_ONLY, "only with a model that answers; --records FILE writes the verdicts on predictions")
    else:
        _refuse(options, ("frame",), "only with --predictions; a model has a frame of its own")
    benchmark = get_benchmark(options.benchmark)
    split = options.split or next((s for s in _REPORTED if s in benchmark.splits), benchmark.splits[-1])
    common: dict[str, Any] = {
        "options": read_options(options.option),
        "exist_check": options.exist_check or "none",
        "confidence": options.confidence or "model",
        "convention": options.convention,
        "segment": _segment(options.segment),
    }
    if options.predictions is not None:
        from visurf.predictions import evaluate_predictions

        found = evaluate_predictions(
            options.benchmark, options.data, split, options.predictions, frame=options.frame or "pixel", **common
        )
    else:
        out = _free(options)
        config, left_out = asked_of_task(options, {}, benchmark.task)
        common["notes"] = {"settings": left_out} if left_out else {}
        quiet_libraries()
        from visurf.evaluation import evaluate_benchmark
        from visurf.terminal import Terminal

        with Terminal(0, options.mode) as terminal:

            def count(done: int, total: int) -> None:
                terminal.count(done, total, "evaluating")

            common |= {"out": out, "progress": count, "limit": options.limit or 0}
            found = evaluate_benchmark(config, options.benchmark, options.data, split, **common)
    if options.records is not None:
        write_records(options.records, found.records)
    _show(found, options.mode)
    return 0


def _show(found: Evaluation, mode: str) -> None:
    if mode == "json":
        print(json.dumps(found.to_dict(), allow_nan=False))
        return
    print(f"{found.benchmark}, {found.split}: {len(found.records)} samples")
    for name, interval in found.summary.metrics.items():
        print(f"{name:<22} {interval.value:.4f}  [{interval.low:.4f}, {interval.high:.4f}]")
    for name, rate in (("parse_failed", found.summary.parse_failure_rate), ("truncated", found.summary.truncation_rate)):
        print(f"{name:<22} {rate.value:.4f}")
    for name, value in found.extra.items():
        print(f"{name:<22} {value:.4f}")
    for name, note in found.notes.items():
        print(f"{name}: {note}")
    for what, ids in (
        ("without a prediction, each a failure", found.missing),
        ("predictions of no sample, ignored", found.unknown),
    ):
        if ids:
            print(f"{len(ids)} {what}: {', '.join(ids[:10])}{', ...' if len(ids) > 10 else ''}")
