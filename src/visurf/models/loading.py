"""Loading a checkpoint by its family, and writing one back in the hub's layout."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from visurf import attention
from visurf.models.family import Family, VisionLanguageModel
from visurf.models.qwen import QWEN2_5_VL, QWEN2_VL
from visurf.naming import look_up

FAMILIES: dict[str, Family] = {f.name: f for f in (QWEN2_VL, QWEN2_5_VL)}
MINI = "mini"
_PROCESSOR_FILES = ("processor_config.json", "video_preprocessor_config.json", "chat_template.json")


def family_of(model_type: str) -> Family:
    """The family that serves a config's `model_type`.

    Raises:
        ValueError: None does; the message says what a family file needs.
    """
    for family in FAMILIES.values():
        if model_type in family.model_types:
            return family
    raise ValueError(
        f"no model family for model_type {model_type!r}; known: {sorted(t for f in FAMILIES.values() for t in f.model_types)}. "
        "A family file says how images become placeholders, which frame its coordinates use, which tokens to ban and how "
        "positions are computed: see src/visurf/models/qwen.py for a complete one"
    )


def resolve(source: str | Path) -> str:
    """The folder of a model source; `mini` is the embedded default."""
    return str(Path(__file__).parents[1] / "mini" / "checkpoint") if str(source) == MINI else str(source)


def load_model(
    source: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    weights: Path | None = None,
    family: str = "",
    kernel: str = "auto",
) -> VisionLanguageModel:
    """Load a checkpoint from a local folder or by hub name.

    Args:
        source: A folder in the hub's layout, a hub name, or `mini`.
        dtype: Of the parameters.
        device: Where to put them.
        min_pixels: Overrides the image processor's lower pixel limit.
        max_pixels: Overrides the image processor's upper pixel limit.
        weights: A folder to take the network from instead (a training checkpoint); tokenizer and processor stay the source's.
        kernel: How attention over packed rows is computed, see `visurf.kernels`.
        family: A family's name or ``pkg.module:NAME``; empty to go by the checkpoint's `model_type`.

    Raises:
        ValueError: The architecture has no family here.
        OSError: The folder or hub name holds no checkpoint.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

    folder = resolve(source)
    config = AutoConfig.from_pretrained(folder)
    chosen = look_up(family, FAMILIES, "model family") if family else family_of(config.model_type)
    name = attention.register(kernel)
    implementation: Any = {"": name, "text_config": name, "vision_config": "sdpa"}
    network: Any = AutoModelForImageTextToText.from_pretrained(weights or folder, dtype=dtype, attn_implementation=implementation)
    if chosen.vision_attention:
        # Set afterwards: on the way in, transformers would look a name with "flash" in it up among installed kernels.
        network.get_submodule(chosen.vision_module).config._attn_implementation = chosen.vision_attention
    network.to(device)
    network.eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = chosen.load_image_processor(folder, min_pixels, max_pixels)
    return VisionLanguageModel(network, tokenizer, processor, chosen, str(source))


def save_model(model: VisionLanguageModel, network: Any, folder: Path) -> None:
    """Write a network with its tokenizer and processor files, so that plain transformers loads the folder.

    Args:
        model: Brings tokenizer and image processor.
        network: What to save: the model's own network, or one with adapters merged.
        folder: Created; files of the same name are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    network.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    model.image_processor.save_pretrained(folder)
    origin = Path(resolve(model.source))
    for name in _PROCESSOR_FILES:
        if (origin / name).is_file() and not (folder / name).exists():
            shutil.copy(origin / name, folder / name)
