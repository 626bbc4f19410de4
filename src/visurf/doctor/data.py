"""Whether every image opens, every box lies inside its image, and every mask has its image's shape. Torch-free."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from visurf.data import DataSet
from visurf.doctor.findings import Section, many
from visurf.tasks import Task
from visurf.types import DataError, Detections, ImageRef, Masks, Objects, Points, Sample, Size, check_boxes

Progress = Callable[[int, int], None]
# Boxes from which on their largest coordinate says something about the file's frame.
ENOUGH_BOXES = 20


def check_data(train: DataSet, validation: DataSet, on_bad: str, progress: Progress | None = None) -> Section:
    """Open every image of both sets and hold every target against it.

    Args:
        train: Loaded with bad rows skipped, so that all of them are named.
        validation: Likewise, maybe empty.
        on_bad: `data.on_bad_sample`: where it is `skip`, a bad row or picture is a warning.
        progress: Called with (done, total) pictures.
    """
    section = Section("data", "Data")
    sets = {"train": train, "validation": validation}
    for name, data in sets.items():
        if data.samples or data.skipped:
            section.facts[f"{name} samples"] = len(data.samples)
        if data.skipped:
            add = section.warn if on_bad == "skip" else section.error
            rows = [f"{where}: {problem.removeprefix(f'{where}: ')}" for where, problem in data.skipped]
            remedy = "mend the rows; data.on_bad_sample=skip trains on the others"
            add(f"{many(len(rows), 'bad row')} in the {name} data", remedy, rows)
    samples = [*train.samples, *validation.samples]
    empty = sum(not _boxes(s) for s in samples if isinstance(s.target, Objects | Detections))
    section.facts["without an object"] = empty
    sizes = _open_all(section, samples, on_bad, progress)
    _check_targets(section, samples, sizes)
    _check_frame(section, samples, sizes)
    _check_names(section, train.samples, validation.samples)
    return section


def check_question(section: Section, samples: Sequence[Sample], task: Task, template: str) -> None:
    """Whether the prompt shows what the samples ask, where they ask different things.

    Args:
        section: Gets the finding.
        samples: Of the train data.
        task: Its prompts and slots.
        template: `task.prompt` of the recipe.
    """
    questions = {sample.question for sample in samples}
    if len(questions) < 2:
        return

    def shows(name: str) -> bool:
        # Asked, not read: a slot of the task may depend on the question too.
        asked = (dataclasses.replace(samples[0], question=question) for question in ("first", "second"))
        return len({task.prompt(sample, name) for sample in asked}) > 1

    try:
        if shows(template):
            return
    except ValueError as error:
        section.error(str(error), "mend task.prompt")
        return
    others = [f"task.prompt={name}" for name in task.prompts if shows(name)]
    section.warn(
        f"the prompt {template or task.default_prompt!r} of task {task.name!r} does not show the question, while samples ask "
        f"{len(questions):,} different ones",
        f"name the task that is meant (question_answering asks the row's question), or set {' or '.join(others)}",
    )


def _boxes(sample: Sample) -> Sequence[Sequence[float]]:
    target = sample.target
    return (target.boxes or ()) if isinstance(target, Objects | Detections | Points) else ()


def _pictures(samples: Iterable[Sample]) -> dict[int | str, ImageRef]:
    """Every picture once: by path, or by identity where it is in memory."""
    return {i.name if not i.name.startswith("<") else id(i): i for s in samples for i in s.images}


def _open_all(section: Section, samples: Sequence[Sample], on_bad: str, progress: Progress | None) -> dict[int | str, Size]:
    """Decode every picture; their sizes after EXIF transposition."""
    pictures = _pictures(samples)

    def decode(item: tuple[int | str, ImageRef]) -> tuple[int | str, Size | str]:
        try:
            return item[0], item[1].load().size
        except DataError as error:
            return item[0], str(error)

    sizes: dict[int | str, Size] = {}
    problems: list[str] = []
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        for done, (key, found) in enumerate(pool.map(decode, pictures.items()), 1):
            if isinstance(found, str):
                problems.append(found)
            else:
                sizes[key] = found
            if progress is not None and (done % 200 == 0 or done == len(pictures)):
                progress(done, len(pictures))
    section.facts["pictures opened"] = len(sizes)
    if sizes:
        section.facts["largest picture"] = "{} x {}".format(*max(sizes.values(), key=lambda s: s[0] * s[1]))
    if problems:
        message = f"pictures that cannot be opened: {len(problems):,}"
        if on_bad == "skip":
            remedy = "replace these pictures: training leaves them out, evaluations count them as failed"
            section.warn(message, remedy, problems)
        else:
            section.error(message, "replace or leave out these pictures: training stops at the first of them", problems)
    return sizes


def size_of(sample: Sample, sizes: dict[int | str, Size]) -> Size | None:
    """Width and height of a sample's first image, None where it has none that opens."""
    if not sample.images:
        return None
    image = sample.images[0]
    return sizes.get(image.name if not image.name.startswith("<") else id(image))


