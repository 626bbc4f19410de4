"""What becomes of runs that broke, of metrics that are no means, of several starting models; and the tables."""

import csv
import json

import numpy as np
import pytest
import yaml

from made_results import results
from visurf.config import ConfigError, load_config
from visurf.probing import probe
from visurf.studies import collecting
from visurf.studies.analysis import Cell, comparisons, interval, start_cells, start_of
from visurf.studies.analysis import cells as cells_of
from visurf.studies.columns import pack
from visurf.studies.grid import run_jobs, start_jobs
from visurf.studies.measure import measure
from visurf.studies.page import write_page
from visurf.studies.plan import base_values, read_study
from visurf.studies.running import Workers
from visurf.studies.study import Progress, results_of, write_results
from visurf.tasks import TASKS

BASE = {
    "settings": {"data.train": "world:shifted?count=8&seed=5", "steps": 3},
    "axes": {"paradigm": ["sft", "rlvr"], "seed": [0]},
    "tests": {"held_out": "world:shifted?count=4&seed=9"},
}


def progress(folder, **changes):
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**BASE, **changes}, sort_keys=False))
    study = read_study(path)
    base = base_values(study, folder)
    runs = run_jobs(study, base, {}, {})
    return Progress(study, base, folder, Workers(1), print, runs=runs, starts=start_jobs(study, runs)), path


def row(step, **more):
    return {"step": step, "reward/total": 0.5, "policy/entropy": 0.25, "rate/tokens": 10.0, "time/step": 1.0, **more}


