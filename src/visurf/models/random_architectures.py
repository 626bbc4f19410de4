"""Tiny configurations of the real architectures, their special tokens, chat templates and image processors.

What `visurf.models.random_checkpoint` writes to disk: values only, one `Architecture` per family. The chat templates render a
user's turn as the released checkpoints' do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from visurf.models.smolvlm import AROUND, LARGEST_GRID, WHOLE

Ids = Callable[[str], int]
HIDDEN = 64


@dataclass(frozen=True)
class Architecture:
    """A tiny checkpoint but for its weights.

    Attributes:
        model_type: Of its config.json.
        config: Function of token -> id to the keyword arguments of the configuration; `text_config` gets the tokenizer's.
        special: Special tokens; the first pads.
        end: The token that ends a turn.
        named: Special tokens that transformers' processor looks up by name.
        chat_template: Jinja.
        image_processor: (module below transformers.models, class, keyword arguments).
        processor: Contents of processor_config.json beyond the image processor; empty for none.
    """

    model_type: str
    config: Callable[[Ids], dict[str, Any]]
    special: tuple[str, ...]
    end: str
    chat_template: str
    image_processor: tuple[str, str, Mapping[str, Any]]
    named: Mapping[str, str] = field(default_factory=dict)
    processor: Mapping[str, Any] = field(default_factory=dict)


def _text(**changes: Any) -> dict[str, Any]:
    return {
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 8192,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": True,
        **changes,
    }


def _qwen(vision: dict[str, Any], text: dict[str, Any]) -> Callable[[Ids], dict[str, Any]]:
    def config(ids: Ids) -> dict[str, Any]:
        return {
            "text_config": text,
            "vision_config": {"depth": 2, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_heads": 2, **vision},
            "image_token_id": ids("<|image_pad|>"),
            "video_token_id": ids("<|video_pad|>"),
            "vision_start_token_id": ids("<|vision_start|>"),
            "vision_end_token_id": ids("<|vision_end|>"),
            "tie_word_embeddings": True,
        }

    return config


_M_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
_QWEN_SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
_QWEN_TURNS = (
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in part %}{{ part['text'] }}"
    "{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_QWEN_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}" + _QWEN_TURNS
)
_QWEN_PROCESSOR = ("qwen2_vl.image_processing_pil_qwen2_vl", "Qwen2VLImageProcessorPil")

QWEN2_VL = Architecture(
    model_type="qwen2_vl",
    config=_qwen({"patch_size": 14, "embed_dim": 32, "hidden_size": HIDDEN, "mlp_ratio": 2}, _text(rope_parameters=_M_ROPE)),
    special=_QWEN_SPECIAL,
    end="<|im_end|>",
    chat_template=_QWEN_TEMPLATE,
    image_processor=(*_QWEN_PROCESSOR, {"size": {"shortest_edge": 56 * 56, "longest_edge": 112 * 112}}),
)
QWEN2_5_VL = Architecture(
    model_type="qwen2_5_vl",
    config=_qwen(
        {
            "patch_size": 14,
            "hidden_size": 32,
            "intermediate_size": 64,
            "out_hidden_size": HIDDEN,
            "window_size": 112,
            "fullatt_block_indexes": [1],
        },
        _text(rope_parameters=_M_ROPE),
    ),
    special=_QWEN_SPECIAL,
    end="<|im_end|>",
    chat_template=_QWEN_TEMPLATE,
    image_processor=QWEN2_VL.image_processor,
)
QWEN3_VL = Architecture(
    model_type="qwen3_vl",
    config=_qwen(
        {
            "patch_size": 16,
            "hidden_size": 32,
            "intermediate_size": 64,
            "out_hidden_size": HIDDEN,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        _text(head_dim=32, rope_parameters={**_M_ROPE, "mrope_interleaved": True}),
    ),
    special=_QWEN_SPECIAL,
    end="<|im_end|>",
    chat_template="{% for message in messages %}" + _QWEN_TURNS,
    image_processor=(
        *_QWEN_PROCESSOR,
        {
            "size": {"shortest_edge": 64 * 64, "longest_edge": 128 * 128},
            "patch_size": 16,
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
        },
    ),
)


def _internvl(ids: Ids) -> dict[str, Any]:
    return {
        "text_config": {"model_type": "qwen2", **_text()},
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": [56, 56],
            "patch_size": [14, 14],
        },
        "image_token_id": ids("<IMG_CONTEXT>"),
        "image_seq_length": 4,
        "tie_word_embeddings": True,
    }


INTERNVL = Architecture(
    model_type="internvl",
    config=_internvl,
    special=("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
    end="<|im_end|>",
    named={
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    },
    chat_template=(
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<IMG_CONTEXT>\n{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}"
        "{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    image_processor=(
        "got_ocr2.image_processing_pil_got_ocr2",
        "GotOcr2ImageProcessorPil",
        {"size": {"height": 56, "width": 56}, "min_patches": 1, "max_patches": 4},
    ),
    processor={"processor_class": "InternVLProcessor", "image_seq_length": 4},
)


def _smolvlm(ids: Ids) -> dict[str, Any]:
    return {
        "text_config": {"model_type": "llama", **_text()},
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
        },
        "image_token_id": ids("<image>"),
        "pad_token_id": ids("<|endoftext|>"),
        "scale_factor": 2,
        "tie_word_embeddings": True,
    }


_PLACES = tuple(f"<row_{r}_col_{c}>" for r in range(1, LARGEST_GRID + 1) for c in range(1, LARGEST_GRID + 1))

SMOLVLM = Architecture(
    model_type="smolvlm",
    config=_smolvlm,
    special=("<|endoftext|>", "<|im_start|>", "<end_of_utterance>", AROUND, "<image>", WHOLE, *_PLACES),
    end="<end_of_utterance>",
    named={
        "image_token": "<image>",
        "fake_image_token": AROUND,
        "global_image_token": WHOLE,
        "end_of_utterance_token": "<end_of_utterance>",
    },
    chat_template=(
        "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
        "{% if message['content'][0]['type'] == 'image' %}:{% else %}: {% endif %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<image>{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}"
        "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
    ),
    image_processor=(
        "smolvlm.image_processing_pil_smolvlm",
        "SmolVLMImageProcessorPil",
        {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}},
    ),
    processor={"processor_class": "SmolVLMProcessor", "image_seq_len": 4},
)

_PINPOINTS = [[28, 28], [28, 56], [56, 28], [56, 56]]


def _llava_onevision(ids: Ids) -> dict[str, Any]:
    return {
        "text_config": {"model_type": "qwen2", **_text()},
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
            "vision_use_head": False,
        },
        "image_token_index": ids("<image>"),
        "video_token_index": ids("<video>"),
        "image_grid_pinpoints": _PINPOINTS,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "tie_word_embeddings": True,
    }


LLAVA_ONEVISION = Architecture(
    model_type="llava_onevision",
    config=_llava_onevision,
    special=("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"),
    end="<|im_end|>",
    chat_template=(
        "{% for message in messages %}<|im_start|>{{ message['role'] + '\n' }}"
        "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
        "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{{ '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    image_processor=(
        "llava_onevision.image_processing_pil_llava_onevision",
        "LlavaOnevisionImageProcessorPil",
        {"size": {"height": 28, "width": 28}, "image_grid_pinpoints": _PINPOINTS},
    ),
    processor={
        "processor_class": "LlavaOnevisionProcessor",
        "num_image_tokens": 4,
        "vision_feature_select_strategy": "full",
        "vision_aspect_ratio": "anyres_max_9",
    },
)

ARCHITECTURES: dict[str, Architecture] = {
    a.model_type: a for a in (QWEN2_VL, QWEN2_5_VL, QWEN3_VL, INTERNVL, SMOLVLM, LLAVA_ONEVISION)
}
