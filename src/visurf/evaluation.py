"""Evaluation of a model: greedy answers, the parser and geometry of training, one record per sample and never fewer.

What judges answers, whoever gave them, is in `visurf.judging`; predictions of another program are in `visurf.predictions`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from visurf.benchmarks import get_benchmark
from visurf.eligibility import check_choices, comparable
from visurf.judging import (
    Evaluation,
    Record,
    choose_pairs,
    conclude,
    judge,
    load_samples,
    plain,
    summarise,
    task_for,
    unasked,
    write_records,
)
from visurf.metrics.detection import ConfidenceSource
from visurf.metrics.segmentation import Convention
from visurf.models.family import Prompt, VisionLanguageModel
from visurf.packing import Bundle, Scored, build_row
from visurf.policy import Policy
from visurf.predictions import evaluate_predictions
from visurf.rollout.local import Sampling, sample
from visurf.scoring import Scorer
from visurf.small_pictures import illustrate
from visurf.tasks import with_segmenter
from visurf.tasks.segmentation import Segment
from visurf.types import Completion, ParseError, Sample
from visurf.unreadable import encode, unanswered

if TYPE_CHECKING:
    from visurf.config import Config

__all__ = [
    "Evaluation",
    "Record",
    "collect",
    "evaluate_benchmark",
    "evaluate_predictions",
    "option_scores",
    "plain",
    "records",
    "summarise",
    "write_records",
]

ANSWER = "<answer>"
EXISTS = "Is there any {category} in the image? Answer yes or no in <answer> </answer> tags, i.e., <answer>yes</answer>"


def option_scores(
    model: VisionLanguageModel, policy: Policy, prompt: Prompt, options: Sequence[str], prefix: str = ANSWER
) -> list[float]:
    """Log-probs of options at the answer position, whether or not the policy would sample them.

    Args:
        model: Its tokenizer splits the texts.
        policy: Gives the log-probs, those of the sampled distribution, without gradient.
        prompt: The encoded prompt.
        options: Texts; one that begins with another is told from it by what follows.
        prefix: What the policy has written before its answer, up to the answer position.

    Returns:
        The log-prob of each option's tokens given prompt and prefix. Where a token spans the end of the prefix, it belongs
        to the option.

    Raises:
        ValueError: An option adds no token to the prefix.
    """

    def ids(text: str) -> list[int]:
        found: list[int] = model.tokenizer(text, add_special_tokens=False).input_ids
        return found

    sequences = [ids(prefix + option) for option in options]
    shared = _common_start([ids(prefix), *sequences])
    for option, tokens in zip(options, sequences, strict=True):
        if len(tokens) <= shared:
            raise ValueError(f"option {option!r} adds no token to {prefix[-80:]!r}")
    bundle = Bundle(prompt, tuple(Scored(tuple(tokens), number) for number, tokens in enumerate(sequences)))
    row = build_row([bundle], model.family, model.device)
    with torch.no_grad():
        logprobs = policy(row)
    return [float(logprobs[row.member == number][shared:].double().sum()) for number in range(len(options))]


def _common_start(sequences: Sequence[Sequence[int]]) -> int:
    length = 0
    for tokens in zip(*sequences, strict=False):
        if len(set(tokens)) > 1:
            break
        length += 1
    return length


def _answer_position(text: str) -> str:
    """What a completion says up to where its answer begins; the opening tag alone if it never answers."""
    place = text.find(ANSWER)
    return ANSWER if place < 0 else text[: place + len(ANSWER)]


def records(
    model: VisionLanguageModel,
    policy: Policy,
    samples: Sequence[Sample],
    scorer: Scorer,
    prompt: str,
    settings: Sampling,
    batch: int = 64,
    *,
    on_bad: Literal["error", "skip"] = "error",
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
        on_bad: At a sample that cannot be encoded, as where a picture is damaged: `error` raises, `skip` counts it as failed.

    Yields:
        One record per sample, in order; for a task with options also their log-probs behind the model's own reasoning, and
        as ``score`` the first's less the second's.

    Raises:
        DataError: Names the sample that cannot be encoded, unless such are skipped.
    """
    greedy = dataclasses.replace(settings, greedy=True)
    training = policy.training
    policy.eval()
    try:
        for start in range(0, len(samples), batch):
            part = samples[start : start + batch]
            model.read_ahead(samples[start : start + 2 * batch])
            encoded = [encode(model, s, scorer.task.prompt(s, prompt), on_bad) for s in part]
            prompts = [p for p in encoded if isinstance(p, Prompt)]
            answers = iter(sample(policy, model.family, prompts, 1, greedy, model.eos_ids) if prompts else ())
            for one, asked in zip(part, encoded, strict=True):
                if isinstance(asked, ParseError):
                    yield unanswered(one, asked, scorer)
                    continue
                (rollout,) = next(answers)
                text = model.decode(rollout.token_ids)
                completion = Completion(text, rollout.token_ids, None, None, truncated=rollout.truncated)
                read = scorer.read(completion, asked.sample, asked.frame)
                record = judge(asked.sample, read, scorer.task, scorer.score(read, asked.sample))
                if scorer.task.options is not None:
                    first, second = option_scores(model, policy, asked, scorer.task.options, _answer_position(text))
                    record |= {"option_logprobs": [first, second], "score": first - second}
                yield record
    finally:
        policy.train(training)


