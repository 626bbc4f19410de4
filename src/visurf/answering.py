"""Questions about pictures, put to a model: greedy answers, read by the parser of training."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visurf.config import Config, DataConfig
from visurf.data import image_folder, numbered_lines
from visurf.drawing import draw_answer, in_words, with_caption
from visurf.judging import plain
from visurf.segmenter import Segmenter
from visurf.small_pictures import mask_runs
from visurf.targets import image_refs
from visurf.tasks import Task
from visurf.types import (
    Answer,
    Choice,
    DataError,
    Detections,
    ImageRef,
    Masks,
    Number,
    Objects,
    ParseError,
    Points,
    Sample,
    Text,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_BATCH = 16
# A drawing's longest side is at least this.
_SMALLEST = 320


@dataclass(frozen=True)
class Answered:
    """What a model said about one picture.

    Attributes:
        sample: What was asked.
        text: The whole completion.
        answer: What was understood, in pixels of the original picture; None where nothing was.
        error: Why nothing was understood.
        truncated: Whether the completion was cut at the length limit.
        masks: One a box, by the segmenter.
    """

    sample: Sample
    text: str
    answer: Answer | None
    error: ParseError | None
    truncated: bool = False
    masks: tuple[NDArray[np.uint8], ...] = ()

    def row(self) -> dict[str, Any]:
        """As one line of JSONL."""
        found = {
            "id": self.sample.id,
            "image": [image.name for image in self.sample.images],
            "question": self.sample.question,
            "text": self.text,
            "thinking": thought(self.text),
            "answer": plain(self.answer),
            "error": None if self.error is None else self.error.reason,
            "detail": None if self.error is None else self.error.detail,
            "truncated": self.truncated,
        }
        return found | ({"masks": [mask_runs(mask, max(mask.shape)) for mask in self.masks]} if self.masks else {})

    def drawn(self) -> Image.Image:
        """The picture with the answer on it and in words below it."""
        said = in_words(self.answer) if self.error is None else f"no answer: {self.error.reason}"
        image = self.sample.images[0].load()
        # Lines on a picture of a few dozen pixels would hide it.
        scale = max(1, -(-_SMALLEST // max(image.size)))
        image = draw_answer(image, self.answer, self.masks, name=self.sample.id, scale=scale)
        return with_caption(image, f"{self.sample.question}: {said}")


def thought(text: str) -> str:
    """What stands between the first thinking tags, without blanks around it; empty where there is none.

    >>> thought("<think> a cat </think><answer>[]</answer>"), thought("<answer>[]</answer>")
    ('a cat', '')
    """
    start, end = text.find("<think>"), text.find("</think>")
    return text[start + len("<think>") : end].strip() if 0 <= start < end else ""


def read_questions(place: Path, question: str, task: Task, data: DataConfig | None = None) -> list[Sample]:
    """What to ask: one picture, the pictures of a folder in the order of their names, or the rows of a JSONL file.

    Args:
        place: A picture, a folder, or a file ``*.jsonl`` whose rows have `image` and optionally `id`, `question` and `options`.
        question: Asked of every picture, and of every row without a question of its own.
        task: Its targets stand in for the unknown truth.
        data: Which folder the pictures of rows are relative to, as in training: `images` in `root`, or the file's own.

    Raises:
        DataError: Nothing to ask, a row is wrong, or a picture is missing.
    """
    if place.suffix == ".jsonl":
        return list(_rows(place, question, task, image_folder(data or DataConfig(), place)))
    if not question.strip():
        raise DataError("expected a question, got none; only rows of a JSONL file may bring their own")
    if place.is_dir():
        files = sorted(p for p in place.iterdir() if p.suffix.lower() in SUFFIXES)
        if not files:
            raise DataError(f"{place}: expected pictures ({', '.join(SUFFIXES)}), found none")
        return [Sample(p.name, (ImageRef(p),), question, _unknown(task)) for p in files]
    image = ImageRef(place)
    if image.size[0] < 1:
        raise DataError(f"{place}: an empty picture")
    return [Sample(place.name, (image,), question, _unknown(task))]


def _rows(path: Path, question: str, task: Task, folder: Path) -> Iterator[Sample]:
    try:
        lines = list(numbered_lines(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    for number, line in lines:
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not JSON ({error})") from error
        if not isinstance(row, dict) or "image" not in row:
            raise DataError(f"{where}: expected an object with the field image")
        asked, options = row.get("question", question), row.get("options", ())
        if not isinstance(asked, str) or not asked.strip():
            raise DataError(f"{where}: field question: expected text, got {asked!r}; or give a question for all rows")
        if not isinstance(options, list | tuple) or not all(isinstance(o, str) for o in options):
            raise DataError(f"{where}: field options: expected a list of texts, got {options!r}")
        yield Sample(str(row.get("id", number)), image_refs(row["image"], folder, where), asked, _unknown(task, tuple(options)))
    if not lines:
        raise DataError(f"{path}: no rows")


def _unknown(task: Task, options: tuple[str, ...] = ()) -> Answer:
    """A target that says nothing, of the kind that the task's prompt may look at."""
    kind = task.targets[0]
    blank: dict[type, Answer] = {
        Objects: Objects(),
        Detections: Detections(),
        Points: Points(()),
        Masks: Masks(()),
        Choice: Choice("A", options),
        Number: Number("0"),
        Text: Text(""),
    }
    return blank[kind]


