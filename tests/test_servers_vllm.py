"""Rollouts from a real vLLM server on the CPU: `make test-vllm`. It starts within minutes, and once more after it is killed."""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from test_servers import record_batches, rows, scheduled
from visurf.config import load_config, merge
from visurf.data import load_data
from visurf.mini.demo import RECIPE
from visurf.models import load_model
from visurf.packing import Bundle, Scored, build_row
from visurf.policy import Policy
from visurf.rollout.local import sample
from visurf.rollout.servers import Limits, Servers
from visurf.rollout.transfer import FileTransfer
from visurf.rollout.types import Sampling
from visurf.rollout.vllm import Drawing, Server
from visurf.tasks import TASKS
from visurf.training import train

PYTHON = os.environ.get("VISURF_VLLM_PYTHON", "")
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not PYTHON, reason="VISURF_VLLM_PYTHON names no interpreter with vLLM: make test-vllm"),
]
BLOCK = 32


class Running:
    """A server as `visurf serve` starts it, as often as it is started; every start has a log of its own."""

    def __init__(self, folder, *changes):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.address, self.changes, self.starts = folder, f"http://127.0.0.1:{self.port}", changes, 0

    def log(self, start):
        """What the server of one start wrote; 1 is the first."""
        return (self.folder / f"server-{start}.log").read_text(errors="replace")

    def answered(self, path, start=None):
        """How often a start, the last by default, answered a POST with success, by its own access log."""
        return self.log(start or self.starts).count(f'"POST {path} HTTP/1.1" 200')

    def start(self):
        self.starts += 1
        own = (*self.changes, f"out={self.folder}", "--cpu", "--port", str(self.port), "--python", PYTHON)
        with (self.folder / f"server-{self.starts}.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "visurf", "serve", str(RECIPE), *own, "--flag=--max-model-len=512"],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self):
        server, until = Server(self.address), time.monotonic() + 1200
        while not server.healthy():
            assert self.process.poll() is None, self.log(self.starts)[-3000:]
            assert time.monotonic() < until, "the server did not start"
            time.sleep(1)
        server.close()

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    found = Running(tmp_path_factory.mktemp("server"))
    found.start()
    found.wait()
    yield found
    found.kill()


@pytest.fixture
def adapted(tmp_path_factory):
    """A server with adapters switched on; it is gone before `running` starts, so that memory for one server is enough."""
    found = Running(tmp_path_factory.mktemp("adapted"), "model.lora.rank=8")
    found.start()
    found.wait()
    yield found
    found.kill()


def settings(out, address, **changes):
    own = {
        "data": {"train": "world:shifted?count=120&seed=5", "validation": ""},
        "rollout": {"group_size": 4, "engine": "vllm", "servers": {"addresses": [address], "patience": 1200.0}},
        "prompts_per_step": 4,
        "steps": 20,
        "evaluation": {"every": 0},
        "checkpoint": {"every": 5},
        "threads": 1,
        "out": str(out),
    }
    return load_config(RECIPE, merge(own, changes))


def counted(address):
    import httpx

    found = {}
    for line in httpx.get(f"{address}/metrics", trust_env=False).text.splitlines():
        name, _, value = line.rpartition(" ")
        if not line.startswith("#"):
            found[name.partition("{")[0]] = found.get(name.partition("{")[0], 0.0) + float(value)
    return found


def encoded(mini, count):
    task = TASKS["referring"]
    samples = load_data(f"world:shifted?count={count}&seed=77", load_config(RECIPE).data, task).samples
    return [mini.encode_prompt(s, task.prompt(s, "")) for s in samples]


def connected(running, mini, folder):
    way = FileTransfer(mini, mini.network, folder, lambda network: None)
    return Servers([Server(running.address)], way, Limits(16, 600.0))


def drawing(mini, **changes):
    return Drawing(Sampling(40, **changes), 1.0, mini.eos_ids, mini.banned_ids, mini.image_id)


def test_adapters_are_pushed_and_answer(adapted, tmp_path):
    config = settings(tmp_path / "run", adapted.address, steps=3, model={"lora": {"rank": 4}}, optimizer={"lr": 1e-2})
    before = adapted.answered("/v1/load_lora_adapter")
    train(config)
    found = rows(tmp_path / "run")
    assert adapted.answered("/v1/load_lora_adapter") - before == 3
    assert adapted.answered("/collective_rpc") == 0, "nothing but adapters travels"
    print("\nadapters:", [f"{r['rollout/logprob_difference']:.2g}" for r in found])
    # With such steps the weights of the step before would differ by far more.
    assert max(r["rollout/logprob_difference"] for r in found) < 1e-4
    assert all(r["rollout/pushes"] == 1 for r in found)


def test_greedy_rollouts_differ_only_where_the_two_best_tokens_are_close(running, mini, tmp_path):
    prompts = encoded(mini, 64)
    pool = connected(running, mini, tmp_path / "w")
    pool.push()
    drawn = pool.draw(prompts, 1, drawing(mini, greedy=True), [0] * len(prompts))
    policy = Policy(mini.network, temperature=1.0, banned=mini.banned_ids).eval()
    local = sample(policy, mini.family, prompts, 1, Sampling(40, greedy=True), mini.eos_ids)
    apart, worst = 0, 0.0
    for prompt, (ours,), (theirs,) in zip(prompts, local, drawn, strict=True):
        pairs = list(zip(ours.token_ids, theirs.token_ids, strict=False))
        place = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
        worst = max([worst, *(abs(a - b) for a, b in zip(ours.logprobs[:place], theirs.logprobs[:place], strict=True))])
        if ours.token_ids != theirs.token_ids:
            apart += 1
            # Both took their best token: had those not been close, a difference of kernels could not have swapped them.
            assert abs(ours.logprobs[place] - theirs.logprobs[place]) < 1e-3, prompt.sample.id
    print(f"\n{apart} of {len(prompts)} greedy rollouts differ; log-probs of common tokens within {worst:.2g}")
    assert worst < 1e-3


def test_prefix_and_image_are_encoded_once_for_a_group(running, mini, tmp_path):
    prompts = encoded(mini, 8)
    pool = connected(running, mini, tmp_path / "w")
    pool.push()
    before = counted(running.address)
    members = 8
    pool.draw(prompts, members, drawing(mini), range(len(prompts)))
    now = counted(running.address)
    change = {name: now[name] - before.get(name, 0.0) for name in now}
    # All but the last, incomplete block of a prompt come from the first member's pass.
    shared = sum(len(p.token_ids) // BLOCK * BLOCK for p in prompts)
    asked, kept = change["vllm:prompt_tokens_total"], change["vllm:prefix_cache_hits_total"]
    print(f"\nasked {asked:.0f} prompt tokens, {kept:.0f} of them from the cache")
    assert asked == members * sum(len(p.token_ids) for p in prompts)
    assert kept >= (members - 1) * shared
    assert change["vllm:mm_cache_queries_total"] == len(prompts), "pictures are processed once per group, not once per member"


def test_merged_adapters_are_pushed_as_a_file(running, tmp_path):
    changes = {"model": {"lora": {"rank": 4}}, "optimizer": {"lr": 1e-2}, "rollout": {"servers": {"push": "file"}}}
    before = running.answered("/collective_rpc")
    train(settings(tmp_path / "run", running.address, steps=2, **changes))
    assert running.answered("/collective_rpc") - before == 2
    assert running.answered("/v1/load_lora_adapter") == 0
    assert max(r["rollout/logprob_difference"] for r in rows(tmp_path / "run")) < 1e-4


@pytest.mark.parametrize("part", ["patch_embed", "blocks", "merger", "embed_tokens", "self_attn", "mlp", "norm"])
def test_every_part_of_the_weights_arrives(running, mini, tmp_path, part):
    own, prompts = load_model("mini"), encoded(mini, 4)
    pool = connected(running, own, tmp_path / "w")
    policy = Policy(own.network, temperature=1.0, banned=own.banned_ids).eval()
    torch.manual_seed(0)
    chosen = [p for n, p in own.network.named_parameters() if part in n]
    assert chosen
    for parameter in chosen:
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    pool.push()
    worst = 0.0
    for prompt, drawn in zip(prompts, pool.draw(prompts, 4, drawing(own), range(4)), strict=True):
        row = build_row([Bundle(prompt, tuple(Scored(r.token_ids, i) for i, r in enumerate(drawn)))], own.family, "cpu")
        with torch.no_grad():
            ours = policy(row)
        worst = max(worst, float((ours - torch.tensor([v for r in drawn for v in r.logprobs])).abs().max()))
    print(f"\n{part}: log-probs within {worst:.2g}")
    assert worst < 1e-4


class Death(logging.Handler):
    """Kills a server in the middle of a step's rollouts, and starts it anew once the run has said that it is lost.

    Attributes:
        step: Number of the step that loses it, from 0.
        loaded: Weight updates that the killed server had answered.
        said: What the run said about servers, in order.
    """

    def __init__(self, running, step):
        super().__init__()
        self.running, self.step, self.loaded, self.said = running, step, 0, []
        self.now, self.asking = -1, threading.Lock()

    def arm(self, monkeypatch):
        from visurf.loop import Loop

        step, generate = Loop.step, Server.generate

        def numbered(loop, samples, number, *rest):
            self.now = number
            return step(loop, samples, number, *rest)

        def killing(server, *question):
            answer = generate(server, *question)
            with self.asking:
                if self.now == self.step and not self.loaded:
                    self.loaded = self.running.answered("/collective_rpc")
                    self.running.kill()
            return answer

        monkeypatch.setattr(Loop, "step", numbered)
        monkeypatch.setattr(Server, "generate", killing)
        logging.getLogger("visurf.rollout.servers").addHandler(self)

    def disarm(self):
        logging.getLogger("visurf.rollout.servers").removeHandler(self)

    def emit(self, record):
        self.said.append(record.getMessage())
        # Only now: a run that did not notice would wait in vain.
        if self.said[-1].startswith("lost ") and self.running.process.poll() is not None:
            self.running.start()


def test_twenty_steps_with_a_server_that_is_killed(running, tmp_path, monkeypatch):
    seen, steps, killed = record_batches(monkeypatch), 20, 8
    # Two prompts at a time: when the first is answered and the server dies, others are in its hands or not yet asked.
    config = settings(tmp_path / "run", running.address, steps=steps, rollout={"servers": {"requests": 2}})
    before, first = running.answered("/collective_rpc"), running.starts
    death = Death(running, killed)
    death.arm(monkeypatch)
    try:
        train(config)
    finally:
        death.disarm()
    found = rows(tmp_path / "run")
    assert seen == scheduled(config), "a sample was lost or trained twice"
    assert [r["step"] for r in found] == list(range(1, steps + 1))
    assert running.starts == first + 1
    expected = (
        f"lost {running.address}: ",
        f"{running.address} is not there",
        f"{running.address} is there and was given the weights",
    )
    assert len(death.said) == 3, death.said
    assert [said.startswith(start) for said, start in zip(death.said, expected, strict=True)] == [True] * 3, death.said
    # By the servers' own logs: the killed one took the weights of the steps up to its death, the new one those of that step again
    # and of all later ones. Its checkpoint of the start would show below.
    assert death.loaded - before == killed + 1
    assert running.answered("/collective_rpc") == steps - killed
    assert [r["rollout/servers_lost"] for r in found] == [float(n == killed) for n in range(steps)]
    assert [r["rollout/pushes"] for r in found] == [1.0 + (n == killed) for n in range(steps)]
    differences = [r["rollout/logprob_difference"] for r in found]
    print(f"\nkilled: log-prob difference {np.mean(differences):.2g}, at most {max(differences):.2g}")
    # Rounding alone: rollouts of the step before would differ by a hundred times as much.
    assert max(differences) < 1e-5
    assert {r["rollout/staleness"] for r in found} == {0.0}


def test_twenty_steps_overlapped(running, tmp_path, monkeypatch):
    seen = record_batches(monkeypatch)
    config = settings(tmp_path / "run", running.address, rollout={"overlap": True})
    train(config)
    found = rows(tmp_path / "run")
    assert seen == scheduled(config)
    assert [r["step"] for r in found] == list(range(1, 21))
    assert [r["rollout/staleness"] for r in found] == [0.0, *[1.0] * 19]
    differences = [r["rollout/logprob_difference"] for r in found]
    print(f"\noverlapped: log-prob difference {np.mean(differences):.2g}, at most {max(differences):.2g}")
    assert 1e-5 < np.median(differences) < 0.1, "rollouts of the step before differ, though not by much"