def _check_targets(section: Section, samples: Sequence[Sample], sizes: dict[int | str, Size]) -> None:
    outside, shapes = [], []
    for sample in samples:
        size = size_of(sample, sizes)
        if size is None:
            continue
        try:
            check_boxes(_boxes(sample), size, f"sample {sample.id}")
            _check_points(sample, size)
        except DataError as error:
            outside.append(str(error))
        if isinstance(sample.target, Masks):
            problem = _mask_problem(sample, sample.target, size)
            if problem:
                shapes.append(problem)
    if outside:
        section.error(
            f"samples with boxes or points that are not inside their image: {len(outside):,}",
            "mend the rows, or set data.frame or data.box_format to what the file holds",
            outside,
        )
    if shapes:
        section.error(f"masks that cannot be used: {len(shapes):,}", "mend or leave out these samples", shapes)


def _check_points(sample: Sample, size: Size) -> None:
    points = sample.target.points if isinstance(sample.target, Objects | Points) else None
    for x, y in points or ():
        if not (-1 <= x <= size[0] + 1 and -1 <= y <= size[1] + 1):
            raise DataError(f"sample {sample.id}: point ({x:g}, {y:g}) leaves its image of {size[0]} x {size[1]} pixels")


def _mask_problem(sample: Sample, target: Masks, size: Size) -> str:
    try:
        masks = target.load()
    except Exception as error:  # noqa: BLE001 - a broken mask file makes its reader raise nearly anything
        return f"sample {sample.id}: the mask cannot be decoded ({error})"
    for mask in masks:
        if mask.shape != (size[1], size[0]):
            return f"sample {sample.id}: a mask of {mask.shape[1]} x {mask.shape[0]} on an image of {size[0]} x {size[1]} pixels"
    return ""


def _check_frame(section: Section, samples: Sequence[Sample], sizes: dict[int | str, Size]) -> None:
    """Boxes of another frame can lie inside their images; that none ever passes 1000, or 1, gives them away."""
    seen = [(b, size) for s in samples if (size := size_of(s, sizes)) is not None for b in _boxes(s)]
    if len(seen) < ENOUGH_BOXES:
        return
    largest = max(v for box, _ in seen for v in box)
    room = sum(max(size) for _, size in seen) / len(seen)
    for bound, frame in ((1.0, "unit"), (1000.0, "1000")):
        if largest <= bound and largest > 0.93 * bound and room > 1.3 * bound:
            section.warn(
                f"no coordinate of {many(len(seen), 'box', 'boxes')} exceeds {bound:g}, and one reaches {largest:g}, while images "
                f"have {room:.0f} pixels on their longer side: are the boxes in another frame than pixels?",
                f"if so, set data.frame={frame}",
            )
            return


def _check_names(section: Section, train: Sequence[Sample], validation: Sequence[Sample]) -> None:
    """The same name twice, and questions that validation shares with training."""
    counts = Counter(s.id for s in train)
    if twice := [name for name, count in counts.items() if count > 1]:
        section.warn(
            f"ids of the train data that occur more than once: {len(twice):,}", "give every sample an id of its own", twice
        )

    def place(sample: Sample) -> tuple[str, ...] | None:
        names = tuple(i.name for i in sample.images)
        # Pictures in memory have no name to compare; those of the rendered world differ by their seed.
        return None if any(n.startswith("<") for n in names) else (*names, sample.question)

    seen = {p for s in train if (p := place(s)) is not None}
    shared = [s.id for s in validation if place(s) in seen]
    if shared:
        section.warn(
            f"validation samples that ask what a train sample asks, of the same picture: {len(shared):,}",
            "leave them out of one of the two, or validation measures what was learnt by heart",
            shared,
        )
