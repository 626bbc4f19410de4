"""Write a tiny random checkpoint in the hub's file layout: ``python -m visurf.models.random_checkpoint qwen2_5_vl DIR``.

For trying recipes, tests and continuous integration without downloading anything: the real classes and files (config, safetensors,
byte-level tokenizer, chat template, preprocessor), a few hundred thousand random parameters.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

CORPUS = (
    'Please find "the dog on the left" with bboxs and points. Output the thinking process in <think> </think> and final answer '
    'in <answer> </answer> tags. [{"bbox_2d": [10,100,200,210], "point_2d": [30,110]}] If nothing in the image matches, answer '
    "with an empty list. Compare the difference between object(s) and find the most closely matched object(s)."
)
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in part %}{{ part['text'] }}"
    "{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_level_tokenizer() -> Any:
    """A byte-level tokenizer with a few merges and Qwen's special tokens; any text round-trips."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([CORPUS] * 4, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=list(SPECIAL[1:2] + SPECIAL[3:]),
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _text_config(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 8192,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,
    }


def build_network(family: str, tokenizer: Any, seed: int = 0) -> Any:
    """A random network of the real class.

    Args:
        family: `qwen2_vl` or `qwen2_5_vl`.
        tokenizer: Its special tokens and size go into the configuration.
        seed: Of the weights.
    """
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2VLConfig, Qwen2VLForConditionalGeneration

    ids = {
        "image_token_id": tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        "video_token_id": tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        "vision_start_token_id": tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        "tie_word_embeddings": True,
    }
    vision: dict[str, Any] = {"depth": 2, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_heads": 2}
    config: Any
    torch.manual_seed(seed)
    if family == "qwen2_vl":
        vision |= {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
        config = Qwen2VLConfig(text_config=_text_config(tokenizer), vision_config=vision, **ids)
        network: Any = Qwen2VLForConditionalGeneration(config)
    elif family == "qwen2_5_vl":
        vision |= {
            "hidden_size": 32,
            "intermediate_size": 64,
            "out_hidden_size": 64,
            "window_size": 112,
            "fullatt_block_indexes": [1],
        }
        config = Qwen2_5_VLConfig(text_config=_text_config(tokenizer), vision_config=vision, **ids)
        network = Qwen2_5_VLForConditionalGeneration(config)
    else:
        raise ValueError(f"expected qwen2_vl or qwen2_5_vl, got {family!r}")
    return network


def write_checkpoint(family: str, folder: Path, seed: int = 0, max_pixels: int = 112 * 112) -> Path:
    """Write the whole checkpoint.

    Args:
        family: See `build_network`.
        folder: Created.
        seed: Of the weights.
        max_pixels: Upper limit of the image processor, which keeps prompts short.
    """
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = byte_level_tokenizer()
    build_network(family, tokenizer, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": max_pixels}).save_pretrained(folder)
    return folder


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", choices=("qwen2_vl", "qwen2_5_vl"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write_checkpoint(options.family, options.folder, options.seed)


if __name__ == "__main__":
    main()
