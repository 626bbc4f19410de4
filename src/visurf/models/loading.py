"""Loading a checkpoint by its family, and writing one back in the hub's layout."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from visurf import attention
from visurf.attention.unread import skip_unread
from visurf.linear import use_onednn
from visurf.models.family import Family, VisionLanguageModel
from visurf.models.internvl import INTERNVL
from visurf.models.llava_onevision import LLAVA_ONEVISION
from visurf.models.quantization import Bits, quantization_config
from visurf.models.qwen import QWEN2_5_VL, QWEN2_VL, QWEN3_VL
from visurf.models.smolvlm import SMOLVLM
from visurf.models.writing import write_network
from visurf.naming import look_up
from visurf.patches import use_products
from visurf.sources import check_reachable, model_of, run_of

FAMILIES: dict[str, Family] = {f.name: f for f in (QWEN2_VL, QWEN2_5_VL, QWEN3_VL, INTERNVL, SMOLVLM, LLAVA_ONEVISION)}
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
        "A family file says how images become tensors and text, in which frame coordinates are written, which tokens to ban, "
        "how positions are computed and where the vision tower is: docs/adding-a-family.md has a complete one, and "
        "model.family=path/to/file.py:NAME uses it"
    )


def check_sharing(family: Family, config: Any) -> None:
    """Refuse text layers that a shared prompt would compute wrongly; say what it costs where a family does not share.

    Raises:
        ValueError: The family shares prompts, but the text model's attention is not plain causal attention in every layer.
    """
    if family.unshared:
        warnings.warn(
            f"family {family.name!r} cannot share prompts: {family.unshared}. Every completion runs its whole prompt, in "
            "sampling and in training: about group_size times the prompt tokens, and their memory and time",
            stacklevel=2,
        )
        return
    text = config.get_text_config()
    layers = getattr(text, "layer_types", None)
    kinds = set(layers or ()) - {"full_attention"}
    if not layers and getattr(text, "sliding_window", None):
        kinds.add("sliding_attention")
    if getattr(text, "attn_logit_softcapping", None):
        kinds.add("soft-capped attention")
    if kinds:
        raise ValueError(
            f"family {family.name!r} shares prompts, but this checkpoint's text model has {', '.join(sorted(kinds))} layers; "
            "set `unshared` in its Family to the reason (docs/adding-a-family.md)"
        )


def resolve(source: str | Path) -> str:
    """The folder of a model source: `mini` is the embedded default, of a run's folder it is the model in it."""
    if str(source) == MINI:
        return str(Path(__file__).parents[1] / "mini" / "checkpoint")
    return str(source) if run_of(source) is None else model_of(str(source))


def load_model(  # noqa: PLR0913 - every argument but the first has a default and is a setting of its own
    source: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    weights: Path | None = None,
    family: str = "",
    kernel: str = "auto",
    quantize: Bits = "none",
) -> VisionLanguageModel:
    """Load a checkpoint from a local folder or by hub name.

    Args:
        source: A folder in the hub's layout, the folder of a run, a hub name, or `mini`.
        dtype: Of the parameters.
        device: Where to put them.
        min_pixels: Overrides the image processor's lower pixel limit.
        max_pixels: Overrides the image processor's upper pixel limit.
        weights: A folder to take the network from instead (a training checkpoint); tokenizer and processor stay the source's.
        kernel: How attention over packed rows is computed, see `visurf.kernels`.
        family: A family's name or ``pkg.module:NAME``; empty to go by the checkpoint's `model_type`.
        quantize: How the language model's layers are held, see `visurf.models.quantization`; `dtype` is then that of the rest.

    Raises:
        ValueError: The architecture has no family here, or its attention does not do what the family promises.
            Or the source can only be a path, and no folder is there.
        OSError: The folder or hub name holds no checkpoint.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

    # A checkpoint is data: code that comes with it is refused, not asked about, and weights are read as safetensors only.
    folder = resolve(source)
    check_reachable(folder)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    chosen = look_up(family, FAMILIES, "model family") if family else family_of(config.model_type)
    check_sharing(chosen, config)
    quantised: dict[str, Any] = {}
    if quantize != "none":
        with torch.device("meta"):
            hollow = AutoModelForImageTextToText.from_config(config)
        # Quantised as they are read, on the device; such a network is not moved.
        quantised = {"quantization_config": quantization_config(quantize, hollow), "device_map": {"": device}}
    network: Any = AutoModelForImageTextToText.from_pretrained(
        weights or folder, dtype=dtype, attn_implementation="sdpa", trust_remote_code=False, use_safetensors=True, **quantised
    )
    use_shared_attention(network, chosen, kernel)
    chosen.prepare(network)
    if quantize == "none":
        network.to(device)
    network.eval()
    use_products(network)
    if network.device.type == "cpu":
        use_onednn(network)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    processor = chosen.load_image_processor(folder, min_pixels, max_pixels)
    return VisionLanguageModel(network, tokenizer, processor, chosen, str(source))


def use_shared_attention(network: Any, family: Family, kernel: str = "auto") -> None:
    """Make a network attend as its family asks; `kernel` as in `load_model`."""
    name = attention.register(kernel)
    if not family.unshared:
        skip_unread(network)
        network.set_attn_implementation({"": name, "text_config": name, "vision_config": "sdpa"})
    if family.vision_attention:
        # Set by hand: transformers would look a name with "flash" in it up among installed kernels.
        network.get_submodule(family.vision_module).config._attn_implementation = family.vision_attention


def save_model(
    model: VisionLanguageModel,
    network: Any,
    folder: Path,
    weights: Mapping[str, torch.Tensor] | None = None,
    *,
    untied: bool = False,
) -> None:
    """Write a network with its tokenizer and processor files, so that plain transformers loads the folder.

    Args:
        model: Brings tokenizer and image processor.
        network: What to save: the model's own network, or one with adapters merged.
        folder: Created; files of the same name are replaced.
        weights: The network's tensors where it does not hold them itself.
        untied: Write the output layer's weights once more where they are the embedding's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if untied:
        weights = _untied(network, network.state_dict() if weights is None else weights)
    write_network(network, folder, weights)
    model.tokenizer.save_pretrained(folder)
    model.image_processor.save_pretrained(folder)
    for name in _PROCESSOR_FILES:
        origin = _file_of(model.source, name)
        if origin is not None and not (folder / name).exists():
            # The text alone: the source may be read-only.
            shutil.copyfile(origin, folder / name)
            _drop_image_processor(folder / name)


def _drop_image_processor(file: Path) -> None:
    """Take an image processor's settings out of a processor's: they would win over the file that was written for them."""
    settings = json.loads(file.read_text(encoding="utf-8"))
    if settings.pop("image_processor", None) is not None:
        file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _untied(network: Any, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors with one of its own under every name of the output layer: a safetensors file cannot share one with the embedding."""
    output = network.get_output_embeddings().weight
    names = [name for name, p in network.named_parameters(remove_duplicate=False) if p is output]
    written = next((weights[name] for name in names if name in weights), None)
    return dict(weights) if written is None else {**weights, **{name: written.clone() for name in names}}


def _file_of(source: str, name: str) -> Path | None:
    """A file of a folder or of a repository on the hub, None where it has none."""
    from transformers.utils import cached_file

    try:
        found = cached_file(resolve(source), name)
    except OSError:
        return None
    return Path(found) if found else None
