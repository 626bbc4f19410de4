"""Folders of studies: what is there already is not mixed with another definition, nor written by two; nothing is trained."""

import json
import subprocess
import sys
from contextlib import suppress

import pytest
import yaml

from study_files import study_of, written
from visurf.cli import main
from visurf.config import ConfigError
from visurf.locking import locked
from visurf.studies import running
from visurf.studies.collecting import task_of
from visurf.studies.grid import run_jobs, start_jobs
from visurf.studies.running import Workers, freeze
from visurf.studies.study import plan

FILE = {
    "settings": {"data.train": "world:shifted?count=40&seed=5", "steps": 10},
    "axes": {"paradigm": ["sft"], "seed": [0]},
    "tests": {"held_out": {"data": "world:shifted?count=4&seed=9", "settings": {"rollout.max_tokens": 8}}},
    "probe": 2,
}


def study_file(folder, **changes):
    return written(folder, FILE, changes)


def jobs_of(folder, **changes):
    study, base = study_of(study_file(folder, **changes))
    runs = run_jobs(study, base, {}, {})
    return [*start_jobs(study, runs), *runs]


def measured(job, out):
    """As after a study: every test of a job has its answers."""
    freeze(job, out, threads=1)
    for name in job.tests:
        (out / job.folder / "tests" / name).mkdir()
        (out / job.folder / "tests" / name / "summary.json").write_text("{}")
        if job.probe:
            (out / job.folder / "tests" / name / "probe.json").write_text(json.dumps({"rollouts": job.probe}))


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ("world:shifted?count=5&seed=9", "holds answers with .*count=4&seed=9.* asks for .*count=5&seed=9"),
        (
            {"data": "world:shifted?count=4&seed=9", "settings": {"rollout.max_tokens": 9}},
            r"with rollout\.max_tokens: 8, the study asks for 9; ",
        ),
        (
            {"data": "world:shifted?count=4&seed=9", "settings": {"rollout.max_tokens": 8, "task.prompt": "bare"}},
            r"with task\.prompt: '', the study asks for 'bare'; ",
        ),
    ],
)
def test_answers_are_not_published_under_another_definition_of_their_test(tmp_path, test, message):
    out = tmp_path / "out"
    for job in jobs_of(tmp_path):
        measured(job, out)
        freeze(job, out, threads=0)
    for job in jobs_of(tmp_path, tests={"held_out": test}):
        before = (out / job.folder / "tests" / "held_out.yaml").read_text()
        with pytest.raises(ConfigError, match=message) as told:
            freeze(job, out, threads=1)
        assert str(told.value).endswith("choose another --out, or delete tests/held_out in the folder of every run")
        assert "{" not in str(told.value), "only the settings that differ"
        assert (out / job.folder / "tests" / "held_out.yaml").read_text() == before
        # What has not been answered yet may be mended.
        for file in ("summary.json", "probe.json"):
            (out / job.folder / "tests" / "held_out" / file).unlink(missing_ok=True)
        freeze(job, out, threads=1)
        assert (out / job.folder / "tests" / "held_out.yaml").read_text() != before


def test_a_probe_with_other_rollouts_is_not_taken_for_this_one(tmp_path):
    start = jobs_of(tmp_path)[0]
    measured(start, tmp_path / "out")
    with pytest.raises(ConfigError, match="holds answers with probe: 2, the study asks for 3"):
        freeze(jobs_of(tmp_path, probe=3)[0], tmp_path / "out", threads=1)


