"""AP against hand-computed values; the exact tables are in test_metrics_fixtures.py."""

import math

import pytest

from visurf.metrics import CONFIDENCE_SOURCES, coco_ap, lvis_ap, named_mean_ap, novel_base_all, visual_rft_report

pytest.importorskip("pycocotools")

BOX, OTHER = [10, 10, 40, 40], [200, 200, 40, 40]


def coco(annotations, n_images=1, names=("bus", "cat", "dog"), **image):
    return {
        "images": [{"id": i} | image for i in range(1, n_images + 1)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, start=1)],
        "annotations": [{"image_id": image_id, "category_id": category, "bbox": box} for image_id, category, box in annotations],
    }


def found(*rows):
    return [{"image_id": i, "category_id": c, "bbox": box, "score": score} for i, c, box, score in rows]


def test_ap_by_hand():
    truth = coco([(1, 1, BOX), (1, 2, BOX)])
    report = coco_ap(truth, found((1, 1, BOX, 0.5), (1, 1, OTHER, 0.9), (1, 2, BOX, 0.5)), confidence="model")
    assert report.per_category[1]["AP"] == pytest.approx(0.5)
    assert report.per_category[2]["AP"] == pytest.approx(1.0)
    assert math.isnan(report.per_category[3]["AP"])
    assert report.summary["AP"] == pytest.approx(0.75)
    assert report.summary["AP_large"] == -1
    assert report.confidence == CONFIDENCE_SOURCES["model"]


def test_the_order_of_equal_scores_is_the_order_of_the_document():
    truth = coco([(1, 1, BOX)], names=("bus",))
    first = coco_ap(truth, found((1, 1, BOX, 1.0), (1, 1, OTHER, 1.0)), confidence="constant")
    last = coco_ap(truth, found((1, 1, OTHER, 1.0), (1, 1, BOX, 1.0)), confidence="constant")
    assert first.summary["AP"] == pytest.approx(1.0)
    assert last.summary["AP"] == pytest.approx(0.5)


def test_an_annotation_with_id_zero_can_be_found():
    truth = coco([(1, 1, BOX)], names=("bus",))
    truth["annotations"][0]["id"] = 0
    assert coco_ap(truth, found((1, 1, BOX, 1.0)), confidence="model").summary["AP"] == pytest.approx(1.0)
    assert truth["annotations"][0] == {"image_id": 1, "category_id": 1, "bbox": BOX, "id": 0}


def test_no_detections_score_zero_where_there_is_truth():
    truth = coco([(1, 1, BOX)])
    report = coco_ap(truth, [], confidence="model")
    assert report.summary["AP"] == 0.0
    assert math.isnan(report.per_category[2]["AP"])
    with pytest.raises(ValueError, match="no detections"):
        coco_ap(truth, [], confidence="model", on_empty="raise")


def test_unknown_images_are_an_error_and_unknown_categories_are_counted():
    truth = coco([(1, 1, BOX)], names=("bus",))
    for metric in (coco_ap, visual_rft_report):
        with pytest.raises(ValueError, match="first 9"):
            metric(truth, found((9, 1, BOX, 1.0)), confidence="model")
    report = coco_ap(truth, found((1, 7, BOX, 1.0), (1, 1, BOX, 1.0)), confidence="model")
    assert report.n_unknown_category == 1
    assert report.summary["AP"] == pytest.approx(1.0)


def test_the_limits_of_detections_are_a_parameter():
    truth = coco([(1, 1, BOX), (1, 1, OTHER)], names=("bus",))
    report = coco_ap(truth, found((1, 1, BOX, 1.0), (1, 1, OTHER, 0.5)), confidence="model", max_detections=(1,))
    assert report.summary["AR_1"] == 0.5
    assert "AR_100" not in report.summary


