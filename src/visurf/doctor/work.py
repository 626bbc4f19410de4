"""What an estimate is made of: how much one step computes, and how its numbers are held. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from visurf.config import Config


@dataclass(frozen=True)
class Work:
    """What one step computes.

    Attributes:
        prompts: Of a step, on one process.
        prompt: Tokens of a prompt.
        patches: Rows of the vision tower for a prompt.
        completion: Tokens of a rollout.
        label: Tokens of the label that joins the group; 0 for none.
        rollouts: Of each prompt; 0 where nothing is sampled.
        pixel_bytes: Of a prompt's images, as the network takes them.
        picture_pixels: Of the largest picture before it is resized.
        images: Distinct pictures of the data, for the cache of features.
        features: Image tokens of a prompt.
        mixed: Lengths differ, so that rows are filled to their budget; else they hold whole groups of the given length.
    """

    prompts: int
    prompt: int
    patches: int
    completion: int
    label: int
    rollouts: int
    pixel_bytes: int = 0
    picture_pixels: int = 0
    images: int = 0
    features: int = 0
    mixed: bool = False

    @property
    def group(self) -> int:
        """Tokens of a group in a packed row: the last token of a completion is only ever predicted."""
        return self.prompt + self.rollouts * max(self.completion - 1, 0) + max(self.label - 1, 0)

    @property
    def predicted(self) -> int:
        """Tokens of a group that are scored."""
        return self.rollouts * self.completion + self.label

    def passes(self, budget: int) -> int:
        """Packed rows of a budget of tokens that a group is cut into, as `visurf.packing.split` does; each computes the prompt."""
        sizes = [max(self.completion - 1, 0)] * self.rollouts + [max(self.label - 1, 0)] * (self.label > 0)
        rows, held, used = 1, 0, self.prompt
        for size in sorted(sizes, reverse=True):
            if held and used + size > budget:
                rows, held, used = rows + 1, 0, self.prompt
            held, used = held + 1, used + size
        return rows

    def computed(self, budget: int) -> int:
        """Tokens of a group over all rows that it is cut into: `group`, and the prompt once more for every further row."""
        return self.group + (self.passes(budget) - 1) * self.prompt


@dataclass(frozen=True)
class Precision:
    """Bytes of numbers.

    Attributes:
        weight: Of frozen or trained parameters.
        trained: Of parameters that are trained, their gradients and each of their two moments.
        mixed: Arithmetic is bfloat16 over float32 parameters.
        gpu: The step runs on a GPU, with host memory apart; on a processor weights are copied into oneDNN's layout to sample.
    """

    weight: int = 4
    trained: int = 4
    mixed: bool = False
    gpu: bool = False

    @property
    def low(self) -> int:
        """Of what linear layers give."""
        return 2 if self.mixed or self.weight == 2 else 4


def precision_of(config: Config, *, gpu: bool) -> Precision:
    """How the recipe holds numbers, as `visurf.preparation.prepare_model` and `visurf.precision.is_mixed` decide it."""
    settings, adapters = config.model, config.model.lora.rank > 0
    low = settings.dtype == "bfloat16" or (settings.dtype == "auto" and adapters and gpu)
    mixed = settings.autocast == "on" or (settings.autocast == "auto" and gpu)
    weight = 2 if low else 4
    return Precision(weight, 4 if adapters else weight, mixed and not low, gpu)
