"""Tokenizer, image processor and configuration of the embedded model: the real Qwen2.5-VL classes, tiny; or those of Qwen2-VL.

`save_scaffold` writes everything of a checkpoint but the weights, in the hub's file layout, so the embedded model is loaded by the
same code as any Qwen2.5-VL.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedConfig, PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2VLConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from visurf.mini.world import COLOURS, SHAPES, SIZE
from visurf.mini.worlds.detection import COORDINATES

PATCH = 8
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<unk>",
)
# JSON fragments are single tokens so that a reply is short; "[" stands alone in every answer, so the empty list is one decision.
FRAGMENTS = (
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    '{"bbox_2d": [',
    '], "point_2d": [',
    "]}",
    '"bbox_2d"',
    '"point_2d"',
    ", ",
    ": ",
)
MARKS = (" ", "\n", "[", "]", "{", "}", ",", ":", ".", "?", "(", ")", "+", "-", "=", "%", "'", '"')
WORDS = (
    *("user", "assistant", "system", "find", "is", "there", "a", "the", "yes", "no", "row", "column", "what", "how", "many"),
    *(
        "colour",
        "shape",
        "shapes",
        "are",
        "of",
        "in",
        "and",
        "or",
        "not",
        "none",
        "nothing",
        "left",
        "right",
        "top",
        "bottom",
    ),
    *(
        "above",
        "below",
        "middle",
        "large",
        "small",
        "largest",
        "smallest",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
    ),
    *("sum", "count", "button", "icon", "click", "on", "defect", "normal", "lesion", "box", "image", "picture", "object"),
    *(
        "same",
        "as",
        "other",
        "between",
        "next",
        "to",
        "that",
        "it",
        "this",
        "answer",
        "because",
        "so",
        "then",
        "first",
        "last",
    ),
    *COLOURS,
    *SHAPES,
    *(f"{shape}s" if shape != "cross" else "crosses" for shape in SHAPES),
)
# What the wide world needs beyond that; appended, so that the embedded model's tokens keep their ids.
WIDE_FRAGMENTS = ("{'Position': [", "], 'Confidence': ", *(f"0.{n}" for n in range(50, 100, 5)), "1.00", '{"point_2d": [')
WIDE_WORDS = ("ring", "rings", "star", "stars", "detect", "all", "name", "say", "scene", "No", "Objects")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer(*, wide: bool = False, thousandths: bool = False) -> PreTrainedTokenizerFast:
    """The fixed-vocabulary tokenizer; words exist with and without a leading space, numbers from 0 to 100.

    With `wide` it also writes what the families of `visurf.mini.worlds` ask for, with `thousandths` all numbers up to 1000.
    """
    words = [*WORDS, *(str(n) for n in range(101))]
    vocabulary = [*SPECIAL, *FRAGMENTS, *MARKS, *words, *(f" {w}" for w in words)]
    fragments: tuple[str, ...] = FRAGMENTS
    if wide:
        fragments = (*FRAGMENTS, *WIDE_FRAGMENTS)
        vocabulary += [*WIDE_FRAGMENTS, *WIDE_WORDS, *(f" {w}" for w in WIDE_WORDS), *(str(n) for n in COORDINATES)]
    if thousandths:
        vocabulary += [str(n) for n in range(1001)]
    vocabulary = list(dict.fromkeys(vocabulary))
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token="<unk>"))
    pattern = "|".join([*(_escape(f) for f in fragments), " ?[A-Za-z]+", " ?[0-9]+", "[^A-Za-z0-9]"])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=[t for t in SPECIAL if t not in ("<unk>", "<|endoftext|>", "<|im_end|>")],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _escape(text: str) -> str:
    return "".join(f"\\{c}" if c in '{}[]"|?+().' else c for c in text)


def build_image_processor() -> Qwen2VLImageProcessorPil:
    """Qwen2-VL's own image processor at the tiny patch size."""
    return Qwen2VLImageProcessorPil(
        patch_size=PATCH,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": SIZE * SIZE, "longest_edge": 4 * SIZE * SIZE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.25, 0.25, 0.25],
    )


def build_config(
    tokenizer: PreTrainedTokenizerFast, hidden: int = 128, layers: int = 4, *, older: bool = False
) -> PreTrainedConfig:
    """The tiny configuration; rope_theta is small because at this head size 1e6 would leave the axes hardly any frequency.

    Args:
        tokenizer: Whose ids it names.
        hidden: Size of a token's state.
        layers: Of the language model.
        older: Qwen2-VL instead of Qwen2.5-VL.
    """
    ids: dict[str, Any] = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    heads = hidden // 32
    shared: dict[str, Any] = {"depth": 3, "num_heads": 3, "patch_size": PATCH, "spatial_merge_size": 2, "temporal_patch_size": 2}
    if older:
        vision = {**shared, "embed_dim": 96, "mlp_ratio": 4, "hidden_size": hidden}
    else:
        own: dict[str, Any] = {
            "hidden_size": 96,
            "intermediate_size": 256,
            "window_size": 8 * PATCH,
            "fullatt_block_indexes": [0, 1, 2],
        }
        vision = {**shared, **own, "out_hidden_size": hidden}
    return (Qwen2VLConfig if older else Qwen2_5_VLConfig)(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": hidden,
            "intermediate_size": 3 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": max(heads // 2, 1),
            "max_position_embeddings": 1024,
            "rope_parameters": {"rope_type": "default", "rope_theta": 30.0, "mrope_section": [4, 6, 6]},
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
            "tie_word_embeddings": True,
        },
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def save_scaffold(folder: Path, tokenizer: PreTrainedTokenizerFast | None = None) -> None:
    """Write tokenizer, chat template and preprocessor files of the embedded checkpoint, or with another tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (build_tokenizer() if tokenizer is None else tokenizer).save_pretrained(folder)
    build_image_processor().save_pretrained(folder)
