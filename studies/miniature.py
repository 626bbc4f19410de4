"""Run the protocol of miniature.yaml: tune on the validation split, then evaluate the final runs once on held-out scenes.

    python studies/miniature.py --out runs/miniature [--workers 2]

Every run is resumable and skipped when it is done. Results go to OUT/results.json and OUT/table.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from visurf.metrics import bootstrap_interval

HERE = Path(__file__).parent
RECIPE = HERE.parent / "src" / "visurf" / "mini" / "demo.yaml"


def run(out: Path, paradigm: str, seed: int, lr: float, steps: int, protocol: dict[str, Any], source: str) -> dict[str, Any]:
    """Train and evaluate one model in a process of its own; returns its summary with the training seconds."""
    done = out / "evaluation" / "summary.json"
    if not done.exists():
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        common = [f"data.train={protocol['world']['train']}", "data.validation=", "threads=1", f"optimizer.lr={lr}"]
        name = [f"paradigm={paradigm}", f"seed={seed}", f"steps={steps}", f"out={out}"]
        visurf = [sys.executable, "-m", "visurf"]
        subprocess.run([*visurf, "train", str(RECIPE), "--quiet", *common, *name], env=environment, check=True)
        measure = ["eval", str(out / "model"), source, "--recipe", str(RECIPE), "--out", str(out / "evaluation"), "--quiet"]
        subprocess.run([*visurf, *measure, "threads=1"], env=environment, check=True, stdout=subprocess.DEVNULL)
    summary = json.loads(done.read_text())
    seconds = json.loads((out / "summary.json").read_text())["seconds"]
    return {"paradigm": paradigm, "seed": seed, "lr": lr, "steps": steps, **summary, "seconds": seconds, "folder": str(out)}


def measure_base(out: Path, source: str) -> dict[str, Any]:
    """The embedded model on the held-out scenes."""
    if not (out / "summary.json").exists():
        command = [sys.executable, "-m", "visurf", "eval", "mini", source, "--recipe", str(RECIPE), "--out", str(out), "--quiet"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return {"paradigm": "baseline", **json.loads((out / "summary.json").read_text()), "folder": str(out)}


def interval(rows: list[dict[str, Any]], measure: str) -> tuple[float, float]:
    """Bootstrap over held-out prompts of a measure averaged over seeds (95 %)."""
    columns = []
    for row in rows:
        folder = Path(row["folder"])
        path = next(p for p in (folder / "evaluation" / "records.jsonl", folder / "records.jsonl") if p.exists())
        columns.append([json.loads(line)["measures"][measure] for line in path.read_text().splitlines()])
    values = np.array(columns, dtype=float).mean(axis=0)
    found = bootstrap_interval(values[np.isfinite(values)].tolist(), seed=0)
    return found.low, found.high


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, their standard deviation, and intervals over prompts."""
    summary: dict[str, Any] = {"runs": len(rows), "steps": rows[0].get("steps", 0), "lr": rows[0].get("lr")}
    for name in ("giou", "n_acc", "t_acc", "box_iou", "thinking", "parse_failed", "seconds"):
        values = [row[name] for row in rows if name in row]
        if values:
            summary[name] = float(np.mean(values))
            summary[f"{name}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    for name, measure in (("giou", "giou"), ("n_acc", "n_hit"), ("box_iou", "box_iou")):
        summary[f"{name}_interval"] = interval(rows, measure)
    return summary


def table(title: str, results: dict[str, Any]) -> str:
    """One Markdown table."""
    head = "| paradigm | lr | steps | gIoU | N-acc | T-acc | box IoU | reasons | seconds |\n|---|---|---|---|---|---|---|---|---|"
    lines = [f"**{title}**\n", head]
    for name, r in results.items():
        cells = [name, f"{r['lr']:g}" if r["lr"] else "-", str(r["steps"] or "-")]
        for key in ("giou", "n_acc", "t_acc", "box_iou", "thinking"):
            spread = r.get(f"{key}_std")
            cells.append(f"{r[key]:.3f}" + (f" ± {spread:.3f}" if spread is not None else ""))
        cells.append(f"{r['seconds']:.0f}" if "seconds" in r else "-")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Tuning, final runs, equal compute."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/miniature"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tune-only", action="store_true", help="stop before the held-out scenes are opened")
    options = parser.parse_args()
    protocol = yaml.safe_load((HERE / "miniature.yaml").read_text())
    worlds, steps, names = protocol["world"], protocol["steps"], protocol["paradigms"]
    with ThreadPoolExecutor(options.workers) as pool:

        def all_of(jobs: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
            return [f.result() for f in [pool.submit(run, *job) for job in jobs]]

        seed, rates = protocol["tuning"]["seed"], protocol["tuning"]["optimizer.lr"]
        tuning = all_of(
            [
                (options.out / "tuning" / f"{p}-{lr:g}", p, seed, lr, steps, protocol, worlds["validation"])
                for p in names
                for lr in rates
            ]
        )
        best = {p: max((r for r in tuning if r["paradigm"] == p), key=lambda r: r["giou"]) for p in names}
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "tuning.json").write_text(json.dumps(tuning, indent=1))
        for row in tuning:
            sys.stdout.write(
                f"{row['paradigm']:<14} {row['lr']:<8g} gIoU {row['giou']:.3f} N-acc {row['n_acc']:.3f} box {row['box_iou']:.3f}\n"
            )
        if options.tune_only:
            return
        target = best["visurf"]["seconds"]
        longer = {p: max(50, round(steps * target / best[p]["seconds"] / 50) * 50) for p in protocol["equal_compute"]}
        base = measure_base(options.out / "baseline", worlds["held_out"])
        final = all_of(
            [
                (options.out / "steps" / f"{p}-seed{s}", p, s, best[p]["lr"], steps, protocol, worlds["held_out"])
                for p in names
                for s in protocol["seeds"]
            ]
        )
        compute = all_of(
            [
                (options.out / "compute" / f"{p}-seed{s}", p, s, best[p]["lr"], longer[p], protocol, worlds["held_out"])
                for p in protocol["equal_compute"]
                for s in protocol["seeds"]
                if longer[p] != steps
            ]
        )
    at_steps = {"baseline": summarise([base])} | {p: summarise([r for r in final if r["paradigm"] == p]) for p in names}
    at_compute = {}
    for p in names:
        rows = [r for r in compute if r["paradigm"] == p] or [r for r in final if r["paradigm"] == p]
        at_compute[p] = summarise(rows)
    results = {"protocol": protocol, "tuning": tuning, "equal_steps": at_steps, "equal_compute": at_compute}
    (options.out / "results.json").write_text(json.dumps(results, indent=1))
    text = table("Equal steps", at_steps) + "\n\n" + table("Equal compute", at_compute) + "\n"
    (options.out / "table.md").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
