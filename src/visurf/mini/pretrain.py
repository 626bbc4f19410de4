"""Pre-train the embedded model from scratch: ``python -m visurf.mini.pretrain --out DIR``.

One step takes `IMAGES` clean scenes with several questions each; all questions of an image share its prefix in one packed row.
The model learns to ground what is there (mostly with its reasoning), to say whether something is there, to name colours and
to count. It is never shown an empty list and never asked to find what is absent. Seeded and resumable: run the same command
again after an interruption.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

from visurf import attention
from visurf.geometry import Frame
from visurf.mini import model as scaffold
from visurf.mini import world
from visurf.tasks.referring import render_answer

IMAGES = 24
QUESTIONS, GROUNDED = 7, 3
DIRECT = 0.2
USER, TURN, VISION = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|vision_start|>{}<|vision_end|>"


@dataclass(frozen=True)
class Settings:
    """What determines the weights."""

    steps: int = 4400
    seed: int = 0
    hidden: int = 128
    layers: int = 4
    muon_lr: float = 2e-3
    adam_lr: float = 2e-3


def questions(scene: world.Scene, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Question and reply texts about a scene: up to `GROUNDED` groundings, then existence, colour or count."""
    frame = Frame((world.SIZE, world.SIZE), (world.SIZE, world.SIZE))
    chosen = rng.permutation(len(scene.shapes))[:GROUNDED]
    asked = []
    for index in chosen:
        shape = scene.shapes[index]
        answer = render_answer(world.target(shape), frame)
        # Mostly reasoned, sometimes direct, as a general model can do both: whether it reasons is then a choice to be rewarded.
        thought = "" if rng.random() < DIRECT else f"<think>{world.thinking(shape)}</think>"
        asked.append((world.question(shape.colour, shape.kind), thought + answer))
    while len(asked) < QUESTIONS:
        kind = rng.random()
        shape = scene.shapes[int(rng.integers(len(scene.shapes)))]
        alone = sum(s.kind == shape.kind for s in scene.shapes) == 1
        if kind < 0.42:
            asked.append((f"is there a {shape.colour} {shape.kind}", "yes"))
        elif kind < 0.84:
            colour, name = world.absent_pair(scene, rng)
            asked.append((f"is there a {colour} {name}", "no"))
        elif kind < 0.92 and alone:
            asked.append((f"what colour is the {shape.kind}", shape.colour))
        else:
            asked.append(("how many shapes are there", str(len(scene.shapes))))
    return asked


def batch(settings: Settings, step: int, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """One packed row of `IMAGES` scenes: model inputs, layout, and where and what to predict."""
    rng = np.random.default_rng((settings.seed, step))
    scenes = [world.draw_scene(world.CLEAN, rng) for _ in range(IMAGES)]
    features = scaffold.build_image_processor()(images=[s.render() for s in scenes], return_tensors="pt")
    pads = (world.SIZE // scaffold.PATCH // 2) ** 2
    prefix = tokenizer(USER + VISION.format("<|image_pad|>" * pads), add_special_tokens=False).input_ids
    side = world.SIZE // scaffold.PATCH // 2
    start = prefix.index(tokenizer.convert_tokens_to_ids("<|image_pad|>"))
    prefix_positions = torch.arange(len(prefix)).repeat(3, 1)
    grid = torch.arange(side)
    prefix_positions[0, start : start + pads] = start
    prefix_positions[1, start : start + pads] = start + grid.repeat_interleave(side)
    prefix_positions[2, start : start + pads] = start + grid.repeat(side)
    prefix_positions[:, start + pads :] = start + side + torch.arange(len(prefix) - start - pads)
    next_position = int(prefix_positions.max()) + 1
    ids: list[int] = []
    positions, prompts, spans = [], [], []
    predict_at: list[int] = []
    for scene in scenes:
        prompts.append((len(ids), len(prefix)))
        ids += prefix
        positions.append(prefix_positions)
        of_scene = []
        for asked, reply in questions(scene, rng):
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
            "visurf_layout": attention.PackedLayout.build(prompts, spans, len(ids), "cpu"),
        },
        "at": at,
        "targets": row[0, at + 1],
    }


