"""TRL's GRPOTrainer as a rival: its own generation, scoring, loss and backward, on the same weights, pictures and lengths.

TRL samples all members of a group, so the label is put beside the sampled ones here: it is given the group that visurf trains on
and never samples more than visurf does. Without Triton, TRL's head scores every position of a row, padding and prompt included,
which on a CPU overstates the ratio; that is TRL as it is.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from visurf.config import ConfigError
from visurf.models.family import Prompt
from visurf.policy import Policy
from visurf.preparation import make_optimizer
from visurf.speed.contenders import Outcome, Visurf
from visurf.speed.naive import Replay
from visurf.speed.shapes import plain_copy
from visurf.speed.workloads import reward
from visurf.types import Group, Sample

VERSION = "1.16.0"


def check_installed() -> None:
    """Refuse any other TRL than the one whose inner methods this module overrides.

    Raises:
        ConfigError: TRL is not there, or another version is.
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("trl")
    except PackageNotFoundError:
        raise ConfigError(
            f"--against trl needs trl {VERSION}; install it with: make bench-install (or pip install trl=={VERSION})"
        ) from None
    if found != VERSION:
        raise ConfigError(
            f"--against trl needs trl {VERSION}, found {found}; install it with: make bench-install (or pip install trl=={VERSION})"
        )


def _processor(visurf: Visurf) -> Any:
    """Qwen2.5-VL's processor without a video processor, which would need torchvision."""
    from transformers import Qwen2_5_VLProcessor

    class StillsOnly(Qwen2_5_VLProcessor):  # type: ignore[misc]
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in super().get_attributes() if name != "video_processor"]

    tokenizer, images = visurf.model.tokenizer, visurf.model.image_processor
    return StillsOnly(image_processor=images, tokenizer=tokenizer, chat_template=tokenizer.chat_template)


def _reward(completions: Any, completion_ids: Any, label_ids: Any, signal: Any, **columns: Any) -> list[float]:
    """`visurf.speed.workloads.reward` in TRL's form."""
    rows = zip(completion_ids, label_ids, signal, strict=True)
    return [reward(ids, kind, is_label=list(ids) == list(label)) for ids, label, kind in rows]


class Trl:
    """TRL's trainer, driven one optimiser step at a time."""

    name = "trl"

    def __init__(self, visurf: Visurf) -> None:
        """Copy the weights and build the trainer around them.

        Raises:
            ConfigError: TRL is missing or of another version, or the shape trains adapters.
        """
        check_installed()
        if visurf.shape.large:
            raise ConfigError("--against trl measures tiny and mid; the large shapes are measured against naive")
        self.visurf = visurf
        self.network = plain_copy(visurf.policy.network)
        self.policy = Policy(self.network, temperature=1.0, banned=())
        self.optimizer, self.schedule = make_optimizer(visurf.config, self.policy, 1000)
        self.trainer = self._trainer()

    def _trainer(self) -> Any:
        from datasets import Dataset
        from trl import GRPOConfig, GRPOTrainer

        members = self.visurf.workload.members + 1
        rows = members * len(self.visurf.workload.groups)
        rival = self

        class WithLabels(GRPOTrainer):  # type: ignore[misc]
            def _generate_single_turn(self, prompt_ids: Any, images: Any, fields: Any, *rest: Any, **more: Any) -> Any:
                """TRL's generation of all but each group's last member, which is the label."""
                keep = [i for i in range(len(prompt_ids)) if i % members != members - 1]
                chosen = _rows_of(fields, keep)
                sampled, logprobs = super()._generate_single_turn([prompt_ids[i] for i in keep], images, chosen, *rest, **more)
                if [tuple(ids) for ids in sampled] != rival.drawn:
                    raise RuntimeError("TRL drew other tokens than those it was given")
                found = iter(sampled)
                return [
                    next(found) if i % members != members - 1 else rival.labels[i // members] for i in range(len(prompt_ids))
                ], logprobs

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            settings = GRPOConfig(
                output_dir="unused",
                per_device_train_batch_size=rows,
                gradient_accumulation_steps=1,
                num_generations=members,
                max_completion_length=self.visurf.workload.max_tokens,
                gradient_checkpointing=False,
                bf16=False,
                use_cpu=self.visurf.device.type == "cpu",
                learning_rate=self.visurf.config.optimizer.lr,
                max_grad_norm=self.visurf.config.optimizer.max_grad_norm,
                loss_type="dapo",
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
            )
            unused = Dataset.from_list([{"prompt": [{"role": "user", "content": "w0"}]}] * len(self.visurf.workload.groups))
            trainer = WithLabels(
                model=self.network,
                reward_funcs=_reward,
                args=settings,
                train_dataset=unused,
                processing_class=_processor(self.visurf),
                optimizers=(self.optimizer, self.schedule),
            )
        # What the trainer's own outer loop would set before the first step.
        trainer.current_gradient_accumulation_steps = 1
        return trainer

    def _inputs(self, samples: Sequence[Sample], groups: Sequence[Group]) -> list[dict[str, Any]]:
        """The rows that TRL's data loader would hand over: every prompt once for each member of its group."""
        self.labels = [list(g.completions[-1].token_ids) for g in groups]
        found = []
        for sample, label in zip(samples, self.labels, strict=True):
            row = {
                "prompt": [{"role": "user", "content": sample.question}],
                "images": [image.load() for image in sample.images],
                "label_ids": label,
                "signal": sample.meta["signal"],
            }
            found += [row] * (self.visurf.workload.members + 1)
        return found

    def _replay(self, groups: Sequence[Group]) -> None:
        """Make the next generation draw the rollouts of given groups."""
        self.drawn = [c.token_ids for g in groups for c in g.completions if c.source == "policy"]
        replay = Replay(self.drawn, self.network.generation_config.eos_token_id)
        # transformers takes logits processors as an argument of generate, which TRL's call has no place for.
        self.network.generate = functools.partial(type(self.network).generate, self.network, logits_processor=[replay])

    def step(self, number: int) -> Outcome:
        """The same step as visurf's last one, by the trainer's `training_step` and the same optimiser."""
        groups = self.visurf.groups
        samples = self.visurf.workload.samples(number, self.visurf.shape.text["vocab_size"])
        self._replay(groups)
        loss = self.trainer.training_step(self.network, self._inputs(samples, groups), None)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.visurf.config.optimizer.max_grad_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        return Outcome(float(loss), float(norm))

    def prepared(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> Callable[[], None]:
        """TRL's loss and backward on groups that it has generated and scored already."""
        self._replay(groups)
        self.network.train()
        inputs = self.trainer._prepare_inputs(self._inputs([p.sample for p in prompts], groups))

        def run() -> None:
            self.trainer.compute_loss(self.network, inputs).backward()

        return run


def _rows_of(fields: dict[str, Any], keep: Sequence[int]) -> dict[str, Any]:
    """Some rows of the processor's output; pictures lie patch by patch, so many as their grids say."""
    grids = torch.as_tensor(fields["image_grid_thw"])
    pictures = len(grids) // len(fields["mm_token_type_ids"])
    wanted = [i * pictures + j for i in keep for j in range(pictures)]
    patches = torch.as_tensor(fields["pixel_values"]).split(grids.prod(-1).tolist())
    return {
        "pixel_values": torch.cat([patches[i] for i in wanted]),
        "image_grid_thw": grids[wanted],
        "mm_token_type_ids": [fields["mm_token_type_ids"][i] for i in keep],
    }
