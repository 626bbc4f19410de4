"""Look for alarms in every run of the main table: none of their rewards deceives by design, so each alarm needs an explanation.

python studies/false_alarms.py runs/papers docs/results/papers-alarms.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from visurf.alarms import correlations, find_alarms, read_rows, watched
from visurf.config import load_config
from visurf.curves import read_curve


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="the folder that studies/run.py wrote")
    parser.add_argument("out", type=Path, help="the JSON to write")
    options = parser.parse_args()
    found = []
    for folder in sorted(options.runs.glob("table1-*/runs/*/train")):
        config = load_config(folder / "config.yaml")
        rows = read_rows(folder / "metrics.jsonl")
        if config.paradigm == "sft" or len(rows) < config.steps:
            continue
        accuracy, form = watched(config)
        rank = correlations(rows, accuracy).get("total", float("nan"))
        found.append(
            {
                "study": folder.parts[-4],
                "run": folder.parts[-2],
                "paradigm": config.paradigm,
                "evaluations": len(read_curve(rows, accuracy).steps),
                "correlation": None if rank != rank else round(rank, 3),
                "alarms": [{"kind": alarm.kind, "step": alarm.step} for alarm in find_alarms(rows, accuracy, form)],
            }
        )
    options.out.write_text(json.dumps(found, indent=0) + "\n")


if __name__ == "__main__":
    main()
