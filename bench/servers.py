"""Steps with rollouts of a vLLM server, one after the other and overlapped, in turns: `visurf serve` the embedded model first.

python bench/servers.py --address http://127.0.0.1:8000 --steps 20 --rounds 2 --json bench/results/servers.json
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch

from visurf.config import load_config, merge
from visurf.mini.demo import RECIPE
from visurf.training import train

KEYS = ("time/step", "time/rollout", "time/push", "time/train", "rollout/logprob_difference", "rollout/staleness", "rollout/pushes")


def run(folder: Path, address: str, steps: int, *, overlap: bool) -> list[dict[str, float]]:
    own = {
        "data": {"train": "world:shifted?count=400&seed=5", "validation": ""},
        "rollout": {"engine": "vllm", "overlap": overlap, "servers": {"addresses": [address]}},
        "steps": steps,
        "evaluation": {"every": 0},
        "checkpoint": {"every": 0},
        "threads": 1,
        "out": str(folder),
    }
    train(load_config(RECIPE, merge({}, own)))
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", default="http://127.0.0.1:8000")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for number in range(options.rounds):
        for overlap in (False, True) if number % 2 == 0 else (True, False):
            with tempfile.TemporaryDirectory() as folder:
                began = time.perf_counter()
                steps = run(Path(folder) / "run", options.address, options.steps, overlap=overlap)
                wall = time.perf_counter() - began
            # The first step loads kernels on both sides, and has no rollouts drawn ahead.
            medians = {key: statistics.median(s[key] for s in steps[1:]) for key in KEYS}
            rows.append({"round": number, "overlap": overlap, "steps": len(steps), "wall": wall, **medians})
            print(json.dumps(rows[-1]), flush=True)
    pairs = [{r["overlap"]: r["time/step"] for r in rows if r["round"] == n} for n in range(options.rounds)]
    ratios = [pair[False] / pair[True] for pair in pairs]
    found = {
        "speedup": statistics.median(ratios),
        "range": [min(ratios), max(ratios)],
        "rows": rows,
        "machine": {"cores": os.cpu_count(), "load": os.getloadavg()[0], "processor": platform.processor() or platform.machine()},
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }
    print(f"overlapped {found['speedup']:.2f} x the synchronous step ({min(ratios):.2f}-{max(ratios):.2f})")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
