"""What is measured: prompts of given sizes, completions of given lengths, rewards that decide what may be skipped.

Pictures are new in every step, lengths and rewards are not: a step is the same work every time. Lengths are ragged in a fixed way,
and both sides of a comparison get the same ones.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from visurf.geometry import Frame
from visurf.tasks.task import Part, RewardSettings, Task
from visurf.types import Completion, ImageRef, Sample, Size, Text

PATCH = 28  # pixels of one image token, on each side


@dataclass(frozen=True)
class GroupPlan:
    """One group's sizes.

    Attributes:
        images: Width and height of its prompt's pictures, in pixels.
        words: Of its question.
        rollouts: Tokens of each sampled completion, its end included.
        label: Tokens of the label, its end included.
        signal: What the rewards are like: `spread` (all differ, the label's is the highest), `smoothed` (a rollout reaches the
            label, whose advantage is then 0), `flat` (all equal, every advantage 0).
    """

    images: tuple[Size, ...]
    words: int
    rollouts: tuple[int, ...]
    label: int
    signal: str = "spread"


@dataclass(frozen=True)
class Workload:
    """One optimiser step's groups."""

    name: str
    groups: tuple[GroupPlan, ...]

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest sampled completion."""
        return max(n for g in self.groups for n in g.rollouts)

    @property
    def sampled(self) -> int:
        """Tokens sampled in a step."""
        return sum(n for g in self.groups for n in g.rollouts)

    @property
    def members(self) -> int:
        """Rollouts of each group.

        Raises:
            ValueError: They differ.
        """
        (found,) = {len(g.rollouts) for g in self.groups}
        return found

    def samples(self, step: int, vocabulary: int) -> list[Sample]:
        """The samples of one step; its number seeds pictures and words."""
        return [self._sample(step, i, plan, vocabulary) for i, plan in enumerate(self.groups)]

    def _sample(self, step: int, index: int, plan: GroupPlan, vocabulary: int) -> Sample:
        rng = np.random.default_rng((step, index))
        images = tuple(
            ImageRef(Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))) for width, height in plan.images
        )
        words = [" ".join(f"w{i}" for i in rng.integers(0, min(vocabulary, 200), n)) for n in (plan.words, plan.label - 1)]
        meta = {"signal": plan.signal, "lengths": plan.rollouts}
        return Sample(f"{step}-{index}", images, words[0], Text(words[1]), meta=meta)


class Ends:
    """A random stream whose rollout ends after a given number of tokens and not before.

    Rollouts are drawn by inverting the cumulative distribution in the vocabulary's order, and the end is the first word there: 0
    draws it, and a number above its probability does not. Whoever uses it checks that the lengths came out.
    """

    def __init__(self, length: int, seed: int) -> None:
        """End with token number `length`."""
        self.length, self.seed = length, seed

    def random(self, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """`count` numbers in [0, 1)."""
        draws = np.random.default_rng(self.seed).uniform(0.2, 1.0, count)
        draws[self.length - 1 : self.length] = 0.0
        return draws


def reward(token_ids: Sequence[int], signal: str, *, is_label: bool) -> float:
    """A reward that depends on nothing but the tokens, so that every side gives the same.

    Args:
        token_ids: Of the completion.
        signal: See `GroupPlan`.
        is_label: Whether it is the label.
    """
    if signal == "flat":
        return 0.5
    if is_label:
        return 1.25 if signal == "spread" else 0.0
    return zlib.crc32(np.asarray(token_ids, dtype=np.int64).tobytes()) / 2**32


def _parts(settings: RewardSettings) -> dict[str, Part]:
    def replayed(completion: Completion, sample: Sample) -> float:
        ids = completion.token_ids
        return reward(ids, sample.meta["signal"], is_label=completion.source == "label")

    return {"replayed": Part(replayed, 1.25, "accuracy")}


def _label_text(target: Text, frame: Frame, align: bool) -> str:
    return target.text


TASK = Task(
    name="speed",
    prompts={"plain": "{question}"},
    default_prompt="plain",
    target=Text,
    label_text=_label_text,
    parse=lambda text, sample, frame: Text(text),
    parts=_parts,
    judge=lambda sample, answer: {},
    metrics={},
)


# Shares of groups in `visurf demo --paradigm visurf`, all 200 steps, seed 0: bench/results/demo_signals.json.
DEMO_SIGNALS = {"flat": 0.165, "smoothed": 0.5875}


def evenly(low: int, high: int, count: int) -> list[int]:
    """So many lengths from low to high, evenly spread, in a fixed shuffled order."""
    values = np.rint(np.linspace(low, high, count)).astype(int)
    return [int(v) for v in np.random.default_rng(0).permutation(values)]


def _blocks(*sizes: tuple[int, int]) -> tuple[Size, ...]:
    """Picture sizes from image tokens on each side."""
    return tuple((w * PATCH, h * PATCH) for w, h in sizes)


def _many(name: str, prompts: Sequence[tuple[tuple[int, int], int]], count: int, tokens: tuple[int, int, int]) -> Workload:
    """Groups of 8 rollouts and a label.

    Args:
        name: Of the workload.
        prompts: Image tokens on each side of its picture, and words of its question; taken in turn.
        count: Groups.
        tokens: Of the shortest rollout, of the longest, of the label.
    """
    low, high, label = tokens
    lengths = evenly(low, high, 8 * count)
    chosen = itertools.islice(itertools.cycle(prompts), count)
    groups = [GroupPlan(_blocks(grid), words, tuple(lengths[8 * i : 8 * i + 8]), label) for i, (grid, words) in enumerate(chosen)]
    return Workload(name, tuple(groups))


def like_the_demo(workload: Workload) -> Workload:
    """The same sizes with the signals of `DEMO_SIGNALS`, shared out over the groups."""
    count = len(workload.groups)
    flat = round(DEMO_SIGNALS["flat"] * count)
    smoothed = round(DEMO_SIGNALS["smoothed"] * count)
    signals = ["flat"] * flat + ["smoothed"] * smoothed + ["spread"] * (count - flat - smoothed)
    groups = (replace(group, signal=signal) for group, signal in zip(workload.groups, signals, strict=True))
    return Workload(f"{workload.name}, rewards as in the demo", tuple(groups))


_TINY = ((8, 8), 19), ((7, 8), 20), ((9, 7), 20), ((8, 7), 19), ((6, 10), 19), ((12, 5), 19), ((8, 6), 19), ((7, 7), 19)


def workload_for(model: str, length: int = 0, groups: int = 0) -> Workload:
    """The workload that goes with a model's shape.

    Args:
        model: A name of `visurf.speed.shapes.SHAPES`.
        length: Longest completion of the large models; 0 for 128.
        groups: Prompts of a step; 0 for the model's own number.
    """
    match model:
        case "smoke":
            return _many("smoke", (((3, 2), 4), ((2, 2), 6)), groups or 2, (4, 8, 5))
        case "tiny":  # 8 groups of 9: 9936 padded tokens, 3386 unique
            return _many("tiny", _TINY, groups or 8, (32, 48, 29))
        case "mid":  # 1 group of 9, prompt of 400: 4410 padded tokens, 1116 unique
            return _many("mid", (((20, 18), 33), ((18, 20), 33)), groups or 1, (76, 90, 61))
        case _:
            longest, count = length or 128, groups or 2
            lengths = evenly(longest * 2 // 3, longest, 8 * count)
            pictures: tuple[Size, ...] = ((640, 640), (1280, 960))
            plans = [GroupPlan(pictures, 100, tuple(lengths[8 * i : 8 * i + 8]), longest // 2) for i in range(count)]
            return Workload(f"{model}-{longest}", tuple(plans))


def scaled_workload(rollouts: int, prompt: int, length: int = 48) -> Workload:
    """One group with a prompt of about so many tokens, most of them of one picture.

    Args:
        rollouts: Of the group; the label joins.
        prompt: Tokens, at least 40.
        length: Longest completion; the shortest has two thirds of it.
    """
    side = max(int((prompt * 0.8) ** 0.5), 1)
    words = prompt - side * side - 7  # the chat template and the picture's two brackets
    lengths = tuple(evenly(length * 2 // 3, length, rollouts))
    return Workload(f"G={rollouts}, prompt {prompt}", (GroupPlan(_blocks((side, side)), words, lengths, length // 2),))
