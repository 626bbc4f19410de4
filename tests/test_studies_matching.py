"""Studies: where steps and costs come from, what a matching holds, and what it may be called; nothing is trained."""

import json

import pytest

from study_files import study_of, written
from visurf.config import Config, ConfigError
from visurf.stages import stages
from visurf.studies import study as studies
from visurf.studies.costs import run_costs
from visurf.studies.grid import run_jobs, tuning_jobs
from visurf.studies.matching import keep_steps, matched_steps
from visurf.studies.plan import Matching
from visurf.studies.running import Workers, freeze
from visurf.studies.study import plan, run_study

FILE = {
    "settings": {"data.train": "world:shifted?count=40&seed=5", "steps": 10, "prompts_per_step": 4},
    "axes": {"paradigm": ["sft", "rlvr"], "seed": [0, 1]},
    "tests": {"held_out": "world:shifted?count=4&seed=9"},
}
FLOPS = {"unit": "flops", "reference": {"paradigm": "rlvr"}}
TUNING = {"grid": {"optimizer.lr": [1e-5, 1e-4]}, "validation": "world:shifted?count=4&seed=8", "each": ["paradigm"]}
STAGES = [{"paradigm": "sft", "steps": 100, "override": {"inner_steps": 3}}, {"paradigm": "rlvr", "steps": 100}]


def study_file(folder, **changes):
    return written(folder, FILE, changes)


def read(folder, **changes):
    return study_of(study_file(folder, **changes))


def pretend(monkeypatch, flops, score=lambda job: 0.5):
    """Let jobs end at once: `flops(config)` is the cost of a step, `score(job)` what its tests give; None where it fails."""
    ran = []

    def run_all(jobs, out, workers, report):
        for job in jobs:
            if job.error:
                continue
            freeze(job, out, threads=1)
            folder, value = out / job.folder, score(job)
            if value is None or (folder / "train" / "summary.json").exists():
                continue
            ran.append(job.folder)
            (folder / "train" / "model").mkdir(parents=True)
            cost = {"rate/tokens": 1.0, "time/step": 1.0, "flops/train": flops(job.config)}
            (folder / "train" / "metrics.jsonl").write_text(
                "".join(json.dumps({"step": i + 1, **cost}) + "\n" for i in range(job.config.steps))
            )
            (folder / "train" / "summary.json").write_text("{}")
            for name in job.tests:
                (folder / "tests" / name).mkdir()
                (folder / "tests" / name / "summary.json").write_text(json.dumps({"giou": value}))
                (folder / "tests" / name / "records.jsonl").write_text(
                    json.dumps({"id": "a", "tokens": 3, "measures": {"thinking": 1.0, "giou": value, "n_acc": value}}) + "\n"
                )
            (folder / "status.json").write_text('{"status": "done"}')

    monkeypatch.setattr(studies, "run_all", run_all)
    monkeypatch.setattr(studies, "write_results", lambda results, out, say: None)
    return ran


def by_paradigm(config):
    return {"sft": 1.0, "rlvr": 4.0}[config.paradigm]


def runs_of(results, matching):
    return {r["name"]: r for r in results["runs"] if r["role"] == "run" and matching in r["matching"]}


def quiet(text):
    del text


def test_seeds_and_matchings_that_come_later_are_matched_too(tmp_path, monkeypatch):
    cost = {"sft": 1.0, "rlvr": 4.0}
    pretend(monkeypatch, lambda config: cost[config.paradigm])
    matching = [{"unit": "updates"}, FLOPS]
    first = run_study(study_file(tmp_path, matching=matching), tmp_path / "out", Workers(1), quiet)
    assert {r["steps"] for name, r in runs_of(first, "equal flops").items() if name.startswith("sft")} == {40}
    axes = {"paradigm": ["sft", "rlvr"], "seed": [0, 1, 2]}
    tokens = {"unit": "tokens", "reference": {"paradigm": "rlvr"}, "round": 4}
    again = run_study(study_file(tmp_path, matching=[*matching, tokens], axes=axes), tmp_path / "out", Workers(1), quiet)
    found = runs_of(again, "equal flops")
    assert {name: r["steps"] for name, r in found.items() if name.startswith("sft")} == {
        "sft-seed0-steps40": 40, "sft-seed1-steps40": 40, "sft-seed2-steps40": 40,
    }  # fmt: skip
    # A token a step, whoever trains: ten steps, to the nearest multiple of four (of two, the even one).
    assert {r["steps"] for name, r in runs_of(again, "equal tokens").items() if name.startswith("sft")} == {8}


