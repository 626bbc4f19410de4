"""Lessons of pre-training as one packed row: all questions of a scene share its picture, or its lack of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from visurf import attention
from visurf.mini import model as scaffold
from visurf.mini import world

# A picture, or None for a scene told in words, with its questions and replies.
Told = tuple[Image.Image | None, list[tuple[str, str]]]
USER, TURN, VISION = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|vision_start|>{}<|vision_end|>"


def _prefix(tokenizer: PreTrainedTokenizerFast, *, picture: bool) -> tuple[list[int], torch.Tensor, int]:
    """Tokens of what all questions of a scene share, their positions (3, P), and the position that follows."""
    side = world.SIZE // scaffold.PATCH // 2
    pads = side * side
    text = USER + VISION.format("<|image_pad|>" * pads) if picture else USER
    ids = tokenizer(text, add_special_tokens=False).input_ids
    positions = torch.arange(len(ids)).repeat(3, 1)
    if picture:
        start = ids.index(tokenizer.convert_tokens_to_ids("<|image_pad|>"))
        grid = torch.arange(side)
        positions[0, start : start + pads] = start
        positions[1, start : start + pads] = start + grid.repeat_interleave(side)
        positions[2, start : start + pads] = start + grid.repeat(side)
        positions[:, start + pads :] = start + side + torch.arange(len(ids) - start - pads)
    return ids, positions, int(positions.max()) + 1


def batch(scenes: Sequence[Told], tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """One packed row of scenes: model inputs, layout, and where and what to predict."""
    pictures = [picture for picture, _ in scenes if picture is not None]
    features = scaffold.build_image_processor()(images=pictures, return_tensors="pt")
    prefixes = {seen: _prefix(tokenizer, picture=seen) for seen in (True, False)}
    ids: list[int] = []
    positions, prompts, spans = [], [], []
    predict_at: list[int] = []
    for picture, asked_of_scene in scenes:
        prefix, prefix_positions, next_position = prefixes[picture is not None]
        prompts.append((len(ids), len(prefix)))
        ids += prefix
        positions.append(prefix_positions)
        of_scene = []
        for asked, reply in asked_of_scene:
            head = tokenizer(asked + TURN, add_special_tokens=False).input_ids
            tail = tokenizer(reply + "<|im_end|>", add_special_tokens=False).input_ids
            of_scene.append((len(ids), len(head) + len(tail)))
            predict_at += range(len(ids) + len(head) - 1, len(ids) + len(head) + len(tail) - 1)
            ids += head + tail
            positions.append(torch.arange(len(head) + len(tail)).repeat(3, 1) + next_position)
        spans.append(of_scene)
    at = torch.tensor(predict_at)
    row = torch.tensor([ids])
    return {
        "inputs": {
            "input_ids": row,
            "position_ids": torch.cat(positions, dim=1).unsqueeze(1),
            "pixel_values": features["pixel_values"],
            "image_grid_thw": features["image_grid_thw"],
            "attention_mask": attention.dummy_mask("cpu"),
            "visurf_layout": attention.PackedLayout(prompts, spans, len(ids), "cpu"),
        },
        "at": at,
        "targets": row[0, at + 1],
    }
