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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration, Qwen2VLForConditionalGeneration

from visurf import attention
from visurf.geometry import Frame
from visurf.mini import model as scaffold
from visurf.mini import world
from visurf.mini.lessons import Told, batch
from visurf.tasks.referring import render_answer

IMAGES = 24


@dataclass(frozen=True)
class Phase:
    """A stretch of pre-training with its own mixture, fresh optimisers and schedule.

    Attributes:
        steps: Optimiser steps.
        questions: Questions asked about each scene.
        grounded: How many of them, at most, ask to find something that is there.
        direct: Share of groundings answered without reasoning.
        plain: Share of groundings asked in a form of their own, `world.plain_question`, and answered without reasoning.
        existence: Share of the other questions that ask whether something is there; half of them about what is not.
        rate: Factor on the learning rates.
    """

    steps: int
    questions: int
    grounded: int = 3
    direct: float = 0.0
    plain: float = 0.0
    existence: float = 0.8
    rate: float = 1.0


@dataclass(frozen=True)
class Settings:
    """What determines the weights.

    First the model learns to ground and to reason. Then it learns to answer directly too, as a general model can, and is
    asked more about existence. Last, the direct answer gets a question of its own: the prompt decides whether it reasons.
    `older` takes Qwen2-VL instead of Qwen2.5-VL.
    """

    phases: tuple[Phase, ...] = (
        Phase(4000, 5),
        Phase(2400, 7, direct=0.2, existence=0.84, rate=0.5),
        Phase(800, 7, plain=0.25, existence=0.84, rate=0.3),
    )
    seed: int = 0
    hidden: int = 128
    layers: int = 4
    older: bool = False
    learning_rate: float = 2e-3


