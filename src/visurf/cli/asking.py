"""The settings under which a command asks a model: of a run's folder they are the run's own, unless a recipe is named."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visurf.config import Config


def asked_config(options: argparse.Namespace, values: Mapping[str, Any]) -> Config:
    """The recipe, then the model and what the command itself sets, then ``key=value``.

    Args:
        options: With `model`, `recipe` (None for none, or that of the run whose folder the model is) and `override`.
        values: Nested settings of the command.

    Raises:
        ConfigError: A setting cannot be used.
        ValueError: There is no such folder, or no model in it.
    """
    from visurf.config import load_config, merge, parse_overrides
    from visurf.sources import model_of, run_of

    run = run_of(options.model)
    recipe = run / "config.yaml" if run is not None and options.recipe is None else options.recipe
    asked = merge({"model": {"path": model_of(options.model)}}, values)
    return load_config(recipe, merge(asked, parse_overrides(options.override)))
