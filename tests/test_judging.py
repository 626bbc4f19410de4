"""Predictions of other programs: one verdict per sample, failures named, published numbers reproduced."""

import importlib.util
import json
from collections import defaultdict

import numpy as np
import pytest
from PIL import Image

from benchmark_miniatures import dump, mask_file, picture
from visurf.config import ConfigError
from visurf.detection_scores import rescored
from visurf.judging import choose_pairs, plain, write_records
from visurf.predictions import evaluate_predictions, frame_of, kind_of, read_predictions
from visurf.types import DataError, Detections, ImageRef, Masks, Objects, Sample, Text

needs_pycocotools = pytest.mark.skipif(importlib.util.find_spec("pycocotools") is None, reason="extra metrics")


@pytest.fixture
def lesions(tmp_path):
    """Three pictures of 64 x 48 with the lesion (10, 8, 30, 20)."""
    for name in ("ISIC_0000001", "ISIC_0000002", "ISIC_0000003"):
        picture(tmp_path / f"ISIC2018_Task1-2_Test_Input/{name}.jpg")
        mask_file(tmp_path / f"ISIC2018_Task1_Test_GroundTruth/{name}_segmentation.png")
    return tmp_path


def answer(*box):
    x1, y1, x2, y2 = box
    return f'<think>a</think><answer>[{{"bbox_2d": [{x1},{y1},{x2},{y2}], "point_2d": [{x1},{y1}]}}]</answer>'


@pytest.mark.parametrize(
    ("frame", "box"), [("pixel", (10, 8, 30, 20)), ("1000", (156, 167, 469, 417)), ("128x96", (20, 16, 60, 40))]
)
def test_one_verdict_per_sample_and_failures_are_named(lesions, frame, box):
    rows = [{"id": "ISIC_0000001", "completion": answer(*box)}, {"id": "ISIC_0000002", "completion": "I cannot"}]
    rows.append({"id": "elsewhere", "completion": answer(*box)})
    found = evaluate_predictions("isic2018", lesions, "test", rows, frame=frame, resamples=100)
    assert [r["id"] for r in found.records] == ["ISIC_0000001", "ISIC_0000002", "ISIC_0000003"]
    assert [r["error"] for r in found.records] == [None, "no_answer", "no_prediction"]
    assert (found.missing, found.unknown) == (("ISIC_0000003",), ("elsewhere",))
    box_accuracy = found.summary.metrics["box_accuracy"]
    assert box_accuracy.value == pytest.approx(1 / 3)
    assert (box_accuracy.low, box_accuracy.high, box_accuracy.n) == (0.0, 1.0, 3)
    assert found.summary.parse_failure_rate.value == pytest.approx(2 / 3)
    assert found.summary.parse_errors == {"no_answer": 1, "no_prediction": 1}
    assert found.summary.metrics["giou"].value == pytest.approx(1 / 3, abs=0.02)
    assert found.summary.metrics["thinking"].value == pytest.approx(1 / 3)
    assert found.notes["frame"] == frame


def test_an_evaluation_is_json(lesions):
    found = evaluate_predictions("isic2018", lesions, "test", [], resamples=20)
    assert len(found.missing) == 3
    again = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert again["missing"] == list(found.missing)
    assert again["summary"]["metrics"]["n_acc"]["value"] is None, "nothing to measure is null"
    assert json.loads(json.dumps(found.records[0]))["target"] == {"masks": 1}
    assert found.values()["giou"] == 0.0


def test_conventions_and_a_segmenter(lesions):
    rows = [{"id": f"ISIC_000000{i}", "completion": answer(10, 8, 30, 14)} for i in (1, 2, 3)]
    found = evaluate_predictions("isic2018", lesions, "test", rows, convention="visionreasoner", resamples=20)
    assert found.extra == {"visionreasoner/gIoU": 0.5, "visionreasoner/cIoU": 0.5}
    whole = np.zeros((48, 64), np.uint8)
    whole[8:20, 10:30] = 1
    assert evaluate_predictions("isic2018", lesions, "test", rows, segment=lambda s, o: whole, resamples=20).values()["giou"] == 1.0


