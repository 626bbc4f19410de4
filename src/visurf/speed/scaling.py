"""How time grows with the group and with the prompt, packed and padded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visurf.speed.benches import Bench, Plan
from visurf.speed.measure import summary
from visurf.speed.report import machine, versions
from visurf.speed.workloads import scaled_workload

GROUP_SIZES = (2, 4, 8, 16, 32)
PROMPTS = (100, 300, 1000, 3000)
AT_PROMPT, AT_GROUP = 400, 8


def measure_scaling(plan: Plan, groups: Sequence[int] = GROUP_SIZES, prompts: Sequence[int] = PROMPTS) -> dict[str, Any]:
    """Training forward and backward, and sampling, of one group of growing size or with a growing prompt.

    Args:
        plan: Model, repeats, token budget.
        groups: Rollouts of the group, with a prompt of 400 tokens; the label joins in training.
        prompts: Tokens of the prompt, with 8 rollouts.

    Returns:
        What the JSON file holds: one point a size and curve, with tokens and median seconds of both sides.
    """
    bench = Bench(plan)
    points = [_point(bench, "group", g, g, AT_PROMPT) for g in groups]
    points += [_point(bench, "prompt", p, AT_GROUP, p) for p in prompts]
    return {
        "command": plan.command,
        "speedup": points[-1]["training"]["naive"]["median"] / points[-1]["training"]["visurf"]["median"],
        "model": plan.model,
        "rows": points,
        "machine": machine(bench.device),
        "versions": versions(),
    }


def _point(bench: Bench, curve: str, at: int, rollouts: int, prompt: int) -> dict[str, Any]:
    workload = scaled_workload(rollouts, prompt)
    bench.use(workload)
    visurf, naive = bench.visurf, bench.naive
    assert naive is not None
    prompts = visurf.prompts(bench.rounds)
    groups = visurf.replayed(prompts)
    training = bench.alternate(
        {"visurf": lambda number: visurf.train(prompts, groups), "naive": lambda number: naive.train(prompts, groups)}
    )
    sampling = bench.alternate(
        {"visurf": lambda number: visurf.rollout(prompts), "naive": lambda number: naive.generate(prompts, groups)}
    )
    about = bench.report().about
    return {
        "curve": curve,
        "at": at,
        "unique_tokens": about["unique_tokens"],
        "padded_tokens": about["padded_tokens"],
        "sampled_tokens": workload.sampled,
        "training": {side: summary(found.wall) for side, found in training.items()},
        "rollout": {side: summary(found.wall) for side, found in sampling.items()},
    }


def table(found: dict[str, Any]) -> str:
    """What the terminal shows."""
    lines = [f"{found['model']}: seconds, visurf / padded rows and generate", ""]
    lines.append(f"{'':<14} {'unique':>8} {'padded':>8} {'training':>24} {'rollout':>24}")
    for row in found["rows"]:
        parts = []
        for part in ("training", "rollout"):
            mine, theirs = (row[part][side]["median"] for side in ("visurf", "naive"))
            parts.append(f"{mine:.3f} / {theirs:.3f} ({theirs / mine:.1f}x)")
        name = f"{row['curve']} {row['at']}"
        lines.append(f"{name:<14} {row['unique_tokens']:>8} {row['padded_tokens']:>8} {parts[0]:>24} {parts[1]:>24}")
    return "\n".join(lines)


def draw(source: Path, picture: Path) -> None:
    """Draw a JSON file of `measure_scaling`: training above, sampling below, over the group's size and the prompt's length."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    found = json.loads(source.read_text())
    figure, axes = pyplot.subplots(2, 2, figsize=(8, 5.6), sharex="col", layout="constrained")
    for column, (curve, label) in enumerate((("group", "rollouts of a prompt (G)"), ("prompt", "tokens of the prompt"))):
        rows = [r for r in found["rows"] if r["curve"] == curve]
        for axis, part in zip(axes[:, column], ("training", "rollout"), strict=True):
            for side, name, colour in (("naive", "padded rows, generate", "#b04a3a"), ("visurf", "visurf", "#1f6f8b")):
                values = [r[part][side]["median"] for r in rows]
                axis.plot([r["at"] for r in rows], values, "o-", color=colour, label=name, markersize=4)
            axis.set_xscale("log", base=2 if curve == "group" else 10)
            axis.set_yscale("log")
            axis.set_xticks([r["at"] for r in rows], [str(r["at"]) for r in rows], minor=False)
            axis.minorticks_off()
            axis.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
            axis.grid(alpha=0.3)
        axes[1, column].set_xlabel(label)
    axes[0, 0].set_ylabel("training, seconds")
    axes[1, 0].set_ylabel("rollouts, seconds")
    axes[0, 0].legend(frameon=False, fontsize=9)
    here = found["machine"]
    figure.suptitle(
        f"{found['model']}, one group: prompt of {AT_PROMPT} tokens (left), G = {AT_GROUP} (right); {here['device']}", fontsize=9
    )
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
