"""Measures and metrics of every task on records made by hand."""

import math

import numpy as np
import pytest

from test_tasks import Blank, sample_of
from visurf.benchmarks.masks import RunLengthMask
from visurf.judging import judge, summarise
from visurf.metrics import gres_scores, roc_auc
from visurf.tasks import TASKS, with_segmenter
from visurf.tasks.segmentation import convention_scores, overlaps
from visurf.tasks.task import RewardSettings
from visurf.types import Completion, DataError, Detections, Masks, Objects, ParseError, Points, Sample, Text


def record(task, sample, answer, **more):
    error = ParseError("no_answer") if answer is None else None
    return {**judge(sample, Completion("", (), answer, error), task), **more}


def mask(*boxes, value=1, size=(40, 20)):
    found = np.zeros((size[1], size[0]), np.uint8)
    for x1, y1, x2, y2 in boxes:
        found[y1:y2, x1:x2] = value
    return found


def test_boxes_are_compared_with_the_true_mask():
    truth = mask((0, 0, 10, 10))
    truth[:, 5:10][:10] = 255
    for target, meta in ((Masks((truth,)), {}), (Objects(((0.0, 0.0, 5.0, 10.0),)), {"mask": truth})):
        sample = Sample("s", (), "x", target, meta=meta)
        found = TASKS["reasoning_segmentation"].judge(sample, Objects(((0.0, 0.0, 10.0, 12.0),)))
        # The right half of the truth is ignored; below it 20 - 0 columns of two rows are too many.
        assert (found["intersection"], found["union"]) == (50, 70)
        assert found["giou"] == found["target_iou"] == pytest.approx(5 / 7)
        assert found["jaccard"] == pytest.approx(5 / 7)


def test_a_lazy_mask_does():
    sample = Sample("s", (), "x", Objects(((0.0, 0.0, 10.0, 10.0),)), meta={"mask": RunLengthMask.from_array(mask((0, 0, 10, 10)))})
    assert TASKS["referring"].judge(sample, Objects(((0.0, 0.0, 10.0, 10.0),)))["giou"] == 1.0


def test_a_segmenter_turns_boxes_into_masks():
    asked = []

    def segment(sample, objects):
        asked.append(objects)
        return mask((0, 0, 5, 10))

    task = with_segmenter(TASKS["anomaly"], segment)
    sample = Sample("s", (), "x", Masks((mask((0, 0, 10, 10)),)))
    found = task.judge(sample, Objects(((0.0, 0.0, 10.0, 10.0),)))
    assert found["giou"] == 0.5
    assert found["anomalous"] == 1.0
    assert task.judge(sample, Objects())["giou"] == 0.0
    assert len(asked) == 1


def test_records_give_the_published_conventions():
    task, box = TASKS["referring"], (0.0, 0.0, 10.0, 10.0)
    full = mask((0, 0, 10, 10))
    pairs = [
        (Objects((box,)), full, Objects(((0.0, 0.0, 10.0, 5.0),))),
        (Objects((box,)), full, Objects()),
        (Objects(), mask(), Objects()),
        (Objects(), mask(), Objects((box,))),
        (Objects((box,)), full, None),
    ]
    found = [record(task, Sample(str(i), (), "x", t, meta={"mask": m}), a) for i, (t, m, a) in enumerate(pairs)]
    scores, own = gres_scores(overlaps(found)), task.values(found)
    assert scores["gIoU"] == pytest.approx(100 * own["giou"]) == pytest.approx(30)
    assert scores["cIoU"] == pytest.approx(100 * own["ciou"]) == pytest.approx(100 * 50 / 400)
    assert scores["N_acc"] == own["n_acc"] == 0.5
    assert scores["T_acc"] == own["t_acc"] == pytest.approx(2 / 3)
    assert scores["Pr@0.7"] == own["pr@0.7"] == 0.0
    half = [record(task, sample_of(Objects(((0.0, 0.0, 10.5, 10.5),))), Objects((box,)))]
    with pytest.raises(ValueError, match="no true mask"):
        overlaps(half)