def test_ids_that_belong_to_nothing_are_an_error(lesions):
    with pytest.raises(DataError, match=r"no prediction belongs .* 'nobody', expected such as 'ISIC_0000001'"):
        evaluate_predictions("isic2018", lesions, "test", [{"id": "nobody", "completion": "x"}])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "ISIC_0000001"}], "fields of one kind"),
        ([{"id": "ISIC_0000001", "completion": "x"}, {"id": "ISIC_0000002"}], "prediction 2: missing field 'completion'"),
        ([{"id": "ISIC_0000001", "completion": "x"}] * 2, "occurs twice"),
        ([{"id": "ISIC_0000001", "completion": 5}], "expected text or null"),
        ([{"id": "ISIC_0000001", "completion": "x", "score": float("nan")}], "expected a finite number"),
        ([{"id": "ISIC_0000001", "completion": "x", "score": True}], "expected a finite number"),
        ([{"pid": "ISIC_0000001", "extraction": "x"}], "extractions are texts"),
        ([{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 1}], "no category id"),
    ],
)
def test_broken_predictions(lesions, rows, message):
    with pytest.raises(DataError, match=message):
        evaluate_predictions("isic2018", lesions, "test", rows)


def test_a_frame_that_is_none(lesions):
    for frame in ("0x3", "x", "unit", "10x", "840"):
        with pytest.raises(DataError, match="frame: expected"):
            evaluate_predictions(
                "isic2018", lesions, "test", [{"id": "ISIC_0000001", "completion": answer(1, 2, 3, 4)}], frame=frame
            )


def test_words_need_no_image():
    sample = Sample("s", (ImageRef("/nowhere.png"),), "?", Text("x"))
    assert frame_of("pixel", sample).image_size == (1000, 1000)


def test_null_is_no_prediction(lesions):
    found = evaluate_predictions("isic2018", lesions, "test", [{"id": "ISIC_0000001", "completion": None}], resamples=20)
    assert found.records[0]["error"] == "no_prediction"


def test_another_task_must_fit(lesions):
    with pytest.raises(DataError, match="task 'yes_no' needs Text, got Masks"):
        evaluate_predictions("isic2018", lesions, "test", [], task="yes_no")
    with pytest.raises(DataError, match="unknown task"):
        evaluate_predictions("isic2018", lesions, "test", [], task="lesions")
    assert evaluate_predictions("isic2018", lesions, "test", [], task="referring", resamples=20).values()["t_acc"] == 1.0


