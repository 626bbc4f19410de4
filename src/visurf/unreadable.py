"""Samples that cannot be put to a model when an evaluation comes to them: an error that names them, or a failure that counts."""

from __future__ import annotations

import dataclasses
import logging
from typing import Literal

from visurf.judging import Record, judge
from visurf.models.family import Prompt, VisionLanguageModel
from visurf.scoring import Scorer
from visurf.types import Completion, DataError, Detections, ImageRef, Objects, ParseError, Points, Sample, Size

LOG = logging.getLogger("visurf")
REASON = "unreadable_picture"


def encode(model: VisionLanguageModel, sample: Sample, text: str, on_bad: Literal["error", "skip"]) -> Prompt | ParseError:
    """The prompt of a sample, or why there is none where such are skipped.

    Raises:
        DataError: Names the sample, unless such are skipped.
    """
    try:
        return model.encode_prompt(sample, text)
    except DataError as error:
        problem = str(error) if sample.id in str(error) else f"sample {sample.id}: {error}"
        if on_bad == "error":
            raise DataError(f"{problem}; mend it, or count such samples as failed with data.on_bad_sample=skip") from error
        LOG.warning("counted as failed: %s", problem)
        return ParseError(REASON, problem)


def unanswered(sample: Sample, problem: ParseError, scorer: Scorer) -> Record:
    """The record of a sample that could not be asked: the worst of every measure, so that it stays in the denominator."""
    known = _with_size(sample)
    read = Completion("", (), None, problem)
    return {**judge(known, read, scorer.task, scorer.score(read, known)), "detail": problem.detail}


def _with_size(sample: Sample) -> Sample:
    """The sample with sizes for pictures whose header cannot be read: as small as its truth fits into."""
    return dataclasses.replace(sample, images=tuple(_sized(image, sample) for image in sample.images))


def _sized(image: ImageRef, sample: Sample) -> ImageRef:
    try:
        return dataclasses.replace(image, _size=image.size)
    except DataError:
        return dataclasses.replace(image, _size=_extent(sample))


def _extent(sample: Sample) -> Size:
    target = sample.target
    corners = [box[2:] for box in target.boxes or ()] if isinstance(target, Objects | Detections | Points) else []
    corners += list(target.points) if isinstance(target, Points) else []
    return int(max((x for x, _ in corners), default=0)) + 1, int(max((y for _, y in corners), default=0)) + 1
