"""A base model whose language layers are held in 4 or 8 bits while adapters on them are trained.

Source: Dettmers et al., "QLoRA", arXiv 2305.14314; the arithmetic is that of bitsandbytes, through transformers.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import nn

Bits = Literal["none", "4bit", "8bit"]


def check_quantization(bits: Bits, device: torch.device) -> None:
    """Refuse a quantised base where it cannot be had.

    Raises:
        ValueError: There is no CUDA device, or bitsandbytes is not installed.
    """
    if bits == "none":
        return
    if device.type != "cuda":
        raise ValueError(
            f"model.lora.quantize: {bits} needs a CUDA device, and the model goes to {device.type!r}; "
            "set model.lora.quantize: none, or run it on a GPU"
        )
    if find_spec("bitsandbytes") is None:
        raise ValueError(
            f"model.lora.quantize: {bits} needs bitsandbytes, which is not installed; "
            "pip install -e '.[quantize]' in a clone of visurf, or set model.lora.quantize: none"
        )


def quantization_config(bits: Bits, hollow: nn.Module) -> Any:
    """What transformers is told; None for no quantisation.

    4 bits are normal floats (nf4) with scales that are themselves quantised; products are computed in bfloat16.

    Args:
        bits: The setting ``model.lora.quantize``.
        hollow: The network, its parameters on the meta device; says what is left as it is.
    """
    from transformers import BitsAndBytesConfig

    if bits == "none":
        return None
    skipped = left_whole(hollow)
    if bits == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=skipped,
    )


def left_whole(hollow: Any) -> list[str]:
    """Names of the linear layers that are not quantised: all but those of the language model's layers.

    These are the vision tower, what projects its features, and the output embeddings, which may share their matrix with the input
    embeddings. A name's dots are escaped, since transformers reads it as a regular expression.
    """
    inside = {id(module) for module in hollow.get_decoder().modules()}
    names = [name for name, module in hollow.named_modules() if isinstance(module, nn.Linear) and id(module) not in inside]
    return [name.replace(".", r"\.") for name in names]


def is_quantized(network: Any) -> bool:
    """Whether a network, or the one under its adapters, was loaded so."""
    base = network.get_base_model() if hasattr(network, "get_base_model") else network
    return getattr(base, "quantization_method", None) is not None


def dtype_of(network: Any) -> torch.dtype:
    """The floating type that a network was loaded in, which is that of its input embeddings.

    Other parameters may be of another type: quantised layers are held as integers, and a frozen vision tower in the type that it
    computes in (`visurf.sharding`).
    """
    found: torch.dtype = network.get_input_embeddings().weight.dtype
    return found
