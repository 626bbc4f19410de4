"""ViSurf in a run of TRL's GRPOTrainer, through its two arguments `rollout_func` and `reward_funcs`.

`join_labels` puts the label at the last place of every group of `num_generations`, `reward_function` scores rollouts and labels
alike and applies the reward controls; TRL then computes the group's advantages, (reward - mean) / (std + 1e-4) with n - 1, which
are Eq. 6 and 7 with another eps. Written for TRL 1.16, which this module does not import.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from visurf.control import Controls
from visurf.geometry import Frame
from visurf.groups import form_group
from visurf.scoring import Scorer
from visurf.types import Completion, Sample

IS_LABEL = "is_label"


def _text(completion: Any) -> str:
    """A completion's text; conversational ones are lists of messages."""
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


def prompt_key(prompt: Any, images: Sequence[Any] = ()) -> str:
    """What tells a prompt from all others: its texts and its pictures, wherever they stand in it.

    Args:
        prompt: A text, or messages whose content is a text or a list of parts.
        images: PIL images of a row that are not in its messages yet; TRL puts them there before it asks for rollouts.
    """
    texts, pictures = [], list(images)
    for message in [{"content": prompt}] if isinstance(prompt, str) else prompt:
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "text":
                texts.append(part["text"])
            elif part["type"] == "image":
                pictures.append(part["image"])
    digest = hashlib.sha256(repr(texts).encode("utf-8", "surrogatepass"))
    for picture in pictures:
        digest.update(repr((picture.size, picture.mode)).encode() + picture.tobytes())
    return digest.hexdigest()


def reward_function(
    scorer: Scorer,
    sample: Callable[[Mapping[str, Any]], Sample],
    *,
    frame: Callable[[Sample], Frame] = lambda sample: Frame((1000.0, 1000.0), sample.size),
    controls: Controls | None = None,
    name: str = "visurf",
) -> Callable[..., list[float]]:
    """A task's reward as a TRL reward function.

    Args:
        scorer: The task with its parts and weights.
        sample: A row of the data set, without prompt and completion, as a sample.
        frame: The coordinate frame that the model writes in.
        controls: What is done to labels that `join_labels` put in; None for all three controls.
        name: Under which TRL logs it.

    Returns:
        A function of TRL's arguments that gives the total of every completion. Where the rows say which are labels, a label is
        scored with the controls, against the rollouts that stand before it.

    Raises:
        ValueError: When called: a group ends without its label, since TRL gave this process a part of it.
        RewardError: When called: see `Scorer.score`.
    """
    chosen = controls or Controls()

    def reward(completions: Sequence[Any], prompts: Any = None, completion_ids: Any = None, **columns: Any) -> list[float]:
        # What is no column, such as trainer_state, is no list with one entry a completion.
        rows = {n: c for n, c in columns.items() if isinstance(c, list) and len(c) == len(completions)}
        labels = rows.pop(IS_LABEL, [False] * len(completions))
        if any(labels) and not labels[-1]:
            raise ValueError(
                f"{len(completions)} completions end inside a group; set per_device_train_batch_size times steps_per_generation "
                "to a multiple of num_generations, so that every process has whole groups"
            )
        totals: list[float] = []
        group: list[Completion] = []
        for index, (completion, is_label) in enumerate(zip(completions, labels, strict=True)):
            row = sample({n: column[index] for n, column in rows.items()})
            text = _text(completion)
            # A label without a thought of its own is what the eliminate control is about.
            source: Any = "label" if is_label else "policy"
            read = scorer.read(
                Completion(text, (), None, None, source=source, has_reasoning=not is_label or "<think>" in text), row, frame(row)
            )
            if not any(labels):
                totals.append(scorer.score(read, row).total)
            elif not is_label:
                group.append(read)
            else:
                totals += form_group(row, group, read, scorer, chosen).rewards
                group = []
        return totals

    reward.__name__ = name
    return reward


def join_labels(label: Callable[[Any], str]) -> Callable[[list[Any], Any], dict[str, Any]]:
    """A `rollout_func` that samples all but the last completion of each group, which is the label.

    Args:
        label: A prompt with its pictures (see `prompt_key`) to the label's text as the policy would write it (see
            `visurf.scoring.label_completion`), without an end-of-turn token.

    Returns:
        What `GRPOTrainer(rollout_func=...)` takes. Sampling is TRL's own, with its settings, images and vLLM. In evaluation no
        label joins. Every process must be given whole groups.
    """

    def rollout(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        training = trainer.model.training
        size = trainer.num_generations if training else trainer.num_generations_eval
        if len(prompts) % size:
            raise ValueError(f"{len(prompts)} prompts are no whole groups of {size}; see reward_function for what to set")
        is_label = [training and place % size == size - 1 for place in range(len(prompts))]
        asked = [prompt for prompt, skip in zip(prompts, is_label, strict=True) if not skip]
        # TRL's own two steps; it calls them with the same arguments where there is no rollout_func.
        ids, images, fields = trainer._tokenize_prompts(asked)
        sampled, logprobs = trainer._generate_single_turn(ids, images, fields, size - training)
        tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
        found: dict[str, Any] = {"prompt_ids": [], "completion_ids": [], IS_LABEL: is_label}
        found["logprobs"] = None if logprobs is None else []
        taken = 0
        for prompt, skip in zip(prompts, is_label, strict=True):
            if skip:
                # The prompt is that of the rollout before it.
                found["prompt_ids"].append(found["prompt_ids"][-1])
                written = [*tokenizer(label(prompt), add_special_tokens=False).input_ids, tokenizer.eos_token_id]
                found["completion_ids"].append(written)
                # None is TRL's mark for a token that the sampler has no log-prob for.
                if logprobs is not None:
                    found["logprobs"].append([None] * len(written))
                continue
            found["prompt_ids"].append(ids[taken])
            found["completion_ids"].append(sampled[taken])
            if logprobs is not None:
                found["logprobs"].append(logprobs[taken])
            taken += 1
        return found

    return rollout
