"""What is known of a recipe's model without loading it, and without the network: shape, tokenizer, image processor, weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from visurf.config import ModelConfig
from visurf.doctor.published import PUBLISHED
from visurf.models.family import Family, VisionLanguageModel
from visurf.models.loading import FAMILIES, family_of, resolve
from visurf.naming import look_up

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True)
class AtHand:
    """A model as far as it lies on this machine.

    Attributes:
        network: Of the real class, its parameters on the meta device; None for an unknown shape.
        family: None likewise.
        model: With tokenizer and image processor; None where the tokenizer is not there.
        processor: The image processor; None where it is not there.
        weights: Whether the weights lie here.
        missing: What does not, in words; empty where everything does.
    """

    network: Any
    family: Family | None
    model: VisionLanguageModel | None
    processor: Any
    weights: bool
    missing: str

    @property
    def parameters(self) -> int:
        """Of the network; 0 for an unknown shape."""
        return 0 if self.network is None else sum(p.numel() for p in self.network.parameters())

    @property
    def context(self) -> int | None:
        """Tokens that the model was made for."""
        if self.network is None:
            return None
        found = getattr(self.network.config.get_text_config(), "max_position_embeddings", None)
        return int(found) if found else None


def look(settings: ModelConfig) -> AtHand:
    """Find out; nothing is downloaded.

    Raises:
        ValueError: The architecture has no family here.
    """
    folder = resolve(settings.path)
    config = _config(folder)
    if config is None:
        known = PUBLISHED.get(settings.path)
        if known is None:
            missing = f"{settings.path} is not on this machine, and its shape is not among those that ship with visurf"
            return AtHand(None, None, None, None, False, missing)
        network, family = _meta(known.config()), FAMILIES[known.family]
        processor = known.processor(settings.min_pixels, settings.max_pixels)
        missing = f"{settings.path} is not on this machine; its shape is the published one that ships with visurf"
        return AtHand(network, family, None, processor, False, missing)
    chosen = look_up(settings.family, FAMILIES, "model family") if settings.family else family_of(config.model_type)
    network = _meta(config)
    model, processor, missing = None, None, ""
    try:
        model, processor = _with_tokenizer(folder, settings, network, chosen)
    except (OSError, ValueError) as error:
        missing = f"the tokenizer or image processor of {settings.path} is not on this machine ({str(error).splitlines()[0]})"
    weights = model is not None and any(_cached(folder, name) for name in _WEIGHTS)
    if model is not None and not weights:
        missing = f"the weights of {settings.path} are not on this machine"
    return AtHand(network, chosen, model, processor, weights, missing)


def _config(folder: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except OSError:
        return None


def _meta(config: Any) -> Any:
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


def _with_tokenizer(folder: str, settings: ModelConfig, network: Any, family: Family) -> tuple[VisionLanguageModel, Any]:
    from transformers import AutoTokenizer, GenerationConfig

    place = _local(folder)
    tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, local_files_only=True)
    processor = family.load_image_processor(place, settings.min_pixels, settings.max_pixels)
    try:
        network.generation_config = GenerationConfig.from_pretrained(place, local_files_only=True)
    except OSError:
        network.generation_config = None
    return VisionLanguageModel(network, tokenizer, processor, family, settings.path, settings.frame), processor


def _local(folder: str) -> str:
    """The folder that holds a hub name's files on this machine, or the name itself."""
    found = _cached(folder, "config.json")
    return folder if found is None else str(Path(found).parent)


def _cached(folder: str, name: str) -> str | None:
    from transformers.utils import cached_file

    try:
        found: str | None = cached_file(
            folder,
            name,
            local_files_only=True,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError:
        return None
    return found
