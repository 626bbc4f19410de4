"""The models that are measured: Qwen2.5-VL at known shapes, with random weights made on the device."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from visurf.config import ConfigError
from visurf.linear import use_onednn, use_plain
from visurf.models.family import VisionLanguageModel
from visurf.models.loading import family_of, use_shared_attention
from visurf.patches import use_convolutions, use_products

# The end stands first in the vocabulary, so that the lowest random number draws it: see `visurf.speed.workloads.Ends`.
END = "<|im_end|>"
SPECIAL = (END, "<|endoftext|>", "<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<unk>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|> {{ message['role'] }} "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %} <|vision_start|> <|image_pad|> <|vision_end|> {% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %} <|im_end|> {% endfor %}{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """A model's shape.

    Attributes:
        name: What the command line calls it.
        text: Of the language model, as in its configuration.
        vision: Of the vision tower, likewise.
        tied: Whether input and output embeddings are one.
        lora_rank: Adapters of this rank are trained instead of everything; 0 for none.
        large: Needs a CUDA device, and is held in bfloat16.
    """

    name: str
    text: Mapping[str, Any]
    vision: Mapping[str, Any]
    tied: bool = True
    lora_rank: int = 0
    large: bool = False


def _text(hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int, vocabulary: int) -> dict[str, Any]:
    # The three axes share the rotary frequencies as 2 : 3 : 3, as in the published models.
    half = hidden // heads // 2
    sections = [half // 4, half // 8 * 3, half // 8 * 3]
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": 128000,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections},
    }


def _vision(hidden: int, depth: int, heads: int, intermediate: int, full: tuple[int, ...], out: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "depth": depth,
        "num_heads": heads,
        "intermediate_size": intermediate,
        "fullatt_block_indexes": list(full),
        "out_hidden_size": out,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "tokens_per_second": 2,
    }


_QWEN_TOWER = (1280, 32, 16, 3420, (7, 15, 23, 31))
# 3b and 7b are the configurations published as Qwen/Qwen2.5-VL-3B-Instruct and -7B-Instruct; the others keep their proportions.
SHAPES = {
    s.name: s
    for s in (
        Shape("smoke", _text(64, 2, 2, 1, 128, 256), _vision(32, 2, 2, 64, (1,), 64)),
        Shape("tiny", _text(192, 4, 6, 2, 1024, 1024), _vision(192, 4, 6, 512, (1, 3), 192)),
        Shape("mid", _text(1024, 4, 16, 4, 5504, 8192), _vision(512, 4, 8, 1368, (1, 3), 1024)),
        Shape("3b", _text(2048, 36, 16, 2, 11008, 151936), _vision(*_QWEN_TOWER, 2048), large=True),
        Shape("7b", _text(3584, 28, 28, 4, 18944, 152064), _vision(*_QWEN_TOWER, 3584), tied=False, lora_rank=16, large=True),
    )
}


def build_tokenizer(vocabulary: int) -> Any:
    """A tokenizer of whole words, `<|im_end|>` first: special tokens, three role words, then ``w0``, ``w1`` and so on."""
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIAL, "user", "assistant", "system"]
    words += [f"w{i}" for i in range(vocabulary - len(words))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<|endoftext|>",
        eos_token=END,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        extra_special_tokens={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_config(shape: Shape, tokenizer: Any) -> Any:
    """The transformers configuration of a shape."""
    from transformers import Qwen2_5_VLConfig

    ids = {word: tokenizer.convert_tokens_to_ids(word) for word in SPECIAL}
    special = {"bos_token_id": None, "eos_token_id": ids[END], "pad_token_id": ids["<|endoftext|>"]}
    return Qwen2_5_VLConfig(
        text_config={**shape.text, **special, "tie_word_embeddings": shape.tied},
        vision_config=dict(shape.vision),
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=shape.tied,
    )


def build_model(shape: Shape, device: torch.device, seed: int = 0) -> VisionLanguageModel:
    """A model with random weights, ready for visurf; bfloat16 for the large shapes, else float32.

    Raises:
        ConfigError: A large shape without a CUDA device.
    """
    if shape.large and device.type != "cuda":
        raise ConfigError(f"--model {shape.name} needs a CUDA device, and there is none; tiny and mid run on a CPU")
    from transformers import AutoModelForImageTextToText
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer = build_tokenizer(shape.text["vocab_size"])
    dtype = torch.bfloat16 if shape.large else torch.float32
    torch.manual_seed(seed)
    with torch.device(device):
        network: Any = AutoModelForImageTextToText.from_config(build_config(shape, tokenizer), dtype=dtype)
    family = family_of("qwen2_5_vl")
    use_shared_attention(network, family)
    use_products(network)
    if device.type == "cpu":
        use_onednn(network)
    network.generation_config.eos_token_id = tokenizer.eos_token_id
    network.generation_config.pad_token_id = tokenizer.pad_token_id
    network.eval()
    # One merged patch is 28 x 28 pixels; the limits leave every picture of the workloads at its size.
    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 28 * 28, "longest_edge": 8192 * 28 * 28})
    return VisionLanguageModel(network, tokenizer, processor, family, f"random {shape.name}")


def plain_copy(network: Any) -> Any:
    """The same weights in a network of their own, under transformers' own attention and PyTorch's own layers."""
    twin = copy.deepcopy(network)
    use_plain(twin)
    use_convolutions(twin)
    twin.set_attn_implementation("sdpa")
    return twin