def test_a_folder_of_another_name_is_the_same_one(tmp_path, monkeypatch):
    job = jobs_of(tmp_path)[1]
    measured(job, tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    freeze(job, running.Path("moved"), threads=1)
    frozen = yaml.safe_load((tmp_path / "moved" / job.folder / "tests" / "held_out.yaml").read_text())
    assert frozen["model"]["path"] == "moved/runs/sft-seed0/train/model"


def test_tests_may_have_dots_in_their_names(tmp_path):
    job = jobs_of(tmp_path, tests={"v1.0": "world:shifted?count=4&seed=9"})[1]
    measured(job, tmp_path / "out")
    assert task_of(tmp_path / "out" / job.folder / "tests" / "v1.0").name == "referring"


def test_a_lock_leaves_no_folder_where_nothing_came_of_it(tmp_path):
    out = tmp_path / "runs/one"
    with pytest.raises(KeyError), locked(out, "a run", "out="):
        raise KeyError
    assert not out.exists()
    out.mkdir()
    with pytest.raises(KeyError), locked(out, "a run", "out="):
        raise KeyError
    assert out.exists()  # whose folder it is made it
    other = tmp_path / "two"
    with suppress(KeyError), locked(other, "a run", "out="):
        (other / "config.yaml").touch()
        raise KeyError
    assert (other / "config.yaml").exists()


def test_one_study_at_a_time_works_in_a_folder(tmp_path, capsys):
    out = tmp_path / "out"
    with locked(out, "a study", "--out") as lock:
        with pytest.raises(ConfigError, match=r"a study \(process \d+\) is at work"), locked(out, "a study", "--out"):
            pass
        assert main(["study", str(study_file(tmp_path)), "--out", str(out)]) == 2
        assert "is at work in this folder" in capsys.readouterr().err
        # A training holds the lock too, so that one which outlives its study keeps the next one out.
        code, said = running._run(
            [sys.executable, "-c", f"import os; os.fstat({lock})"], tmp_path / "log", Workers(1, lock=lock), 0
        )
        assert (code, said) == (0, "")
        orphan = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock,))
    try:
        with pytest.raises(ConfigError, match="is at work in this folder"), locked(out, "a study", "--out"):
            pass
    finally:
        orphan.communicate(b"\n")
    with locked(out, "a study", "--out"):
        pass


TUNING = {"grid": {"optimizer.lr": [1e-5]}, "validation": "world:shifted?count=4&seed=8"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": ["giuo"]}, "metrics: no task has 'giuo'; did you mean 'giou'"),
        ({"tuning": {**TUNING, "metric": "giuo"}}, "tuning.metric: task 'referring' has no 'giuo'; did you mean 'giou'"),
        ({"tests": {"a": {"data": "world:shifted", "settings": {"rolout.max_tokens": 5}}}}, "tests.a: unknown key 'rolout"),
        ({"tests": {"a": {"data": "world:shifted", "settings": {"task.name": "refering"}}}}, "unknown task 'refering'"),
        ({"tests": {"a": "wrld:shifted"}}, "tests.a: wrld:shifted: no such file; expected a JSONL file, world"),
        ({"tests": {"a": "world:shfted"}}, "tests.a: world:shfted: no world 'shfted'; did you mean 'shifted'"),
        ({"tests": {"a": "world:shifted?cuont=5"}}, r"tests.a: world:shifted\?cuont=5: expected world"),
        ({"tests": {"a": "world:shifted?count=five"}}, "tests.a: .*count: expected a whole number, got 'five'"),
        ({"tests": {"a": "world:counting"}}, r"tests.a: world:counting: asks what the tasks .* answer, not 'referring'"),
        ({"tests": {"a": "benchmark:refcocoo?root=.&split=val"}}, "tests.a: unknown benchmark 'refcocoo'"),
        ({"tests": {"a": "benchmark:refcoco?root=nowhere&split=val"}}, "tests.a: .*no such folder nowhere"),
        ({"tests": {"a": "benchmark:refcoco?root=."}}, "tests.a: .*missing 'split'"),
        ({"tuning": {**TUNING, "validation": "no.jsonl"}}, "tuning.validation: no.jsonl: no such file"),
        ({"settings": {"data.train": "no.jsonl"}}, "runs/sft-seed0: data.train: no.jsonl: no such file"),
        ({"settings": {}}, "runs/sft-seed0: data.train is not set"),
        ({"side": {"colours": "world:colour"}}, "evaluation.side.colours: world:colour: no world"),
        (
            {"settings": {**FILE["settings"], "evaluation.every": 5, "data.validation": "no.jsonl"}},
            "data.validation: no.jsonl: no such file",
        ),
        ({"settings": {**FILE["settings"], "evaluation.metric": "giuo"}}, "evaluation.metric: task 'referring' has no 'giuo'"),
    ],
)
def test_what_is_mistyped_is_found_before_anything_runs(tmp_path, monkeypatch, capsys, change, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        plan(study_file(tmp_path, **change))
    assert main(["study", str(tmp_path / "study.yaml"), "--dry-run"]) == 2


def test_what_is_there_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.jsonl").write_text("")
    tests = {"rows": {"data": "rows.jsonl", "settings": {"data.root": "data"}}, "set": "benchmark:refcoco?root=data&split=val"}
    tests["hub"] = {"data": "someone/rows", "settings": {"data.format": "visual_rft"}}
    # Files that share their metrics list those of other tasks too.
    plan(study_file(tmp_path, tests=tests, metrics=["click_accuracy", "giou", "thinking"]))
