"""Configuration: frozen dataclasses, filled from YAML and then from ``key=value`` on the command line.

A recipe holds what differs from the defaults. The settings and their meanings stand in `visurf.config.settings`, the values that
can work in `visurf.config.limits`, how recipes are read in `visurf.config.loading`.
"""

from __future__ import annotations

from visurf.config.differences import differences
from visurf.config.limits import ConfigError
from visurf.config.loading import build, load_config, merge, nested, parse_overrides, read_recipe, to_dict
from visurf.config.settings import (
    AdvantageConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    LoraConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    RecordingConfig,
    RewardConfig,
    RolloutConfig,
    ServersConfig,
    StageConfig,
    TaskConfig,
)
from visurf.config.shipped import find_recipe, shipped_recipes

__all__ = [
    "AdvantageConfig",
    "CheckpointConfig",
    "Config",
    "ConfigError",
    "DataConfig",
    "EvaluationConfig",
    "LoraConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "RecordingConfig",
    "RewardConfig",
    "RolloutConfig",
    "ServersConfig",
    "StageConfig",
    "TaskConfig",
    "build",
    "differences",
    "find_recipe",
    "load_config",
    "merge",
    "nested",
    "parse_overrides",
    "read_recipe",
    "shipped_recipes",
    "to_dict",
]
