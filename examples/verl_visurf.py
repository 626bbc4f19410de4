r"""ViSurf's advantage and rewards in verl. Start verl with this file's names, or run it alone to see one batch.

In a run of verl 0.9, with a file `register_visurf.py` on the Python path that verl imports in each of its processes, and that holds
two lines, `from visurf.integrations import verl` and `verl.register()`:

    VERL_USE_EXTERNAL_MODULES=register_visurf python -m verl.trainer.main_ppo \
        algorithm.adv_estimator=visurf \
        reward.custom_reward_function.path=examples/verl_visurf.py reward.custom_reward_function.name=compute_score

Rows carry ``reward_model.ground_truth`` as JSON, ``{"boxes": [[x1, y1, x2, y2]], "points": [[x, y]]}`` in pixels, and
``extra_info.image_size``, width and height. By that name every response is a rollout. A trainer of your own that appends the
label's row to each group calls `visurf_advantage` with ``is_label``, as `main` does.
"""

from __future__ import annotations

from typing import Any

from PIL import Image

from visurf import TASKS, Controls, ImageRef, Objects, Sample, Scorer
from visurf.integrations.verl import score_function, visurf_advantage
from visurf.tasks import RewardSettings

TASK = TASKS["referring"]


def as_sample(truth: Any, extra: dict[str, Any]) -> Sample:
    """A row's ground truth as visurf's rewards take it; only the picture's size is needed."""
    size = tuple(extra["image_size"])
    target = Objects(tuple(map(tuple, truth["boxes"])), tuple(map(tuple, truth["points"])))
    return Sample(str(extra.get("index", "")), (ImageRef(Image.new("1", size)),), "", target)


compute_score = score_function(Scorer(TASK, TASK.parts(RewardSettings())), as_sample)


def main() -> None:
    """One group of three rollouts and the label: rewards, then advantages with the label among them."""
    import torch

    truth = '{"boxes": [[64, 48, 320, 240]], "points": [[200, 150]]}'
    extra = {"image_size": [640, 480]}
    written = [
        "<think>left</think><answer>[]</answer>",
        '<think>left</think><answer>[{"bbox_2d": [100,100,300,300], "point_2d": [250,250]}]</answer>',
        '<think>left</think><answer>[{"bbox_2d": [100,100,900,900], "point_2d": [500,500]}]</answer>',
        TASK.label_text(
            as_sample({"boxes": [[64, 48, 320, 240]], "points": [[200, 150]]}, extra).target, frame(), Controls().align
        ),
    ]
    rewards = [compute_score("visurf", text, truth, extra)["score"] for text in written]
    mask = torch.ones(4, 2)
    token_rewards = torch.zeros(4, 2)
    token_rewards[:, -1] = torch.tensor(rewards)
    advantages, _ = visurf_advantage(token_rewards, mask, ["a"] * 4, is_label=[False, False, False, True])
    for text, reward, advantage in zip(written, rewards, advantages[:, 0].tolist(), strict=True):
        print(f"{reward:5.2f}  {advantage:+6.3f}  {text}")


def frame() -> Any:
    """The frame the model writes in: 0 to 1000."""
    from visurf import Frame

    return Frame((1000.0, 1000.0), (640, 480))


if __name__ == "__main__":
    main()