def test_published_conventions_without_an_ignore_value_count_its_pixels_as_object():
    truth = mask((0, 0, 10, 10))
    truth[10:20, 0:10] = 255
    task, said = TASKS["reasoning_segmentation"], Objects(((0.0, 0.0, 10.0, 20.0),))
    found = [record(task, Sample(str(i), (), "x", Masks((truth,))), a) for i, a in enumerate((said, None))]
    only = record(task, Sample("2", (), "x", Masks((mask((0, 0, 10, 10), value=255),))), Objects())
    for convention in ("seg_zero", "visionreasoner", "visual_rft"):
        assert convention_scores(found, convention)["gIoU"] == pytest.approx(0.5), convention
        assert convention_scores([only], convention)["gIoU"] == 0.0
    assert convention_scores(found, "visionreasoner")["cIoU"] == 200 / 400
    assert convention_scores([*found, only], "visionreasoner")["cIoU"] == 200 / 500
    wide = [record(task, Sample("3", (), "x", Masks((truth,))), Objects(((0.0, 0.0, 10.0, 10.0),)))]
    assert convention_scores(wide, "seg_zero")["gIoU"] == 0.5
    assert convention_scores(wide, "lisa")["gIoU"] == pytest.approx(1.0, abs=1e-4)
    assert task.values(wide)["giou"] == 1.0
    drawn = with_segmenter(task, lambda sample, objects: mask((0, 0, 10, 15)))
    assert convention_scores([record(drawn, Sample("4", (), "x", Masks((truth,))), said)], "seg_zero")["gIoU"] == 0.75


def test_the_lesion_box():
    task, sample = TASKS["lesion"], Sample("s", (), "x", Masks((mask((0, 0, 10, 10)),)))
    half, more = Objects(((0.0, 0.0, 10.0, 5.0),)), Objects(((0.0, 0.0, 10.0, 5.5),))
    values = task.values([record(task, sample, answer) for answer in (half, more, Objects(), None)])
    assert values["box_accuracy"] == 0.25, "an IoU of exactly one half is not above"
    assert values["thresholded_jaccard"] == 0.0
    assert task.values([record(task, sample, Objects(((0.0, 0.0, 10.0, 7.0),)))])["thresholded_jaccard"] == pytest.approx(0.7)


def test_gui_clicks():
    task = TASKS["gui"]
    sample = sample_of(Points(((5.0, 5.0),), ((0.0, 0.0, 10.0, 10.0),)))
    answers = [Points(((10.0, 10.0),)), Points(((1.0, 1.0),), ((0.0, 0.0, 10.0, 9.0),)), Points(((11.0, 1.0),)), None]
    values = task.values([record(task, sample, answer) for answer in answers])
    assert values == {"click_accuracy": 0.5, "box_accuracy": 0.25}


def test_classification_states_the_published_match_beside_its_own():
    task, sample = TASKS["classification"], sample_of(Text("golden retriever"))
    answers = [Text("Golden_retriever"), Text("g"), None, Text("poodle")]
    values = task.values([record(task, sample, answer) for answer in answers])
    assert values == {"accuracy": 0.25, "accuracy_published": 0.5}


def test_grounding_averages_the_iou():
    task, sample = TASKS["grounding"], sample_of(Objects(((0.0, 0.0, 10.0, 10.0),)))
    values = task.values([record(task, sample, a) for a in (Objects(((0.0, 0.0, 10.0, 5.0),)), None)])
    assert values == {"giou": 0.25, "ciou": 0.25, "box_iou": 0.25, "box_accuracy": 0.0}


def test_the_ranking_of_anomalies():
    task = TASKS["anomaly_yes_no"]
    rows = [("yes", "yes", 2.0), ("yes", "no", 0.5), ("no", "no", -1.0), ("no", "yes", 1.0)]
    found = [record(task, sample_of(Text(t)), Text(a), score=s) for t, a, s in rows]
    values = task.values(found)
    assert values["roc_auc"] == roc_auc([1, 1, 0, 0], [2.0, 0.5, -1.0, 1.0]) == 0.75
    assert values["roc_auc_binary"] == roc_auc([1, 1, 0, 0], [1, 0, 0, 1]) == 0.5
    assert values["accuracy"] == 0.5
    without = [{k: v for k, v in r.items() if k != "score"} for r in found]
    assert task.values(without)["roc_auc"] == 0.5, "without scores the answers rank"


@pytest.mark.parametrize("name", ["yes_no", "anomaly_yes_no"])
def test_reward_and_metric_read_a_yes_as_the_parser_does(name):
    task, sample = TASKS[name], sample_of(Text("Yes."))
    accuracy = task.parts(RewardSettings())["accuracy"].function
    for said, right in (("yes", 1.0), ("no", 0.0)):
        assert accuracy(Completion("", (), Text(said), None), sample) == right
        assert task.judge(sample, Text(said))["right"] == right
    for broken in ("true", "1"):
        for rate in (lambda s: accuracy(Completion("", (), None, None), s), lambda s: task.judge(s, None)):
            with pytest.raises(DataError, match="expected yes or no, got"):
                rate(sample_of(Text(broken)))