def test_a_run_that_diverged_keeps_its_results_and_those_of_others(tmp_path):
    made, path = progress(tmp_path)
    for job in made.runs:
        (tmp_path / job.folder / "train").mkdir(parents=True)
        lost = {"policy/entropy": None, "reward/total": None, "side/colours": None}
        lines = [row(1), row(2), row(3, **(lost if "sft" in job.name else {}))]
        (tmp_path / job.folder / "train" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        status = {"status": "failed", "stage": "train", "error": "NonFiniteError"} if "sft" in job.name else {"status": "done"}
        (tmp_path / job.folder / "status.json").write_text(json.dumps(status))
    found = {run["name"]: run for run in results_of(made, path, {})["runs"]}
    assert found["sft-seed0"]["curves"] == {"policy/entropy": [[1, 0.25], [2, 0.25]], "reward/total": [[1, 0.5], [2, 0.5]]}
    assert (found["sft-seed0"]["error"], found["sft-seed0"]["steps"]) == ("NonFiniteError", 3)
    assert found["rlvr-seed0"]["status"] == "done"
    # A file that cannot be read takes its own run only.
    (tmp_path / "runs" / "sft-seed0" / "train" / "metrics.jsonl").write_text('{"step": 1, "rate/tokens": "many"}\n')
    found = {run["name"]: run for run in results_of(made, path, {})["runs"]}
    assert (found["sft-seed0"]["status"], found["sft-seed0"]["stage"]) == ("failed", "results")
    assert "runs/sft-seed0: KeyError: 'time/step'" in found["sft-seed0"]["error"]
    assert found["rlvr-seed0"]["status"] == "done"


def test_every_run_is_compared_with_the_model_that_it_began_with(tmp_path):
    setups = {
        "slow": {"optimizer.lr": 1e-5},
        "fast": {"optimizer.lr": 1e-4},
        "other": {"model.path": "other"},
        "same": {"model.path": "other", "optimizer.lr": 1e-4},
    }
    axes = {"setup": {name: setups[name] for name in ("slow", "fast", "other")}, "seed": [0]}
    made, path = progress(tmp_path, axes=axes)
    assert [(job.name, dict(job.axes)) for job in made.starts] == [("start", {}), ("other", {"setup": "other"})]
    runs = results_of(made, path, {})["runs"]
    assert [run["start"] for run in runs if run["role"] == "run"] == ["start", "start", "other"]
    # Two models of which each has two setups share no axis value; they still are two.
    made, path = progress(tmp_path, axes={"setup": setups, "seed": [0]})
    assert [job.name for job in made.starts] == ["start", "start-2"]
    runs = [{**run, "status": "done"} for run in results_of(made, path, {})["runs"]]
    starts = start_cells(runs)
    began = [start_of(cell, starts).name for cell in cells_of(runs, "equal updates")]
    assert began == ["start", "start", "start-2", "start-2"]
    # Nor does another one stand in for a start that failed.
    failed = [Cell(s.axes, (), s.runs) if s.name == "start" else s for s in starts]
    assert start_of(cells_of(runs, "equal updates")[0], failed) is None


def test_older_results_are_compared_with_the_nearest_start():
    def run(role, name, **axes):
        return {"role": role, "name": name, "axes": axes, "status": "done", "matching": ["m"]}

    starts = start_cells([run("start", "start"), run("start", "other", setup="other")])
    near, far = (Cell({"setup": name}, (run("run", name, setup=name),)) for name in ("other", "slow"))
    assert (start_of(near, starts).name, start_of(far, starts).name) == ("other", "start")
    assert start_of(far, [*starts, *start_cells([run("start", "second")])]) is None


def anomaly(folder, gain, count=120):
    """A measured test whose headline metric is a ROC-AUC."""
    generator = np.random.default_rng(0)
    labels, noise = generator.integers(0, 2, count), generator.standard_normal(count)
    records = [
        {
            "id": str(i),
            "tokens": 3,
            "error": None,
            "truncated": False,
            "score": float(gain * labels[i] + noise[i]),
            "measures": {"right": 1.0, "anomalous": float(labels[i]), "said": 1.0, "thinking": 0.0},
        }
        for i in range(count)
    ]
    folder.mkdir(parents=True)
    folder.with_suffix(".yaml").write_text("task: {name: anomaly_yes_no}\n")
    values = TASKS["anomaly_yes_no"].values(records)
    (folder / "summary.json").write_text(json.dumps({**values, "thinking": 0.0, "parse_failed": 0.0}))
    (folder / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return records


def test_a_metric_that_is_no_mean_has_intervals_and_tests(tmp_path):
    gains = {"start": 0.0, "sft": 1.0, "visurf": 1.5}
    records = {name: anomaly(tmp_path / name / "held_out", gain) for name, gain in gains.items()}
    made = results(seeds=2)
    made["study"]["metrics"] = []
    for run in made["runs"]:
        name = run["axes"].get("paradigm", "start")
        if "tests" in run:
            run["tests"] = {"held_out": collecting._test(tmp_path / name / "held_out", (), 400)}
    start = next(run for run in made["runs"] if run["role"] == "start")
    found = interval(Cell({}, (start,)), "held_out", "roc_auc")
    known = TASKS["anomaly_yes_no"].metrics["roc_auc"].interval(records["start"], resamples=400)
    assert (found.value, found.low, found.high) == pytest.approx((known.value, known.low, known.high), abs=0.01)
    tested = {(one.first, one.second, one.metric): one.found for one in comparisons(made)}
    assert set(tested) == {("start", "sft", "roc_auc"), ("start", "visurf", "roc_auc"), ("sft", "visurf", "roc_auc")}
    assert tested["start", "visurf", "roc_auc"].p_value < 0.01
    page = write_page(made)
    assert "| run | seeds | roc_auc | thinking | parse_failed |" in page
    assert f"| start | 1 | {found.value:.3f} [{found.low:.3f}, {found.high:.3f}] |" in page
    # A study whose metrics belong to its other tests shows the headline of this one.
    made["study"]["metrics"] = ["giou"]
    assert write_page(made) == page
    assert "drawn" not in collecting._test(tmp_path / "sft" / "held_out", ())["columns"]


def test_average_precision_is_resampled_by_images(tmp_path):
    pytest.importorskip("pycocotools")
    generator, folder = np.random.default_rng(0), tmp_path / "held_out"
    folder.mkdir()
    folder.with_suffix(".yaml").write_text("task: {name: detection}\n")
    records = []
    for i in range(30):
        x = float(generator.integers(0, 50))
        box = [x, 10.0, x + 40, 60.0]
        said = box if generator.random() < 0.6 else [x + 100, 10.0, x + 140, 60.0]
        record = {"id": str(i), "question": "cat", "tokens": 1, "meta": {}, "target": {"boxes": [box], "confidences": [1.0]}}
        records.append({**record, "answer": {"boxes": [said], "confidences": [0.9]}, "measures": {"thinking": 0.0, "iou": 0.5}})
    (folder / "summary.json").write_text(json.dumps(TASKS["detection"].values(records)))
    (folder / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    found = collecting._test(folder, (), 100)
    assert found["columns"]["ap"]["units"] == 30
    ends = interval(Cell({}, ({"tests": {"held_out": found}},)), "held_out", "ap")
    assert 0 < ends.low < ends.value < ends.high < 1


def test_a_test_whose_headline_is_no_mean_is_not_probed_and_the_page_says_so(tmp_path):
    anomaly(tmp_path / "tests" / "held_out", 1.0)
    recipe = tmp_path / "tests" / "held_out.yaml"
    recipe.write_text("task: {name: anomaly_yes_no}\ndata: {validation: 'world:anomaly?domain=clean&count=4&seed=1'}\n")
    measure(tmp_path, rollouts=4)
    # What a study that goes on compares with its own number.
    assert json.loads((tmp_path / "tests" / "held_out" / "probe.json").read_text())["rollouts"] == 4
    with pytest.raises(ConfigError, match="is no mean over samples"):
        probe(load_config(recipe), 4)
    made = results()
    made["runs"][0]["tests"] = {"held_out": collecting._test(tmp_path / "tests" / "held_out", ())}
    assert "start was not probed on held_out: the headline metric of anomaly_yes_no is no mean over samples." in write_page(made)


def test_without_named_metrics_everything_is_about_the_headline(tmp_path):
    pytest.importorskip("matplotlib")
    made = results()
    made["study"]["metrics"] = []
    for run in made["runs"]:
        for test in (run.get("tests") or {}).values():
            thinking = {"thinking": {"value": pack([1.0] * 60)}}
            test |= {"headline": "giou", "columns": {**thinking, **test["columns"]}}
    write_results(made, tmp_path, print)
    assert (tmp_path / "plots" / "difficulty-held_out.png").exists()
    assert {one.metric for one in comparisons(made)} == {"giou"}
    assert "gain in giou over the start" in (tmp_path / "page.md").read_text()


def test_tables_hold_what_the_page_says(tmp_path):
    made = results()
    write_results(made, tmp_path, print)
    read = {name: list(csv.DictReader((tmp_path / f"{name}.csv").open())) for name in ("cells", "comparisons", "gains")}
    page = (tmp_path / "page.md").read_text()
    (compared,) = (line for line in read["comparisons"] if (line["first"], line["second"]) == ("sft", "visurf"))
    known = next(one for one in comparisons(made) if (one.first, one.second) == ("sft", "visurf"))
    assert float(compared["corrected_p"]) == known.corrected
    assert float(compared["g"]) == known.found.over_seeds
    shown = [f"{float(compared[name]):+.3f}" for name in ("difference", "low", "high")]
    assert f"| sft → visurf | {shown[0]} [{shown[1]}, {shown[2]}] | {float(compared['p']):.4f} |" in page
    line = next(c for c in read["cells"] if (c["cell"], c["metric"]) == ("sft", "giou"))
    assert (line["axis/paradigm"], line["seeds"], line["failed"], line["matching"]) == ("sft", "3", "1", "equal updates")
    numbers = [f"{float(line[name]):.3f}" for name in ("mean", "deviation", "low", "high")]
    assert f"| sft | 3 (1 failed) | {numbers[0]} ± {numbers[1]} [{numbers[2]}, {numbers[3]}] |" in page
    assert next((c["role"], c["deviation"]) for c in read["cells"] if c["cell"] == "start") == ("start", "")
    gain = next(g for g in read["gains"] if (g["cell"], g["group"]) == ("visurf", "never right"))
    assert f"| visurf | difficulty | never right | {gain['prompts']} | {float(gain['gain']):+.3f} [" in page
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(tmp_path / "comparisons.parquet").to_pylist()
    assert [line["p"] for line in table] == [float(line["p"]) for line in read["comparisons"]]
    assert parquet.read_table(tmp_path / "cells.parquet").num_rows == len(read["cells"])


def test_one_seed_and_other_prompts_are_said():
    made = results(seeds=1)
    page = write_page(made)
    assert "| 1 (prompts only) |" in page
    assert "with another seed may well turn such a difference round" in page
    assert "prompts only" not in write_page(results())
    # On either side: seed 9 of the first failed, seed 2 of the second was never run.
    made = results()
    made["runs"] = [run for run in made["runs"] if run["name"] != "visurf-2"]
    notes = {(one.first, one.second): (one.found.seeds, one.note) for one in comparisons(made)}
    assert notes == {
        ("start", "sft"): (3, "1 seeds without a partner"),
        ("start", "visurf"): (2, ""),
        ("sft", "visurf"): (2, "2 seeds without a partner"),
    }
    # A seed that was asked other prompts takes the interval of its cell, not the page.
    made = results()
    made["runs"][1]["tests"]["held_out"]["prompts"] = "other"
    assert interval(Cell({}, tuple(made["runs"][1:4])), "held_out", "giou") is None
    assert "## Comparisons" in write_page(made)
