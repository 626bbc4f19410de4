"""What `visurf bench` measures, on a model that takes milliseconds: the same work on all sides, numbers that mean what they say."""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from visurf import accounting
from visurf.attention.unread import part_left_out
from visurf.cli import main
from visurf.config import ConfigError
from visurf.speed.benches import Bench, Plan, agreement
from visurf.speed.contenders import Naive, Outcome, Visurf, check_lengths
from visurf.speed.measure import Series, alternate, peak_memory, ratios
from visurf.speed.naive import Replay, naive_generate
from visurf.speed.scaling import draw, measure_scaling
from visurf.speed.shapes import SHAPES, build_config, build_model, build_tokenizer
from visurf.speed.workloads import DEMO_SIGNALS, Ends, like_the_demo, reward, scaled_workload, workload_for

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bench():
    return Bench(Plan("smoke", repeats=1, warmup=0))


def rows_of(found, what):
    return {r["side"]: r for r in found["rows"] if r["what"] == what}


def test_the_step_command_measures_both_sides_and_writes_json(tmp_path, capsys, monkeypatch):
    path = tmp_path / "results" / "step.json"
    arguments = ["bench", "step", "--model", "smoke", "--against", "naive", "--repeats", "2", "--warmup", "0", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", ["visurf", *arguments])
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    found = json.loads(path.read_text())
    assert set(found) == {"command", "speedup", "model", "workload", "rows", "notes", "machine", "versions"}
    assert found["command"] == " ".join(["visurf", *arguments])
    assert found["model"] == "smoke"
    assert found["versions"]["torch"] == torch.__version__
    assert found["machine"]["threads"] == torch.get_num_threads()
    for what in ("whole step", "training forward + backward"):
        sides = rows_of(found, what)
        assert list(sides) == ["visurf", "naive"]
        for row in sides.values():
            assert row["repeats"] == 2
            assert 0 < row["seconds"]["min"] <= row["seconds"]["median"] <= row["seconds"]["max"]
            assert row["tokens_per_second"] == pytest.approx(row["tokens"] / row["seconds"]["median"])
        assert f"{what}, naive" in shown
    whole = rows_of(found, "whole step")
    assert found["speedup"] == whole["naive"]["speedup"]["median"]
    parts = whole["visurf"]["parts"]
    assert parts["time/step"] == pytest.approx(sum(v for k, v in parts.items() if k != "time/step"), rel=1e-6)
    assert any(note.startswith("whole step, naive: loss differs by at most ") for note in found["notes"])


def test_both_sides_do_the_same_step(bench):
    """Equal losses mean equal advantages and lengths; equal norms of the gradient, before clipping, mean equal gradients."""
    mine = bench.visurf.step(100)
    theirs = bench.naive.step(100)
    assert abs(mine.loss) > 1e-4
    assert theirs.loss == pytest.approx(mine.loss, abs=1e-6)
    assert theirs.grad_norm == pytest.approx(mine.grad_norm, rel=1e-4)
    groups = bench.visurf.groups
    assert [[c.source for c in g.completions] for g in groups] == [["policy"] * 8 + ["label"]] * 2
    lengths = [(*g.rollouts, g.label) for g in bench.workload.groups]
    assert [tuple(len(c.token_ids) for c in g.completions) for g in groups] == lengths
    assert all(a != 0 for g in groups for a in g.advantages), "nothing may be skipped in the headline"
    prompts = bench.visurf.prompts(100)
    torch.testing.assert_close(bench.visurf.train(prompts, groups), bench.naive.train(prompts, groups), atol=1e-5, rtol=1e-5)


def test_both_sides_do_the_same_step_with_adapters():
    """As with the 7b model: only adapters are trained, embeddings are not tied, and rows are cut to a small budget."""
    shape = dataclasses.replace(SHAPES["smoke"], lora_rank=4, tied=False)
    visurf = Visurf(shape, workload_for("smoke"), CPU, tokens=64)
    naive = Naive(visurf)
    for number in range(2):
        mine, theirs = visurf.step(number), naive.step(number)
        assert theirs.loss == pytest.approx(mine.loss, abs=1e-6)
        assert theirs.grad_norm == pytest.approx(mine.grad_norm, rel=1e-4)
    trained = {n for n, p in naive.policy.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in n for n in trained)
    base = visurf.policy.base()
    counted = accounting.count_parameters(base, "model.visual", part_left_out(base))
    plain = accounting.count_parameters(build_model(shape, CPU).network, "model.visual")
    assert counted.read == 3 * 64 * 128
    assert dataclasses.replace(counted, text=counted.text + counted.read, read=0) == plain, "adapters count nothing"


def test_other_losses_are_an_error():
    series = {"visurf": Series(results=[Outcome(0.5, 1.0)]), "naive": Series(results=[Outcome(0.5002, 1.0)])}
    with pytest.raises(RuntimeError, match=r"loss differs by at most 2\.0e-04"):
        agreement("whole step", series, exact=True)
    assert "2.0e-04" in agreement("whole step", series, exact=False)[0]
    series["naive"].results[0] = Outcome(float("nan"), 1.0)
    with pytest.raises(RuntimeError, match="did not do the same work"):
        agreement("whole step", series, exact=True)


def test_trl_does_the_same_step():
    """Its own training step, on the label too, under the rewards and lengths of visurf's step."""
    pytest.importorskip("trl", reason="make bench-install brings trl")
    from visurf.speed.trl_rival import Trl

    visurf = Visurf(SHAPES["smoke"], workload_for("smoke"), CPU, 16384)
    # TRL leaves all tokens in the distribution; then the gradients are the same too.
    visurf.policy.banned = torch.tensor([], dtype=torch.long)
    rival = Trl(visurf)
    for number in range(2):
        mine = visurf.step(number)
        theirs = rival.step(number)
        assert theirs.loss == pytest.approx(mine.loss, abs=1e-6)
        assert theirs.grad_norm == pytest.approx(mine.grad_norm, rel=1e-5)
    prompts = visurf.prompts(5)
    rival.prepared(prompts, visurf.replayed(prompts))()
    assert any(float(p.grad.abs().max()) > 0 for p in rival.network.parameters() if p.grad is not None)


def test_without_trl_the_remedy_is_named(monkeypatch):
    from visurf.speed import trl_rival

    monkeypatch.setattr(trl_rival, "VERSION", "0.0.1")
    with pytest.raises(ConfigError, match=r"needs trl 0\.0\.1.*make bench-install"):
        Bench(Plan("smoke", ("trl",)))


def test_rollouts_are_measured_against_generate_with_the_same_tokens(bench):
    found = bench.rollout().to_dict()
    sides = rows_of(found, "rollout")
    assert list(sides) == ["visurf", "num_return_sequences", "generate"]
    assert all(r["tokens"] == 96 for r in sides.values())
    assert found["speedup"] == sides["generate"]["speedup"]["median"]
    assert {"prompts and first token", "the tokens after it"} <= {r["what"] for r in found["rows"]}


def test_generate_that_draws_something_else_is_refused(bench, monkeypatch):
    prompts = bench.visurf.prompts(0)
    completions = [[(20, 21, 0)], [(22, 0)]]
    arguments = (bench.naive.network.eval(), prompts, completions)
    assert naive_generate(*arguments, banned=()) == 5
    monkeypatch.setattr(Replay, "__call__", lambda self, ids, scores: scores)
    with pytest.raises(RuntimeError, match="drew other tokens"):
        naive_generate(*arguments, banned=())


def test_rollouts_of_other_lengths_are_refused(bench):
    prompts = bench.visurf.prompts(0)
    given = [[(1,) * n for n in g.rollouts] for g in bench.workload.groups]
    check_lengths(prompts, given)
    given[1][3] = given[1][3][1:]
    with pytest.raises(RuntimeError, match="sample 0-1"):
        check_lengths(prompts, given)


def test_memory_is_measured_in_a_process_for_each_side(tmp_path, capsys):
    path = tmp_path / "memory.json"
    assert main(["bench", "memory", "--model", "smoke", "--json", str(path)]) == 0
    sides = rows_of(json.loads(path.read_text()), "peak training memory")
    assert list(sides) == ["visurf", "naive"]
    assert all(r["mib"] > 0 for r in sides.values())
    assert sides["naive"]["ratio"] == pytest.approx(sides["naive"]["mib"] / sides["visurf"]["mib"])


def test_peak_memory_counts_what_is_freed_again():
    def run():
        block = torch.ones(64 * 2**18)  # 64 MiB
        del block
        return torch.ones(2**18)

    assert 60 < peak_memory(run, CPU) < 80


def test_gradients_of_an_earlier_measurement_do_not_count_as_held(bench, monkeypatch):
    """On a GPU all sides are measured in one process, after their steps."""
    held = []

    def look(run, device):
        held.append([p.grad for side in (bench.visurf, bench.naive) for p in side.policy.parameters() if p.grad is not None])
        run()
        return 1.0

    monkeypatch.setattr("visurf.speed.benches.peak_memory", look)
    prompts = bench.visurf.prompts(0)
    for side in (bench.visurf, bench.naive):
        side.train(prompts, bench.visurf.replayed(prompts))
    bench.peaks()
    assert held == [[], []]


def test_what_was_measured_is_kept_before_the_next_measurement(bench, monkeypatch):
    kept = []
    monkeypatch.setattr(bench, "keep", lambda report: kept.append({row["what"] for row in report.rows}))
    bench.step()
    assert kept == [{"whole step"}, {"whole step", "training forward + backward"}]


def test_curves_over_group_size_and_prompt(tmp_path):
    found = measure_scaling(Plan("smoke", repeats=1, warmup=0), groups=(2, 3), prompts=(60,))
    assert [(r["curve"], r["at"]) for r in found["rows"]] == [("group", 2), ("group", 3), ("prompt", 60)]
    more = found["rows"][1]["unique_tokens"] - found["rows"][0]["unique_tokens"]
    assert more < 48, "one more rollout costs its own tokens and no prompt"
    assert found["rows"][1]["padded_tokens"] - found["rows"][0]["padded_tokens"] == 448
    source, picture = tmp_path / "scaling.json", tmp_path / "out" / "scaling.png"
    source.write_text(json.dumps(found))
    pytest.importorskip("matplotlib")
    draw(source, picture)
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_the_workloads_have_their_stated_sizes():
    """Prompts depend on tokenizer and picture processor only, so a small model tells the sizes of all."""
    visurf = Visurf(SHAPES["smoke"], workload_for("smoke"), CPU, 16384)
    for name, groups, padded, unique in (("tiny", 8, 9936, 3386), ("mid", 1, 4410, 1116)):
        workload = workload_for(name)
        visurf.use(workload)
        prompts = [len(p.token_ids) for p in visurf.prompts(0)]
        lengths = [n for g in workload.groups for n in (*g.rollouts, g.label)]
        assert len(prompts) == groups
        assert len(lengths) * (max(prompts) + max(lengths)) == padded
        assert sum(prompts) + sum(n - 1 for n in lengths) == unique
        assert len(set(lengths)) > 5, "lengths are ragged"
    for prompt in (100, 3000):
        visurf.use(scaled_workload(4, prompt))
        assert [len(p.token_ids) for p in visurf.prompts(0)] == [prompt]


def test_pictures_change_from_step_to_step_and_sizes_do_not():
    workload = workload_for("smoke")
    first, again, other = (workload.samples(step, 256) for step in (0, 0, 1))
    assert first[0].images[0].load().tobytes() == again[0].images[0].load().tobytes()
    assert first[0].images[0].load().tobytes() != other[0].images[0].load().tobytes()
    assert [s.size for s in first] == [s.size for s in other]


def test_the_rewards_of_the_demo_leave_out_what_they_say():
    visurf = Visurf(SHAPES["smoke"], workload_for("smoke"), CPU, 16384)
    workload = like_the_demo(workload_for("tiny"))
    signals = [g.signal for g in workload.groups]
    assert signals.count("flat") == round(DEMO_SIGNALS["flat"] * 8)
    assert signals.count("smoothed") == round(DEMO_SIGNALS["smoothed"] * 8)
    visurf.use(workload)
    for group, signal in zip(visurf.replayed(visurf.prompts(0)), signals, strict=True):
        skipped = sum(a == 0 for a in group.advantages)
        assert skipped == {"flat": 9, "smoothed": 1, "spread": 0}[signal]


def test_rewards_depend_on_the_tokens_alone():
    assert reward((1, 2, 3), "spread", is_label=False) == reward([1, 2, 3], "smoothed", is_label=False)
    assert 0 <= reward((1, 2, 3), "spread", is_label=False) < 1 < reward((1, 2, 3), "spread", is_label=True)
    assert reward((1, 2), "flat", is_label=True) == reward((3,), "flat", is_label=False)


def test_a_stream_ends_its_rollout_and_nothing_before():
    draws = Ends(5, seed=3).random(9)
    assert draws[4] == 0
    assert all(0.2 <= d < 1 for i, d in enumerate(draws) if i != 4)


@pytest.mark.parametrize(("name", "parameters"), [("3b", 3_754_622_976), ("7b", 8_292_166_656)])
def test_the_large_shapes_are_the_published_models(name, parameters):
    """The parameter counts of the published checkpoints, from their safetensors indices."""
    from transformers import AutoModelForImageTextToText

    shape = SHAPES[name]
    config = build_config(shape, build_tokenizer(shape.text["vocab_size"]))
    with torch.device("meta"):
        network = AutoModelForImageTextToText.from_config(config)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert network.config.text_config.rope_parameters["mrope_section"] == [16, 24, 24]


def test_a_large_shape_without_a_gpu_is_refused():
    with pytest.raises(ConfigError, match="needs a CUDA device"):
        build_model(SHAPES["3b"], CPU)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "small"], "--model: expected one of smoke, tiny"),
        (["--against", "verl"], "--against: expected one or more of naive, trl, got verl"),
        (["--repeats", "0"], "--repeats: expected 1 or more"),
    ],
)
def test_a_mistake_is_answered_with_its_remedy(arguments, message, capsys):
    assert main(["bench", "step", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_contenders_take_turns_and_the_limit_ends_the_rounds():
    order = []
    sides = {"visurf": lambda n: order.append(("a", n)), "naive": lambda n: order.append(("b", n))}
    found = alternate(sides, repeats=2, warmup=1, device=CPU)
    assert order == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert [len(s.wall) for s in found.values()] == [2, 2]
    assert [len(s.results) for s in found.values()] == [3, 3]
    stopped = alternate(sides, repeats=50, warmup=1, device=CPU, limit=1e-9)
    assert [len(s.wall) for s in stopped.values()] == [1, 1]
    assert ratios([6.0, 8.0], [2.0, 4.0]) == [3.0, 2.0]


def test_parameters_are_counted_by_what_passes_through_them():
    network = build_model(SHAPES["smoke"], CPU).network
    counts = accounting.count_parameters(network, "model.visual")
    assert counts.head == 256 * 64
    assert counts.vision == sum(p.numel() for p in network.model.visual.parameters())
    # Two layers: q and o of 64 x 64, k and v of 64 x 32 with biases, three matrices of 64 x 128, two norms; and the last norm.
    layer = 2 * 64 * 64 + 64 + 2 * (64 * 32 + 32) + 3 * 64 * 128 + 2 * 64
    assert counts.text == 2 * layer + 64
    everything = sum(p.numel() for p in network.parameters())
    assert counts.text + counts.head + counts.vision == everything


def test_utilisation_by_hand():
    """6 x 3e9 parameters x 10,000 tokens in half a second are 360 TFLOP/s, of 790 on an H200."""
    flops = accounting.training_flops(accounting.Parameters(3_000_000_000, 0, 0), accounting.Passed(10_000))
    assert accounting.utilisation(flops, 0.5, "NVIDIA H200") == pytest.approx(360 / 790)
    assert accounting.utilisation(flops, 0.5, "AMD EPYC") is None
    assert accounting.known_device("NVIDIA H100 80GB HBM3").bandwidth == 3.35e12
    assert accounting.known_device("NVIDIA H100 PCIe").bandwidth == 2.0e12
    assert accounting.known_device("NVIDIA H200").bandwidth == 4.3e12


def test_the_page_holds_what_was_measured():
    """docs/results/speed.md is what bench/write_page.py writes; run it after a measurement."""
    root = Path(__file__).parents[1]
    script = root / "bench" / "write_page.py"
    if not script.is_file():
        pytest.skip("not in a checkout")
    specification = importlib.util.spec_from_file_location("write_page", script)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    assert module.page() == module.PAGE.read_text()
