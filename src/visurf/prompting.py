"""Samples become prompts and labels; what makes a sample unusable in the middle of a run is found here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from visurf.models.family import Prompt, VisionLanguageModel
from visurf.types import Completion, DataError, Sample

LOG = logging.getLogger("visurf")


@dataclass
class Prompting:
    """Encodes the samples of each step.

    Attributes:
        model: Encodes prompts.
        template: (sample) -> the user's turn.
        label: (prompt) -> its label, or None where the paradigm has none.
        on_bad_sample: `error` raises at an unusable sample, `skip` leaves it out of its step.
        most: Tokens that a rollout may have; 0 where nothing is sampled.
        skipped: Id and problem of the samples that were left out of the last step.
    """

    model: VisionLanguageModel
    template: Callable[[Sample], str]
    label: Callable[[Prompt], Completion | None]
    on_bad_sample: Literal["error", "skip"] = "error"
    most: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    _warned: bool = False

    def encode(self, samples: Sequence[Sample]) -> tuple[list[Prompt], list[Completion | None]]:
        """Prompts and labels of the samples that can be used, in order.

        Raises:
            DataError: Names the sample that cannot, unless such are skipped.
        """
        prompts, labels = [], []
        self.skipped = []
        for sample in samples:
            try:
                prompt = self.model.encode_prompt(sample, self.template(sample))
                label = self.label(prompt)
                self._check_length(prompt, label)
            except DataError as error:
                problem = str(error) if sample.id in str(error) else f"sample {sample.id}: {error}"
                if self.on_bad_sample == "error":
                    hint = "mend it and give the same command, or leave such samples out with data.on_bad_sample=skip"
                    raise DataError(f"{problem}; {hint}") from error
                LOG.warning("skipped: %s", problem)
                self.skipped.append((sample.id, problem))
                continue
            prompts.append(prompt)
            labels.append(label)
        return prompts, labels

    def _check_length(self, prompt: Prompt, label: Completion | None) -> None:
        """Refuse what the model cannot see in whole; a rollout that would leave the context is worth a warning."""
        context, name = self.model.context, prompt.sample.id
        if context is None:
            return
        asked, answered = len(prompt.token_ids), len(label.token_ids) if label is not None else 1
        if asked + answered > context:
            what = f"its prompt of {asked} tokens" + (f" and its label of {answered}" if label is not None else "")
            raise DataError(f"sample {name}: {what} exceed the model's context of {context} tokens; lower model.max_pixels")
        if asked + self.most > context and not self._warned:
            self._warned = True
            LOG.warning(
                "sample %s: its prompt of %d tokens and a rollout of up to %d may leave the model's context of %d; lower "
                "model.max_pixels or rollout.max_tokens",
                name,
                asked,
                self.most,
                context,
            )
