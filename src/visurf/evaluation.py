"""Evaluation: greedy answers, the parser and geometry of training, one record per sample and never fewer."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from visurf.models.family import VisionLanguageModel
from visurf.policy import Policy
from visurf.rollout.local import Sampling, sample
from visurf.scoring import Scorer
from visurf.tasks.task import Task
from visurf.types import Answer, Completion, Sample

Record = dict[str, Any]


def plain(answer: Answer | None) -> Any:
    """An answer as JSON values, in pixels of the original image; None stays None."""
    if answer is None:
        return None
    return {name: value for name, value in dataclasses.asdict(answer).items() if value is not None}


def judge(sample_: Sample, completion: Completion, scorer: Scorer) -> Record:
    """The record of one read completion: what was asked, said, understood, true, and how right it is."""
    score = scorer.score(completion, sample_)
    return {
        "id": sample_.id,
        "question": sample_.question,
        "text": completion.text,
        "answer": plain(completion.answer),
        "error": None if completion.error is None else completion.error.reason,
        "truncated": completion.truncated,
        "tokens": len(completion.token_ids),
        "target": plain(sample_.target),
        "measures": scorer.task.judge(sample_, completion.answer),
        "reward": {**score.parts, "total": score.total},
    }


def records(
    model: VisionLanguageModel,
    policy: Policy,
    samples: Sequence[Sample],
    scorer: Scorer,
    prompt: str,
    settings: Sampling,
    batch: int = 64,
) -> Iterator[Record]:
    """Answer every sample greedily and judge the answers.

    Args:
        model: Encodes prompts and decodes completions.
        policy: Answers; put into eval mode for the time being.
        samples: What to answer.
        scorer: Reads, judges and rates answers.
        prompt: Prompt template, see `Task.prompt`.
        settings: Length limit and budget; decoding is greedy whatever it says.
        batch: Prompts encoded at a time.

    Yields:
        One record per sample, in order.
    """
    greedy = dataclasses.replace(settings, greedy=True)
    training = policy.training
    policy.eval()
    try:
        for start in range(0, len(samples), batch):
            part = samples[start : start + batch]
            prompts = [model.encode_prompt(s, scorer.task.prompt(s, prompt)) for s in part]
            for asked, (rollout,) in zip(prompts, sample(policy, model.family, prompts, 1, greedy, model.eos_ids), strict=True):
                text = model.decode(rollout.token_ids)
                completion = Completion(text, rollout.token_ids, None, None, truncated=rollout.truncated)
                yield judge(asked.sample, scorer.read(completion, asked.sample, asked.frame), scorer)
    finally:
        policy.train(training)


def summarise(task: Task, found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The task's metrics, the parse-failure and truncation rates, the mean reward and the number of samples."""
    if not found:
        raise ValueError("no records to summarise")
    count = len(found)
    return {
        **task.metrics(found),
        "parse_failed": sum(r["error"] is not None for r in found) / count,
        "truncated": sum(r["truncated"] for r in found) / count,
        "reward": sum(r["reward"]["total"] for r in found) / count,
        "samples": float(count),
    }


def write_records(path: Path, found: Sequence[Mapping[str, Any]]) -> None:
    """One JSON object per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as out:
        for record in found:
            out.write(json.dumps(record, ensure_ascii=False) + "\n")


def collect(found: Iterator[Record], count: int, progress: Callable[[int, int], None] | None = None) -> list[Record]:
    """All records, telling `progress` (done, total) after each."""
    done = []
    for record in found:
        done.append(record)
        if progress is not None:
            progress(len(done), count)
    return done
