"""``visurf export``: a run's model with its card."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

ABOUT = """\
Write a folder that plain transformers and vLLM load: weights, tokenizer, image processor, the run's recipe and a model card.
Nothing leaves the machine unless --push names a repository of the hub.
"""


def add(commands: Any) -> None:
    """Add the command."""
    export = commands.add_parser("export", description=ABOUT)
    export.add_argument("folder", type=Path, metavar="RUN", help="the folder of a run that has ended, or with --step of any run")
    export.add_argument("--step", default="", metavar="N|best", help="the model of a checkpoint, or of the best validation's")
    export.add_argument("--out", type=Path, metavar="FOLDER", help="where (default: RUN/export, or RUN/export-step-N)")
    export.add_argument("--adapter", action="store_true", help="the low-rank adapters alone, instead of the merged model")
    measured = "records.jsonl of visurf eval; its measures stand in the card with 95%% intervals (repeatable)"
    export.add_argument("--records", type=Path, action="append", default=[], metavar="FILE", help=measured)
    export.add_argument("--push", metavar="NAME", help="upload to this repository of the hub, made private if it is new")
    export.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> int:
    from visurf.publishing import export_run, push

    out = export_run(options.folder, options.out, adapter=options.adapter, records=options.records, step=options.step)
    print(f"model and card in {out}")
    if options.push:
        print(f"uploaded to {push(out, options.push)}")
    return 0
