"""A trained network as a folder in the hub's layout, adapters merged."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from visurf.models import VisionLanguageModel, load_model, save_model
from visurf.models.quantization import dtype_of, is_quantized


def export(
    model: VisionLanguageModel, network: Any, folder: Path, weights: Mapping[str, Tensor] | None = None, *, untied: bool = False
) -> None:
    """Write a whole model, adapters merged into a copy; the folder appears under its name when it is complete.

    Adapters that were trained on a quantised base are merged into the weights it was quantised from, with a warning: the result is
    near the network that was trained, and not it.

    Args:
        model: Brings tokenizer and image processor, and names the model that adapters stand on.
        network: What was trained, with its adapters if any.
        folder: Replaced.
        weights: The network's tensors (those of the adapters, where it has any) if it does not hold them itself.
        untied: See `visurf.models.save_model`.
    """
    partial = folder.with_name(f".partial-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    if hasattr(network, "peft_config"):
        network, weights = _merged(model, network, weights), None
    save_model(model, network, partial, weights, untied=untied)
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def _merged(model: VisionLanguageModel, network: Any, weights: Mapping[str, Tensor] | None) -> nn.Module:
    from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

    if is_quantized(network):
        warnings.warn(
            "the adapters were trained on a quantised base and are merged into the weights it was quantised from, so the merged "
            "model differs a little from the one that was trained: measure it, or use the adapters on the base quantised alike",
            stacklevel=3,
        )
    base = load_model(model.source, dtype=dtype_of(model.network))
    whole: Any = PeftModel(base.network, network.peft_config["default"])  # type: ignore[arg-type]
    set_peft_model_state_dict(whole, get_peft_model_state_dict(network, state_dict=weights))
    merged: nn.Module = whole.merge_and_unload()
    return merged