def ask(config: Config, task: Task, samples: Sequence[Sample], segmenter: Segmenter | None = None) -> Iterator[Answered]:
    """Answer samples greedily with `config.model.path`, one `Answered` each, in order.

    A picture that cannot be read is answered with the error `unreadable_picture`, so that one broken file ends no folder.

    Args:
        config: Model, prompt and rollout settings.
        task: Renders prompts and reads answers.
        samples: What to ask.
        segmenter: Draws a mask for every answered box, or None.
    """
    import torch

    from visurf.precision import autocast
    from visurf.preparation import frozen_policy
    from visurf.rollout.local import Sampling, sample

    if config.threads:
        torch.set_num_threads(config.threads)
    model, policy = frozen_policy(config, config.model.path)
    settings = config.rollout
    greedy = Sampling(settings.max_tokens, greedy=True, token_budget=settings.token_budget, cuda_graphs=settings.cuda_graphs)
    for start in range(0, len(samples), _BATCH):
        found: dict[int, Answered] = {}
        prompts = []
        for index, asked in enumerate(samples[start : start + _BATCH]):
            try:
                prompts.append((index, model.encode_prompt(asked, task.prompt(asked, config.task.prompt))))
            except DataError as error:
                if len(samples) == 1:
                    raise
                found[index] = Answered(asked, "", None, ParseError("unreadable_picture", str(error)))
        with autocast(config, model.device):
            groups = sample(policy, model.family, [p for _, p in prompts], 1, greedy, model.eos_ids) if prompts else []
        for (index, prompt), (rollout,) in zip(prompts, groups, strict=True):
            text = model.decode(rollout.token_ids)
            read = task.parse(text, prompt.sample, prompt.frame)
            answer, problem = (None, read) if isinstance(read, ParseError) else (read, None)
            masks = _segmented(prompt.sample, answer, segmenter)
            found[index] = Answered(prompt.sample, text, answer, problem, rollout.truncated, masks)
        yield from (found[index] for index in sorted(found))


def _segmented(sample: Sample, answer: Answer | None, segmenter: Segmenter | None) -> tuple[NDArray[np.uint8], ...]:
    if segmenter is None or not isinstance(answer, Objects | Detections) or not sample.images:
        return ()
    points = answer.points if isinstance(answer, Objects) else None
    return tuple(segmenter.segment(sample.images[0], answer.boxes, points))