def new_model(settings: Settings, tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLForConditionalGeneration:
    """A freshly initialised model of the real class."""
    name = attention.register()
    config = scaffold.build_config(tokenizer, settings.hidden, settings.layers)
    implementation = {"": name, "text_config": name, "vision_config": "sdpa"}
    return Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation=implementation)


def optimizers(model: torch.nn.Module, settings: Settings) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for the rest."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=settings.muon_lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=settings.adam_lr, weight_decay=0.0, betas=(0.9, 0.95)),
    ]


def rate(step: int, steps: int) -> float:
    """Learning-rate factor: short warm-up, constant, cosine to zero over the last 60 %."""
    if step < 50:
        return (step + 1) / 50
    progress = max(0.0, (step - 0.4 * steps) / (0.6 * steps))
    return 0.5 * (1 + float(np.cos(np.pi * progress)))


def _save(folder: Path, step: int, model: torch.nn.Module, opts: list[torch.optim.Optimizer], seconds: float) -> None:
    partial = folder / "state.partial"
    weights = {n: p.detach().contiguous() for n, p in model.named_parameters()}
    save_file({n: p.half() for n, p in weights.items()}, folder / f"snapshot-{step:05d}.safetensors")
    torch.save({"step": step, "optimizers": [o.state_dict() for o in opts], "seconds": seconds}, partial)
    save_file(weights, folder / "weights.partial")
    (folder / "weights.partial").replace(folder / "weights.safetensors")
    partial.replace(folder / "state.pt")


def pretrain(folder: Path, settings: Settings, every: int = 200) -> Tensor:
    """Train, saving a resumable state and a point of the loss curve every so many steps; returns the last loss."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    tokenizer = scaffold.build_tokenizer()
    model = new_model(settings, tokenizer)
    opts = optimizers(model, settings)
    base = [[g["lr"] for g in o.param_groups] for o in opts]
    first, seconds = 0, 0.0
    if (folder / "state.pt").exists():
        state = torch.load(folder / "state.pt", weights_only=True)
        model.load_state_dict(load_file(folder / "weights.safetensors"), strict=False)
        for opt, saved in zip(opts, state["optimizers"], strict=True):
            opt.load_state_dict(saved)
        first, seconds = state["step"], state["seconds"]
    loss = torch.tensor(float("nan"))
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        line = bar.add_task("pre-training", total=settings.steps, completed=first)
        began = time.monotonic() - seconds
        for step in range(first, settings.steps):
            for opt, lrs in zip(opts, base, strict=True):
                for group, lr in zip(opt.param_groups, lrs, strict=True):
                    group["lr"] = lr * rate(step, settings.steps)
            data = batch(settings, step, tokenizer)
            hidden = model.model(**data["inputs"]).last_hidden_state[0, data["at"]]
            loss = functional.cross_entropy(model.lm_head(hidden), data["targets"])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for opt in opts:
                opt.step()
                opt.zero_grad()
            bar.update(line, advance=1, description=f"pre-training, loss {loss.item():.3f}")
            if (step + 1) % every == 0 or step + 1 == settings.steps:
                _save(folder, step + 1, model, opts, time.monotonic() - began)
                with (folder / "curve.jsonl").open("a") as out:
                    point = {
                        "step": step + 1,
                        "loss": round(loss.item(), 4),
                        "minutes": round((time.monotonic() - began) / 60, 1),
                    }
                    out.write(json.dumps(point) + "\n")
    return loss.detach()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hidden", type=int, default=Settings.hidden)
    parser.add_argument("--layers", type=int, default=Settings.layers)
    args = parser.parse_args()
    settings = Settings(steps=args.steps, seed=args.seed, hidden=args.hidden, layers=args.layers)
    pretrain(args.out, settings)


if __name__ == "__main__":
    main()
