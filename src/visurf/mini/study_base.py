"""Pre-train the base of the studies: ``python -m visurf.mini.study_base --out DIR --export CHECKPOINT``.

It starts from the embedded model and goes on with a mixture over the families of `visurf.mini.worlds`, clean domains only. What it
knows afterwards, and what it has never met, is the inside and the outside of its knowledge in the studies:

- inside: finding shapes by name, by size and by place, clicking buttons, finding lesions, counting, naming, detecting;
- outside: defects of surfaces (never seen), an empty list as an answer (never written: whether something is there is only
  ever asked as a yes/no question), pairs of colour and shape that are held out, and every shifted domain.

Seeded and resumable: run the same command again after an interruption.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import Qwen2_5_VLForConditionalGeneration

from visurf.geometry import Frame
from visurf.mini import model as scaffold
from visurf.mini import pretrain, world
from visurf.mini.lessons import Told
from visurf.mini.pretrain import Phase, Settings
from visurf.mini.world import Domain
from visurf.mini.worlds import WORLDS, Asked
from visurf.tasks import TASKS

FRAME = Frame((world.SIZE, world.SIZE), (world.SIZE, world.SIZE))
EMBEDDED = Path(__file__).parent / "checkpoint"
# Share of questions that are answered without reasoning; "answer : " before the question asks for it.
DIRECT = 0.2
# Scenes of a step: (family, domain, scenes, questions about each).
MIXTURE = (
    ("reasoning", "clean", 6, 3),
    ("gui", "clean", 3, 3),
    ("lesion", "clean", 2, 1),
    ("counting", "clean", 4, 3),
    ("counting", "told", 1, 3),
    ("naming", "clean", 2, 1),
    ("detection", "clean", 4, 3),
)
NAMED, GRAINY = 4, 4
# Scenes in which only existence, colour and number are asked: their grain and crowd reach into the shifted domain.
EXISTENCE = Domain(objects=(3, 7), radius=(4.0, 9.0), noise=0.0)
STEPS, LEARNING_RATE = 1800, 1.5e-3
OPTIONS: Mapping[str, Mapping[str, str]] = {"detection": {"confidence": "size"}}


def reply(family: str, asked: Asked, rng: np.random.Generator) -> tuple[str, str]:
    """The question as it is put, and the reply: with its reasoning, or directly where the question says so."""
    text = f"detect all {asked.question}" if family == "detection" else asked.question
    answer = TASKS[WORLDS[family].tasks[0]].label_text(asked.target, FRAME, True)
    if rng.random() < DIRECT:
        return f"answer : {text}", answer
    return text, f"<think>{asked.thinking}</think>{answer}"


def existence(scene: world.Scene, rng: np.random.Generator) -> tuple[str, str]:
    """Whether something is there, asked in three forms; half of the questions are about what is not."""
    there = rng.random() < 0.5
    shape = scene.shapes[int(rng.integers(len(scene.shapes)))]
    colour, kind = (shape.colour, shape.kind) if there else world.absent_pair(scene, rng)
    question, word = f"is there a {colour} {kind}", "yes" if there else "no"
    form = rng.random()
    if form < 0.3:
        return question, word
    if form < 0.45:
        return f"answer : {question}", f"<answer>{word}</answer>"
    thinking = world.thinking(shape) if there else "nothing"
    return f"say : {question}", f"<think>{thinking}</think><answer>{word}</answer>"


def plain_facts(scene: world.Scene, rng: np.random.Generator) -> tuple[str, str]:
    """Colour or number, answered in a word: what the embedded model knows already."""
    shape = scene.shapes[int(rng.integers(len(scene.shapes)))]
    if sum(s.kind == shape.kind for s in scene.shapes) == 1 and rng.random() < 0.5:
        return f"what colour is the {shape.kind}", shape.colour
    return "how many shapes are there", str(len(scene.shapes))


def _named(rng: np.random.Generator) -> Told:
    """A clean scene of the embedded model's world: groundings, existence, a fact."""
    scene = world.draw_scene(world.CLEAN, rng)
    asked = []
    for index in rng.permutation(len(scene.shapes))[:3]:
        shape = scene.shapes[index]
        answer = TASKS["referring"].label_text(world.target(shape), FRAME, True)
        form, question = rng.random(), world.question(shape.colour, shape.kind)
        if form < 0.1:
            asked.append((world.plain_question(shape.colour, shape.kind), answer))
        elif form < DIRECT:
            asked.append((f"answer : {question}", answer))
        else:
            asked.append((question, f"<think>{world.thinking(shape)}</think>{answer}"))
    return scene.render(), [*asked, *(existence(scene, rng) for _ in range(3)), plain_facts(scene, rng)]


def _grainy(rng: np.random.Generator) -> Told:
    """A grainy scene: existence and a fact, no grounding."""
    domain = Domain(EXISTENCE.objects, EXISTENCE.radius, float(rng.uniform(0.04, 0.16)))
    scene = world.draw_scene(domain, rng)
    return scene.render(), [*(existence(scene, rng) for _ in range(6)), plain_facts(scene, rng)]


def mixture(settings: Settings, phase: Phase, step: int) -> list[Told]:
    """The scenes of a step."""
    rng = np.random.default_rng((settings.seed, 20251010, step))
    told = [_named(rng) for _ in range(NAMED)] + [_grainy(rng) for _ in range(GRAINY)]
    for family, domain, scenes, count in MIXTURE:
        chosen = WORLDS[family]
        for _ in range(scenes):
            drawn = chosen.draw(chosen.domains[domain], rng, count, {**chosen.options, **OPTIONS.get(family, {})})
            told.append((drawn.picture, [reply(family, asked, rng) for asked in drawn.asked]))
    return told


def from_embedded(model: torch.nn.Module) -> None:
    """Take the embedded model's weights; tokens that it lacks keep their fresh rows."""
    loaded = Qwen2_5_VLForConditionalGeneration.from_pretrained(EMBEDDED, dtype=torch.float32)
    weights, own = dict(loaded.named_parameters()), dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in own.items():
            parameter[: len(weights[name])] = weights[name]


def export(folder: Path, out: Path, settings: Settings) -> None:
    """Write the trained weights as a checkpoint in the hub's layout, float16."""
    network: Any = pretrain.new_model(settings, scaffold.build_tokenizer(wide=True))
    network.load_state_dict(load_file(folder / "weights.safetensors"), strict=False)
    network.half().save_pretrained(out)
    scaffold.save_scaffold(out, wide=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of states, snapshots and the loss curve")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--export", type=Path, help="also write the checkpoint here")
    args = parser.parse_args()
    settings = Settings(phases=(Phase(steps=args.steps, questions=7),), learning_rate=LEARNING_RATE)
    tokenizer = scaffold.build_tokenizer(wide=True)
    pretrain.pretrain(args.out, settings, scenes=mixture, tokenizer=tokenizer, start=from_embedded)
    if args.export:
        export(args.out, args.export, settings)
        digest = hashlib.sha256((args.export / "model.safetensors").read_bytes()).hexdigest()
        sys.stdout.write(f"{args.export}: sha256 {digest}\n")


if __name__ == "__main__":
    main()
