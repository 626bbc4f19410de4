"""ViSurf inside TRL: the label joins the group of a GRPOTrainer, rewards and controls are visurf's.

Runs on a CPU in about a minute with the model that ships in the package: ``python examples/trl_visurf.py``. For a model of your own
replace `PATH` and load its processor with `AutoProcessor`. Needs ``pip install -e ".[train]" "trl>=1.16,<2" datasets`` in a clone.
"""

from __future__ import annotations

import argparse
import os

from datasets import Dataset
from transformers import AutoModelForImageTextToText, AutoTokenizer, Qwen2_5_VLProcessor, Qwen2VLImageProcessorPil
from trl import GRPOConfig, GRPOTrainer

from visurf import TASKS, Controls, Frame, ImageRef, Objects, Sample, Scorer
from visurf.integrations.trl import join_labels, prompt_key, reward_function
from visurf.mini import world
from visurf.models.loading import resolve
from visurf.scoring import label_completion
from visurf.tasks import RewardSettings

PATH = resolve("mini")
TASK = TASKS["referring"]
CONTROLS = Controls()


class PictureProcessor(Qwen2_5_VLProcessor):
    """Qwen2.5-VL's processor without its video part, which would need torchvision."""

    @classmethod
    def get_attributes(cls) -> list[str]:
        """What it is made of."""
        return [name for name in super().get_attributes() if name != "video_processor"]


def frame_of(sample: Sample) -> Frame:
    """Qwen2.5-VL speaks pixels of the picture it sees; these pictures are not resized."""
    return Frame((float(sample.size[0]), float(sample.size[1])), sample.size)


def as_row(sample: Sample) -> dict:
    """A sample as a row of a TRL data set: prompt, picture, and the columns that `as_sample` reads."""
    target = sample.target
    return {
        "prompt": [{"role": "user", "content": TASK.prompt(sample, "bare")}],
        "image": sample.images[0].load(),
        "question": sample.question,
        "boxes": [list(box) for box in target.boxes],
        "points": [list(point) for point in target.points or ()],
    }


def as_sample(row: dict) -> Sample:
    """The way back, for the reward."""
    target = Objects(tuple(map(tuple, row["boxes"])), tuple(map(tuple, row["points"])))
    return Sample(row["question"], (ImageRef(row["image"]),), row["question"], target)


def main() -> None:
    """Train a few steps and print what TRL logged."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--out", default="runs/trl")
    options = parser.parse_args()
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func may change between versions of TRL

    samples = world.referring_samples(world.DOMAINS["shifted"], 64, 1, 0.4, False)
    rows = [as_row(sample) for sample in samples]
    # The label as the policy writes it; questions repeat, so a question alone does not tell the label.
    labels = {
        prompt_key(row["prompt"], [row["image"]]): label_completion(TASK, sample, frame_of(sample), CONTROLS).text
        for row, sample in zip(rows, samples, strict=True)
    }
    data = Dataset.from_list(rows)

    processor = PictureProcessor(
        image_processor=Qwen2VLImageProcessorPil.from_pretrained(PATH),
        tokenizer=AutoTokenizer.from_pretrained(PATH),
        chat_template=AutoTokenizer.from_pretrained(PATH).chat_template,
    )
    scorer = Scorer(TASK, TASK.parts(RewardSettings(frame=(256.0, 256.0))))
    trainer = GRPOTrainer(
        model=AutoModelForImageTextToText.from_pretrained(PATH, dtype="float32"),
        processing_class=processor,
        train_dataset=data,
        reward_funcs=reward_function(scorer, as_sample, frame=frame_of, controls=CONTROLS),
        rollout_func=join_labels(lambda prompt: labels[prompt_key(prompt)]),
        args=GRPOConfig(
            output_dir=options.out,
            max_steps=options.steps,
            per_device_train_batch_size=10,
            num_generations=5,  # four rollouts and the label
            max_completion_length=40,
            learning_rate=1e-4,
            beta=0.0,
            logging_steps=1,
            report_to=[],
            use_cpu=True,
            bf16=False,
            save_strategy="no",
        ),
    )
    trainer.train()
    for entry in trainer.state.log_history:
        if "reward" in entry:
            print({key: round(entry[key], 4) for key in ("loss", "grad_norm", "reward", "reward_std")})


if __name__ == "__main__":
    main()
