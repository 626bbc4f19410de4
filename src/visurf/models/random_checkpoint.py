"""Write a tiny random checkpoint in the hub's file layout: ``python -m visurf.models.random_checkpoint qwen2_5_vl DIR``.

For trying recipes, tests and continuous integration without downloading anything: the real classes and files (config, safetensors,
byte-level tokenizer, chat template, preprocessor), a few hundred thousand random parameters.
"""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from visurf.models.random_architectures import ARCHITECTURES, Architecture
from visurf.naming import look_up

CORPUS = (
    'Please find "the dog on the left" with bboxs and points. Output the thinking process in <think> </think> and final answer '
    'in <answer> </answer> tags. [{"bbox_2d": [10,100,200,210], "point_2d": [30,110]}] If nothing in the image matches, answer '
    "with an empty list. Compare the difference between object(s) and find the most closely matched object(s)."
)


def byte_level_tokenizer(architecture: Architecture) -> Any:
    """A byte-level tokenizer with a few merges and the family's special tokens; any text round-trips."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=list(architecture.special), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([CORPUS] * 4, trainer)
    padding = architecture.special[0]
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=padding,
        eos_token=architecture.end,
        additional_special_tokens=[t for t in architecture.special if t not in (padding, architecture.end)],
        extra_special_tokens=dict(architecture.named),
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = architecture.chat_template
    return fast


def build_network(architecture: Architecture, tokenizer: Any, seed: int = 0) -> Any:
    """A random network of the real class.

    Args:
        architecture: Its sizes.
        tokenizer: Its special tokens and size go into the configuration.
        seed: Of the weights.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText

    values = architecture.config(tokenizer.convert_tokens_to_ids)
    values["text_config"] = {
        **values["text_config"],
        "vocab_size": len(tokenizer),
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(seed)
    return AutoModelForImageTextToText.from_config(AutoConfig.for_model(architecture.model_type, **values))


def write_checkpoint(family: str, folder: Path, seed: int = 0, max_pixels: int | None = None) -> Path:
    """Write the whole checkpoint.

    Args:
        family: A key of `ARCHITECTURES`.
        folder: Created.
        seed: Of the weights.
        max_pixels: Upper limit of the image processor; none for one that keeps prompts short.

    Raises:
        ValueError: There is no such family.
    """
    architecture = look_up(family, ARCHITECTURES, "tiny architecture")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = byte_level_tokenizer(architecture)
    build_network(architecture, tokenizer, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    module, name, settings = architecture.image_processor
    processor = getattr(importlib.import_module(f"transformers.models.{module}"), name)(**settings)
    processor.save_pretrained(folder)
    if architecture.processor:
        (folder / "processor_config.json").write_text(json.dumps(dict(architecture.processor), indent=2))
    if max_pixels is not None:
        from visurf.models.loading import FAMILIES

        FAMILIES[family].load_image_processor(folder, None, max_pixels).save_pretrained(folder)
    return folder


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", choices=tuple(ARCHITECTURES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write_checkpoint(options.family, options.folder, options.seed)


if __name__ == "__main__":
    main()
