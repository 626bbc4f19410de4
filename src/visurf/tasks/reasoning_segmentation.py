"""Reasoning segmentation: what a question implies, answered with boxes and points as in `visurf.tasks.referring`."""

from __future__ import annotations

from dataclasses import replace

from visurf.tasks.referring import REFERRING

REASONING_SEGMENTATION = replace(REFERRING, name="reasoning_segmentation")
