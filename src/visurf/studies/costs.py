"""What a run cost: prompts, optimiser steps, tokens, floating-point operations, seconds. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from visurf.config import Config
from visurf.stages import stages

UNITS = ("samples", "updates", "tokens", "flops", "seconds")


def updates(config: Config) -> int:
    """Optimiser steps of a whole run, over all of its stages."""
    return sum((stage.end - stage.first) * stage.config.inner_steps for stage in stages(config))


def run_costs(rows: Sequence[Mapping[str, Any]], config: Config) -> dict[str, float]:
    """What a run's steps cost in every unit; those of one step where there are no more rows.

    Args:
        rows: Of its metrics.jsonl; `stage` counts stages from 0. `tokens` are those that went through the network in training and
            those sampled; `flops` are left out where the rows do not know them.
        config: Its settings.

    >>> from visurf.config import Config
    >>> run_costs([{"train/tokens": 10, "rate/tokens": 4.0, "time/step": 5.0, "flops/train": 5.0, "flops/sample": 2.0}], Config())
    {'samples': 16.0, 'updates': 1.0, 'tokens': 20.0, 'seconds': 5.0, 'flops': 7.0}
    """
    inner = [stage.config.inner_steps for stage in stages(config)]
    found = {
        "samples": float(len(rows) * config.prompts_per_step),
        "updates": float(sum(inner[row.get("stage", 0)] for row in rows)),
        # The rate counts trained and sampled tokens over the seconds of the step.
        "tokens": float(round(sum(r["rate/tokens"] * r["time/step"] for r in rows))),
        "seconds": float(sum(r["time/step"] for r in rows)),
    }
    if all("flops/train" in r for r in rows):
        found["flops"] = float(sum(value for r in rows for name, value in r.items() if name.startswith("flops/")))
    return found


def cost_per_step(rows: Sequence[Mapping[str, Any]], config: Config) -> dict[str, float]:
    """The mean cost of a step; empty without steps."""
    return {unit: total / len(rows) for unit, total in run_costs(rows, config).items()} if rows else {}
