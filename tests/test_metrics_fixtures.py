"""The samples with published numbers, and the runners of the metric families on small cases."""

import collections
import json
import os
from pathlib import Path

import pytest

from visurf.fixtures import FAMILIES
from visurf.metrics import coco_ap, lvis_ap, mathvista_correct, normalise_mathvista

SHARED = Path(os.environ.get("VISURF_SHARED") or Path(__file__).parents[1].parent / "shared")
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the folder with reference data is not there")
COCO = SHARED / "samples" / "coco_val2014_100"
LVIS = SHARED / "samples" / "lvis_val_100"
MATHVISTA = SHARED / "samples" / "mathvista"

PUBLISHED_COCO = {
    "bbox": "0.5045806987 0.6969727247 0.5729816670 0.5856257209 0.5193996948 0.5013978986 "
    "0.3868127796 0.5936795763 0.5953529829 0.6398109626 0.5664205979 0.5642905983",
    "segm": "0.3195452759 0.5622883973 0.2989265341 0.3873740316 0.3101827240 0.3269339071 "
    "0.2682297226 0.4154486812 0.4168394992 0.4694498623 0.3767592267 0.3814715100",
}


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@needs_shared
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_coco_numbers_of_the_published_detections(iou_type):
    pytest.importorskip("pycocotools")
    truth = read(COCO / "instances_val2014_100.json")
    detections = read(COCO / f"instances_val2014_fake{iou_type}100_results.json")
    before = json.dumps(detections[:5])
    report = coco_ap(truth, detections, confidence="model", iou_type=iou_type)
    expected = [float(number) for number in PUBLISHED_COCO[iou_type].split()]
    assert list(report.summary.values()) == pytest.approx(expected, abs=1e-9)
    assert next(iter(report.summary)) == "AP"
    assert (report.n_images, report.n_detections, report.n_unknown_category) == (100, 734, 0)
    assert json.dumps(detections[:5]) == before, "the input must not be changed"


@needs_shared
def test_lvis_numbers_of_the_official_package():
    pytest.importorskip("pycocotools")
    detections = read(LVIS / "synthetic_results_seed0.json")
    expected = read(LVIS / "synthetic_results_seed0_expected.json")["results"]
    report = lvis_ap(read(LVIS / "lvis_val_100.json"), detections, confidence="model")
    names = {
        "AP": "AP", "AP50": "AP50", "AP75": "AP75", "APs": "AP_small", "APm": "AP_medium", "APl": "AP_large",
        "APr": "AP_rare", "APc": "AP_common", "APf": "AP_frequent", "AR@300": "AR_300", "ARs@300": "AR_small",
        "ARm@300": "AR_medium", "ARl@300": "AR_large",
    }  # fmt: skip
    assert set(names) == set(expected)
    for official, ours in names.items():
        assert report.summary[ours] == pytest.approx(expected[official], abs=1e-9), official


def mathvista_runs():
    if not SHARED.is_dir():
        return []
    return [run["run"] for run in read(MATHVISTA / "published_scores.json")]


@pytest.fixture(scope="module")
def flags():
    rows = collections.defaultdict(list)
    for line in (MATHVISTA / "flags.jsonl").read_text(encoding="utf-8").split("\n"):
        if line:
            row = json.loads(line)
            rows[row["run"]].append(row)
    return rows


@needs_shared
@pytest.mark.parametrize("run", mathvista_runs())
def test_every_flag_of_a_published_mathvista_run(run, flags):
    problems = read(MATHVISTA / "testmini.json")
    published = next(row for row in read(MATHVISTA / "published_scores.json") if row["run"] == run)
    named = published["integer_rule_that_reproduces_it"]
    for rule in ["int(x)", "int(float(x))"] if named == "either" else [named]:
        correct = 0
        for row in flags[run]:
            problem = problems[row["pid"]]
            fields = ("question_type", "answer_type", "choices", "precision")
            normalised = normalise_mathvista(row["extraction"], **{key: problem[key] for key in fields}, integer_rule=rule)
            verdict = mathvista_correct(normalised, problem["answer"])
            if row["true_false"] is not None:
                assert (normalised, verdict) == (row["prediction"], row["true_false"]), row["pid"]
            correct += verdict
        assert len(flags[run]) == published["n"]
        assert correct == published["published"]["correct"]


def case(expected, **data):
    return {"input": data, "expected": expected}


# Small cases that stand here so that the runners are tested where the reference data are not.
def test_runners_notice_a_wrong_expectation():
    one = {"pred_mask": [[1, 0]], "gt_mask": [[1, 1]], "pred_no_target": False}
    right = dict.fromkeys(["gIoU", "cIoU"], 50.0) | dict.fromkeys(["T_acc", "N_acc", "Pr@0.7", "Pr@0.8", "Pr@0.9"], 0)
    assert FAMILIES["gres"].check(case({"grefcoco": right}, samples=[one]))[0]
    assert not FAMILIES["gres"].check(case({"grefcoco": right | {"cIoU": 50.000001}}, samples=[one]))[0]
    whole = one | {"pred_mask": [[1, 0]], "gt_mask": [[255, 1]]}
    assert FAMILIES["gres"].check(case({"grefcoco": right}, samples=[whole]))[0], "255 is object here, not ignored"
    assert FAMILIES["gres"].check(case({"raises": "AssertionError"}, samples=[one | {"source": "other"}]))[0]
    assert FAMILIES["roc_auc"].check(case({"roc_auc": "NaN", "average_precision": 1.0}, labels=[1], scores=[0.5])) == (
        True,
        pytest.approx({"roc_auc": float("nan"), "average_precision": 1.0}, nan_ok=True),
    )
    assert not FAMILIES["roc_auc"].check(case({"roc_auc": 0.5, "average_precision": 1.0}, labels=[1], scores=[0.5]))[0]
    images = [{"pred": [[[1, 0]]], "gt": [[[1, 255]]]}]
    assert FAMILIES["reasonseg"].check(case({"lisa": {"gIoU": 0.99998, "cIoU": 1.0}}, images=images))[0]
    assert FAMILIES["reasonseg"].check(case({"seg_zero": {"gIoU": 0.5}}, images=images))[0]


def test_mathvista_runner_compares_texts_exactly():
    data = {"function": "extract", "response": "nan", "question_type": "free_form", "answer_type": "float", "choices": None}
    assert FAMILIES["mathvista"].check(case("nan", **data, quick=False)) == (True, "nan")
    assert not FAMILIES["mathvista"].check(case("NaN", **data, quick=False))[0]
    data |= {"response": "about five"}
    assert FAMILIES["mathvista"].check(case("<<MODEL>>", **data, quick=True)) == (True, "<<MODEL>>")
    data = {"function": "normalize_and_compare", "extraction": "x", "choices": None, "precision": None, "answer": "x"}
    data |= {"question_type": "free_form", "answer_type": "text", "ignore_empty": False}
    failing = {key: {"raises": "UnboundLocalError"} for key in ("normalized", "correct")}
    assert FAMILIES["mathvista"].check(case(failing, **data))[0]
