"""Model families: loading, prompt rendering and coordinate frames, one file per family.

A family is a plain `Family` value listed in `FAMILIES`, or named by outside code as ``pkg.module:NAME``.
"""

from __future__ import annotations

from visurf.models.family import Family, Prompt, VisionLanguageModel
from visurf.models.loading import FAMILIES, load_model, save_model

__all__ = ["FAMILIES", "Family", "Prompt", "VisionLanguageModel", "load_model", "save_model"]
