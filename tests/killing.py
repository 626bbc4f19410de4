"""Runs that are killed with SIGKILL at chosen or random moments, and begun again until they are done.

Run as ``python killing.py JOB.json``. Everything heavy is imported once; every life of a run is a process forked from there. A job
holds the run folder, the settings over the recipe, and for each life the moment at which it ends: a name of `MOMENTS` and how many
times that moment passes before. What the lives came to is printed as JSON.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import torch

from visurf import checkpoint, checksums
from visurf.config import load_config
from visurf.mini.demo import RECIPE
from visurf.replicas import Replicas
from visurf.rollout import batch
from visurf.scoring import Scorer
from visurf.tracking import Tracker
from visurf.training import train

KILLED = -signal.SIGKILL


def die():
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


class Countdown:
    """Ends the process when a moment has passed so many times."""

    def __init__(self, count):
        self.left = count

    def passes(self):
        self.left -= 1
        return self.left < 0


def before(owner, name, countdown):
    """End the process instead of a call."""
    function = getattr(owner, name)

    def replaced(*arguments, **settings):
        if countdown.passes():
            die()
        return function(*arguments, **settings)

    setattr(owner, name, replaced)


def rollout(countdown):
    """Between two tokens."""
    before(batch.Batch, "step", countdown)


def reward(countdown):
    """Between two completions' scores."""
    before(Scorer, "score_all", countdown)


def backward(countdown):
    """After some rows' gradients."""
    before(Replicas, "backward", countdown)


def optimiser(countdown):
    """In the middle of a step: some parameters are updated, others are not."""
    function = torch._fused_adamw_

    def half(parameters, *lists, **settings):
        if countdown.passes():
            part = len(parameters) // 2
            function(parameters[:part], *(values[:part] for values in lists), **settings)
            die()
        return function(parameters, *lists, **settings)

    torch._fused_adamw_ = half


def saving(countdown):
    """In the middle of a checkpoint: half of its weights are written, or of its state, or its name is about to be given."""
    kind = countdown.left % 3
    if kind == 0:
        before(torch, "save", countdown)
    elif kind == 1:
        before(checkpoint, "_complete", countdown)
    else:
        write = checksums.write_list

        def half(folder, sums):
            if countdown.passes():
                path = folder / "model" / "model.safetensors"
                os.truncate(path, path.stat().st_size // 2)
                die()
            write(folder, sums)

        checksums.write_list = half


def logging(countdown):
    """In the middle of a line."""
    write = Tracker._write

    def half(tracker, index, row):
        if countdown.passes():
            tracker._files[index].write(json.dumps(row).encode()[:57])
            tracker._files[index].flush()
            die()
        write(tracker, index, row)

    Tracker._write = half


def anywhere(countdown):
    """Whenever so many milliseconds are over."""
    threading.Timer(countdown.left / 1000, die).start()


MOMENTS = {f.__name__: f for f in (rollout, reward, backward, optimiser, saving, logging, anywhere)}
# How many times each passes in about two steps of the runs here.
OFTEN = {"rollout": 30, "reward": 20, "backward": 2, "optimiser": 4, "saving": 3, "logging": 8, "anywhere": 4000}


def random_lives(count, seed):
    """Moments for so many lives: each kind equally often, in random order, after a random number of passes."""
    rng = random.Random(seed)
    kinds = [list(MOMENTS)[i % len(MOMENTS)] for i in range(count)]
    rng.shuffle(kinds)
    return [(kind, rng.randrange(OFTEN[kind])) for kind in kinds]


def settings(out, steps):
    """A short run with several stages of work in every step, a checkpoint after every second one, and evaluations."""
    return {
        "out": str(out),
        "data": {"train": "world:shifted?count=40&seed=5", "validation": "world:shifted?count=4&seed=6"},
        "rollout": {"group_size": 3, "max_tokens": 24},
        "prompts_per_step": 2,
        "steps": steps,
        "inner_steps": 2,
        "tokens_per_microbatch": 120,
        "checkpoint": {"every": 2},
        "evaluation": {"every": 5},
        "threads": 1,
    }


def live(config, moment=None, count=0):
    """One life of a run in a process of its own; returns how it ended."""
    process = os.fork()
    if process == 0:
        try:
            if moment is not None:
                MOMENTS[moment](Countdown(count))
            train(config)
            os._exit(0)
        except BaseException:  # noqa: BLE001 - the process ends here
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status)


def lives(out, steps, planned):
    """Kill a run at the planned moments, one after the other, then let it end.

    Returns:
        For each life: moment, passes, how it ended, and the lines that its log had then.
    """
    config, told = load_config(RECIPE, settings(out, steps)), []
    for moment, count in [*planned, (None, 0)]:
        code = live(config, moment, count)
        log = Path(out) / "metrics.jsonl"
        told.append({"moment": moment, "count": count, "code": code, "lines": log.read_bytes().count(b"\n") if log.exists() else 0})
        if code not in (0, KILLED):
            raise SystemExit(f"a life ended by itself: {told[-1]}")
        if code == 0:
            break
    return told


def run_job(folder, jobs, timeout=560):
    """Run jobs in a fresh process: {"out", "steps", "lives"} each; returns what `lives` does for each."""
    path = Path(folder) / "killing.json"
    path.write_text(json.dumps(jobs))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, __file__, str(path)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    assert ran.returncode == 0, ran.stderr[-4000:]
    return json.loads(ran.stdout.splitlines()[-1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = [lives(job["out"], job["steps"], job["lives"]) for job in json.loads(Path(sys.argv[1]).read_text())]
    sys.stdout.write(json.dumps(found) + "\n")
