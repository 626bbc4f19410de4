"""The shapes of the models that the shipped recipes name, so that memory and frames can be told without downloading anything.

Source: config.json and preprocessor_config.json of the checkpoints on the hub.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_IDS = {"image_token_id": 151655, "video_token_id": 151656, "vision_start_token_id": 151652, "vision_end_token_id": 151653}
_TEXT_2B = (1536, 28, 12, 2, 8960, 151936)
_TEXT_3B = (2048, 36, 16, 2, 11008, 151936)
_TEXT_7B = (3584, 28, 28, 4, 18944, 152064)


@dataclass(frozen=True)
class Published:
    """A released model.

    Attributes:
        family: A name of `visurf.models.FAMILIES`.
        text: hidden, layers, heads, kv heads, intermediate, vocabulary.
        tied: Whether input and output embeddings are one.
    """

    family: str
    text: tuple[int, int, int, int, int, int]
    tied: bool

    def config(self) -> Any:
        """Its transformers configuration."""
        from transformers import AutoConfig

        hidden, layers, heads, kv_heads, intermediate, vocabulary = self.text
        text = {
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "intermediate_size": intermediate,
            "vocab_size": vocabulary,
            "max_position_embeddings": 32768 if self.family == "qwen2_vl" else 128000,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
            "bos_token_id": 151643,
            "eos_token_id": 151645,
            "tie_word_embeddings": self.tied,
        }
        return AutoConfig.for_model(
            self.family, text_config=text, vision_config=self._vision(hidden), tie_word_embeddings=self.tied, **_IDS
        )

    def _vision(self, hidden: int) -> dict[str, Any]:
        shared = {"depth": 32, "num_heads": 16, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
        if self.family == "qwen2_vl":
            return {**shared, "embed_dim": 1280, "mlp_ratio": 4, "hidden_size": hidden}
        blocks = {"intermediate_size": 3420, "fullatt_block_indexes": [7, 15, 23, 31], "window_size": 112, "tokens_per_second": 2}
        return {**shared, **blocks, "hidden_size": 1280, "out_hidden_size": hidden}

    def processor(self, min_pixels: int | None, max_pixels: int | None) -> Any:
        """Its image processor, with the released limits of pixels where none are given."""
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        return Qwen2VLImageProcessorPil(size={"shortest_edge": min_pixels or 3136, "longest_edge": max_pixels or 12845056})


PUBLISHED = {
    "Qwen/Qwen2-VL-2B-Instruct": Published("qwen2_vl", _TEXT_2B, tied=True),
    "Qwen/Qwen2-VL-7B-Instruct": Published("qwen2_vl", _TEXT_7B, tied=False),
    "Qwen/Qwen2.5-VL-3B-Instruct": Published("qwen2_5_vl", _TEXT_3B, tied=True),
    "Qwen/Qwen2.5-VL-7B-Instruct": Published("qwen2_5_vl", _TEXT_7B, tied=False),
}
