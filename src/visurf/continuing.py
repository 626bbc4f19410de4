"""Whether a run that goes on is the run that was begun: the same settings, the same samples in the same order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from visurf.config import Config, ConfigError, differences, load_config, to_dict
from visurf.types import Sample
from visurf.whole_files import write_whole

# What may change when a run goes on: it decides how long, how fast and how closely watched, not what is learnt.
_FREE = (
    "out",
    "threads",
    "trackers",
    "checkpoint",
    "evaluation",
    "recording",
    "tokens_per_microbatch",
    "parallel",
    "process_timeout",
    "steps",
)
_FREE_WITHIN = (
    ("data", "validation"),
    ("data", "workers"),
    ("data", "on_bad_sample"),
    ("optimizer", "max_skipped"),
    ("model", "feature_cache_mb"),
    ("model", "gradient_checkpointing"),
    ("model", "offload"),
    ("model", "attention"),
    ("rollout", "token_budget"),
    ("rollout", "cuda_graphs"),
    ("rollout", "whole_model"),
    ("rollout", "servers"),
)


def check_same_run(config: Config, out: Path, stage_count: int) -> None:
    """Refuse to go on with other settings than a run began with, which would mix two experiments in one folder.

    Raises:
        ConfigError: Names the first setting that differs.
    """
    if not (out / "config.yaml").is_file():
        return
    before, now = to_dict(load_config(out / "config.yaml")), to_dict(config)
    for values in (before, now):
        for section, name in _FREE_WITHIN:
            values[section].pop(name)
    # With several stages the steps say where one ends.
    free = _FREE if stage_count == 1 else _FREE[:-1]
    for what, was, asked in (d for n in now if n not in free for d in differences(before[n], now[n], n)):
        raise ConfigError(f"{out} holds a run with {what}: {was!r}, asked is {asked!r}; choose another out=, or go on unchanged")


def in_first_order(out: Path, samples: Sequence[Sample], *, begun: bool, may_miss: bool) -> tuple[Sample | None, ...]:
    """The samples in the places that they had when the run began, which decide what each step holds.

    Args:
        out: The run folder; `remember_order` wrote the ids there.
        samples: As they were read now.
        begun: Whether the run goes on.
        may_miss: Leave the places of samples that are no longer there empty.

    Raises:
        ConfigError: Samples are new, in another order, or missing though they may not.
    """
    path = out / "samples.json"
    if not begun or not path.is_file():
        return tuple(samples)
    before, now = json.loads(path.read_text()), [s.id for s in samples]
    if before == now:
        return tuple(samples)
    missing = set(before) - set(now)
    if [name for name in before if name not in missing] != now:
        new = [name for name in now if name not in set(before)]
        what = f"sample {new[0]!r} is new" if new else "samples stand in another order"
        raise ConfigError(f"data.train is not what the run in {out} began with: {what}; put it back, or choose another out=")
    if not may_miss:
        raise ConfigError(
            f"data.train is not what the run in {out} began with: {len(missing)} samples are missing, such as {min(missing)!r}; "
            "put them back, or set data.on_bad_sample=skip to go on without them"
        )
    present = {s.id: s for s in samples}
    return tuple(present.get(name) for name in before)


def remember_order(out: Path, samples: Sequence[Sample]) -> None:
    """Write down which samples a run begins with."""
    write_whole(out / "samples.json", json.dumps([s.id for s in samples]))
