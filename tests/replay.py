"""Optimiser steps on given completions and advantages: what a step's gradient depends on, without sampling."""

import torch

from naive import gradients
from tiny import make_prompt, make_tokens
from visurf.config import AdvantageConfig, Config, OptimizerConfig, RolloutConfig, TaskConfig
from visurf.diagnostics import Diagnostics
from visurf.loop import Loop
from visurf.policy import Policy
from visurf.scoring import Scorer
from visurf.tasks import TASKS, RewardSettings
from visurf.types import Completion, Group, Score

UNCLIPPED = OptimizerConfig(lr=0.0, weight_decay=0.0, max_grad_norm=1e12)
REPLAY = [(1, 3, (5, 9, 1, 9), (0.5, -1.5, 2.0, 0.25)), (0, 2, (12, 3, 7, 4), (0.0, 1.0, 0.0, -1.0)), (2, 2, (6, 2), (-0.5, 0.5))]


def make_loop(model, paradigm, reference=None, **settings):
    config = Config(
        **{
            "optimizer": UNCLIPPED,
            "task": TaskConfig("referring", "bare"),
            "rollout": RolloutConfig(group_size=4, max_tokens=16),
            "advantage": AdvantageConfig(),
        }
        | settings
    )
    scorer = Scorer(TASKS["referring"], TASKS["referring"].parts(RewardSettings()))
    policy = Policy(model.network, temperature=config.rollout.temperature, banned=model.banned_ids)
    return Loop(config, paradigm, model, policy, scorer, reference)


def replayed(model, shapes=REPLAY, label=False):
    """Groups of given completions and advantages, the last of each the label where asked for."""
    prompts, groups = [], []
    for seed, (images, words, lengths, advantages) in enumerate(shapes):
        prompt = make_prompt(model, seed, images, words)
        members = [
            Completion(
                "",
                make_tokens(model, n, 10 * seed + i),
                None,
                None,
                source="label" if label and i == len(lengths) - 1 else "policy",
            )
            for i, n in enumerate(lengths)
        ]
        prompts.append(prompt)
        groups.append(Group(prompt.sample, tuple(members), (Score({}, 0.0),) * len(members), (), tuple(advantages)))
    return prompts, groups


def optimise(loop, lr=0.0):
    optimizer = torch.optim.AdamW(loop.policy.parameters(), lr=lr)
    return optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0, 1)


def update_gradient(loop, prompts, groups):
    """Loss, sequences carried and gradient of one update."""
    loss, carried = loop.learner.update(loop.learner.batch(prompts, groups), *optimise(loop), Diagnostics(loop.model.device))
    return loss, carried, gradients(loop.model.network)
