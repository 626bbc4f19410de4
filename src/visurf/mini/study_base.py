"""Pre-train the base of the studies: ``python -m visurf.mini.study_base --out DIR --export CHECKPOINT``.

It starts from the embedded model and goes on with a mixture over the families of `visurf.mini.worlds`, clean domains only. What it
knows afterwards, and what it has never met, is the inside and the outside of its knowledge in the studies:

- inside: finding shapes by name, by size and by place, clicking buttons, finding lesions, counting, naming, detecting;
- outside: defects of surfaces (never seen), an empty list as an answer (never written: whether something is there is only
  ever asked as a yes/no question), pairs of colour and shape that are held out, and every shifted domain.

``--start CHECKPOINT`` goes on from another model: with ``--layers 2`` or ``1`` from fewer of its layers, for bases of other sizes,
and with ``--older`` into the classes of Qwen2-VL, whose answers count in thousandths of the picture instead of pixels.

Seeded and resumable: run the same command again after an interruption.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

from visurf.geometry import Frame
from visurf.mini import model as scaffold
from visurf.mini import pretrain, world
from visurf.mini.lessons import Told
from visurf.mini.pretrain import Phase, Settings
from visurf.mini.world import Domain
from visurf.mini.worlds import WORLDS, Asked
from visurf.tasks import TASKS

PIXELS = Frame((world.SIZE, world.SIZE), (world.SIZE, world.SIZE))
THOUSANDTHS = Frame((1000.0, 1000.0), (world.SIZE, world.SIZE))
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


def reply(family: str, asked: Asked, frame: Frame, rng: np.random.Generator) -> tuple[str, str]:
    """The question as it is put, and the reply: with its reasoning, or directly where the question says so."""
    text = f"detect all {asked.question}" if family == "detection" else asked.question
    answer = TASKS[WORLDS[family].tasks[0]].label_text(asked.target, frame, True)
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


def _named(frame: Frame, rng: np.random.Generator) -> Told:
    """A clean scene of the embedded model's world: groundings, existence, a fact."""
    scene = world.draw_scene(world.CLEAN, rng)
    asked = []
    for index in rng.permutation(len(scene.shapes))[:3]:
        shape = scene.shapes[index]
        answer = TASKS["referring"].label_text(world.target(shape), frame, True)
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
    frame = THOUSANDTHS if settings.older else PIXELS
    rng = np.random.default_rng((settings.seed, 20251010, step))
    told = [_named(frame, rng) for _ in range(NAMED)] + [_grainy(rng) for _ in range(GRAINY)]
    for family, domain, scenes, count in MIXTURE:
        chosen = WORLDS[family]
        for _ in range(scenes):
            drawn = chosen.draw(chosen.domains[domain], rng, count, {**chosen.options, **OPTIONS.get(family, {})})
            told.append((drawn.picture, [reply(family, asked, frame, rng) for asked in drawn.asked]))
    return told


def start_from(folder: Path, tokenizer: PreTrainedTokenizerFast, settings: Settings) -> Callable[[torch.nn.Module], None]:
    """A function that fills a fresh model with a checkpoint's weights, as far as they fit.

    Of fewer layers the outermost and those evenly between are taken. Tokens that the checkpoint lacks keep their fresh rows, but
    those of thousandths lie between the rows of the two pixels beside them. A vision tower of other classes keeps its fresh parts.
    """

    def fill(model: torch.nn.Module) -> None:
        loaded = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        weights: dict[str, torch.Tensor] = dict(loaded.named_parameters())
        taken = np.linspace(0, loaded.config.get_text_config().num_hidden_layers - 1, settings.layers).round().astype(int)
        before = AutoTokenizer.from_pretrained(folder, trust_remote_code=False).get_vocab()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                source = re.sub(r"(?<=language_model\.layers\.)\d+", lambda m: str(taken[int(m[0])]), name)
                if source.endswith("embed_tokens.weight"):
                    for token, row in tokenizer.get_vocab().items():
                        found = _row(weights[source], before, token, thousandths=settings.older)
                        if found is not None:
                            parameter[row] = found
                elif source in weights:
                    parameter.copy_(weights[source])

    return fill


def _row(embedding: torch.Tensor, before: Mapping[str, int], token: str, *, thousandths: bool) -> torch.Tensor | None:
    # Numbers up to 20 keep their rows: they are counts, too, and hardly any box begins that near to the edge.
    if thousandths and token.isdecimal() and 20 < int(token) <= 1000:
        pixel = int(token) / 1000 * world.SIZE
        low, high = (embedding[before[str(int(x))]] for x in (np.floor(pixel), np.ceil(pixel)))
        return torch.lerp(low, high, pixel % 1)
    return embedding[before[token]] if token in before else None


def export(folder: Path, out: Path, settings: Settings, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write the trained weights as a checkpoint in the hub's layout, float16."""
    network: Any = pretrain.new_model(settings, tokenizer)
    network.load_state_dict(load_file(folder / "weights.safetensors"), strict=False)
    network.half().save_pretrained(out)
    scaffold.save_scaffold(out, tokenizer)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of states, snapshots and the loss curve")
    parser.add_argument("--start", type=Path, default=EMBEDDED, help="checkpoint of tiny Qwen2.5-VL (default: the embedded one)")
    parser.add_argument("--layers", type=int, default=4, help="layers of the language model (default 4)")
    parser.add_argument("--older", action="store_true", help="Qwen2-VL instead of Qwen2.5-VL")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--export", type=Path, help="also write the checkpoint here")
    args = parser.parse_args()
    phases = (Phase(steps=args.steps, questions=7),)
    settings = Settings(phases=phases, learning_rate=LEARNING_RATE, layers=args.layers, older=args.older)
    tokenizer = scaffold.build_tokenizer(wide=True, thousandths=args.older)
    pretrain.pretrain(args.out, settings, scenes=mixture, tokenizer=tokenizer, start=start_from(args.start, tokenizer, settings))
    if args.export:
        export(args.out, args.export, settings, tokenizer)
        digest = hashlib.sha256((args.export / "model.safetensors").read_bytes()).hexdigest()
        sys.stdout.write(f"{args.export}: sha256 {digest}\n")


if __name__ == "__main__":
    main()
