"""Counts what a run computes, step by step: tokens and floating-point operations, trained and sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from visurf import accounting, parallel
from visurf.accounting import Passed
from visurf.attention.unread import part_left_out

if TYPE_CHECKING:
    from visurf.models.family import Prompt, VisionLanguageModel
    from visurf.packing import Bundle
    from visurf.rollout.types import Rollout


@dataclass
class Meter:
    """The work of one process in one step; `take` reads it and begins anew.

    Attributes:
        parameters: Of the network, by what passes through them.
        patch_values: Pixel values of one patch of the vision tower; 0 where that is unknown, and the tower is not counted.
        adapters: Whether the language model's own weights stay as they are.
        vision_trained: Whether the vision tower is trained.
        device: Name of the device, as CUDA gives it, or `CPU`.
        trained: Through forward and backward.
        scored: Through a forward pass without gradient.
        sampled: In rollouts: prompts once, and every token drawn.
    """

    parameters: accounting.Parameters
    patch_values: int
    adapters: bool
    vision_trained: bool
    device: str
    trained: Passed = field(default_factory=Passed)
    scored: Passed = field(default_factory=Passed)
    sampled: Passed = field(default_factory=Passed)

    @classmethod
    def of(cls, model: VisionLanguageModel, network: Any, device: torch.device) -> Meter:
        """A meter for a loaded model whose network, adapters included, is `network`, and computes on a device."""
        base = network.get_base_model() if hasattr(network, "get_base_model") else network
        tower: nn.Module = base.get_submodule(model.family.vision_module)
        return cls(
            accounting.count_parameters(base, model.family.vision_module, part_left_out(base)),
            patch_values(base.config),
            base is not network,
            any(p.requires_grad for p in tower.parameters()),
            torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        )

    def patches(self, prompts: Sequence[Prompt]) -> int:
        """Patches that prompts send through the vision tower; none where its features are kept."""
        if not self.patch_values:
            return 0
        pixels = [p.tensors["pixel_values"] for p in prompts if p.features is None and "pixel_values" in p.tensors]
        return sum(t.numel() for t in pixels) // self.patch_values

    def train(self, bundles: Sequence[Bundle]) -> None:
        """A packed row went forward and backward."""
        self._row(self.trained, bundles)

    def score(self, bundles: Sequence[Bundle]) -> None:
        """A packed row went forward, without gradient."""
        self._row(self.scored, bundles)

    def sample(self, prompts: Sequence[Prompt], rollouts: Sequence[Sequence[Rollout]], *, shared: bool) -> None:
        """Rollouts were drawn; with `shared` the prompt ran once for all of its rollouts."""
        for prompt, group in zip(prompts, rollouts, strict=True):
            runs = 1 if shared else len(group)
            drawn = [len(rollout.token_ids) for rollout in group]
            read = runs + sum(max(n - 1, 0) for n in drawn)
            self.sampled.tokens += (len(prompt.token_ids) - 1) * runs + read
            self.sampled.read += read
            self.sampled.predicted += sum(drawn)
            self.sampled.patches += self.patches([prompt]) * runs

    def take(self, seconds: float) -> dict[str, float]:
        """FLOPs of the step over all processes, and the model FLOP utilisation of its training part on a known device.

        Args:
            seconds: What this process's training part took.
        """
        count = self.parameters
        mine = (
            accounting.training_flops(count, self.trained, adapters=self.adapters, vision_trained=self.vision_trained),
            accounting.forward_flops(count, self.scored),
            accounting.forward_flops(count, self.sampled),
            1.0,
        )
        self.trained, self.scored, self.sampled = Passed(), Passed(), Passed()
        training, scoring, sampling, processes = parallel.total(mine)
        found = {"flops/train": training, "flops/score": scoring, "flops/sample": sampling}
        used = accounting.utilisation((training + scoring) / processes, seconds, self.device)
        return found if used is None else {**found, "rate/mfu": used}

    def _row(self, kind: Passed, bundles: Sequence[Bundle]) -> None:
        kind.tokens += sum(bundle.tokens for bundle in bundles)
        kind.read += sum(bundle.tokens - len(bundle.prompt.token_ids) + 1 for bundle in bundles)
        kind.predicted += sum(len(s.token_ids) for bundle in bundles for s in bundle.sequences)
        kind.patches += self.patches([bundle.prompt for bundle in bundles])


def patch_values(config: Any) -> int:
    """Pixel values of one patch, by a checkpoint's configuration: channels x height x width x frames; 0 where it does not say."""
    vision = getattr(config, "vision_config", None)
    size = getattr(vision, "patch_size", 0)
    sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
    return 3 * prod(sides) * getattr(vision, "temporal_patch_size", 1)
