"""What a model family has to provide, and a loaded model with its tokenizer and image processor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn

from visurf.geometry import Frame
from visurf.models.features import FeatureCache, ImageFeatures, image_key
from visurf.models.read_ahead import ReadAhead
from visurf.types import DataError, Sample, Size


@dataclass(frozen=True)
class Prompt:
    """One sample's prompt, ready for the model.

    Attributes:
        sample: Where it comes from.
        token_ids: Image placeholders expanded.
        position_ids: (axes, P) int64.
        next_position: Where a completion continues, on every axis.
        tensors: The family's own tensors (pixel values, grids), opaque to everything else.
        frame: The coordinate frame the model speaks for the sample's first image.
        features: What the vision tower makes of the images, where that is known; `tensors` then hold no pixels.
    """

    sample: Sample
    token_ids: tuple[int, ...]
    position_ids: Tensor
    next_position: int
    tensors: Mapping[str, Tensor]
    frame: Frame
    features: ImageFeatures | None = None


@dataclass(frozen=True)
class EncodedImages:
    """Images of one prompt.

    Attributes:
        tensors: Keyword arguments that the network's forward takes beside the tokens.
        expansions: For each image, the text that its placeholder becomes: one token per feature, and whatever marks the family
            writes around them.
        extents: For each image, width and height of the coordinate frame.
        features: See `Prompt.features`.
    """

    tensors: Mapping[str, Tensor]
    expansions: tuple[str, ...]
    extents: tuple[tuple[float, float], ...]
    features: ImageFeatures | None = None


def plain_positions(network: Any, token_ids: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """(1, P) positions of a network that counts tokens."""
    return torch.arange(token_ids.shape[1]).unsqueeze(0)


def concatenate(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors of several prompts joined along their first dimension; prompts without images bring none."""
    present = [p for p in parts if p]
    return {name: torch.cat([p[name] for p in present]) for name in (present[0] if present else {})}


def as_it_is(network: Any) -> None:
    """A network that needs nothing."""


@dataclass(frozen=True)
class Family:
    """A family of vision-language models.

    Attributes:
        name: Its name.
        model_types: `model_type` values of the checkpoints' config.json.
        load_image_processor: (checkpoint folder or hub name, min_pixels, max_pixels) -> image processor.
        encode_images: (network, image processor, upright RGB images) -> `EncodedImages`.
        image_token: The placeholder that the chat template writes once per image.
        banned_tokens: Tokens a policy must not sample, because the next forward pass would look for their pixels.
        vision_module: Dotted path of the vision tower inside the network, for freezing.
        positions: (network, token ids (1, P), tensors) -> (axes, P) position ids.
        merge_tensors: Joins the tensors of several prompts into those of one forward call, in order.
        vision_attention: Registered attention of the vision tower; empty for transformers' own.
        unshared: Why a prompt's completions cannot share its row, such as attention that is not causal. Training and sampling
            then run the prompt once per completion through the network's own attention. Empty where they can.
        prepare: (network) -> None: what a loaded network needs before its first pass.
    """

    name: str
    model_types: tuple[str, ...]
    load_image_processor: Callable[[str | Path, int | None, int | None], Any]
    encode_images: Callable[[Any, Any, Sequence[Image]], EncodedImages]
    image_token: str
    banned_tokens: tuple[str, ...]
    vision_module: str
    positions: Callable[[Any, Tensor, Mapping[str, Tensor]], Tensor] = plain_positions
    merge_tensors: Callable[[Sequence[Mapping[str, Tensor]]], dict[str, Tensor]] = concatenate
    vision_attention: str = ""
    unshared: str = ""
    prepare: Callable[[Any], None] = as_it_is


