"""One job of a study: ``python -m visurf.studies.measure FOLDER`` trains FOLDER/run.yaml, then measures the model.

It is ``visurf train FOLDER/run.yaml``, then for every FOLDER/tests/NAME.yaml ``visurf eval MODEL DATA --recipe
FOLDER/tests/NAME.yaml``, in one process, which starts once.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from visurf.cli import main
from visurf.config import load_config
from visurf.studies.running import is_trained


def measure(folder: Path, rollouts: int = 0) -> None:
    """Answer every test that has no summary yet; records.jsonl and summary.json go to FOLDER/tests/NAME.

    With `rollouts`, also sample so many answers of every question; what `visurf probe` finds goes to FOLDER/tests/NAME/probe.json,
    or why there is nothing to find.
    """
    from visurf.probing import probe, right_measure
    from visurf.training import evaluate

    for path in sorted((folder / "tests").glob("*.yaml")):
        found = path.with_suffix("")
        if not (found / "summary.json").exists():
            evaluate(load_config(path), found)
        if rollouts and not (found / "probe.json").exists():
            config = load_config(path)
            if right_measure(config):
                probed = probe(config, rollouts)
            else:
                why = f"the headline metric of {config.task.name} is no mean over samples"
                probed = {"rollouts": rollouts, "skipped": why}
            (found / "probe.partial").write_text(json.dumps(probed))
            (found / "probe.partial").replace(found / "probe.json")


def run(folder: Path, train: bool, rollouts: int = 0) -> int:
    """Train to the end, where this was asked for and is not done, measure and probe; returns the exit code."""
    if train and not is_trained(folder):
        code = main(["train", str(folder / "run.yaml"), "--quiet"])
        if code:
            return code
    from visurf.cli.runs import quiet_libraries

    quiet_libraries()
    measure(folder, rollouts)
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--probe", type=int, default=0)
    options = parser.parse_args()
    sys.exit(run(options.folder, options.train, options.probe))
