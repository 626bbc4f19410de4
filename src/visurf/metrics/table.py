"""The average of ViSurf's main table."""

from __future__ import annotations

import math
from collections.abc import Mapping

VISURF_TABLE_COLUMNS = (
    "gRefCOCO gIoU",
    "gRefCOCO N-Acc",
    "ReasonSeg val gIoU",
    "ReasonSeg test gIoU",
    "OmniACT Acc",
    "Real-IAD ROC-AUC",
    "ISIC2018 Bbox_Acc",
    "MathVista Acc",
)


def visurf_average(columns: Mapping[str, float]) -> float:
    """Plain mean of the eight columns of `VISURF_TABLE_COLUMNS`, all in percent; the result is in percent.

    Raises:
        ValueError: A column is missing, unknown or outside 0 to 100.

    Source: ViSurf (arXiv 2510.10606), Table 1.
    """
    odd = sorted(set(columns) ^ set(VISURF_TABLE_COLUMNS))
    if odd:
        raise ValueError(f"columns missing or unknown: {odd}; the average is over exactly eight")
    outside = [name for name, value in columns.items() if not 0 <= value <= 100]
    if outside:
        raise ValueError(f"columns outside 0 to 100 percent: {outside}")
    if all(value <= 1 for value in columns.values()) and any(columns.values()):
        raise ValueError("every column is at most 1: these look like fractions, and the table is in percent")
    return math.fsum(columns.values()) / len(columns)