def collect(found: Iterator[Record], count: int, progress: Callable[[int, int], None] | None = None) -> list[Record]:
    """All records, telling `progress` (done, total) after each."""
    done = []
    for record in found:
        done.append(record)
        if progress is not None:
            progress(len(done), count)
    return done


def evaluate_benchmark(  # noqa: PLR0913 - every argument but the first four has a default and is a setting of its own
    config: Config,
    name: str,
    path: str | Path,
    split: str,
    *,
    out: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    task: str = "",
    options: Mapping[str, Any] | None = None,
    limit: int = 0,
    exist_check: str = "none",
    confidence: ConfidenceSource = "model",
    convention: Convention | None = None,
    segment: Segment | None = None,
    notes: Mapping[str, str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Measure `config.model.path` on a benchmark in its original layout, with the parser and geometry of training.

    Args:
        config: Model, prompt (`task.prompt`), reward and rollout settings; its data and `task.name` are not used.
        name: The benchmark's name.
        path: The data set.
        split: Its split.
        out: Folder for records.jsonl and summary.json, or None.
        progress: Called with (done, total) after every sample.
        task: Another task than the benchmark's.
        options: Further arguments of the benchmark's loader.
        limit: Only so many samples, from the first; 0 for all. The notes then say so.
        exist_check: For detection: which pairs are asked, ``none``, ``oracle``, ``map FILE`` or ``model``, which asks this
            model first and detects only what it says is there. Rule and rate stand in the notes.
        confidence: Where the scores of detections come from; ``log_prob`` is for predictions that bring scores.
        convention: Adds a published mask evaluation's numbers.
        segment: Turns answered boxes and points into masks.
        notes: What else stands beside the numbers.
        resamples: Of the 95 % bootstrap intervals.
        seed: Of the bootstrap.

    Raises:
        DataError: A file or row is wrong.
    """
    # Loading a model belongs to training, which itself evaluates with this module.
    from visurf.precision import autocast
    from visurf.preparation import frozen_policy, make_scorer

    benchmark, root = get_benchmark(name), Path(path)
    samples, about = load_samples(benchmark, root, split, options)
    about |= notes or {}
    if limit and limit < len(samples):
        about["limit"] = f"the first {limit} of {len(samples)} samples"
        samples = samples[:limit]
    chosen = task_for(benchmark, samples, task)
    check_choices(chosen, confidence=confidence, convention=convention, exist_check=exist_check)
    samples, left_out = comparable(samples, chosen)
    about |= left_out
    if segment is not None:
        chosen = with_segmenter(chosen, segment)
    if config.threads:
        torch.set_num_threads(config.threads)
    model, policy = frozen_policy(config, config.model.path)
    settings = config.rollout
    sampling = Sampling(settings.max_tokens, token_budget=settings.token_budget, cuda_graphs=settings.cuda_graphs)

    def exists(pair: Sample) -> bool:
        prompt = encode(model, pair, EXISTS.replace("{category}", pair.question), config.data.on_bad_sample)
        # What cannot be asked here is asked below, where it is counted as failed.
        if isinstance(prompt, ParseError):
            return True
        yes, no = option_scores(model, policy, prompt, ("yes", "no"))
        return yes > no

    with autocast(config, model.device):
        asked: Sequence[Sample] = samples
        if chosen.name == "detection":
            pairs = choose_pairs(samples, exist_check, ask=exists)
            asked = pairs.asked
            about |= {"exist_check": pairs.rule, "exist_check_rate": f"{pairs.rate:.4f}"}
        on_bad, scorer = config.data.on_bad_sample, make_scorer(config, chosen)
        answers = records(model, policy, asked, scorer, config.task.prompt, sampling, on_bad=on_bad)
        answered = {record["id"]: record for record in collect(answers, len(asked), progress)}
    found = [answered[s.id] if s.id in answered else unasked(s, chosen) for s in samples]
    if out is not None:
        # Before anything is computed of them: what was answered is never lost.
        kept = config.recording
        write_records(out / "records.jsonl", illustrate(found, samples, out, int(kept.picture_mb * 2**20), kept.picture_side))
    evaluation = conclude(
        benchmark,
        root,
        split,
        chosen,
        found,
        samples=samples,
        confidence=confidence,
        convention=convention,
        notes=about,
        resamples=resamples,
        seed=seed,
    )
    if out is not None:
        (out / "summary.json").write_text(json.dumps(evaluation.to_dict(), indent=1, allow_nan=False))
    return evaluation