@dataclass
class VisionLanguageModel:
    """A loaded model.

    Attributes:
        network: Its transformers network.
        tokenizer: With a chat template.
        image_processor: As the family loads it.
        family: What its checkpoints have in common.
        source: Where it was loaded from.
        frame: Width and height of the coordinate frame it speaks, where that is not the family's.
        features: Keeps vision features, where they do not change; None to run the tower in every pass.
        ahead: Reads images in the background; None to read them when they are needed.
    """

    network: nn.Module
    tokenizer: Any
    image_processor: Any
    family: Family
    source: str
    frame: tuple[float, float] | None = None
    features: FeatureCache | None = None
    ahead: ReadAhead | None = None

    def __post_init__(self) -> None:
        """Look the special token ids up once, and how the chat template opens and ends an answer."""
        generation = getattr(self.network, "generation_config", None)
        eos = getattr(generation, "eos_token_id", None)
        if eos is None:
            eos = self.tokenizer.eos_token_id
        self.eos_ids: tuple[int, ...] = tuple(eos) if isinstance(eos, list | tuple) else (int(eos),)
        self.opening, self.end_of_turn = "", int(self.tokenizer.eos_token_id)
        if self.end_of_turn not in self.eos_ids:
            self.eos_ids = (self.end_of_turn, *self.eos_ids)
        if self.tokenizer.chat_template:
            self._read_template()
        unknown = self.tokenizer.unk_token_id
        ids = {t: self.tokenizer.convert_tokens_to_ids(t) for t in (*self.family.banned_tokens, self.family.image_token)}
        self.banned_ids: tuple[int, ...] = tuple(sorted({i for i in ids.values() if i is not None and i != unknown}))
        self.image_id = int(ids[self.family.image_token])

    @property
    def device(self) -> torch.device:
        """Where the network's parameters live."""
        return next(self.network.parameters()).device

    @property
    def context(self) -> int | None:
        """Tokens that the network was made for; None where its configuration does not say."""
        found = getattr(self.network.config.get_text_config(), "max_position_embeddings", None)  # type: ignore[union-attr, operator]
        return int(found) if found else None

    def encode_prompt(self, sample: Sample, text: str) -> Prompt:
        """Render a sample's prompt with the chat template and encode its images.

        Args:
            sample: Its images come first, in order; a sample without images is a text prompt.
            text: The user's turn, without image placeholders.

        Raises:
            DataError: An image cannot be read, or the text holds a reserved token.
        """
        reserved = [t for t in (self.family.image_token, *self.family.banned_tokens) if t in text]
        if reserved:
            raise DataError(f"sample {sample.id}: the question holds the reserved token {reserved[0]!r}; remove it")
        content: list[dict[str, str]] = [{"type": "image"} for _ in sample.images]
        content.append({"type": "text", "text": text})
        rendered = self._render([{"role": "user", "content": content}], add_generation_prompt=True)
        pieces = rendered.split(self.family.image_token)
        if len(pieces) != len(sample.images) + 1:
            raise DataError(
                f"sample {sample.id}: the chat template wrote {len(pieces) - 1} image placeholders for "
                f"{len(sample.images)} images; the checkpoint's chat template does not fit family {self.family.name!r}"
            )
        sizes: list[Size] = [image.size for image in sample.images]
        encoded = self._images(sample)
        expanded = pieces[0] + "".join(e + piece for e, piece in zip(encoded.expansions, pieces[1:], strict=True))
        # Llama's tokenizer adds the token that opens a text, unless the chat template has written it.
        opened = bool(self.tokenizer.bos_token) and rendered.startswith(self.tokenizer.bos_token)
        ids = self.tokenizer(expanded, add_special_tokens=not opened).input_ids
        positions = self.family.positions(self.network, torch.tensor([ids]), encoded.tensors)
        frame = Frame(self.frame or encoded.extents[0], sizes[0]) if sizes else Frame((1000.0, 1000.0), (1000, 1000))
        return Prompt(sample, tuple(ids), positions, int(positions.max()) + 1, encoded.tensors, frame, encoded.features)

    def read_ahead(self, samples: Sequence[Sample]) -> None:
        """Begin to read the images of samples whose prompts will be asked for next."""
        if self.ahead is None:
            return
        cache = self.features if self.features is not None and self.features.usable(self.network) else None
        self.ahead.start([s for s in samples if s.images and (cache is None or image_key(s) not in cache)], self._read)

    def _read(self, sample: Sample) -> EncodedImages:
        images = [image.load() for image in sample.images]
        for reference, image in zip(sample.images, images, strict=True):
            if image.size != reference.size:
                was = "{} x {}".format(*reference.size)
                raise DataError(
                    f"image {reference.name}: {image.width} x {image.height} pixels, but {was} when the data was read; "
                    "its coordinates no longer hold"
                )
        try:
            return self.family.encode_images(self.network, self.image_processor, images)
        except (ValueError, ArithmeticError, LookupError) as error:
            sizes = ", ".join(f"{image.name} of {image.size[0]} x {image.size[1]}" for image in sample.images)
            raise DataError(f"image {sizes} pixels: the model's image processor cannot take it ({error})") from error

    def _images(self, sample: Sample) -> EncodedImages:
        """A sample's images for the network, read before, kept or read now."""
        if not sample.images:
            return EncodedImages({}, (), ())
        read = self._read if self.ahead is None else partial(self.ahead.take, read=self._read)
        if self.features is None or not self.features.usable(self.network):
            return read(sample)
        key = image_key(sample)
        return self.features.get(key) or self.features.put(key, read(sample), self.network)

    def kept(self) -> dict[str, float]:
        """Share of prompts since the last call whose vision features were kept from before, and memory of all that are kept."""
        return {} if self.features is None else self.features.report()

    def encode_completion(self, text: str, where: str = "completion") -> tuple[int, ...]:
        """Token ids of a completion, ended by the end-of-turn token.

        Args:
            text: Without its opening and its end.
            where: Where it comes from, for the message.

        Raises:
            DataError: The text holds a token that the policy cannot write, whose log-prob would be minus infinity.
        """
        ids = self.tokenizer(self.opening + text, add_special_tokens=False).input_ids
        reserved = sorted(set(ids) & {*self.banned_ids, *self.eos_ids})
        if reserved:
            names = self.tokenizer.convert_ids_to_tokens(reserved)
            raise DataError(f"{where}: the text holds the reserved token {names[0]!r}; remove it from {text[:200]!r}")
        return (*ids, self.end_of_turn)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of a completion without its opening and its end-of-turn token; other special tokens stay visible."""
        ids = list(token_ids)
        if ids and ids[-1] in self.eos_ids:
            ids = ids[:-1]
        text = str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        return text.removeprefix(self.opening)

    def _read_template(self) -> None:
        """Find the blanks before an answer, which the policy writes too, and the token after it."""
        asked = [{"role": "user", "content": [{"type": "text", "text": "Q"}]}]
        answered = [*asked, {"role": "assistant", "content": [{"type": "text", "text": "ANSWER"}]}]
        prompt, whole = self._render(asked, add_generation_prompt=True), self._render(answered, add_generation_prompt=False)
        before, _, after = whole.partition("ANSWER")
        blanks = before.removeprefix(prompt)
        if before.startswith(prompt) and blanks.isspace():
            self.opening = blanks
        ids = self.tokenizer(after, add_special_tokens=False).input_ids
        if ids and ids[0] in self.eos_ids:
            self.end_of_turn = int(ids[0])

    def _render(self, messages: list[dict[str, Any]], *, add_generation_prompt: bool) -> str:
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt))