def test_means_over_named_classes():
    truth = coco([(1, 1, BOX), (1, 2, BOX)])
    report = coco_ap(truth, found((1, 1, BOX, 0.5), (1, 1, OTHER, 0.9), (1, 2, BOX, 0.5)), confidence="model")
    assert named_mean_ap(report, ["bus"]) == pytest.approx(0.5)
    assert named_mean_ap(report, ["bus", "cat", "cat"]) == pytest.approx(0.75)
    assert math.isnan(named_mean_ap(report, ["bus", "dog"]))
    assert named_mean_ap(report, ["bus", "dog"], without_truth="skip") == pytest.approx(0.5)
    assert math.isnan(named_mean_ap(report, ["dog"], without_truth="skip"))
    assert novel_base_all(report, ["cat"]) == pytest.approx({"novel": 1.0, "base": 0.5, "all": 0.75})
    for names in (["horse"], []):
        with pytest.raises(ValueError, match="class"):
            named_mean_ap(report, names)


def test_visual_rft_reports_fractions_and_percent():
    truth = coco([(1, 1, BOX)], names=("bus", "cat"))
    report = visual_rft_report(truth, found((1, 1, BOX, 0.5), (1, 1, OTHER, 0.9)))
    assert report["summary"]["mAP"] == pytest.approx(0.5)
    assert report["per_category"][0]["bus"] == pytest.approx(50.0)
    assert math.isnan(report["per_category"][1]["cat"])
    empty = visual_rft_report(truth, [])
    assert set(empty["summary"].values()) == {0.0}
    assert empty["per_category"] is None


def lvis(annotations, absent=(), incomplete=(), n_images=1):
    truth = coco(annotations, n_images, neg_category_ids=list(absent), not_exhaustive_category_ids=list(incomplete))
    for category, frequency in zip(truth["categories"], "rcf", strict=True):
        category["frequency"] = frequency
    return truth


def lvis_summary(truth, detections, **options):
    return lvis_ap(truth, detections, confidence="model", **options).summary


def test_lvis_judges_a_category_only_where_it_is_known():
    annotations = [(1, 1, BOX)]
    # On image 2, nothing is known of category 1: the stronger wrong detection there is dropped.
    detections = found((2, 1, OTHER, 0.9), (1, 1, BOX, 0.5))
    assert lvis_summary(lvis(annotations, n_images=2), detections)["AP"] == pytest.approx(1.0)
    # On both images the category is verified absent where it has no truth: now it is a false positive.
    assert lvis_summary(lvis(annotations, absent=[1], n_images=2), detections)["AP"] == pytest.approx(0.5)


def test_lvis_does_not_blame_what_may_be_unannotated():
    annotations = [(1, 1, BOX)]
    detections = found((1, 1, OTHER, 0.9), (1, 1, BOX, 0.5))
    assert lvis_summary(lvis(annotations), detections)["AP"] == pytest.approx(0.5)
    assert lvis_summary(lvis(annotations, incomplete=[1]), detections)["AP"] == pytest.approx(1.0)


def test_lvis_means_by_frequency():
    annotations = [(1, 1, BOX), (1, 2, BOX)]
    summary = lvis_summary(lvis(annotations), found((1, 1, BOX, 0.9)))
    assert summary["AP_rare"] == pytest.approx(1.0)
    assert summary["AP_common"] == 0.0
    assert summary["AP_frequent"] == -1
    assert summary["AP"] == pytest.approx(0.5)


def test_the_lvis_limit_is_per_image_over_all_categories():
    annotations = [(1, 1, BOX), (1, 2, BOX)]
    detections = found((1, 2, BOX, 0.1), (1, 1, OTHER, 0.9), (1, 1, BOX, 0.8))
    assert lvis_summary(lvis(annotations), detections)["AP_common"] == pytest.approx(1.0)
    # The limit comes before the filter: what is dropped later has used up its place.
    assert lvis_summary(lvis(annotations), detections, max_detections=2)["AP_common"] == 0.0
    unknown = found((1, 3, OTHER, 0.95), (1, 3, OTHER, 0.94))
    assert lvis_summary(lvis(annotations), detections + unknown, max_detections=2)["AP"] == 0.0


def test_lvis_without_detections_and_on_an_unknown_image():
    truth = lvis([(1, 1, BOX)])
    assert lvis_summary(truth, [])["AP"] == 0.0
    with pytest.raises(ValueError, match="first 5"):
        lvis_summary(truth, found((5, 1, BOX, 0.9)))
    # Also where the federated filter would have dropped it.
    with pytest.raises(ValueError, match="first 5"):
        lvis_summary(truth, found((5, 3, BOX, 0.9)))
