"""What images become for the model: tokens and frame, asked of the real image processor with a blank picture of their size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from visurf.doctor.at_hand import AtHand
from visurf.geometry import Frame
from visurf.types import Sample, Size


@dataclass(frozen=True)
class Layout:
    """What the images of a prompt become.

    Attributes:
        expansions: See `visurf.models.family.EncodedImages`.
        extents: Likewise.
        features: Tokens that stand for image features.
        patches: Rows that run through the vision tower's layers.
        pixel_bytes: Host memory of the pixels as the network takes them.
    """

    expansions: tuple[str, ...]
    extents: tuple[tuple[float, float], ...]
    features: int
    patches: int
    pixel_bytes: int


class Layouts:
    """Layouts by the sizes of a prompt's images; each combination is computed once."""

    def __init__(self, at_hand: AtHand, frame: tuple[float, float] | None) -> None:
        """Take a model; `frame` is the recipe's own coordinate frame, where it has one."""
        self.at_hand, self.frame = at_hand, frame
        self._known: dict[tuple[Size, ...], Layout | None] = {}
        # Why the image processor refuses images of some sizes.
        self.refused: dict[tuple[Size, ...], str] = {}

    def of(self, sizes: Sequence[Size]) -> Layout | None:
        """The layout of images of these sizes; None where the image processor is not known, or refuses them."""
        key = tuple(sizes)
        if self.at_hand.processor is None or self.at_hand.family is None:
            return None
        if key not in self._known:
            try:
                self._known[key] = self._encode(key)
            except (ValueError, ZeroDivisionError) as error:  # such as a picture 300 times wider than high
                self._known[key], self.refused[key] = None, str(error)
        return self._known[key]

    def _encode(self, sizes: tuple[Size, ...]) -> Layout:
        if not sizes:
            return Layout((), (), 0, 0, 0)
        family = self.at_hand.family
        assert family is not None
        found = family.encode_images(self.at_hand.network, self.at_hand.processor, [Image.new("RGB", size) for size in sizes])
        pixels = sum(t.numel() * t.element_size() for n, t in found.tensors.items() if n.startswith("pixel_"))
        features = sum(text.count(family.image_token) for text in found.expansions)
        return Layout(found.expansions, found.extents, features, rows_of_tower(found.tensors, self.at_hand.network), pixels)

    def frame_of(self, sample: Sample) -> Frame | None:
        """The coordinate frame for a sample's first image, None where it is not known."""
        if not sample.images:
            return Frame((1000.0, 1000.0), (1000, 1000))
        size = sample.size
        if self.frame is not None:
            return Frame(self.frame, size)
        layout = self.of([image.size for image in sample.images])
        return None if layout is None else Frame(layout.extents[0], size)


def rows_of_tower(tensors: Any, network: Any) -> int:
    """Rows of the vision tower: one per patch, whether the processor gives patches or tiles."""
    pixels = tensors["pixel_values"]
    if pixels.ndim == 2:
        return int(pixels.shape[0])
    patch = getattr(network.config.vision_config, "patch_size", 14)
    sides = patch if isinstance(patch, list | tuple) else (patch, patch)
    tiles = pixels.shape[:-3].numel()
    return int(tiles * (pixels.shape[-2] // sides[0]) * (pixels.shape[-1] // sides[1]))
