"""AP on resampled images is the evaluator's own AP on a file in which images stand as often as they were drawn."""

import json

import numpy as np
import pytest

from visurf.metrics import ap_intervals, ap_statistic, coco_ap

pytest.importorskip("pycocotools")


def scene(seed, images=6):
    rng = np.random.default_rng(seed)
    truth = {"images": [{"id": 10 + i} for i in range(images)], "categories": [{"id": 1}, {"id": 2}], "annotations": []}
    detections = []
    for image in truth["images"]:
        for _ in range(rng.integers(0, 4)):
            box = [float(v) for v in (*rng.integers(0, 60, 2), *rng.integers(5, 40, 2))]
            place = {"image_id": image["id"], "category_id": int(rng.integers(1, 3))}
            truth["annotations"].append({**place, "id": 0, "bbox": box, "iscrowd": int(rng.random() < 0.1)})
            if rng.random() < 0.8:
                moved = [v + float(rng.integers(-3, 4)) * 0.5 for v in box[:2]] + box[2:]
                detections.append({**place, "bbox": moved, "score": float(rng.random())})
        if rng.random() < 0.5:
            detections.append(
                {"image_id": image["id"], "category_id": 1, "bbox": [70.0, 70.0, 9.0, 9.0], "score": float(rng.random())}
            )
    return truth, detections


def repeated(truth, detections, indices):
    """The same file with an image for every index."""
    images, annotations, found = [], [], []
    for new, index in enumerate(sorted(indices)):
        old = truth["images"][index]["id"]
        images.append({"id": new})
        annotations += [{**a, "image_id": new} for a in truth["annotations"] if a["image_id"] == old]
        found += [{**d, "image_id": new} for d in detections if d["image_id"] == old]
    return {**truth, "images": images, "annotations": annotations}, found


@pytest.mark.parametrize("seed", range(12))
def test_a_weight_is_a_repetition(seed):
    truth, detections = scene(seed)
    count, statistic = ap_statistic(truth, detections)
    assert count == 6
    indices = np.random.default_rng(seed).integers(count, size=count)
    for drawn in (np.arange(count), indices):
        summary = coco_ap(*repeated(truth, detections, drawn), confidence="model").summary
        found = statistic(drawn)
        for name in ("AP", "AP50", "AP75"):
            assert found[name] == pytest.approx(summary[name], abs=1e-12) or (np.isnan(found[name]) and summary[name] == -1)


def test_intervals_hold_their_value():
    truth, detections = scene(3)
    intervals = ap_intervals(truth, detections, resamples=40)
    assert intervals == ap_intervals(truth, detections, resamples=40)
    for name, interval in intervals.items():
        assert interval.value == pytest.approx(coco_ap(truth, detections, confidence="model").summary[name])
        assert interval.low <= interval.high
        assert interval.n == 6


def test_federated_agrees_with_lvis(shared):
    folder = shared / "samples/lvis_val_100"
    truth, found = (json.loads((folder / f"{n}.json").read_text()) for n in ("lvis_val_100", "synthetic_results_seed0"))
    expected = json.loads((folder / "synthetic_results_seed0_expected.json").read_text())["results"]
    count, statistic = ap_statistic(truth, found, federated=True)
    assert statistic(np.arange(count)) == pytest.approx({k: expected[k] for k in ("AP", "AP50", "AP75")}, abs=1e-9)
