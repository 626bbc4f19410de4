"""A group as one line of a run's files."""

from __future__ import annotations

from typing import Any

from visurf.judging import plain
from visurf.types import Group


def group_row(step: int, group: Group) -> dict[str, Any]:
    """A group as one line of rollouts.jsonl."""
    supervision = group.supervision or (0.0,) * len(group.completions)
    members = [
        {
            "source": c.source,
            "text": c.text,
            "answer": plain(c.answer),
            "error": None if c.error is None else c.error.reason,
            "truncated": c.truncated,
            "parts": dict(s.parts),
            "total": s.total,
            "reward": r,
            "advantage": a,
            "supervision": t,
            "hint": c.hint,
        }
        for c, s, r, a, t in zip(group.completions, group.scores, group.rewards, group.advantages, supervision, strict=True)
    ]
    sample = group.sample
    images = [i.name for i in sample.images]
    about = {"step": step, "id": sample.id, "question": sample.question, "images": images, "size": sample.size}
    return {**about, "target": plain(sample.target), "smoothed": group.smoothed, "members": members}
