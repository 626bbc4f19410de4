"""Studies from end to end: real short runs, one that crashes, going on, and pages from results alone."""

import csv
import json

import pytest
import yaml

from made_results import results
from visurf.cli import main
from visurf.config import ConfigError
from visurf.studies.page import write_page
from visurf.studies.study import write_results

SMALL = {
    "about": "Who learns what?",
    "settings": {
        "model.path": "mini",
        "task.prompt": "bare",
        "data.train": "world:shifted?count=8&seed=5",
        "data.validation": "world:shifted?count=4&seed=6",
        "steps": 2,
        "prompts_per_step": 2,
        "rollout.group_size": 2,
        "rollout.max_tokens": 30,
        "evaluation.every": 1,
    },
    "axes": {
        "paradigm": {"sft": "sft", "rlvr": "rlvr", "broken": {"paradigm": "rlvr", "reward.functions": {"f": "no.such:f"}}},
        "seed": [0],
    },
    "tests": {"held_out": "world:shifted?count=6&seed=9"},
    "side": {"numbers": {"data": "world:numbers?count=4&seed=1", "task": "visurf.mini.questions:WORDS"}},
    "metrics": ["giou"],
    "probe": 2,
    "resamples": 200,
}


def test_the_page_says_what_is_there():
    page = write_page(results(prompts=400))
    assert "| sft | 3 (1 failed) |" in page
    assert "no \\| memory" in page
    assert "0.900 → 0.600 (+0.300)" in page
    assert "| sft | 3 | 3 (step 5, 5, 5) | 0 | 0 | total +0.50, bonus - |" in page
    row = next(line for line in page.splitlines() if "sft → visurf" in line)
    assert row.split(" | ")[3] == "sft → visurf"
    # Three rows are tested: both against the start, and against each other; the gain is far from chance.
    assert float(row.split(" | ")[6]) < 0.05
    assert "| visurf | difficulty | never right |" in page
    assert "20 to 22 tokens" in page
    same = next(line for line in page.splitlines() if "start → sft" in line)
    assert "+0.000 [+0.000, +0.000] | 1.0000 | 1.0000" in same


def test_gains_by_difficulty_are_those_of_the_prompts():
    made = results(seeds=1)
    page = write_page(made)
    line = next(line for line in page.splitlines() if line.startswith("| visurf | difficulty | always right"))
    # The start was right on every prompt of these, so there is nothing to gain.
    assert "+0.000" in line
    hard = next(line for line in page.splitlines() if line.startswith("| visurf | difficulty | never right"))
    assert float(hard.split("|")[5].split("[")[0]) > 0.05


def test_results_are_enough_for_tables_page_and_plots(tmp_path):
    write_results(results(), tmp_path, print)
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert len(rows) == 8
    assert rows[-1]["status"] == "failed"
    assert rows[1]["side/colours_drop"] == str(0.9 - 0.6)
    assert (
        float(rows[1]["test/held_out/giou_low"]) < float(rows[1]["test/held_out/giou"]) < float(rows[1]["test/held_out/giou_high"])
    )
    parquet = pytest.importorskip("pyarrow.parquet")
    assert parquet.read_table(tmp_path / "table.parquet").num_rows == 8
    pytest.importorskip("matplotlib")
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    assert {"equal-updates-held_out.png", "difficulty-held_out.png", "curves.png"} <= names
    again = tmp_path / "again"
    assert main(["study", str(tmp_path / "results.json"), "--out", str(again)]) == 0
    assert (again / "page.md").read_text() == (tmp_path / "page.md").read_text()


def test_a_study_runs_reports_a_crash_and_goes_on(tmp_path, capsys):
    path, out = tmp_path / "small.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(SMALL, sort_keys=False))
    assert main(["study", str(path), "--dry-run"]) == 0
    assert "0 tuning runs, 0 pilots, 3 runs, 1 tests of each" in capsys.readouterr().out
    assert not out.exists()
    assert main(["study", str(path), "--out", str(out), "--workers", "2"]) == 1
    found = {run["name"]: run for run in json.loads((out / "results.json").read_text())["runs"]}
    assert {name: run["status"] for name, run in found.items()} == {
        "start": "done", "sft-seed0": "done", "rlvr-seed0": "done", "broken-seed0": "failed",
    }  # fmt: skip
    assert "no.such" in found["broken-seed0"]["error"]
    assert found["broken-seed0"]["stage"] == "train"
    run = found["rlvr-seed0"]
    assert run["costs"]["samples"] == 4
    assert run["costs"]["tokens"] > 0
    assert run["tests"]["held_out"]["summary"]["samples"] == 6
    assert run["tests"]["held_out"]["prompts"] == found["start"]["tests"]["held_out"]["prompts"]
    assert "side/numbers/before" in run["curves"]
    assert set(run["correlations"]) >= {"total", "accuracy"}
    assert found["start"]["tests"]["held_out"]["probe"]["rollouts"] == 2
    assert (out / "runs" / "sft-seed0" / "run.yaml").exists()
    capsys.readouterr()
    # What is done is not run again; what failed is.
    made = (out / "runs" / "sft-seed0" / "train" / "summary.json").stat().st_mtime_ns
    assert main(["study", str(path), "--out", str(out), "--workers", "2"]) == 1
    said = capsys.readouterr().err
    assert "sft-seed0 done before" in said
    assert "broken-seed0 started" in said
    assert (out / "runs" / "sft-seed0" / "train" / "summary.json").stat().st_mtime_ns == made
    # Other settings in the same folder would mix two experiments.
    changed = {**SMALL, "settings": {**SMALL["settings"], "steps": 3}}
    path.write_text(yaml.safe_dump(changed, sort_keys=False))
    assert main(["study", str(path), "--out", str(out)]) == 2
    assert "holds a run with steps: 2, the study asks for 3" in capsys.readouterr().err


def test_a_test_without_columns_on_one_side_is_not_compared():
    made = results()
    for run in made["runs"][1:4]:
        run["tests"]["held_out"]["prompts"] = "other"
    page = write_page(made)
    assert "sft → visurf" not in page
    assert "start → visurf" in page


def test_names_of_axes_that_are_no_settings_need_settings(tmp_path):
    from visurf.studies.study import plan

    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**SMALL, "axes": {"size": ["small", "large"]}}))
    with pytest.raises(ConfigError, match="unknown key 'size'"):
        plan(path)
