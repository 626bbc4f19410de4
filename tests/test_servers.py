"""Rollouts from servers, against a small server on loopback: spread, retries, death, weights, mismatch, overlap."""

import dataclasses
import json
import threading
import warnings

import numpy as np
import pytest
import torch

pytest.importorskip("httpx")

from fake_server import FakeServer
from visurf import agreement
from visurf.config import ConfigError, load_config, merge
from visurf.data import load_data
from visurf.diagnostics import Diagnostics
from visurf.mini.demo import RECIPE
from visurf.models import load_model
from visurf.policy import Policy
from visurf.preparation import sample_order
from visurf.replicas import Replicas
from visurf.rollout import nccl, servers, transfer
from visurf.rollout.local import sample
from visurf.rollout.remote import connect
from visurf.rollout.servers import Limits, Servers
from visurf.rollout.transfer import AdapterTransfer, FileTransfer
from visurf.rollout.types import Sampling
from visurf.rollout.vllm import Drawing, Server, ServerLost, ServerMismatch, Weights
from visurf.tasks import TASKS
from visurf.training import train

BUSY = ("/inference/v1/generate", "/weight_info", "/v1/models")
RESETS = ["/reset_mm_cache", "/reset_encoder_cache", "/reset_prefix_cache"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(servers, "PAUSE", 0.05)


@pytest.fixture
def fakes():
    found = [FakeServer().start(), FakeServer().start()]
    yield found
    for fake in found:
        fake.stop()


@pytest.fixture(scope="module")
def prompts(mini):
    task = TASKS["referring"]
    samples = load_data("world:shifted?count=6&seed=5", load_config(RECIPE).data, task).samples
    return [mini.encode_prompt(s, task.prompt(s, "")) for s in samples]


def drawing(model, **changes):
    return Drawing(Sampling(24, **changes), 1.0, model.eos_ids, model.banned_ids, model.image_id)


def together(fakes, folder, model, **limits):
    way = FileTransfer(model, model.network, folder, lambda network: None)
    return Servers([Server(f.address) for f in fakes], way, Limits(**{"requests": 1, "patience": 20.0, **limits}))


def test_rollouts_are_those_of_the_process_and_every_prompt_is_asked_once(fakes, prompts, mini, tmp_path):
    pool = together(fakes, tmp_path / "w", mini)
    pool.push()
    drawn = pool.draw(prompts, 2, drawing(mini, greedy=True), [0] * len(prompts))
    policy = Policy(mini.network, temperature=1.0, banned=mini.banned_ids).eval()
    local = sample(policy, mini.family, prompts, 2, Sampling(24, greedy=True), mini.eos_ids)
    for ours, theirs in zip(local, drawn, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert (a.token_ids, a.truncated) == (b.token_ids, b.truncated)
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-4)
    shares = [sum(path == "/inference/v1/generate" for path, _ in f.calls) for f in fakes]
    assert sum(shares) == len(prompts)
    assert min(shares) > 0, "one server did everything"
    asked = [body for f in fakes for path, body in f.calls if path == "/inference/v1/generate"]
    assert {b["sampling_params"]["n"] for b in asked} == {2}


def test_seeds_and_members(fakes, prompts, mini, tmp_path):
    pool = together(fakes, tmp_path / "w", mini)
    pool.push()
    first = pool.draw(prompts, 3, drawing(mini), range(0, 60, 10))
    assert first == pool.draw(prompts, 3, drawing(mini), range(0, 60, 10))
    assert first != pool.draw(prompts, 3, drawing(mini), range(1, 61, 10))
    for group in first:
        for rollout in group:
            assert rollout.truncated == (rollout.token_ids[-1] not in mini.eos_ids)
            assert not set(rollout.token_ids) & set(mini.banned_ids)


def test_caches_are_reset_on_both_sides_of_new_weights(fakes, mini, tmp_path):
    pool = together(fakes, tmp_path / "w", mini)
    pool.push()
    for fake in fakes:
        assert fake.paths(but=BUSY) == [*RESETS, "/collective_rpc", *RESETS, "/update_weight_version"]
    pool.push()
    assert len(list((tmp_path / "w").iterdir())) == 1, "earlier weights stay on the disk"
    pool.close()
    assert not (tmp_path / "w").exists()


def test_a_server_that_dies_is_reported_and_its_prompts_are_asked_of_the_other(fakes, prompts, mini, tmp_path, caplog):
    pool = together(fakes, tmp_path / "w", mini)
    pool.push()
    whole = pool.draw(prompts, 2, drawing(mini), range(6))
    fakes[0].dies_after = 1
    assert pool.draw(prompts, 2, drawing(mini), range(6)) == whole
    assert pool.report()["rollout/servers_lost"] == 1
    assert f"lost {fakes[0].address}" in caplog.text


def test_a_server_that_returns_is_given_the_weights_before_it_answers(fakes, prompts, mini, tmp_path, caplog):
    pool = together(fakes[:1], tmp_path / "w", mini)
    pool.push()
    whole = pool.draw(prompts, 2, drawing(mini), range(6))
    fakes[0].dies_after = 2
    before = len(fakes[0].calls)
    timer = threading.Timer(1.0, fakes[0].revive)
    timer.start()
    assert pool.draw(prompts, 2, drawing(mini), range(6)) == whole
    since = [p for p in fakes[0].paths()[before:]]
    again = since.index("/collective_rpc")
    # Two answers and the request it died of; the weights; then exactly the four that were left.
    assert since[:again].count("/inference/v1/generate") == 3
    assert since[again:].count("/inference/v1/generate") == 4
    assert fakes[0].version == pool.weights.version
    assert "was given the weights" in caplog.text


def test_a_restart_between_two_steps_is_noticed(fakes, prompts, mini, tmp_path):
    pool = together(fakes[:1], tmp_path / "w", mini)
    pool.push()
    fakes[0].revive()
    pool.draw(prompts[:1], 1, drawing(mini), [0])
    assert fakes[0].version == pool.weights.version


def test_without_servers_the_run_ends_and_says_what_to_do(fakes, prompts, mini, tmp_path):
    pool = together(fakes, tmp_path / "w", mini, patience=0.3)
    for fake in fakes:
        fake.dead = True
    pool.push()
    with pytest.raises(ServerLost, match="visurf serve"):
        pool.draw(prompts, 1, drawing(mini), range(6))


def test_other_weights_than_asked_are_no_answer(fakes, prompts, mini):
    server = Server(fakes[0].address)
    with pytest.raises(ServerLost, match="weights"):
        server.generate(prompts[0], 1, drawing(mini), 0, Weights("other"))


def test_other_tokens_than_ours_end_the_run(fakes, prompts, mini, tmp_path):
    pool = together(fakes[:1], tmp_path / "w", mini)
    pool.push()
    odd = dataclasses.replace(prompts[0], token_ids=(*prompts[0].token_ids[:20], mini.image_id, *prompts[0].token_ids[20:]))
    with pytest.raises(ServerMismatch, match=r"training as \d+; from token \d+"):
        pool.draw([odd], 1, drawing(mini), [0])


def test_a_token_is_sent(fakes, prompts, mini):
    fakes[0].token = "secret"
    with pytest.raises(ServerMismatch, match="token_variable"):
        Server(fakes[0].address).adapters()
    assert Server(fakes[0].address, "secret").adapters() == ["mini"]


def test_adapters_have_a_name_for_every_version_and_the_last_is_unloaded(fakes, prompts, mini, tmp_path):
    from peft import LoraConfig, get_peft_model

    own = load_model("mini")
    network = get_peft_model(own.network, LoraConfig(r=2, target_modules=["q_proj"]))
    way = AdapterTransfer(network, tmp_path / "a", lambda n: None)
    pool = Servers([Server(f.address) for f in fakes], way, Limits(1, 20.0))
    pool.push()
    pool.draw(prompts, 1, drawing(own), range(6))
    first = pool.weights.adapter
    pool.push()
    pool.draw(prompts, 1, drawing(own), range(6))
    assert first != pool.weights.adapter
    for fake in fakes:
        assert list(fake.loaded) == [pool.weights.adapter]
        assert not set(fake.paths()) & {*RESETS, "/collective_rpc"}


def test_merging_for_a_push_leaves_the_parameters_as_they_were(tmp_path):
    from peft import LoraConfig, get_peft_model

    own = load_model("mini")
    plain = {n: p.clone() for n, p in own.network.named_parameters()}
    network = get_peft_model(own.network, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    before = {n: p.clone() for n, p in network.named_parameters()}
    transfer.write_checkpoint(own, network, tmp_path / "w", None)
    after = dict(network.named_parameters())
    assert all(torch.equal(after[n], before[n]) for n in before)
    written = load_model(tmp_path / "w").network
    names = dict(written.named_parameters())
    assert names.keys() == plain.keys()
    changed = {n for n in plain if not torch.equal(plain[n], names[n])}
    assert changed
    assert all("q_proj.weight" in n for n in changed)


@pytest.mark.parametrize("adapters", [False, True])
def test_a_shared_output_layer_is_written_under_its_own_name(tmp_path, adapters):
    """A server that keeps a copy of the output layer takes it anew only where the checkpoint names it."""
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file

    own = load_model("mini")
    embedding = own.network.get_input_embeddings().weight
    assert own.network.get_output_embeddings().weight is embedding
    network = get_peft_model(own.network, LoraConfig(r=2, target_modules=["q_proj"])) if adapters else own.network
    embedding.data.add_(1)
    transfer.write_checkpoint(own, network, tmp_path / "w", None)
    found = load_file(tmp_path / "w" / "model.safetensors")
    torch.testing.assert_close(found["lm_head.weight"], embedding.data, rtol=0, atol=0)
    torch.testing.assert_close(load_model(tmp_path / "w").network.get_input_embeddings().weight, embedding, rtol=0, atol=0)


def test_weights_over_nccl_go_to_all_servers_in_the_documented_order(tmp_path):
    asked = []

    class Recorder:
        def __init__(self, name):
            self.address = name

        def ask(self, method, path, body=None):
            asked.append((self.address, path, body))
            return {"world_size": 2} if path == "/get_world_size" else None

        def reset_caches(self):
            asked.append((self.address, "reset", None))

        def note_version(self, version):
            asked.append((self.address, "note", version))

    class Sender:
        def __init__(self, source, fleet, host):
            self.fleet, self.source = fleet, source
            fleet.init_weight_transfer_engine({"rank_offset": 1, "world_size": 1 + sum(fleet.sizes)})

        def send_weights(self):
            self.fleet.start_weight_update()
            self.fleet.update_weights({"names": [n for n, _ in transfer.checkpoint_tensors(self.source.network)]})
            self.fleet.finish_weight_update()

        def shutdown(self):
            asked.append(("", "shutdown", None))

    pool = [Recorder("a"), Recorder("b")]
    network = torch.nn.Linear(2, 2)
    way = nccl.NcclTransfer(network, pool, "host", Sender)
    weights = way.publish("v1")
    for server in pool:
        way.give(server, weights)
    offsets = {(who, body["init_info"]["rank_offset"]) for who, path, body in asked if path == "/init_weight_transfer_engine"}
    assert offsets == {("a", 1), ("b", 3)}
    order = [p for who, p, _ in asked if who == "a"]
    steps = ["/init_weight_transfer_engine", "/start_weight_update", "/update_weights", "/finish_weight_update"]
    assert order == ["reset", "/get_world_size", *steps, "reset", "note"]
    way.close()
    assert asked[-1][1] == "shutdown"


def test_the_correction_by_hand():
    old, sampled = torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([-1.5, -4.0, float("nan")])
    np.testing.assert_allclose(agreement.correction(old, sampled, 2.0), [np.exp(0.5), 2.0, 1.0], rtol=1e-6)
    seen = Diagnostics(torch.device("cpu"))
    assert agreement.compare(old, sampled, 0.0, seen) is None
    assert seen.sums["rollout/logprob_difference"] == pytest.approx((3.5, 2))


def small(out, fakes, **changes):
    own = {
        "data": {"train": "world:shifted?count=24&seed=5", "validation": ""},
        "rollout": {"group_size": 3, "engine": "vllm", "servers": {"addresses": [f.address for f in fakes], "patience": 30.0}},
        "prompts_per_step": 3,
        "steps": 4,
        "checkpoint": {"every": 2},
        "evaluation": {"every": 0},
        "threads": 1,
        "out": str(out),
    }
    return load_config(RECIPE, merge(own, changes))


def rows(out, name="metrics"):
    return [json.loads(line) for line in (out / f"{name}.jsonl").read_text().splitlines()]


def record_batches(monkeypatch):
    """The ids that every step trains."""
    from visurf.loop import Loop

    seen, step = [], Loop.step

    def recorded(self, samples, number, *rest):
        found = step(self, samples, number, *rest)
        seen.append((number, [g.sample.id for g in self.groups]))
        return found

    monkeypatch.setattr(Loop, "step", recorded)
    return seen


def scheduled(config):
    data = load_data(config.data.train, config.data, TASKS[config.task.name]).samples
    each = config.prompts_per_step
    return [(n, [data[i].id for i in sample_order(len(data), config.seed, n * each, each)]) for n in range(config.steps)]


@pytest.mark.parametrize("overlap", [False, True])
def test_a_run_with_servers_one_of_which_dies(fakes, tmp_path, monkeypatch, overlap):
    seen = record_batches(monkeypatch)
    config = small(tmp_path / "run", fakes[:1], rollout={"overlap": overlap})
    fakes[0].dies_after = 5
    timer = threading.Timer(8.0, fakes[0].revive)
    timer.start()
    train(config)
    assert seen == scheduled(config)
    found = rows(tmp_path / "run")
    assert [r["step"] for r in found] == [1, 2, 3, 4]
    assert [r["rollout/staleness"] for r in found] == [0, *[float(overlap)] * 3]
    assert sum(r["rollout/servers_lost"] for r in found) >= 1
    if not overlap:
        # A step's rollouts come from the weights that it trains; one old step would show.
        assert max(r["rollout/logprob_difference"] for r in found) < 1e-4
    assert not (tmp_path / "run" / "servers").exists()


def test_a_run_goes_on_where_it_stood_with_the_same_samples(fakes, tmp_path, monkeypatch):
    seen = record_batches(monkeypatch)
    config = small(tmp_path / "run", fakes[:1], rollout={"overlap": True, "servers": {"patience": 0.5}}, checkpoint={"every": 1})
    fakes[0].dies_after = 7
    with pytest.raises(ServerLost):
        train(config)
    fakes[0].revive()
    train(config)
    assert seen == scheduled(config)
    assert [r["step"] for r in rows(tmp_path / "run")] == [1, 2, 3, 4]


def test_a_difference_is_measured_raises_the_alarm_and_is_weighed_out(fakes, tmp_path):
    fakes[0].shift = -1.0
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        train(small(tmp_path / "run", fakes[:1], steps=1, rollout={"correction": 2.0}))
    (row,) = rows(tmp_path / "run")
    assert row["rollout/logprob_difference"] == pytest.approx(1.0, abs=1e-3)
    assert row["rollout/alarm"] == 1
    assert row["rollout/correction"] == pytest.approx(2.0)
    assert row["rollout/capped"] == 1
    assert any("rollout.servers.alarm" in str(w.message) for w in said)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rollout": {"engine": "local", "overlap": True}}, "rollout.overlap"),
        ({"rollout": {"engine": "local", "correction": 2.0}}, "rollout.correction"),
        ({"rollout": {"servers": {"push": "adapter"}}}, "lora.rank"),
        ({"rollout": {"servers": {"addresses": []}}}, "addresses"),
    ],
)
def test_settings_that_cannot_work(tmp_path, fakes, changes, message):
    with pytest.raises(ConfigError, match=message):
        small(tmp_path, fakes, **changes)


