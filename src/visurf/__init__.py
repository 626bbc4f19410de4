"""ViSurf: supervised and reinforcement fine-tuning of vision-language models in one stage.

Everything here is imported when it is first used, so ``import visurf`` is quick and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "Answer": "visurf.types",
    "Completion": "visurf.types",
    "Config": "visurf.config",
    "ConfigError": "visurf.config",
    "Controls": "visurf.control",
    "DataError": "visurf.types",
    "Detections": "visurf.types",
    "Family": "visurf.models",
    "Frame": "visurf.geometry",
    "Group": "visurf.types",
    "ImageRef": "visurf.types",
    "ObjectiveConfig": "visurf.config",
    "Objects": "visurf.types",
    "PARADIGMS": "visurf.paradigms",
    "Paradigm": "visurf.paradigms",
    "ParseError": "visurf.types",
    "Points": "visurf.types",
    "RewardError": "visurf.scoring",
    "Sample": "visurf.types",
    "Score": "visurf.types",
    "Scorer": "visurf.scoring",
    "TASKS": "visurf.tasks",
    "Task": "visurf.tasks",
    "evaluate": "visurf.training",
    "form_group": "visurf.groups",
    "group_advantages": "visurf.advantages",
    "load_config": "visurf.config",
    "load_data": "visurf.data",
    "load_model": "visurf.models",
    "smooth": "visurf.control",
    "token_terms": "visurf.objective",
    "train": "visurf.training",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("visurf")
        except PackageNotFoundError:
            return "0+unknown"
    if name not in _PUBLIC:
        raise AttributeError(f"module 'visurf' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
