"""Which arithmetic a network computes in."""

from __future__ import annotations

import torch

from visurf.config import Config


def autocast(config: Config, device: torch.device) -> torch.autocast:
    """Mixed precision where the configuration and the device have it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=is_mixed(config, device))


def is_mixed(config: Config, device: torch.device) -> bool:
    """Whether arithmetic is bfloat16 over parameters of another precision."""
    wanted = config.model.autocast
    return wanted == "on" or (wanted == "auto" and device.type == "cuda")
