"""Vision features of a tower that is not trained: computed once per picture, kept between steps and epochs.

They go where pixels would: the network takes what its tower gave (`mm_encoder_outputs`), with the same result and the same
gradients of everything behind the tower.
"""

from __future__ import annotations

import inspect
import logging
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from visurf.types import Sample

if TYPE_CHECKING:
    from visurf.models.family import EncodedImages, Family, Prompt

LOG = logging.getLogger("visurf")

# What networks read of their tower's output; the second is Qwen3-VL's.
FIELDS = ("pooler_output", "deepstack_features")


@dataclass(frozen=True)
class ImageFeatures:
    """What the tower gave for one prompt's images: tensors, or lists of them, by the name of the output's field."""

    fields: Mapping[str, Any]

    @property
    def bytes(self) -> int:
        """Memory they take."""
        return sum(t.numel() * t.element_size() for t in _tensors(list(self.fields.values())))


def _tensors(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [t for part in value for t in _tensors(part)]


def _to(value: Any, device: torch.device | str) -> Any:
    return value.to(device) if isinstance(value, Tensor) else [_to(part, device) for part in value]


def _joined(parts: Sequence[Any]) -> Any:
    """One output of several: tensors along their first dimension, lists of images one after the other, layers each by itself."""
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))
    if parts[0] and not isinstance(parts[0][0], Tensor):
        return [_joined(layer) for layer in zip(*parts, strict=True)]
    return [image for part in parts for image in part]


def image_inputs(family: Family, prompts: Sequence[Prompt], device: torch.device | str) -> dict[str, Any]:
    """What a network's forward takes of the images of several prompts, in order: features where they are known, else pixels.

    Raises:
        ValueError: Some prompts bring features and some bring pixels.
    """
    pixels = [p for p in prompts if p.tensors and p.features is None]
    features = [p.features.fields for p in prompts if p.features is not None]
    if not features:
        return {name: tensor.to(device) for name, tensor in family.merge_tensors([p.tensors for p in prompts]).items()}
    if pixels:
        raise ValueError(f"{len(features)} prompts of a row bring features, {len(pixels)} bring pixels; encode all of them alike")
    joined = {name: _to(_joined([f[name] for f in features]), device) for name in features[0]}
    return {"mm_encoder_outputs": {"image": SimpleNamespace(**joined)}}


@torch.no_grad()
def compute_features(network: Any, tensors: Mapping[str, Tensor]) -> ImageFeatures:
    """Run the tower on one prompt's images; the features lie in host memory."""
    function = network.model.get_image_features
    names = inspect.signature(function).parameters
    given = {name: tensor.to(network.device) for name, tensor in tensors.items() if name in names}
    output = function(**given, return_dict=True)
    return ImageFeatures({name: _to(value, "cpu") for name in FIELDS if (value := getattr(output, name, None)) is not None})


def image_parameters(network: Any) -> list[nn.Parameter]:
    """The parameters that vision features depend on: all of the backbone but the language model's."""
    language = {id(p) for p in network.get_decoder().parameters()}
    return [p for p in network.model.parameters() if id(p) not in language]


def obstacle(network: Any) -> str:
    """What keeps a network from taking features of a tower that is not trained; empty where nothing does."""
    if "mm_encoder_outputs" not in inspect.signature(network.model.forward).parameters:
        return f"{type(network).__name__} of this version of transformers takes pixels only"
    if any(type(p) is not nn.Parameter for p in image_parameters(network)):
        return "the vision tower is shared out over processes"
    return ""


class FeatureCache:
    """Encoded images with their features, up to a number of bytes; the least recently used leave first.

    Attributes:
        limit: Bytes.
        bytes: Held now.
        hits: Prompts whose images were found, since the last report.
        misses: Prompts whose images had to be encoded, likewise.
    """

    def __init__(self, limit: int) -> None:
        """An empty cache."""
        self.limit, self.bytes, self.hits, self.misses = limit, 0, 0, 0
        self._held: OrderedDict[Hashable, tuple[EncodedImages, int]] = OrderedDict()
        self._usable: bool | None = None

    def usable(self, network: Any) -> bool:
        """Whether the network's features are worth keeping and can be; says once why they cannot."""
        if self._usable is None:
            trained = any(p.requires_grad for p in image_parameters(network))
            reason = "" if trained else obstacle(network)
            self._usable = not trained and not reason
            if reason:
                LOG.warning("vision features are not kept, the tower runs in every pass: %s", reason)
        return self._usable

    def get(self, key: Hashable) -> EncodedImages | None:
        """What is held under a key."""
        if key not in self._held:
            self.misses += 1
            return None
        self.hits += 1
        self._held.move_to_end(key)
        return self._held[key][0]

    def __contains__(self, key: Hashable) -> bool:
        """Whether something is held under a key; this is no use of it."""
        return key in self._held

    def put(self, key: Hashable, encoded: EncodedImages, network: Any) -> EncodedImages:
        """Compute the features of encoded images, drop their pixels, and hold the result if there is room for it."""
        features = compute_features(network, encoded.tensors)
        kept = {name: tensor for name, tensor in encoded.tensors.items() if not name.startswith("pixel_")}
        result = replace(encoded, tensors=kept, features=features)
        if features.bytes <= self.limit:
            self._held[key] = (result, features.bytes)
            self.bytes += features.bytes
        while self.bytes > self.limit:
            _, (_, size) = self._held.popitem(last=False)
            self.bytes -= size
        return result

    def report(self) -> dict[str, float]:
        """Share of hits since the last report, and MiB held; nothing where the cache was not asked."""
        asked = self.hits + self.misses
        if not asked:
            return {}
        found = {"rate/features_kept": self.hits / asked, "rate/features_mb": self.bytes / 2**20}
        self.hits = self.misses = 0
        return found


def image_key(sample: Sample) -> Hashable:
    """What tells a sample's images from others: where they lie and when they were written, or their content."""
    return tuple(image.identity() for image in sample.images)
