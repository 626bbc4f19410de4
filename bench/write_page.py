"""Write docs/results/speed.md from the measured JSON files, so that no number is typed: ``python bench/write_page.py``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results" / "speed.md"
RESULTS = ROOT / "bench" / "results"
PICTURES = ROOT / "docs" / "results" / "speed"
MODELS = ("tiny", "mid", "3b", "7b")
TITLES = {"step": "Whole step and training", "rollout": "Rollouts", "memory": "Peak memory of training"}
INTRODUCTION = """\
# Speed and memory

What `visurf bench` measured: workloads of fixed sizes, random weights, all sides in turn in one process. `naive` is padded rows and
transformers' `generate`, `trl` is GRPOTrainer of TRL 1.16.0; both do the same step with the same completions, and their losses are
checked against visurf's. What is compared, how lengths are kept equal, and why the ratio to TRL is overstated on a CPU:
[bench/README.md](../../bench/README.md). Ratios are medians of ratios taken round by round, with their range; those of user time
leave out what the system does for the process, which is mostly to zero memory that was given back and is taken anew.

This page is written by `python bench/write_page.py` from the JSON files in [bench/results](../../bench/results).
"""


def span(value: Mapping[str, float], form: str = "{:.2f}") -> str:
    """A median with its range."""
    return f"{form.format(value['median'])} ({form.format(value['min'])}-{form.format(value['max'])})"


def time_row(row: Mapping[str, Any], *, cuda: bool) -> str:
    """One line of a table of times."""
    ratio = span(row["speedup"]) if "speedup" in row else ""
    # On a GPU it only says how busy the host was.
    by_user = span(row["user_speedup"]) if "user_speedup" in row and not cuda else ""
    extra = []
    if row.get("mfu") is not None:
        extra.append(f"MFU {row['mfu']:.1%}")
    if row.get("floor_seconds"):
        extra.append(f"floor {row['floor_seconds']:.3f} s")
    if row.get("skipped"):
        extra.append(f"{row['skipped']:.0%} of the sequences left out")
    rate = f"{row['tokens_per_second']:,.0f}"
    cells = [row["what"], row["side"], span(row["seconds"], "{:.3f}"), rate, ratio, by_user, ", ".join(extra)]
    return f"| {' | '.join(cells)} |"


def memory_row(row: Mapping[str, Any]) -> str:
    """One line of a table of peaks."""
    ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
    return f"| {row['what']} | {row['side']} | {row['mib']:,.0f} | {ratio} |"


def section(found: Mapping[str, Any]) -> list[str]:
    """The tables of one JSON file."""
    about, here, versions = found["workload"], found["machine"], found["versions"]
    sizes = f"{about['padded_tokens']:,} padded tokens, {about['unique_tokens']:,} unique; prompts of {about['prompt_tokens']}, "
    sizes += f"completions of {about['completion_tokens']} tokens."
    lines = [sizes, "", "```console", f"$ {found['command']}", "```", ""]
    if "mib" in found["rows"][0]:
        lines += ["| | side | MiB | ratio |", "|---|---|---|---|", *(memory_row(r) for r in found["rows"])]
    else:
        heads = ["", "side", "seconds", "tokens/s", "ratio", "of user time", ""]
        lines += [f"| {' | '.join(heads)} |".replace("  ", " "), "|---" * len(heads) + "|"]
        lines += [time_row(row, cuda="CUDA" in here["device"] or "NVIDIA" in here["device"]) for row in found["rows"]]
    named = ", ".join(f"{name} {version}" for name, version in versions.items() if name != "visurf")
    notes = [
        *found["notes"],
        f"{here['device']}, {here['threads']} threads of {here['processors']} processors, load {here['load']}; {named}",
    ]
    return [*lines, "", *(f"- {note}" for note in notes), ""]


def page() -> str:
    """The whole page."""
    lines = [INTRODUCTION]
    for model in MODELS:
        for what in TITLES:
            for path in sorted(RESULTS.glob(f"{what}-{model}*.json")):
                found = json.loads(path.read_text())
                lines += [f"## {TITLES[what]}: {path.stem.removeprefix(f'{what}-')}", "", *section(found)]
    for path in sorted(PICTURES.glob("*.png")):
        found = json.loads(path.with_suffix(".json").read_text())
        text = "Training and sampling of one group: padded rows pay the prompt once per rollout, packed rows once."
        lines += [
            f"## Growth: {found['model']}",
            "",
            text,
            "",
            f"![seconds over group size and prompt length](speed/{path.name})",
            "",
        ]
        lines += ["```console", f"$ {found['command']}", "```", ""]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
