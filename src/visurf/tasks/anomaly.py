"""Industrial anomalies in two forms: where the defect is (nothing: normal), and whether there is one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from visurf.metrics.ranking import average_precision, roc_auc
from visurf.parsing import yes_or_no
from visurf.tasks import segmentation
from visurf.tasks.referring import REFERRING
from visurf.tasks.task import Metric, Record
from visurf.tasks.yes_no import OPTIONS, YES_NO, truth
from visurf.types import Answer, Objects, Sample, Text

if TYPE_CHECKING:
    from numpy.typing import NDArray

Ranking = Callable[[Sequence[float], Sequence[float]], float]


def _scores(records: Sequence[Record], source: Literal["score", "answer"]) -> list[float]:
    """How anomalous each sample was called: the record's score, or 1 and 0 for its answer.

    A failure ranks as badly as it can: it is never left out, and no choice of a middle value can flatter it.
    """
    given: list[float | None] = [r["measures"]["said"] for r in records]
    # Scores and answers have different scales: one kind serves all records, or the answers do.
    if source == "score" and any(r.get("score") is not None for r in records):
        given = [r.get("score") for r in records]
    known = [float(v) for v in given if v is not None]
    low, high = min(known, default=0.0) - 1, max(known, default=0.0) + 1
    worst = [low if r["measures"]["anomalous"] else high for r in records]
    return [w if v is None else float(v) for v, w in zip(given, worst, strict=True)]


def _ranking(metric: Ranking, source: Literal["score", "answer"]) -> Metric:
    def prepare(records: Sequence[Record]) -> tuple[int, Callable[[NDArray[np.intp]], float]]:
        labels = np.array([int(r["measures"]["anomalous"]) for r in records])
        scores = np.array(_scores(records, source))

        def value(indices: NDArray[np.intp]) -> float:
            chosen = labels[indices]
            # One class alone has no ranking.
            return metric(list(chosen), list(scores[indices])) if chosen.any() and not chosen.all() else math.nan

        return len(records), value

    return Metric(statistic=prepare)


RANKING = {
    "roc_auc": _ranking(roc_auc, "score"),
    "roc_auc_binary": _ranking(roc_auc, "answer"),
    "average_precision": _ranking(average_precision, "score"),
}


def judge(sample: Sample, answer: Answer | None) -> dict[str, float | None]:
    """As `visurf.tasks.segmentation.measure`, and `anomalous`: the truth; `said`: 1 for boxes, 0 for none, None for neither.

    The truth is what a data set says in ``meta["anomalous"]``, and without it whether the target has an object.
    """
    said = float(bool(answer.boxes)) if isinstance(answer, Objects) else None
    found = segmentation.measure(sample, answer)
    known = sample.meta.get("anomalous")
    return {**found, "anomalous": float(known if isinstance(known, bool) else found["n_hit"] is None), "said": said}


def judge_yes_no(sample: Sample, answer: Answer | None) -> dict[str, float | None]:
    """`right`: 1 or 0; `anomalous`: the truth; `said`: 1 for yes, 0 for no, None for neither."""
    word = yes_or_no(answer.text) if isinstance(answer, Text) else None
    said = None if word is None else float(word == "yes")
    anomalous = float(truth(sample) == "yes")
    return {"right": float(said == anomalous), "anomalous": anomalous, "said": said}


ANOMALY = replace(REFERRING, name="anomaly", judge=judge, metrics={**segmentation.METRICS, **RANKING})
ANOMALY_YES_NO = replace(
    YES_NO,
    name="anomaly_yes_no",
    judge=judge_yes_no,
    metrics={**RANKING, "accuracy": Metric("right")},
    headline="roc_auc",
    options=OPTIONS,
)
