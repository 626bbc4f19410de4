"""The published class lists: which categories a few-shot or open-vocabulary run trains on and is tested on.

Source: Visual-RFT (arXiv 2503.01785), section 4.
"""

from __future__ import annotations

from visurf.naming import suggestion
from visurf.types import DataError

COCO_80 = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *("elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee"),
    *("skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard"),
    *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
    *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
    *("microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear"),
    *("hair drier", "toothbrush"),
)

COCO_8 = ("bus", "train", "fire hydrant", "stop sign", "cat", "dog", "bed", "toilet")

COCO_15_NOVEL = (
    *("mouse", "fork", "hot dog", "cat", "airplane", "suitcase", "parking meter", "sandwich", "train", "hair drier"),
    *("toilet", "toaster", "snowboard", "frisbee", "bear"),
)

COCO_65_BASE = tuple(name for name in COCO_80 if name not in COCO_15_NOVEL)

LVIS_6 = ("horse_buggy", "die", "kitchen_table", "omelet", "papaya", "stepladder")

LVIS_13 = (
    *("casserole", "die", "egg_roll", "futon", "garbage", "handsaw", "hippopotamus", "kitchen_table", "mallet", "omelet"),
    *("shot_glass", "stepladder", "sugar_bowl"),
)

CLASS_LISTS = {
    "coco-8": COCO_8,
    "coco-15-novel": COCO_15_NOVEL,
    "coco-65-base": COCO_65_BASE,
    "coco-80": COCO_80,
    "lvis-6": LVIS_6,
    "lvis-13": LVIS_13,
}


def class_list(name: str) -> tuple[str, ...]:
    """A published class list by its name, such as ``coco-8``.

    Raises:
        DataError: There is none of that name; suggests the nearest.
    """
    if name not in CLASS_LISTS:
        raise DataError(f"unknown class list {name!r}{suggestion(name, CLASS_LISTS)}")
    return CLASS_LISTS[name]