def test_steps_that_were_stored_stay_whatever_a_step_costs_today(tmp_path):
    study, base = read(tmp_path, matching=[FLOPS])
    jobs, path = run_jobs(study, base, {}, {}), tmp_path / "steps.json"
    assert keep_steps(path, study, jobs, {"equal flops": {"rlvr": 10}}) == {"equal flops": {"rlvr": 10}}
    assert keep_steps(path, study, jobs, {"equal flops": {"rlvr": 10, "sft": 40}})["equal flops"] == {"rlvr": 10, "sft": 40}
    assert keep_steps(path, study, jobs, {"equal flops": {"rlvr": 10, "sft": 50}})["equal flops"] == {"rlvr": 10, "sft": 40}
    other, _ = read(tmp_path, matching=[{**FLOPS, "round": 10}])
    with pytest.raises(ConfigError, match=r"steps.json holds steps of equal flops by .*'round': 1.*asks for .*'round': 10"):
        keep_steps(path, other, jobs, {"equal flops": {}})
    # As files were before: a name for every seed, and nothing about the way.
    path.write_text(json.dumps({"equal flops": {"sft-seed0": 30, "sft-seed1": 30}}))
    assert keep_steps(path, study, jobs, {"equal flops": {"rlvr": 10, "sft": 50}})["equal flops"] == {"rlvr": 10, "sft": 30}


def test_steps_matched_to_a_reference_with_other_steps_are_refused(tmp_path):
    study, base = read(tmp_path, matching=[FLOPS])
    path = tmp_path / "steps.json"
    keep_steps(path, study, run_jobs(study, base, {}, {}), {"equal flops": {"rlvr": 10, "sft": 40}})
    study, base = read(tmp_path, matching=[FLOPS], settings={**FILE["settings"], "steps": 20})
    jobs = run_jobs(study, base, {}, {})
    said = r"steps\.json holds steps of equal flops to a reference of 10 \(rlvr\), the study asks for 20; .* delete the file"
    with pytest.raises(ConfigError, match=said):
        keep_steps(path, study, jobs, {"equal flops": {"rlvr": 20, "sft": 80}})
    assert json.loads(path.read_text())["equal flops"] == {"rlvr": 10, "sft": 40}
    path.unlink()
    assert keep_steps(path, study, jobs, {"equal flops": {"rlvr": 20, "sft": 80}})["equal flops"] == {"rlvr": 20, "sft": 80}


def test_runs_without_a_cost_are_in_no_cell_until_they_have_one(tmp_path, monkeypatch):
    path, failing = study_file(tmp_path, matching=[{"unit": "updates"}, FLOPS]), [True]
    ran = pretend(monkeypatch, by_paradigm, lambda job: None if failing and job.folder == "pilots/sft" else 0.5)
    first = run_study(path, tmp_path / "out", Workers(1), quiet)
    found = runs_of(first, "equal flops")
    assert found["rlvr-seed0"]["status"] == "done"
    lost = found["sft-seed0-equal-flops"]
    assert (lost["status"], lost["stage"], lost["error"]) == ("failed", "matching", "equal flops: no measured cost of a step")
    assert runs_of(first, "equal updates")["sft-seed0"]["status"] == "done"
    failing.clear()
    again = run_study(path, tmp_path / "out", Workers(1), quiet)
    assert {name: r["steps"] for name, r in runs_of(again, "equal flops").items()} == {
        "sft-seed0-steps40": 40, "sft-seed1-steps40": 40, "rlvr-seed0": 10, "rlvr-seed1": 10,
    }  # fmt: skip
    assert "runs/sft-seed0-steps40" in ran


def test_runs_whose_reference_is_left_out_are_not_matched(tmp_path, monkeypatch):
    pretend(monkeypatch, by_paradigm)
    axes = {"paradigm": ["sft", "rlvr"], "prompts_per_step": [4, 8], "seed": [0]}
    out = [{"paradigm": "rlvr", "prompts_per_step": 8}]
    path, said = study_file(tmp_path, axes=axes, leave_out=out, matching=[{"unit": "updates"}, FLOPS]), []
    results = run_study(path, tmp_path / "out", Workers(1), said.append)
    assert set(runs_of(results, "equal flops")) == {"sft-4-seed0-steps40", "rlvr-4-seed0"}
    assert "sft-8-seed0" in runs_of(results, "equal updates")
    assert "sft-8 is not matched: equal flops: its reference is left out of the study" in said


def test_a_cost_comes_from_a_run_with_the_same_settings(tmp_path, monkeypatch):
    axes = {"paradigm": ["sft", "rlvr"], "rollout.group_size": [4, 16], "seed": [0, 1]}
    path = study_file(tmp_path, axes=axes, tuning=TUNING, matching=[FLOPS])
    # Tuning runs had four rollouts: only sixteen need pilots.
    assert [job.name for job in plan(path)[3]] == ["sft-16", "rlvr-16"]
    pretend(monkeypatch, lambda c: 1.0 if c.paradigm == "sft" else float(c.rollout.group_size), lambda job: job.config.optimizer.lr)
    results = run_study(path, tmp_path / "out", Workers(1), quiet)
    found = runs_of(results, "equal flops")
    assert (found["sft-4-seed0-steps40"]["steps"], found["sft-16-seed1-steps160"]["steps"]) == (40, 160)
    pilots = {r["name"]: r for r in results["runs"] if r["role"] == "pilot"}
    assert pilots["rlvr-16"]["chosen"] == {"optimizer.lr": 1e-4}
    # Shorter tuning runs tell the cost of a step, those with other rollouts do not.
    shorter = study_file(tmp_path, tuning={**TUNING, "settings": {"steps": 2}}, matching=[FLOPS])
    assert plan(shorter)[3] == []
    other = study_file(tmp_path, tuning={**TUNING, "settings": {"rollout.max_tokens": 8}}, matching=[FLOPS])
    assert [job.name for job in plan(other)[3]] == ["sft", "rlvr"]