def questions(scene: world.Scene, phase: Phase, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Question and reply texts about a scene: groundings first, then existence, colour or count."""
    frame = Frame((world.SIZE, world.SIZE), (world.SIZE, world.SIZE))
    asked = []
    for index in rng.permutation(len(scene.shapes))[: phase.grounded]:
        shape = scene.shapes[index]
        plain = phase.plain > 0 and rng.random() < phase.plain
        direct = plain or (phase.direct > 0 and rng.random() < phase.direct)
        thought = "" if direct else f"<think>{world.thinking(shape)}</think>"
        form = world.plain_question if plain else world.question
        asked.append((form(shape.colour, shape.kind), thought + render_answer(world.target(shape), frame)))
    while len(asked) < phase.questions:
        kind = rng.random()
        shape = scene.shapes[int(rng.integers(len(scene.shapes)))]
        alone = sum(s.kind == shape.kind for s in scene.shapes) == 1
        if kind < phase.existence / 2:
            asked.append((f"is there a {shape.colour} {shape.kind}", "yes"))
        elif kind < phase.existence:
            colour, name = world.absent_pair(scene, rng)
            asked.append((f"is there a {colour} {name}", "no"))
        elif kind < (1 + phase.existence) / 2 and alone:
            asked.append((f"what colour is the {shape.kind}", shape.colour))
        else:
            asked.append(("how many shapes are there", str(len(scene.shapes))))
    return asked


def clean_scenes(settings: Settings, phase: Phase, step: int) -> list[Told]:
    """The scenes of a step in the clean domain, each with its questions and replies."""
    rng = np.random.default_rng((settings.seed, step))
    scenes = [world.draw_scene(world.CLEAN, rng) for _ in range(IMAGES)]
    return [(scene.render(), questions(scene, phase, rng)) for scene in scenes]


def new_model(settings: Settings, tokenizer: PreTrainedTokenizerFast) -> Any:
    """A freshly initialised model of the real class."""
    name = attention.register()
    config = scaffold.build_config(tokenizer, settings.hidden, settings.layers, older=settings.older)
    implementation = {"": name, "text_config": name, "vision_config": "sdpa"}
    model = Qwen2VLForConditionalGeneration if settings.older else Qwen2_5_VLForConditionalGeneration
    return model._from_config(config, attn_implementation=implementation)


def optimizers(model: torch.nn.Module, settings: Settings) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for the rest."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    lr = settings.learning_rate
    return [
        torch.optim.Muon(matrices, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=lr, weight_decay=0.0, betas=(0.9, 0.95)),
    ]


def rate(step: int, steps: int) -> float:
    """Learning-rate factor within a phase: short warm-up, constant, cosine to zero over the last 60 %."""
    if step < 50:
        return (step + 1) / 50
    progress = max(0.0, (step - 0.4 * steps) / (0.6 * steps))
    return 0.5 * (1 + float(np.cos(np.pi * progress)))


def _save(folder: Path, step: int, model: torch.nn.Module, opts: list[torch.optim.Optimizer], seconds: float) -> None:
    weights = {n: p.detach().contiguous() for n, p in model.named_parameters()}
    save_file({n: p.half() for n, p in weights.items()}, folder / f"snapshot-{step:05d}.safetensors")
    torch.save({"step": step, "optimizers": [o.state_dict() for o in opts], "seconds": seconds}, folder / "state.partial")
    save_file(weights, folder / "weights.partial")
    (folder / "weights.partial").replace(folder / "weights.safetensors")
    (folder / "state.partial").replace(folder / "state.pt")


def pretrain(
    folder: Path,
    settings: Settings,
    every: int = 200,
    *,
    scenes: Callable[[Settings, Phase, int], list[Told]] = clean_scenes,
    tokenizer: PreTrainedTokenizerFast | None = None,
    start: Callable[[torch.nn.Module], None] | None = None,
) -> None:
    """Train all phases, saving a resumable state, a snapshot and a point of the loss curve every so many steps.

    Args:
        folder: Of states, snapshots and the curve; an earlier run there goes on.
        settings: What determines the weights.
        every: Steps between snapshots.
        scenes: The scenes of a step.
        tokenizer: None for the embedded model's.
        start: Changes the fresh weights before the first step.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    tokenizer = scaffold.build_tokenizer() if tokenizer is None else tokenizer
    model = new_model(settings, tokenizer)
    if start is not None:
        start(model)
    done, seconds, saved = 0, 0.0, None
    if (folder / "state.pt").exists():
        state = torch.load(folder / "state.pt", weights_only=True)
        model.load_state_dict(load_file(folder / "weights.safetensors"), strict=False)
        done, seconds, saved = state["step"], state["seconds"], state["optimizers"]
    began = time.monotonic() - seconds
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        line = bar.add_task("pre-training", total=sum(p.steps for p in settings.phases), completed=done)
        first = 0
        for phase in settings.phases:
            opts = optimizers(model, settings)
            if saved is not None and first < done < first + phase.steps:
                for opt, found in zip(opts, saved, strict=True):
                    opt.load_state_dict(found)
            for step in range(max(first, done), first + phase.steps):
                for group in (g for opt in opts for g in opt.param_groups):
                    group["lr"] = settings.learning_rate * phase.rate * rate(step - first, phase.steps)
                loss = _step(model, batch(scenes(settings, phase, step), tokenizer), opts)
                bar.update(line, advance=1, description=f"pre-training, loss {loss:.3f}")
                if (step + 1) % every == 0:
                    _save(folder, step + 1, model, opts, time.monotonic() - began)
                    point = {"step": step + 1, "loss": round(loss, 4), "minutes": round((time.monotonic() - began) / 60, 1)}
                    with (folder / "curve.jsonl").open("a") as out:
                        out.write(json.dumps(point) + "\n")
            first += phase.steps


def _step(model: Any, data: dict[str, Any], opts: list[torch.optim.Optimizer]) -> float:
    hidden = model.model(**data["inputs"]).last_hidden_state[0, data["at"]]
    loss = functional.cross_entropy(model.lm_head(hidden), data["targets"])
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for opt in opts:
        opt.step()
        opt.zero_grad()
    return loss.item()


def measure(folder: Path, every: int = 400, count: int = 300) -> list[dict[str, float]]:
    """Greedy box IoU and parse rate of the snapshots on both domains, all questions about what is there; saved as curve.json."""
    from visurf.evaluation import records, summarise
    from visurf.models import VisionLanguageModel
    from visurf.models.qwen import QWEN2_5_VL
    from visurf.policy import Policy
    from visurf.rollout.local import Sampling
    from visurf.scoring import Scorer
    from visurf.tasks.referring import REFERRING, parts
    from visurf.tasks.task import RewardSettings

    tokenizer = scaffold.build_tokenizer()
    network = new_model(Settings(), tokenizer).eval()
    model = VisionLanguageModel(network, tokenizer, scaffold.build_image_processor(), QWEN2_5_VL, "pretraining")
    policy = Policy(network, temperature=1.0, banned=model.banned_ids)
    losses = {row["step"]: row for row in map(json.loads, (folder / "curve.jsonl").read_text().splitlines())}
    found = []
    for step in sorted(s for s in losses if s % every == 0):
        weights = load_file(folder / f"snapshot-{step:05d}.safetensors")
        network.load_state_dict({n: w.float() for n, w in weights.items()}, strict=False)
        point = dict(losses[step])
        for name, domain in world.DOMAINS.items():
            samples = world.referring_samples(domain, count, 500, absent=0.0)
            scorer = Scorer(REFERRING, parts(RewardSettings()))
            summary = summarise(REFERRING, list(records(model, policy, samples, scorer, "bare", Sampling(max_tokens=40))))
            point |= {f"{name}/box_iou": summary["box_iou"], f"{name}/parsed": 1 - summary["parse_failed"]}
        found.append(point)
    (folder / "curve.json").write_text(json.dumps(found, indent=1))
    return found


def export(folder: Path, out: Path) -> None:
    """Write the trained weights as a checkpoint in the hub's layout, float16."""
    network: Any = new_model(Settings(), scaffold.build_tokenizer())
    network.load_state_dict(load_file(folder / "weights.safetensors"), strict=False)
    network.half().save_pretrained(out)
    scaffold.save_scaffold(out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of states, snapshots and the loss curve")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", action="store_true", help="only measure the snapshots of an earlier run")
    parser.add_argument("--export", type=Path, help="also write the checkpoint here")
    args = parser.parse_args()
    if not args.measure:
        pretrain(args.out, Settings(seed=args.seed))
    measure(args.out)
    if args.export:
        export(args.out, args.export)


if __name__ == "__main__":
    main()