def test_overlap_refuses_sampling_in_rounds(tmp_path, fakes):
    from visurf.paradigms import PARADIGMS

    name = next(n for n, p in PARADIGMS.items() if p.hints is not None)
    with pytest.raises(ConfigError, match="rounds"):
        train(small(tmp_path / "run", fakes, paradigm=name, rollout={"overlap": True}))


@pytest.mark.parametrize("push", ["file", "adapter"])
def test_a_folder_for_servers_that_others_use_too_keeps_what_is_theirs(mini, tmp_path, monkeypatch, push):
    shared = tmp_path / "shared"
    (shared / "somebody").mkdir(parents=True)
    (shared / "somebody" / "thesis.txt").write_text("years of work")
    (shared / "file.bin").write_bytes(b"1")
    network = mini.network
    if push == "adapter":
        monkeypatch.setattr(network, "save_pretrained", lambda path, state_dict: path.mkdir(parents=True))
    lora = {"rank": 4 * (push == "adapter")}
    settings = {"model": {"lora": lora}, "rollout": {"engine": "vllm", "servers": {"folder": str(shared), "push": push}}}
    theirs = {"somebody", "file.bin"}
    for run in ("one", "two"):
        config = load_config(RECIPE, merge(settings, {"out": str(tmp_path / run)}))
        remote = connect(config, mini, network, Replicas(Policy(network, temperature=1.0, banned=mini.banned_ids)))
        way = remote.servers.transfer
        for version in ("1", "2"):
            way.publish(version)
        assert way.path.name == "2"
        assert [path.name for path in way.folder.iterdir()] == ["2"], "earlier versions take room"
        if run == "one":
            first = way
    assert first.path.is_dir(), "two runs may share a folder"
    first.close()
    way.close()
    assert {path.name for path in shared.iterdir()} == theirs
    assert (shared / "somebody" / "thesis.txt").read_text() == "years of work"
