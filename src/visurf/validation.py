"""A model measured on a recipe's validation data, with the parser and geometry of training."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from visurf import evaluation
from visurf.config import Config, ConfigError
from visurf.data import load_data
from visurf.eligibility import check_true_masks
from visurf.naming import look_up
from visurf.precision import autocast
from visurf.preparation import frozen_policy, make_scorer
from visurf.rollout.local import Sampling
from visurf.small_pictures import illustrate
from visurf.tasks import TASKS, with_segmenter
from visurf.tasks.segmentation import Segment
from visurf.whole_files import finite_or_null


def evaluate(
    config: Config,
    out: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    records: Path | None = None,
    segment: Segment | None = None,
) -> dict[str, float]:
    """Measure `model.path` on `data.validation` with the parser and geometry of training.

    Args:
        config: Model, data, task, prompt and reward settings; `evaluation.limit` 0 takes all samples.
        out: Folder for records.jsonl and summary.json, or None.
        progress: Called with (done, total) after every sample.
        records: A file for one verdict per sample, without pictures, or None.
        segment: Turns answered boxes and points into masks; the data must bring true masks.

    Raises:
        ConfigError: `data.validation` is not set.
        DataError: Data that cannot be used, or without the masks that a segmenter's are compared with.
        ValueError: The task's answers cannot become masks.
    """
    if not config.data.validation:
        raise ConfigError("data.validation is not set; name a JSONL file")
    if config.threads:
        torch.set_num_threads(config.threads)
    task = look_up(config.task.name, TASKS, "task")
    data = load_data(config.data.validation, config.data, task)
    if data.skipped:
        warnings.warn(f"{len(data.skipped)} bad rows skipped, the first: {data.skipped[0][1]}", stacklevel=2)
    samples = data.samples[: config.evaluation.limit or None]
    if segment is not None:
        check_true_masks(samples, config.data.validation)
        task = with_segmenter(task, segment)
    model, policy = frozen_policy(config, config.model.path)
    settings = config.rollout
    sampling = Sampling(settings.max_tokens, token_budget=settings.token_budget, cuda_graphs=settings.cuda_graphs)
    scorer = make_scorer(config, task)
    with autocast(config, model.device):
        on_bad = config.data.on_bad_sample
        answers = evaluation.records(model, policy, samples, scorer, config.task.prompt, sampling, on_bad=on_bad)
        found = evaluation.collect(answers, len(samples), progress)
    if records is not None:
        evaluation.write_records(records, found)
    if out is not None:
        kept = config.recording
        shown = illustrate(found, samples, out, int(kept.picture_mb * 2**20), kept.picture_side)
        evaluation.write_records(out / "records.jsonl", shown)
    summary = evaluation.summarise(task, found)
    if out is not None:
        (out / "summary.json").write_text(json.dumps(finite_or_null(summary), indent=1, allow_nan=False))
    return summary
