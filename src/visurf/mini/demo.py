"""``visurf demo``: post-train the embedded model with every paradigm and show what each learns and forgets."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visurf.config import Config, load_config
from visurf.mini.contact_sheet import draw_sheet
from visurf.terminal import Terminal
from visurf.training import evaluate, train

RECIPE = Path(__file__).with_name("demo.yaml")
PARADIGMS = ("sft", "rlvr", "sft_then_rlvr", "visurf")
# What the validation split chose for each paradigm, with the same budget: docs/results/miniature.md.
LEARNING_RATES = {"sft": 3e-4, "rlvr": 3e-5, "sft_then_rlvr": 3e-5, "visurf": 1e-4}
COLUMNS = ("giou", "n_acc", "box_iou")
HELD_OUT = "world:shifted?count={count}&seed=9001"


def demo(
    out: Path,
    paradigms: Sequence[str] = PARADIGMS,
    seeds: Sequence[int] = (0,),
    overrides: dict[str, Any] | None = None,
    held_out: int = 400,
    mode: str = "auto",
) -> dict[str, Any]:
    """Train, evaluate baseline and results on held-out scenes, write results.json and contact_sheet.png.

    Args:
        out: Folder for the results and the run folders; earlier demo runs in it are replaced.
        paradigms: Which to run.
        seeds: One run each.
        overrides: Nested configuration values over the demo's recipe.
        held_out: Number of held-out prompts.
        mode: Of the terminal, see `visurf.terminal.Terminal`.

    Returns:
        What results.json holds: fractions, means over the seeds, and their standard deviation as ``<metric>_std``.
    """
    out.mkdir(parents=True, exist_ok=True)
    base = load_config(RECIPE, overrides)
    records: dict[str, Path] = {"baseline": out / "evaluations" / "baseline"}
    found: dict[str, list[dict[str, float]]] = {}
    with Terminal(base.steps * len(paradigms) * len(seeds), mode) as terminal:
        baseline = _measure(base, "mini", held_out, records["baseline"])
        found["baseline"] = [{**baseline, "seconds": 0.0}]
        for paradigm in paradigms:
            for seed in seeds:
                name = f"{paradigm}-seed{seed}"
                folder = out / "runs" / name
                shutil.rmtree(folder, ignore_errors=True)
                config = dataclasses.replace(base, paradigm=paradigm, seed=seed, out=str(folder))
                if "lr" not in (overrides or {}).get("optimizer", {}):
                    chosen = dataclasses.replace(config.optimizer, lr=LEARNING_RATES[paradigm])
                    config = dataclasses.replace(config, optimizer=chosen)
                terminal.forget()
                began = time.perf_counter()
                result = train(config, lambda event, name=name: _show(terminal, name, event))  # type: ignore[misc]
                seconds = time.perf_counter() - began
                where = out / "evaluations" / name
                records[paradigm] = where
                found.setdefault(paradigm, []).append({**_measure(config, str(result.model), held_out, where), "seconds": seconds})
    results = {"results": {name: _summary(rows) for name, rows in found.items()}, "seeds": list(seeds), "held_out": held_out}
    (out / "results.json").write_text(json.dumps(results, indent=1))
    last = paradigms[-1] if paradigms else "baseline"
    draw_sheet(records["baseline"] / "records.jsonl", records[last] / "records.jsonl", last, held_out, out / "contact_sheet.png")
    return results


def _measure(config: Config, model: str, held_out: int, folder: Path) -> dict[str, float]:
    chosen = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, path=model),
        data=dataclasses.replace(config.data, validation=HELD_OUT.format(count=held_out)),
        evaluation=dataclasses.replace(config.evaluation, limit=0),
    )
    return evaluate(chosen, folder)


def _show(terminal: Terminal, name: str, event: dict[str, Any]) -> None:
    if event["event"] == "step":
        terminal.step(name, event["metrics"])


def _summary(rows: list[dict[str, float]]) -> dict[str, float]:
    summary = {}
    for key in (*COLUMNS, "thinking", "parse_failed", "seconds"):
        values = [row[key] for row in rows]
        summary[key] = statistics.fmean(values)
        summary[f"{key}_std"] = statistics.stdev(values) if len(values) > 1 else math.nan
    return {k: v for k, v in summary.items() if not math.isnan(v)}


def table(results: dict[str, Any]) -> str:
    """The results as the table that the demo prints."""
    lines = [f"{'paradigm':<15} {'gIoU':>6} {'N-acc':>6} {'box IoU':>8} {'thinking':>9} {'seconds':>8}"]
    for name, row in results["results"].items():
        numbers = f"{row['giou']:>6.3f} {row['n_acc']:>6.3f} {row['box_iou']:>8.3f} {row['thinking']:>9.2f} {row['seconds']:>8.0f}"
        lines.append(f"{name:<15} {numbers}")
    return "\n".join(lines)
