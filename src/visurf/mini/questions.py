"""Questions that the embedded model was pre-trained to answer in a word: whether something is there, its colour, how many.

As sources of data: ``world:existence``, ``world:colours`` and ``world:numbers``, each with ``?domain=DOMAIN&count=N&seed=S``. They
are the side tasks of the miniature: what post-training may forget. The model answers them without tags, so their task,
`WORDS`, reads an answer with or without.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qsl, urlsplit

import numpy as np

from visurf.geometry import Frame
from visurf.mini import world
from visurf.tags import answers as tagged_answers
from visurf.tasks import answers
from visurf.tasks.task import Metric, Task
from visurf.types import DataError, ImageRef, ParseError, Sample, Text

Ask = Callable[[world.Scene, np.random.Generator], tuple[str, str]]


def existence(scene: world.Scene, rng: np.random.Generator) -> tuple[str, str]:
    """Half of the questions are about something absent."""
    if rng.random() < 0.5:
        colour, kind = world.absent_pair(scene, rng)
        return f"is there a {colour} {kind}", "no"
    shape = scene.shapes[int(rng.integers(len(scene.shapes)))]
    return f"is there a {shape.colour} {shape.kind}", "yes"


def colours(scene: world.Scene, rng: np.random.Generator) -> tuple[str, str]:
    """About a shape that is the only one of its kind; the number of shapes where there is none."""
    kinds = [s.kind for s in scene.shapes]
    alone = [s for s in scene.shapes if kinds.count(s.kind) == 1]
    if not alone:
        return numbers(scene, rng)
    shape = alone[int(rng.integers(len(alone)))]
    return f"what colour is the {shape.kind}", shape.colour


def numbers(scene: world.Scene, rng: np.random.Generator) -> tuple[str, str]:
    """How many shapes there are."""
    return "how many shapes are there", str(len(scene.shapes))


KINDS: dict[str, Ask] = {"existence": existence, "colours": colours, "numbers": numbers}


def word_samples(source: str, task: Task) -> list[Sample]:
    """The samples of ``world:KIND?domain=DOMAIN&count=N&seed=S``, one question a scene.

    Raises:
        DataError: An unknown kind, domain or option, a value that is no number, or a task that is not about texts.
    """
    if Text not in task.targets:
        raise DataError(f"{source}: the answers are words, task {task.name!r} needs {task.target_names}; use {__name__}:WORDS")
    parts = urlsplit(source)
    options = dict(parse_qsl(parts.query))
    expected = f"expected world:{'|'.join(KINDS)}?domain={'|'.join(world.DOMAINS)}&count=N&seed=S"
    domain = world.DOMAINS.get(options.get("domain", "clean"))
    if parts.path not in KINDS or domain is None or set(options) - {"domain", "count", "seed"}:
        raise DataError(f"{source}: {expected}")
    try:
        count, seed = int(options.get("count", 200)), int(options.get("seed", 0))
    except ValueError as error:
        raise DataError(f"{source}: {expected}; {error}") from error
    samples = []
    for index in range(count):
        rng = np.random.default_rng((seed, index))
        scene = world.draw_scene(domain, rng)
        question, answer = KINDS[parts.path](scene, rng)
        samples.append(Sample(f"{parts.path}-{seed}-{index}", (ImageRef(scene.render()),), question, Text(answer)))
    return samples


def parse(text: str, sample: Sample, frame: Frame) -> Text | ParseError:
    """What stands in answer tags, or behind the last thought where there are none."""
    said = next(tagged_answers(text), text.rpartition("</think>")[2]).strip()
    return Text(said) if said else ParseError("empty_answer")


WORDS = Task(
    name="words",
    prompts={"bare": "{question}"},
    default_prompt="bare",
    target=Text,
    label_text=lambda target, frame, align: answers.render(target, frame, align),
    parse=parse,
    parts=answers.parts_of(answers.right_answer),
    judge=answers.judge,
    metrics={"accuracy": Metric("right")},
)
