"""Groups as rows of rollouts.jsonl: everything a person needs to understand what one group taught."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from visurf.advantages import is_flat
from visurf.control import Controls
from visurf.judging import plain
from visurf.scoring import Scorer
from visurf.segmenter import Segmenter
from visurf.small_pictures import mask_runs, target_masks
from visurf.types import Completion, DataError, Detections, Group, Masks, Objects, Sample


def group_row(step: int, group: Group, scorer: Scorer, controls: Controls) -> dict[str, Any]:
    """A group as one line of rollouts.jsonl, without the names of its pictures.

    Args:
        step: The step that it belongs to, counted from 1.
        group: With advantages.
        scorer: Its task measures the answers; its segmenter, where the reward has one, draws their masks.
        controls: Those that acted.
    """
    sample, index = group.sample, group.label_index
    members = [_member(group, i, scorer) for i in range(len(group.completions))]
    masks = target_masks(sample)
    row: dict[str, Any] = {
        "step": step,
        "id": sample.id,
        "question": sample.question,
        "images": [image.name for image in sample.images],
        "size": sample.size,
        "target": plain(sample.target),
        "smoothed": group.smoothed,
        "zero_variance": group.zero_variance,
        "rescued": is_rescued(group),
        "members": members,
    }
    if masks:
        row["target_masks"] = masks
    if index is not None:
        row["controls"] = _acted(group, index, scorer, controls)
    return row


def is_rescued(group: Group) -> bool:
    """Whether all rollouts earned the same, and only the label brought a signal."""
    index = group.label_index
    if not index:
        return False
    return is_flat(group.rewards[:index]) and bool(group.advantages[index] or sum(group.supervision))


def _member(group: Group, index: int, scorer: Scorer) -> dict[str, Any]:
    completion, score = group.completions[index], group.scores[index]
    found = {
        "source": completion.source,
        "text": completion.text,
        "answer": plain(completion.answer),
        "error": None if completion.error is None else completion.error.reason,
        "truncated": completion.truncated,
        "tokens": len(completion.token_ids),
        "parts": dict(score.parts),
        "total": score.total,
        "reward": group.rewards[index],
        "advantage": group.advantages[index],
        "supervision": group.supervision[index] if group.supervision else 0.0,
        "hint": completion.hint,
        "measures": scorer.task.judge(group.sample, completion.answer),
    }
    masks = _masks(group.sample, completion, scorer.segmenter)
    return {**found, "masks": masks} if masks else found


def _masks(sample: Sample, completion: Completion, segmenter: Segmenter | None) -> list[Mapping[str, Any]]:
    """The masks of an answer: its own, or those that the reward's segmenter draws from its boxes."""
    answer = completion.answer
    if isinstance(answer, Masks):
        return [mask_runs(mask) for mask in answer.load()]
    if segmenter is None or completion.source == "label" or not isinstance(answer, Objects | Detections):
        return []
    points = answer.points if isinstance(answer, Objects) else None
    try:
        return [mask_runs(mask) for mask in segmenter.segment(sample.images[0], answer.boxes, points)]
    except DataError:
        return []


def _acted(group: Group, index: int, scorer: Scorer, controls: Controls) -> dict[str, Any]:
    """What each control did to the label of a group."""
    label = group.completions[index]
    thinking = [name for name, part in scorer.parts.items() if part.about == "thinking"]
    return {
        "aligned": controls.align,
        "eliminated": thinking if controls.eliminate and not label.has_reasoning else [],
        "own_reasoning": label.has_reasoning,
        "smoothed": group.smoothed,
        "before_smoothing": group.scores[index].total,
        "best_rollout": max(group.rewards[:index], default=None),
    }
