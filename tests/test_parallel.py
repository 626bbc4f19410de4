"""Two real processes: their summed gradients are those of one, also when a process has nothing to learn from."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import visurf
from naive import worst
from replay import make_loop, replayed, update_gradient
from visurf import parallel
from visurf.paradigms import RLVR

WORKER = """
import sys, torch
from pathlib import Path
from replay import make_loop, replayed, update_gradient
from tiny import load_random
from visurf import parallel
from visurf.paradigms import RLVR
rank, processes = parallel.start()
model = load_random(Path(sys.argv[1]))
prompts, groups = replayed(model)
# The first process has two groups, the second one, and for the second shares one none with a gradient.
mine = slice(0, 2) if rank == 0 else slice(2, 3)
loss, _, found = update_gradient(make_loop(model, RLVR), prompts[mine], groups[mine])
import dataclasses
flat = [dataclasses.replace(g, advantages=(0.0,) * len(g.completions)) for g in groups]
chosen = groups if rank == 0 else flat
_, _, lonely = update_gradient(make_loop(model, RLVR), prompts[mine], chosen[mine])
names = parallel.all_names(["a", "b"] if rank == 0 else ["c"])
means = parallel.mean_metrics({"x": float(rank)} if rank == 0 else {"x": 1.0, "y": 5.0}, 2.0 - rank, torch.device("cpu"))
items = parallel.gather([rank, rank])
if rank == 0:
    torch.save({"loss": loss, "gradient": found, "lonely": lonely, "names": names, "means": means, "items": items}, sys.argv[2])
parallel.barrier()
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def together(checkpoints, tmp_path_factory):
    """What two processes found, as the first of them saw it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    out = tmp_path_factory.mktemp("parallel") / "found.pt"
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join([str(Path(visurf.__file__).parents[1]), str(Path(__file__).parent)]),
    }
    command = [sys.executable, "-c", WORKER, str(checkpoints["qwen2_5_vl"]), str(out)]
    workers = [subprocess.Popen(command, env={**environment, "RANK": str(r)}, stderr=subprocess.PIPE, text=True) for r in (0, 1)]
    errors = [w.communicate(timeout=120)[1] for w in workers]
    assert [w.returncode for w in workers] == [0, 0], json.dumps(errors)
    return torch.load(out)


def test_two_processes_give_the_gradient_of_one(together, tiny):
    loop = make_loop(tiny, RLVR)
    _, _, whole = update_gradient(loop, *replayed(tiny))
    difference, name = worst(together["gradient"], whole)
    assert difference < 1e-5, name


def test_a_process_without_any_gradient_takes_part(together, tiny):
    """It has no row at all, and its tokens still count in the scale."""
    prompts, groups = replayed(tiny)
    loop = make_loop(tiny, RLVR)
    batch = loop.batch(prompts, groups)
    tokens, own = float(batch.lengths.sum()), float(sum(len(c.token_ids) for g in groups[:2] for c in g.completions))
    _, _, found = update_gradient(loop, prompts[:2], groups[:2])
    difference, name = worst(together["lonely"], {n: v * own / tokens for n, v in found.items()})
    assert difference < 1e-5, name


def test_metrics_names_and_items_come_together(together):
    assert together["names"] == ["a", "b", "c"]
    assert together["means"] == {"x": pytest.approx(1 / 3), "y": 5.0}
    assert together["items"] == [0, 0, 1, 1]


def test_one_process_needs_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert parallel.start() == (0, 1)
    assert parallel.total([1.0, 2.0], torch.device("cpu")) == [1.0, 2.0]
    assert parallel.gather([1]) == [1]
    assert not parallel.several()
