"""One run that is killed thirty times with SIGKILL, at random moments of every kind, against the same run left alone.

Run with ``make soak``, or ``python tests/soak/kill.py --json FILE``. The exit status is 1 unless final weights, optimiser
state and the deterministic fields of the logs are bit by bit those of the run that nothing happened to.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from killing import KILLED, lives, random_lives
from test_training import deterministic, same_weights
from visurf import checkpoint


def same_states(first: Path, second: Path) -> bool:
    """Whether the optimisers of two last checkpoints hold the same."""
    a, b = (checkpoint.read(checkpoint.latest(out))[1]["optimizer"]["state"] for out in (first, second))
    return a.keys() == b.keys() and all(torch.equal(a[name][key], b[name][key]) for name in a for key in a[name])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--steps", type=int, default=0, help="default: two for every kill, and 20")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/soak-kill"), help="folder of both runs; deleted before")
    parser.add_argument("--json", type=Path, default=Path("build/soak-kill.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    shutil.rmtree(options.out, ignore_errors=True)
    steps, began = options.steps or 2 * options.kills + 20, time.monotonic()
    whole, killed = options.out / "whole", options.out / "killed"
    lives(whole, steps, [])
    told = lives(killed, steps, random_lives(options.kills, options.seed))
    kills = [life["moment"] for life in told if life["code"] == KILLED]
    checks = {
        "all_killed": len(kills) == options.kills,
        "weights": same_weights(whole / "model", killed / "model"),
        "optimizer": same_states(whole, killed),
        "metrics": deterministic(whole / "metrics.jsonl") == deterministic(killed / "metrics.jsonl"),
        "rollouts": deterministic(whole / "rollouts.jsonl") == deterministic(killed / "rollouts.jsonl"),
        "steps": [row["step"] for row in deterministic(killed / "metrics.jsonl")] == list(range(1, steps + 1)),
    }
    found = {
        "command": f"python tests/soak/kill.py --kills {options.kills} --seed {options.seed}",
        "steps": steps,
        "seconds": round(time.monotonic() - began),
        "kills": dict(Counter(kills)),
        "same": checks,
        "lives": told,
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{len(kills)} kills {dict(Counter(kills))} over {steps} steps: {checks}")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