def test_explicit_stages_count_their_own_steps(tmp_path):
    axes = {"paradigm": {"sft": "sft", "two": {"stages": STAGES}}, "seed": [0]}
    study, base = read(tmp_path, axes=axes)
    jobs = run_jobs(study, base, {}, {})
    assert matched_steps(study, Matching("samples", {"paradigm": "two"}), jobs, {})[0]["sft"] == 200
    assert matched_steps(study, Matching("updates", {"paradigm": "two"}), jobs, {})[0]["sft"] == 400
    # Frozen settings keep what `steps` says beside stages.
    assert {job.name: job.config.steps for job in jobs} == {"sft-seed0": 10, "two-seed0": 10}
    config = jobs[1].config
    row = {"rate/tokens": 1.0, "time/step": 1.0}
    rows = [{**row, "stage": i} for i, stage in enumerate(stages(config)) for _ in range(stage.end - stage.first)]
    assert run_costs(rows, config)["updates"] == 400
    assert run_costs([row], Config())["updates"] == 1


@pytest.mark.parametrize(
    ("matching", "message"),
    [
        ({"unit": "flops", "reference": {"paradigm": "two"}}, "a pilot trains 20 steps .* explicit stages"),
        ({"unit": "samples", "reference": {"paradigm": "sft"}}, "matching on samples sets steps, but explicit stages"),
    ],
)
def test_explicit_stages_are_refused_before_anything_runs(tmp_path, matching, message):
    axes = {"paradigm": {"sft": "sft", "two": {"stages": STAGES}}, "seed": [0]}
    with pytest.raises(ConfigError, match=message):
        plan(study_file(tmp_path, axes=axes, matching=[matching]))


def test_only_what_is_equal_is_called_so(tmp_path):
    def names(matching, **axes):
        study, _, _, _, runs = plan(study_file(tmp_path, axes={**axes, "seed": [0]}, matching=matching))
        called = {name for job in runs for name in job.matching}
        assert called == {m.name for m in study.matching}
        return [m.name for m in study.matching]

    updates, samples = {"unit": "updates"}, {"unit": "samples"}
    assert names([updates], paradigm=["sft", "sft_then_rlvr"]) == ["equal updates"]
    assert names([updates], steps=[10, 20]) == ["as set"]
    assert names([updates], inner_steps=[1, 2]) == ["as set"]
    assert names([updates, samples], steps=[10, 20]) == ["as set"]
    assert names([updates, samples], inner_steps=[1, 2]) == ["as set", "equal samples"]
    halves = {"few": {"steps": 20, "prompts_per_step": 2}, "many": {"steps": 10, "prompts_per_step": 4}}
    assert names([samples], paradigm={name: {"paradigm": "sft", **one} for name, one in halves.items()}) == ["equal samples"]
    assert names([{"unit": "flops"}], paradigm=["sft", "rlvr"]) == ["as set"]
    staged = {"own": {"stages": STAGES}, "sft": {"paradigm": "sft", "steps": 400}}
    assert names([updates], paradigm=staged) == ["equal updates"]


REWARD = {"7b-small": {"reward.frame": [8, 8]}, "small": {"reward.frame": [9, 9]}}


def test_two_runs_with_one_name_are_refused(tmp_path):
    axes = {"model.path": ["qwen", "qwen-7b"], "reward": REWARD, "seed": [0]}
    message = (
        "model.path: qwen, reward: 7b-small.* and model.path: qwen-7b, reward: small.* be called 'qwen-7b-small-seed0'; rename"
    )
    with pytest.raises(ConfigError, match=message):
        plan(study_file(tmp_path, axes=axes))
    study, base = read(tmp_path, axes=axes, tuning={**TUNING, "each": []})
    with pytest.raises(ConfigError, match="would both be called 'qwen-7b-small-optimizer"):
        tuning_jobs(study, base)
    # Told apart by the seed between them in folders, but not in what their costs go by.
    with pytest.raises(ConfigError, match="would both be called 'qwen-7b-small'"):
        plan(study_file(tmp_path, axes={"model.path": ["qwen", "qwen-7b"], "seed": [0], "reward": REWARD}))


def test_a_run_with_other_steps_and_one_of_that_name_are_refused(tmp_path):
    axes = {"seed": [0], "paradigm": {"sft": "sft", "sft-steps40": "sft", "rlvr": "rlvr"}}
    study, base = read(tmp_path, axes=axes, matching=[{"unit": "updates"}, FLOPS])
    with pytest.raises(ConfigError, match="would both be called 'seed0-sft-steps40'"):
        run_jobs(study, base, {}, {"equal flops": {"sft": 40, "sft-steps40": 10, "rlvr": 10}})
