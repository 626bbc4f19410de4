"""One job of a study: ``python -m visurf.studies.measure FOLDER`` trains FOLDER/run.yaml, then measures the model.

It is ``visurf train FOLDER/run.yaml``, then for every FOLDER/tests/NAME.yaml ``visurf eval MODEL DATA --recipe
FOLDER/tests/NAME.yaml``, in one process, which starts once.
"""

from __future__ import annotations

import sys
from pathlib import Path

from visurf.cli import main
from visurf.config import load_config
from visurf.studies.running import is_trained


def measure(folder: Path) -> None:
    """Answer every test that has no summary yet; records.jsonl and summary.json go to FOLDER/tests/NAME."""
    from visurf.training import evaluate

    for path in sorted((folder / "tests").glob("*.yaml")):
        found = path.with_suffix("")
        if not (found / "summary.json").exists():
            evaluate(load_config(path), found)


def run(folder: Path, train: bool) -> int:
    """Train to the end, where this was asked for and is not done, and measure; returns the exit code."""
    if train and not is_trained(folder):
        code = main(["train", str(folder / "run.yaml"), "--quiet"])
        if code:
            return code
    from visurf.cli.runs import quiet_libraries

    quiet_libraries()
    measure(folder)
    return 0


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), "--train" in sys.argv[2:]))
