"""Builders of small pictures and files for the tests of data set layouts, and where the real samples lie."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(os.environ.get("VISURF_SHARED", Path(__file__).parents[1].parent / "shared"))


def real(relative):
    """A real sample's path; the test is skipped where the samples are not at hand."""
    path = SHARED / "samples" / relative
    if not path.exists():
        pytest.skip(f"real sample {relative} is not at hand")
    return path


def picture(path, size=(64, 48), **save):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 60)).save(path, **save)
    return path


def mask_file(path, size=(64, 48), box=(10, 8, 30, 20), value=255):
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((size[1], size[0]), np.uint8)
    if box:
        mask[box[1] : box[3], box[0] : box[2]] = value
    Image.fromarray(mask).save(path)
    return path


def dump(path, data, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(json.dumps(data, ensure_ascii=encoding == "ascii").encode(encoding))
    return path


def rectangle(x1, y1, x2, y2):
    return [float(v) for v in (x1, y1, x2, y1, x2, y2, x1, y2)]


def coco_data(**changes):
    """Two pictures, three classes; a crowd, a picture without annotations, an id over 32 bits."""
    data = {
        "images": [
            {"id": 42, "file_name": "000000000042.jpg", "width": 64, "height": 48},
            {"id": 43, "file_name": "000000000043.jpg", "width": 64, "height": 48},
        ],
        "annotations": [
            annotation(1774, 42, 18, (6.5, 7.25, 20, 10)),
            annotation(1775, 42, 18, (30, 7, 20, 10)),
            annotation(
                901800000042,
                42,
                18,
                (0, 0, 10, 5),
                iscrowd=1,
                segmentation={"size": [48, 64], "counts": [0, 50, 48 * 64 - 50]},
            ),
            annotation(901800000043, 42, 1, (0, 0, 10, 5), iscrowd=1),
        ],
        "categories": [
            {"id": 1, "name": "person", "supercategory": "person"},
            {"id": 18, "name": "dog", "supercategory": "animal"},
            {"id": 90, "name": "toothbrush", "supercategory": "indoor"},
        ],
    }
    return {**data, **changes}


def annotation(identity, image_id, category_id, bbox, **changes):
    x, y, w, h = bbox
    return {
        "id": identity,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": list(bbox),
        "area": w * h / 2,
        "iscrowd": 0,
        "segmentation": [rectangle(x, y, x + w, y + h)],
        **changes,
    }


def reference(ref_id, ann_id, split="val", texts=("woman in front", "lady smiling"), image_id=42, **changes):
    return {
        "ref_id": ref_id,
        "ann_id": ann_id,
        "category_id": 18,
        "image_id": image_id,
        "file_name": "COCO_train2014_000000000042_16.jpg",
        "split": split,
        "sent_ids": [10 * ref_id + n for n in range(len(texts))],
        "sentences": [{"sent_id": 10 * ref_id + n, "raw": t.title(), "sent": t, "tokens": t.split()} for n, t in enumerate(texts)],
        **changes,
    }