def test_reading_files(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('\ufeff{"id": 1, "completion": "a\u2028b"}\n\n{"id": 2, "completion": ""}\n', encoding="utf-8")
    assert [r["completion"] for r in read_predictions(path)] == ["a\u2028b", ""]
    assert read_predictions(dump(tmp_path / "a.json", [{"image_id": 1}])) == [{"image_id": 1}]
    assert read_predictions(dump(tmp_path / "b.json", {"7": {"pid": "7"}})) == [{"pid": "7"}]
    for text in ('{"id": 1}\n[]', "nonsense", '{"id": '):
        path.write_text(text)
        with pytest.raises(DataError, match=r"p\.jsonl"):
            read_predictions(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_predictions(tmp_path / "none")
    assert kind_of([]) == "completions"


def test_masks_are_counted_in_records():
    assert plain(Masks((np.zeros((2, 2), np.uint8),))) == {"masks": 1}
    assert plain(Objects(((1.0, 2.0, 3.0, 4.0),))) == {"boxes": ((1.0, 2.0, 3.0, 4.0),)}
    assert plain(None) is None


def test_exist_check_rules(tmp_path):
    pairs = [Sample(f"{c}", (), c, Detections(b, (1.0,) * len(b)), meta={"image_id": 1, "category": c}) for c, b in CATS]
    assert [s.id for s in choose_pairs(pairs, "oracle").asked] == ["cat"]
    claims = dump(tmp_path / "map.json", {"1": ["dog"]})
    assert [s.id for s in choose_pairs(pairs, f"map {claims}").asked] == ["dog"]
    assert choose_pairs(pairs, "model", ask=lambda s: s.question == "cat").rate == 0.5
    for rule in ("oracle x", "sometimes"):
        with pytest.raises(DataError, match="exist_check"):
            choose_pairs(pairs, rule)


CATS = (("cat", ((1.0, 1.0, 5.0, 5.0),)), ("dog", ()))


@pytest.fixture
def bus_stop(tmp_path):
    """A file in COCO's layout with two pictures of 100 x 100 and two classes."""
    images = [{"id": i, "file_name": f"{i}.png", "width": 100, "height": 100} for i in (1, 2)]
    for image in images:
        picture(tmp_path / image["file_name"], (100, 100))
    boxes = [(1, 1, [10, 10, 20, 20]), (2, 1, [50, 50, 30, 30]), (1, 2, [0, 0, 40, 40])]
    annotations = [
        {"id": n, "image_id": i, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
        for n, (i, c, b) in enumerate(boxes)
    ]
    categories = [{"id": 1, "name": "bus"}, {"id": 2, "name": "stop_sign"}]
    return dump(tmp_path / "truth.json", {"images": images, "categories": categories, "annotations": annotations})


@needs_pycocotools
def test_detections_as_completions_and_as_results_agree(bus_stop):
    def said(*box, confidence=1.0):
        return f"<answer>[{{'Position': {list(box)}, 'Confidence': {confidence}}}]</answer>"

    rows = [
        {"id": "1_1", "completion": said(100, 100, 300, 300)},
        {"id": "2_1", "completion": said(0, 0, 100, 100, confidence=0.4)},
        {"id": "1_2", "completion": said(0, 0, 400, 400, confidence=0.7)},
        {"id": "2_2", "completion": "<answer>No Objects</answer>"},
    ]
    results = [
        {"image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "score": 1.0},
        {"image_id": 2, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.4},
        {"image_id": 1, "category_id": 2, "bbox": [0, 0, 40, 40], "score": 0.7},
    ]
    one = evaluate_predictions("coco", bus_stop, "val", rows, resamples=30)
    two = evaluate_predictions("coco", bus_stop, "val", results, resamples=30)
    expected = (51 / 101 + 1) / 2
    for found in (one, two):
        assert found.values()["ap"] == pytest.approx(expected)
        assert found.values()["AP/bus"] == pytest.approx(51 / 101)
        assert found.summary.metrics["ap"].low <= expected <= found.summary.metrics["ap"].high
        assert found.summary.metrics["ap"].n == 2
        assert len(found.records) == 4
        assert "wrote beside each box" in found.notes["confidence"]
        assert found.notes["exist_check_rate"] == "1.0000"
    assert [r["measures"]["iou"] for r in one.records] == [r["measures"]["iou"] for r in two.records] == [1.0, 1.0, 0.0, 1.0]
    assert one.missing == two.missing == ()


@needs_pycocotools
def test_pairs_that_the_check_leaves_out_count_as_not_found(bus_stop, tmp_path):
    results = [
        {"image_id": i, "category_id": 1, "bbox": b, "score": 1.0} for i, b in ((1, [10, 10, 20, 20]), (2, [50, 50, 30, 30]))
    ]
    claims = dump(tmp_path / "claims.json", {"1": ["bus"], "2": []})
    found = evaluate_predictions("coco", bus_stop, "val", results, exist_check=f"map {claims}", resamples=20)
    assert found.values()["AP/bus"] == pytest.approx(51 / 101)
    assert found.notes["exist_check_rate"] == "0.2500"
    assert "another model claimed" in found.notes["exist_check"]
    assert [r.get("asked", True) for r in found.records] == [True, False, False, False]
    assert evaluate_predictions("coco", bus_stop, "val", [], resamples=20).values()["ap"] == 0.0


@needs_pycocotools
def test_a_class_that_is_not_asked_is_not_judged(bus_stop):
    results = [
        {"image_id": i, "category_id": 1, "bbox": b, "score": 3.5} for i, b in ((1, [10, 10, 20, 20]), (2, [50, 50, 30, 30]))
    ]
    found = evaluate_predictions("coco", bus_stop, "val", results, options={"classes": ["bus"]}, resamples=20)
    assert found.values()["ap"] == pytest.approx(1.0)
    assert found.records[0]["measures"]["iou"] == 1.0, "scores may be any numbers"
    with pytest.raises(DataError, match="not in the annotation file, first 9"):
        evaluate_predictions("coco", bus_stop, "val", [{**results[0], "image_id": 9}], resamples=20)


@needs_pycocotools
def test_published_numbers_of_coco(shared):
    folder = shared / "samples/coco_val2014_100"
    results = folder / "instances_val2014_fakebbox100_results.json"
    found = evaluate_predictions("coco", folder / "instances_val2014_100.json", "val", results, resamples=20)
    values = found.values()
    expected = {"ap": 0.5045806987249628, "ap50": 0.6969727247299579, "ap75": 0.5729816669904824, "AP_small": 0.5856257209410443}
    expected |= {"AP_medium": 0.5193996948036719, "AP_large": 0.5013978986347466, "AR_1": 0.38681277964578054}
    expected |= {"AR_10": 0.5936795762842003, "AR_100": 0.595352982877607}
    assert {name: values[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    assert found.extra["detections_of_unknown_category"] == 0
    assert found.summary.metrics["ap"].low < values["ap"] < found.summary.metrics["ap"].high


@needs_pycocotools
def test_the_source_of_confidences_decides_the_order(bus_stop):
    def said(*found):
        return f"<answer>{[{'Position': list(box), 'Confidence': c} for box, c in found]}</answer>"

    # The true bus of the first picture, sure, and a large box beside it, unsure; nothing of the second picture.
    rows = [{"id": "1_1", "completion": said(((500, 500, 990, 990), 0.1), ((100, 100, 300, 300), 0.9))}]
    rows += [{"id": i, "completion": said()} for i in ("2_1", "1_2", "2_2")]
    first = (51 / 101) / 2
    expected = {"model": first, "constant": first / 2, "box_area": first / 2}
    for confidence, value in expected.items():
        found = evaluate_predictions("coco", bus_stop, "val", rows, confidence=confidence, resamples=5)
        assert found.values()["ap"] == pytest.approx(value), confidence
        assert found.records[0]["answer"]["confidences"] == (0.1, 0.9), "what was said stays"
    with pytest.raises(ConfigError, match="confidence=log_prob: expected predictions as COCO results"):
        evaluate_predictions("coco", bus_stop, "val", rows, confidence="log_prob")
    results = [{"image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "score": -3.5}]
    found = evaluate_predictions("coco", bus_stop, "val", results, confidence="log_prob", resamples=5)
    assert found.values()["ap"] == pytest.approx(first)


@needs_pycocotools
def test_box_area_is_a_share_of_the_picture():
    samples = [Sample(i, (ImageRef(Image.new("RGB", size)),), "x", Detections()) for i, size in (("a", (10, 10)), ("b", (100, 50)))]
    records = [{"id": i, "answer": {"boxes": ((0, 0, 5, 10),), "confidences": (0.3,)}} for i in ("a", "b")]
    records.append({"id": "b", "answer": None})
    found = rescored(records, samples, "box_area")
    assert [r["answer"] and r["answer"]["confidences"] for r in found] == [[0.5], [0.01], None]


@needs_pycocotools
def test_expected_numbers_of_lvis(shared):
    folder = shared / "samples/lvis_val_100"
    expected = json.loads((folder / "synthetic_results_seed0_expected.json").read_text())["results"]
    found = evaluate_predictions(
        "lvis", folder / "lvis_val_100.json", "val", folder / "synthetic_results_seed0.json", resamples=5
    ).values()
    names = {"lvis_ap": "AP", "ap50": "AP50", "ap75": "AP75", "AP_rare": "APr", "AP_common": "APc", "AP_frequent": "APf"}
    for own, theirs in names.items():
        assert found[own] == pytest.approx(expected[theirs], abs=1e-9), own


def test_every_flag_of_the_published_mathvista_runs(shared):
    folder = shared / "samples/mathvista"
    runs = defaultdict(list)
    for line in (folder / "flags.jsonl").read_text().splitlines():
        row = json.loads(line)
        runs[row["run"]].append(row)
    rules = {r["run"]: r["integer_rule_that_reproduces_it"] for r in json.loads((folder / "published_scores.json").read_text())}
    assert len(runs) == 12
    for run, rows in runs.items():
        found = evaluate_predictions("mathvista", folder, "testmini", rows, resamples=5)
        assert len(found.records) == 1000
        name = "mathvista" if rules[run] == "int(float(x))" else "mathvista_older"
        flags = {r["pid"]: bool(r["true_false"]) for r in rows}
        assert {r["id"]: bool(r["measures"][name]) for r in found.records} == flags, run
        assert found.values()[name] == sum(flags.values()) / 1000


def test_a_mathvista_output_file_and_completions(shared):
    folder = shared / "samples/mathvista"
    found = evaluate_predictions("mathvista", folder, "testmini", folder / "results/output_bard.json", resamples=5)
    assert found.values()["mathvista_older"] == 0.348
    rows = [{"id": "1", "completion": "<answer>1.2</answer>"}, {"id": "3", "completion": "<answer>(A)</answer>"}]
    found = evaluate_predictions("mathvista", folder, "testmini", rows, resamples=5)
    assert len(found.missing) == 998
    assert found.records[0]["answer"] == {"text": "1.2"}
    assert found.records[2]["answer"]["letter"] == "A"


def test_records_hold_half_a_surrogate_pair(lesions, tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_text('{"id": "ISIC_0000001", "completion": "\\ud83d is half, \\ud83d\\udc36 whole"}\n')
    found = evaluate_predictions("isic2018", lesions, "test", path, resamples=5)
    write_records(tmp_path / "records.jsonl", found.records)
    (first, *_) = (json.loads(line) for line in (tmp_path / "records.jsonl").read_text(encoding="utf-8").splitlines())
    assert first["text"] == "\ud83d is half, \U0001f436 whole"
