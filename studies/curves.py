"""Draw training curves of the ablation: reward, entropy, advantage of the label, share of smoothed labels.

python studies/curves.py docs/results/papers/ablation-nonobject.json docs/results/papers/curves.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt

PANELS = {
    "reward/total": "reward of the rollouts",
    "policy/entropy": "entropy (nats a token)",
    "label/advantage": "advantage of the label",
    "label/smoothed": "share of smoothed labels",
}


def curve(runs: list[dict[str, Any]], name: str) -> tuple[Any, Any]:
    """Steps, and a row of values a seed, as far as all seeds go."""
    rows = [run["curves"][name] for run in runs if run.get("curves", {}).get(name)]
    if not rows:
        return np.array([]), np.zeros((0, 0))
    shortest = min(len(row) for row in rows)
    return np.array([point[0] for point in rows[0][:shortest]]), np.array([[p[1] for p in row[:shortest]] for row in rows])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    groups: dict[str, list[dict[str, Any]]] = {}
    for path in options.results:
        for run in json.loads(path.read_text())["runs"]:
            if run["role"] == "run" and run["status"] == "done":
                groups.setdefault(run["axes"]["paradigm"], []).append(run)
    figure, axes = plt.subplots(1, len(PANELS), figsize=(4 * len(PANELS), 3.2), layout="constrained")
    for panel, (name, title) in zip(axes, PANELS.items(), strict=True):
        for number, (paradigm, runs) in enumerate(groups.items()):
            steps, values = curve(runs, name)
            if not len(steps):
                continue
            mean = values.mean(axis=0)
            panel.plot(steps, mean, label=paradigm, color=f"C{number}")
            if len(values) > 1:
                panel.fill_between(steps, values.min(axis=0), values.max(axis=0), color=f"C{number}", alpha=0.15)
        panel.set(title=title, xlabel="step")
    axes[0].legend(fontsize=8)
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.picture, dpi=110)


if __name__ == "__main__":
    main()
