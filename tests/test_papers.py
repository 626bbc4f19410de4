"""The study files of the papers in miniature: they can be run, their questions are held out, the page says what the results say."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from visurf.config import DataConfig
from visurf.data import load_data
from visurf.studies.study import plan
from visurf.tasks import TASKS

ROOT = Path(__file__).parents[1]
STUDIES = sorted(p for p in (ROOT / "studies").glob("*/*.yaml") if p.parent.name not in ("base", "bases", "alarms"))
RESULTS = ROOT / "docs" / "results" / "papers"


def script(name):
    spec = importlib.util.spec_from_file_location(f"studies_{name}", ROOT / "studies" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shorter(source):
    return re.sub(r"count=\d+", "count=3", source)


def seed_of(source):
    return int(re.search(r"[?&]seed=(\d+)", source)[1])


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_a_study_can_be_planned_and_its_questions_exist(path):
    study, _, _, _, runs = plan(path)
    assert runs
    sources = {(job.config.data.train, job.config.task.name) for job in runs}
    for name, asked in study.questions.items():
        task = asked.settings.get("task.name", runs[0].config.task.name)
        sources.add((asked.data, task))
        # Tests begin at 9001; what tuning looks at is 12, what is trained on 11.
        assert (seed_of(asked.data) >= 9001) == (name != "validation")
    for source, task in sources:
        assert load_data(shorter(source), DataConfig(), TASKS[task]).samples
    for job in runs:
        assert seed_of(job.config.data.train) == 11
        assert "novel" not in job.config.data.train
        assert "pairs=all" not in job.config.data.train
        assert job.config.model.path == "studies/base" or Path(job.config.model.path).parent == Path("studies/bases")


def test_every_paradigm_has_one_learning_rate_everywhere_and_tuning_chose_it():
    page = script("page")
    chosen = {row[0]: row[-1] for row in page.tuning_rows(page.read(RESULTS))}
    for path in STUDIES:
        if path.parent.name != "tuning":
            for job in plan(path)[4]:
                if job.config.stages:
                    for stage in job.config.stages:
                        assert stage.override["optimizer.lr"] == float(chosen[stage.paradigm])
                    continue
                name = job.config.paradigm
                rate = chosen.get(name, chosen["visurf"])
                assert job.config.optimizer.lr == float(rate), (path, name)


def test_a_quick_copy_is_smaller_and_still_a_study(tmp_path):
    found = script("run").quick(ROOT / "studies" / "table1" / "gui.yaml", tmp_path)
    study, _, _, _, runs = plan(found)
    assert len(runs) == 4
    assert {job.config.steps for job in runs} == {50}
    assert all("count=100&" in q.data for q in study.questions.values())


def test_a_run_that_another_study_made_is_the_same_run(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    run = script("run")
    studies = {name: run.prepare(ROOT / "studies" / name / "nonobject.yaml", tmp_path) for name in ("table1", "ablation")}
    keys = {
        name: {run.digest(progress, job): job.name for job in jobs if job.role == "run"}
        for name, (progress, jobs) in studies.items()
    }
    shared = set(keys["table1"]) & set(keys["ablation"])
    assert sorted(keys["table1"][key] for key in shared) == [f"seed{s}-visurf" for s in range(5)]
    assert all(keys["table1"][key] == keys["ablation"][key] for key in shared)


def test_the_page_says_what_the_results_say():
    page = script("page")
    text = (ROOT / "docs" / "results" / "papers-in-miniature.md").read_text()
    assert page.fill(text, page.read(RESULTS)) == text, "run python studies/page.py"


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda p: p.stem)
def test_results_are_those_of_the_protocol(path):
    results = json.loads(path.read_text())
    folder, _, name = path.stem.partition("-")
    values = yaml.safe_load((ROOT / "studies" / folder / f"{name}.yaml").read_text())
    for key in ("axes", "settings", "tests"):
        assert results["study"][key] == json.loads(json.dumps(values[key])), key
    planned = {job.name for job in plan(ROOT / "studies" / folder / f"{name}.yaml")[4]}
    assert {r["name"] for r in results["runs"] if r["role"] == "run"} == planned


@pytest.mark.slow
def test_studies_are_run_seed_by_seed_and_go_on(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.chdir(ROOT)
    values = yaml.safe_load((ROOT / "studies" / "table1" / "gui.yaml").read_text())
    values |= {"base": str(ROOT / "studies" / "world.yaml"), "resamples": 20, "compare": {"axis": "paradigm"}}
    values["settings"] |= {"steps": 1, "prompts_per_step": 2, "evaluation.every": 0}
    values["axes"] = {"seed": [0, 1], "paradigm": {"sft": {"paradigm": "sft"}}}
    values["tests"] = {"held_out": "world:gui?domain=dense&count=4&seed=9001"}
    for name in ("one", "two"):
        (tmp_path / "studies").mkdir(exist_ok=True)
        (tmp_path / "studies" / f"{name}.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    files = [str(tmp_path / "studies" / f"{name}.yaml") for name in ("one", "two")]
    run = script("run")

    def start(*more):
        monkeypatch.setattr(
            "sys.argv", ["run.py", *files, "--out", str(tmp_path / "out"), "--results", str(tmp_path / "res"), *more]
        )
        run.main()
        return capsys.readouterr().err

    def states():
        found = json.loads((tmp_path / "res" / "studies-two.json").read_text())
        return {r["name"]: r["status"] for r in found["runs"]}

    said = start("--seeds", "1")
    assert "studies-one seed0-sft" in said
    # The second study asks for the same runs: they are taken over.
    assert "studies-two seed0-sft" not in said
    assert states() == {"start": "done", "seed0-sft": "done", "seed1-sft": "not run"}
    again = start()
    assert "seed0-sft" not in again
    assert states() == {"start": "done", "seed0-sft": "done", "seed1-sft": "done"}
    # Without the folders of the runs their recorded numbers stand, and nothing is run.
    before = (tmp_path / "res" / "studies-two.json").read_text()
    shutil.rmtree(tmp_path / "out")
    assert start() == ""
    assert (tmp_path / "res" / "studies-two.json").read_text() == before
    # Other settings are other runs.
    values["settings"]["optimizer.lr"] = 0.5
    (tmp_path / "studies" / "two.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    assert "studies-two seed0-sft" in start("--seeds", "1")


def test_training_curves_are_drawn_from_the_committed_results(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("sys.argv", ["curves.py", str(RESULTS / "ablation-nonobject.json"), str(tmp_path / "curves.png")])
    curves = script("curves")
    curves.main()
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    runs = [
        r for r in json.loads((RESULTS / "ablation-nonobject.json").read_text())["runs"] if r["role"] == "run" and r.get("curves")
    ]
    steps, values = curves.curve(runs, "label/smoothed")
    assert values.shape == (len(runs), len(steps))


def test_what_a_step_costs_is_measured_in_a_process_of_its_own():
    costs, page = script("costs"), script("page")
    names = list(costs.configs())
    assert names[0] == "sft"
    assert {"rlvr", "visurf", "luffy", "uft"} < set(names)
    assert not [name for name in names if "then" in name], "lists of stages cost what their stages cost"
    found = costs.in_child("sft", costs.WARM + 1)
    assert found["sampled"] == pytest.approx(0)
    assert min(found[name] for name in ("seconds", "training", "trained", "flops", "mib")) > 0
    with pytest.raises(RuntimeError, match="measuring absent failed"):
        costs.in_child("absent", 3)
    if page.COSTS.exists():
        assert [row["paradigm"] for row in json.loads(page.COSTS.read_text())["rows"]] == names


def test_what_is_printed_are_the_studies_that_were_run_the_main_table_last():
    page = script("page")
    found = {name: results for name, results in page.read(RESULTS).items() if name.startswith(("table1", "ablation"))}
    text = page.printed(found)
    assert "not run yet" not in text
    titles = [line for line in text.splitlines() if line in page.TABLES]
    assert titles[-1] == "table1"
    assert "ablation-nonobject" in titles
    assert "rivals-nonobject" not in titles
    assert "costs" not in titles