def test_a_failed_answer_ranks_as_badly_as_it_can():
    task = TASKS["anomaly_yes_no"]
    found = [record(task, sample_of(Text(t)), Text(a) if a else None) for t, a in (("yes", "yes"), ("no", "no"), ("no", None))]
    assert task.values(found)["roc_auc"] == 0.5
    found = [record(task, sample_of(Text(t)), Text(a) if a else None) for t, a in (("yes", "yes"), ("no", "no"), ("yes", None))]
    assert task.values(found)["roc_auc"] == 0.5
    scored = [{**r, **({"score": s} if s is not None else {})} for r, s in zip(found, (1.0, 0.0, None), strict=True)]
    assert task.values(scored)["roc_auc"] == 0.5
    one_class = [record(task, sample_of(Text("no")), Text("no"))]
    assert math.isnan(task.values(one_class)["roc_auc"])


def test_anomalies_in_referring_form():
    task, defect = TASKS["anomaly"], Masks((mask((0, 0, 10, 10)),))
    box = Objects(((0.0, 0.0, 10.0, 10.0),))
    pairs = [(defect, box), (Objects(), Objects()), (Objects(), box), (defect, None)]
    found = [record(task, Sample(str(i), (Blank((40, 20)),), "x", t), a) for i, (t, a) in enumerate(pairs)]
    values = task.values(found)
    assert (values["giou"], values["n_acc"], values["t_acc"]) == (0.5, 0.5, 1.0)
    assert values["roc_auc"] == values["roc_auc_binary"] == roc_auc([1, 0, 0, 1], [1.0, 0.0, 1.0, -1.0])


def test_question_answering_reports_what_applies():
    task = TASKS["question_answering"]

    def one(truth, said, **meta):
        return record(task, Sample("s", (), "?", Text(truth), meta=meta), Text(said) if said else None)

    chart = [one("10", "10.4", scoring="relaxed", part="human"), one("10", None, scoring="relaxed", part="augmented")]
    assert task.values(chart) == {
        "relaxed_accuracy": 0.5,
        "relaxed_accuracy_human": 1.0,
        "relaxed_accuracy_augmented": 0.0,
    }
    assert task.values([one("hello", "hellp", scoring="anls")]) == {"anls": 0.8}
    assert task.values([one("Cat", "cat"), one("Cat", None)]) == {"accuracy": 0.5}


def test_ap_from_records_alone():
    pytest.importorskip("pycocotools")
    task, box, other = TASKS["detection"], (0.0, 0.0, 50.0, 50.0), (100.0, 100.0, 150.0, 150.0)
    pairs = [
        ("a", "cat", Detections((box,), (1.0,)), Detections((box,), (0.9,))),
        ("a", "dog", Detections(), Detections((other,), (0.5,))),
        ("b", "cat", Detections((box,), (1.0,)), Detections()),
        ("b", "dog", Detections((other,), (1.0,)), None),
    ]
    found = [
        record(task, Sample(f"{i}{c}", (Blank((400, 300)),), c, t, meta={"image_id": i, "category": c}), a) for i, c, t, a in pairs
    ]
    values = task.values(found)
    # Cat: one of two found, precision 1 up to recall one half: 51 of 101 points. Dog: nothing right.
    assert values["ap"] == values["ap50"] == pytest.approx(51 / 101 / 2)
    assert (values["n_acc"], values["t_acc"], values["iou"]) == (0.0, pytest.approx(2 / 3), 0.25)
    assert math.isnan(task.values(found[1:2])["ap"])


def test_a_summary_names_failures():
    task, sample = TASKS["yes_no"], sample_of(Text("yes"))
    values = summarise(task, [record(task, sample, Text("yes")), record(task, sample, None)])
    assert values == {"accuracy": 0.5, "thinking": 0.0, "parse_failed": 0.5, "truncated": 0.0, "samples": 2.0}
    with pytest.raises(ValueError, match="no records"):
        summarise(task, [])


def test_intervals_agree_with_values():
    task, sample = TASKS["referring"], Sample("s", (), "x", Masks((mask((0, 0, 10, 10)),)))
    found = [record(task, sample, a) for a in (Objects(((0.0, 0.0, 10.0, 5.0),)), Objects(((0.0, 0.0, 10.0, 10.0),)), None)]
    for name, metric in task.metrics.items():
        interval = metric.interval(found, resamples=50)
        if math.isnan(metric.value(found)):
            assert math.isnan(interval.value), name
        else:
            assert interval.value == pytest.approx(metric.value(found)), name
            assert interval.low <= interval.value <= interval.high, name
