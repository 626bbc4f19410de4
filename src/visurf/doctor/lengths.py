"""Lengths of prompts and labels in tokens, after images are expanded, against the recipe's limits and the model's context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from visurf.config import Config
from visurf.doctor.findings import Histogram, Section, many
from visurf.doctor.layouts import Layouts
from visurf.models.family import VisionLanguageModel
from visurf.scoring import label_completion
from visurf.tasks import Task
from visurf.types import DataError, Sample

# Room for the text of a prompt where it cannot be counted.
UNCOUNTED = 128


@dataclass(frozen=True)
class Lengths:
    """Of one sample.

    Attributes:
        prompt: Tokens, images expanded; of images alone where the tokenizer is not there.
        image: Of them, image features.
        label: Tokens of the label with its end; None where it is not known.
        patches: Rows of the vision tower.
        pixel_bytes: Host memory of the pixels as the network takes them.
    """

    prompt: int
    image: int
    label: int | None
    patches: int
    pixel_bytes: int


def measure(
    samples: Sequence[Sample], layouts: Layouts, model: VisionLanguageModel | None, task: Task, config: Config
) -> tuple[list[Lengths | None], list[str]]:
    """Lengths of every sample, None where the image processor is not known; and what cannot be encoded."""
    found: list[Lengths | None] = []
    problems = []
    counted: dict[str, int] = {}
    for sample in samples:
        sizes = tuple(image.size for image in sample.images)
        layout = layouts.of(sizes)
        if layout is None:
            found.append(None)
            if sizes in layouts.refused:
                problems.append(f"sample {sample.id}: the image processor refuses {sizes}: {layouts.refused[sizes]}")
            continue
        prompt, label = layout.features, None
        if model is not None:
            try:
                prompt = _prompt(model, sample, task.prompt(sample, config.task.prompt), layout.expansions, counted)
                label = _label(model, sample, layouts, task, config)
            except (DataError, ValueError, TypeError) as error:
                problems.append(str(error) if sample.id in str(error) else f"sample {sample.id}: {error}")
        found.append(Lengths(prompt, layout.features, label, layout.patches, layout.pixel_bytes))
    return found, problems


def _prompt(model: VisionLanguageModel, sample: Sample, text: str, expansions: Sequence[str], counted: dict[str, int]) -> int:
    """Tokens of a prompt. Special tokens bound an image, so its tokens and those of the text around it add up."""
    token = model.family.image_token
    reserved = [t for t in (token, *model.family.banned_tokens) if t in text]
    if reserved:
        raise DataError(f"sample {sample.id}: the question holds the reserved token {reserved[0]!r}; remove it")
    content: list[dict[str, Any]] = [*({"type": "image"} for _ in sample.images), {"type": "text", "text": text}]
    rendered = str(
        model.tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True)
    )
    if rendered.count(token) != len(sample.images):
        raise DataError(f"sample {sample.id}: the chat template does not write one placeholder an image")
    opened = bool(model.tokenizer.bos_token) and rendered.startswith(model.tokenizer.bos_token)
    total = len(model.tokenizer(rendered, add_special_tokens=not opened).input_ids) - len(sample.images)
    for expansion in expansions:
        if expansion not in counted:
            counted[expansion] = len(model.tokenizer(expansion, add_special_tokens=False).input_ids)
        total += counted[expansion]
    return total


def _label(model: VisionLanguageModel, sample: Sample, layouts: Layouts, task: Task, config: Config) -> int | None:
    frame = layouts.frame_of(sample)
    if frame is None:
        return None
    text = label_completion(task, sample, frame, config.controls).text
    return len(model.encode_completion(text, f"label of {sample.id}"))


def check_lengths(
    samples: Sequence[Sample], lengths: Sequence[Lengths | None], problems: Sequence[str], config: Config, context: int | None
) -> Section:
    """Histograms, and what exceeds a limit.

    Args:
        samples: As in `measure`.
        lengths: What that found.
        problems: Likewise.
        config: Brings the limits.
        context: Tokens the model was made for, or None.
    """
    section = Section("lengths", "Lengths in tokens")
    known = [(s, n) for s, n in zip(samples, lengths, strict=True) if n is not None]
    if problems:
        section.error(f"samples that cannot be encoded: {len(problems):,}", "mend or leave out these samples", problems)
    if not known:
        section.not_made.append("prompt and label lengths: the model's image processor is not on this machine")
        return section
    labels = [(s, n.label) for s, n in known if n.label is not None]
    counted = bool(labels) or not samples
    limit, longest = config.rollout.max_tokens, max(n.prompt for _, n in known)
    room = None if context is None else context - limit
    what = "prompt" if counted else "image tokens of a prompt"
    section.histograms.append(Histogram(f"tokens of a {what}" if counted else what, tuple(n.prompt for _, n in known), room))
    section.facts["longest prompt"] = f"{many(longest, 'token')}, of images {max(n.image for _, n in known):,}"
    if not counted:
        section.not_made.append("tokens of texts and labels: the model's tokenizer is not on this machine")
    _check_context(section, [(s, n) for s, n in known if room is not None and n.prompt > room], context, limit)
    _check_rows(section, known, labels, config)
    if labels:
        section.histograms.append(Histogram("tokens of a label", tuple(n for _, n in labels), limit))
        long = [f"{s.id}: {n} tokens" for s, n in labels if n > limit]
        section.facts["labels over rollout.max_tokens"] = f"{len(long)} of {len(labels):,}"
        if long:
            section.warn(
                f"labels longer than rollout.max_tokens={limit}, so that no rollout can be as long: {len(long):,}",
                f"set rollout.max_tokens={max(n for _, n in labels)} or more",
                long,
            )
    return section


def _check_context(section: Section, over: Sequence[tuple[Sample, Lengths]], context: int | None, limit: int) -> None:
    section.facts["prompts over the context"] = "not known" if context is None else f"{len(over)} ({context:,} less {limit:,})"
    if over:
        section.error(
            f"prompts that with {limit} tokens of answer are longer than the model's context of {context:,}: {len(over):,}; "
            "they would have to lose image tokens, which is never done",
            "lower model.max_pixels, or leave these samples out",
            [f"{s.id}: {n.prompt:,} tokens, {n.image:,} of images" for s, n in over],
        )


def _check_rows(
    section: Section, known: Sequence[tuple[Sample, Lengths]], labels: Sequence[tuple[Sample, int]], config: Config
) -> None:
    """Budgets that a single prompt exceeds: it is computed all the same, with more memory than the budget says."""
    budget, limit = config.tokens_per_microbatch, config.rollout.max_tokens
    longest_label = max((n for _, n in labels), default=0)
    over = [f"{s.id}: {n.prompt:,} tokens" for s, n in known if n.prompt + max(limit, longest_label) > budget]
    if over:
        section.warn(
            f"prompts that with one completion exceed tokens_per_microbatch={budget}, and take more memory: {len(over):,}",
            "lower model.max_pixels, or raise tokens_per_microbatch to what the memory estimate allows",
            over,
        )
    group = config.rollout.group_size * limit
    wide = [f"{s.id}: {n.prompt + group:,} tokens" for s, n in known if n.prompt + group > config.rollout.token_budget]
    if wide:
        section.warn(
            f"groups that exceed rollout.token_budget={config.rollout.token_budget}, and are sampled alone: {len(wide):,}",
            "raise rollout.token_budget, or lower rollout.max_tokens or rollout.group_size",
            wide,
        )
