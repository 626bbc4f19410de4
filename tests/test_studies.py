"""Studies: files, grids, choices, matching and packed results, without training."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from study_files import study_of, written
from visurf.config import ConfigError, to_dict
from visurf.metrics.intervals import paired_bootstrap
from visurf.studies import collecting
from visurf.studies.columns import pack, unpack
from visurf.studies.costs import cost_per_step
from visurf.studies.grid import choose, run_jobs, start_jobs, tuning_jobs
from visurf.studies.matching import matched_steps
from visurf.studies.plan import Matching
from visurf.studies.statistics import holm, over_seeds_and_prompts, paired
from visurf.studies.study import plan

FILE = {
    "settings": {"data.train": "world:shifted?count=40&seed=5", "steps": 10, "prompts_per_step": 4},
    "axes": {
        "paradigm": ["sft", "rlvr"],
        "data": {"all": {"data.train": "world:shifted?count=40&seed=5"}, "few": {"data.train": "world:shifted?count=4&seed=5"}},
        "seed": [0, 1],
    },
    "tests": {"held_out": "world:shifted?count=4&seed=9"},
}
TUNING = {"grid": {"optimizer.lr": ["1e-5", "1e-4"]}, "validation": "world:shifted?count=4&seed=8", "each": ["paradigm"]}


def study_file(folder, **changes):
    return written(folder, FILE, changes)


def read(folder, **changes):
    return study_of(study_file(folder, **changes))


def test_runs_are_all_combinations_but_those_left_out(tmp_path):
    study, base = read(tmp_path, leave_out=[{"paradigm": "rlvr", "data": "few"}])
    jobs = run_jobs(study, base, {}, {})
    assert [job.name for job in jobs] == [
        "sft-all-seed0", "sft-all-seed1", "sft-few-seed0", "sft-few-seed1", "rlvr-all-seed0", "rlvr-all-seed1",
    ]  # fmt: skip
    config = jobs[2].config
    assert (config.paradigm, config.data.train, config.seed, config.steps) == ("sft", "world:shifted?count=4&seed=5", 0, 10)


def test_tuning_covers_the_grid_for_every_value_that_gets_a_choice(tmp_path):
    study, base = read(tmp_path, tuning=TUNING)
    jobs = tuning_jobs(study, base)
    assert [(job.axes["paradigm"], job.config.optimizer.lr, job.axes["data"], job.config.seed) for job in jobs] == [
        ("sft", 1e-5, "all", 100), ("sft", 1e-4, "all", 100), ("rlvr", 1e-5, "all", 100), ("rlvr", 1e-4, "all", 100),
    ]  # fmt: skip
    chosen = choose(study, list(zip(jobs, [0.3, 0.2, None, None], strict=True)))
    assert chosen == {("sft",): {"optimizer.lr": "1e-5"}, ("rlvr",): None}
    runs = run_jobs(study, base, chosen, {})
    assert {job.config.optimizer.lr for job in runs if job.axes["paradigm"] == "sft"} == {1e-5}
    assert all(job.error for job in runs if job.axes["paradigm"] == "rlvr")
    lowest, _ = read(tmp_path, tuning={**TUNING, "best": "lowest"})
    assert choose(lowest, list(zip(jobs, [0.3, 0.2, 0.1, float("nan")], strict=True)))[("sft",)] == {"optimizer.lr": "1e-4"}


def test_tuning_takes_the_values_that_at_names(tmp_path):
    study, base = read(tmp_path, tuning={**TUNING, "at": {"data": "few"}})
    assert {job.axes["data"] for job in tuning_jobs(study, base)} == {"few"}


def test_steps_are_set_by_cost_and_a_run_that_serves_both_matchings_is_one(tmp_path):
    matching = [{"unit": "updates"}, {"unit": "flops", "reference": {"paradigm": "rlvr"}, "round": 2}]
    study, base = read(tmp_path, matching=matching)
    jobs = run_jobs(study, base, {}, {})
    per_step = {"sft-all": {"flops": 2.0}, "rlvr-all": {"flops": 7.0}, "sft-few": {"flops": 2.0}, "rlvr-few": {"flops": 1.9}}
    steps, missing = matched_steps(study, study.matching[1], jobs, per_step)
    assert not missing
    assert steps["sft-all"] == 36  # 10 x 7 / 2 = 35, to the nearest even number
    assert steps["rlvr-all"] == 10
    assert steps["sft-few"] == 10  # 9.5
    both = {job.name: job.matching for job in run_jobs(study, base, {}, {"equal flops": steps})}
    assert both["sft-few-seed0"] == both["rlvr-all-seed0"] == ("equal updates", "equal flops")
    assert both["sft-all-seed0"] == ("equal updates",)
    assert both["sft-all-seed0-steps36"] == ("equal flops",)
    del per_step["sft-few"]
    _, missing = matched_steps(study, study.matching[1], jobs, per_step)
    assert set(missing) == {"sft-few"}


def test_samples_and_updates_need_no_measured_cost(tmp_path):
    axes = {**FILE["axes"], "data": {"all": {"prompts_per_step": 4}, "few": {"prompts_per_step": 8, "inner_steps": 2}}}
    study, base = read(tmp_path, axes=axes)
    jobs = run_jobs(study, base, {}, {})
    assert matched_steps(study, Matching("samples", {"data": "all"}), jobs, {})[0]["sft-few"] == 5
    assert matched_steps(study, Matching("updates", {"data": "few"}), jobs, {})[0]["sft-all"] == 20


def test_explicit_stages_cannot_be_scaled(tmp_path):
    axes = {"paradigm": {"rlvr": "rlvr", "two": {"stages": [{"paradigm": "sft", "steps": 3}]}}, "seed": [0]}
    study, base = read(tmp_path, axes=axes)
    jobs = run_jobs(study, base, {}, {})
    with pytest.raises(ConfigError, match="explicit stages"):
        matched_steps(study, Matching("tokens", {"paradigm": "rlvr"}), jobs, {"rlvr": {"tokens": 9.0}, "two": {"tokens": 1.0}})


def test_a_start_is_measured_once_for_every_model(tmp_path):
    study, base = read(tmp_path)
    assert [(job.name, dict(job.axes)) for job in start_jobs(study, run_jobs(study, base, {}, {}))] == [("start", {})]
    axes = {**FILE["axes"], "size": {"small": {"model.path": "mini"}, "large": {"model.path": "other"}}}
    study, base = read(tmp_path, axes=axes)
    found = start_jobs(study, run_jobs(study, base, {}, {}))
    assert [(job.name, dict(job.axes)) for job in found] == [("small", {"size": "small"}), ("large", {"size": "large"})]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axis": {}}, "unknown key 'axis'; did you mean 'axes'"),
        ({"axes": {}}, "axes: expected at least one"),
        ({"axes": {"paradigm": "sft"}}, "axes.paradigm: expected a list"),
        ({"axes": {"paradigm": ["sft", "sft"]}}, "occurs twice"),
        ({"axes": {"paradigm": ["stf"]}}, "unknown paradigm 'stf'"),
        ({"axes": {"optimizer.rl": [1]}}, "unknown key 'optimizer.rl'"),
        ({"tests": {}}, "tests: expected at least one"),
        ({"tests": {"a/b": "x"}}, "tests and side: expected names"),
        ({"leave_out": [{"paradigm": "visurf"}]}, r"leave_out\[0\]: axis 'paradigm' has no value 'visurf'"),
        ({"matching": [{"unit": "hours"}]}, "expected one of samples"),
        ({"matching": [{"unit": "flops", "reference": {"paradigm": "visurf"}}]}, "has no value 'visurf'"),
        ({"tuning": {"grid": {}}}, "tuning: expected a grid"),
        ({"tuning": {**TUNING, "validation": FILE["tests"]["held_out"]}}, "is the validation set"),
        ({"tuning": {**TUNING, "each": ["size"]}}, "no axis 'size'"),
        ({"compare": {"axis": "size"}}, "compare.axis"),
        ({"base": "no_such_recipe"}, "no recipe at no_such_recipe"),
    ],
)
def test_a_study_that_cannot_work_is_refused_before_anything_runs(tmp_path, change, message):
    with pytest.raises((ConfigError, ValueError), match=message):
        plan(study_file(tmp_path, **change))


def test_names_that_a_file_system_may_not_like_stay_apart(tmp_path):
    study, base = read(tmp_path, axes={"data.train": ["a/../b", "a:b", "a_b"], "seed": [0]})
    names = [job.name for job in run_jobs(study, base, {}, {})]
    assert len(set(names)) == 3
    assert not any("/" in name or ":" in name for name in names)


@pytest.mark.parametrize(
    ("values", "kind", "error"),
    [
        ([0.0, 1.0, None, 1.0], "bit", 0),
        ([0.25, 0.123456, None], "share", 1e-5),
        ([-3.5, None, 1000.0], "float", 0),
        ([None], "bit", 0),
    ],
)
def test_columns_come_back(values, kind, error):
    packed = json.loads(json.dumps(pack(values)))
    assert packed["kind"] == kind
    expected = np.array([np.nan if v is None else v for v in values])
    np.testing.assert_allclose(unpack(packed), expected, atol=error)


def test_a_broken_column_says_so():
    for broken in ({"kind": "bit", "data": "####"}, {"kind": "pickle", "data": ""}):
        with pytest.raises(ValueError, match="packed column"):
            unpack(broken)


def test_costs_of_a_step_are_means(tmp_path):
    study, base = read(tmp_path)
    rows = [{"rate/tokens": 10.0, "time/step": t, "flops/train": 60 * t, "flops/sample": 40 * t} for t in (1.0, 3.0)]
    found = cost_per_step(rows, run_jobs(study, base, {}, {})[0].config)
    assert found == {"samples": 4.0, "updates": 1.0, "tokens": 20.0, "seconds": 2.0, "flops": 200.0}
    assert cost_per_step([], run_jobs(study, base, {}, {})[0].config) == {}


def test_holm_by_hand():
    # 0.005 x 4; max(that, 0.01 x 3); max(that, 0.03 x 2); max(that, 0.04 x 1)
    assert holm([0.04, 0.005, 0.03, 0.01]) == pytest.approx([0.06, 0.02, 0.06, 0.03])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_with_one_seed_the_interval_is_that_over_prompts():
    generator = np.random.default_rng(0)
    first, second = generator.random(300), generator.random(300) * 0.9
    ids = [str(i) for i in range(300)]
    known = paired_bootstrap(dict(zip(ids, first, strict=True)), dict(zip(ids, second, strict=True)), resamples=4000)
    found = paired(first[None], second[None])
    assert found.difference.value == pytest.approx(known.difference.value)
    assert found.difference.low == pytest.approx(known.difference.low, abs=0.006)
    assert found.difference.high == pytest.approx(known.difference.high, abs=0.006)
    assert np.isnan(found.over_seeds)


def test_seeds_widen_the_interval_and_pairs_narrow_it():
    generator = np.random.default_rng(1)
    prompts = generator.random(200)
    steady = np.stack([prompts, prompts, prompts])
    lucky = steady + np.array([[-0.2], [0.0], [0.2]])
    narrow, wide = over_seeds_and_prompts(steady), over_seeds_and_prompts(lucky)
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)
    # The same luck on both sides cancels.
    found = paired(lucky, lucky + 0.05)
    assert found.difference.low == pytest.approx(0.05)
    assert found.p_value < 0.001
    assert found.over_seeds > 1e6 or np.isnan(found.over_seeds)


def test_effect_sizes_and_ratios_by_hand():
    first, second = np.array([[0.0, 0.0], [0.0, 0.0]]), np.array([[1.0, 2.0], [3.0, 4.0]])
    found = paired(first, second)
    assert found.difference.value == 2.5
    # Prompts: differences 2 and 3, mean 2.5, sd 0.7071; seeds: 1.5 and 3.5, mean 2.5, sd 1.4142, times 1 - 3 / 3.
    assert found.over_prompts == pytest.approx(2.5 / 0.5**0.5)
    three = paired(np.zeros((3, 2)), np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]))
    assert three.over_seeds == pytest.approx(2.0 * (1 - 3 / 7))
    ratio = over_seeds_and_prompts(np.array([[1.0, 0.0, np.nan]]), np.array([[2.0, 3.0, 9.0]]))
    assert ratio.value == pytest.approx(0.2)
    with pytest.raises(ValueError, match="same seeds"):
        paired(first, second[:1])


def test_frozen_settings_are_whole(tmp_path):
    study, base = read(tmp_path)
    config = run_jobs(study, base, {}, {})[0].config
    assert set(to_dict(config)) >= {"model", "data", "objective", "rollout", "seed"}


def test_a_metric_that_could_not_be_averaged_stays_unknown(tmp_path):
    (tmp_path / "held_out").mkdir()
    (tmp_path / "held_out.yaml").write_text("task: {name: referring}\n")
    (tmp_path / "held_out" / "summary.json").write_text('{"giou": 0.51234567, "n_acc": null}')
    row = {"id": "a", "tokens": 3, "measures": {"thinking": 1.0, "giou": 0.5}}
    (tmp_path / "held_out" / "records.jsonl").write_text(json.dumps(row) + "\n")
    found = collecting._test(tmp_path / "held_out", ["giou"])
    assert found["summary"] == {"giou": 0.512346, "n_acc": None}
    job = SimpleNamespace(folder="job")
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "tests").mkdir()
    shutil.copytree(tmp_path / "held_out", tmp_path / "job" / "tests" / "validation")
    assert collecting.score(job, tmp_path, "n_acc") is None
    assert collecting.score(job, tmp_path, "giou") == 0.51234567
