"""``visurf score``: a reward over a file, or recorded results of published implementations."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

EPILOG = """\
A row is {"id", "completion", "target", ...}; docs/rewards.md says which fields each reward needs. A fixture file's name is its
family. Exit status with --fixture: 1 if anything disagrees.
"""


def add(commands: Any) -> None:
    """Add the command."""
    score = commands.add_parser("score", description="any reward over a file of completions", epilog=EPILOG)
    what = score.add_mutually_exclusive_group(required=True)
    what.add_argument("--reward", metavar="NAME", help="a reward, pkg.module:function or file.py:function")
    what.add_argument("--fixture", type=Path, metavar="FILE", help="compare with recorded results")
    score.add_argument("--variant", choices=("published", "paper", "sound"), help="of the reward (default: sound, where it has it)")
    score.add_argument("--in", dest="source", type=Path, metavar="FILE", help="completions, JSONL")
    score.add_argument("--out", type=Path, metavar="FILE", help="scores, JSONL (default: standard output)")
    score.add_argument("--on-bad-row", choices=("error", "skip"), default="error", help="stop at it, or leave it out, counted")
    score.add_argument("--time-limit", type=float, metavar="SECONDS", help="of one row in a function or a symbolic library")
    score.add_argument(
        "--no-symbolic", action="store_true", help="leave out the symbolic stage of published rewards where a row has no verdict"
    )
    score.set_defaults(run=_score)


def _score(options: argparse.Namespace) -> int:
    if options.fixture is not None:
        return _fixture(options.fixture)
    from visurf.score_file import score_file

    if options.source is None:
        raise ValueError("score --reward needs --in FILE")
    if options.time_limit is not None and not options.time_limit > 0:
        raise ValueError(f"--time-limit: expected more than 0, got {options.time_limit}")
    with _rows_to(options.out) as stream:
        scores = score_file(
            options.reward,
            options.source,
            lambda row: stream.write(json.dumps(row) + "\n"),
            variant=options.variant,
            on_bad_row=options.on_bad_row,
            symbolic=not options.no_symbolic,
            time_limit=options.time_limit,
        )
    print(scores, file=sys.stderr if options.out is None else sys.stdout)
    return 0


@contextlib.contextmanager
def _rows_to(path: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that appears whole or not at all."""
    if path is None:
        yield sys.stdout
        return
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as stream:
            yield stream
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _fixture(path: Path) -> int:
    from visurf.fixtures import check_file

    result = check_file(path)
    print(result)
    return int(result.agreed != result.total)
