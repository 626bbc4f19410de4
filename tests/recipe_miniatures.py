"""Miniatures of the data sets that recipes train on, each in its original layout and in the folder that the recipe names."""

import io

from PIL import Image

from benchmark_miniatures import annotation, coco_data, dump, mask_file, picture, reference
from test_benchmarks_referring import SQUARE, shape

DETECT = "Detect all objects belonging to the category '{}' in the image, and provide the bounding boxes"
CLASSIFY = "This is an image containing a {}. Please identify the {} of the {} based on the image."


def cell(size=(64, 48), colour=(90, 120, 60)):
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, format="PNG")
    return {"bytes": stream.getvalue(), "path": None}


def parquet(root, rows):
    import pyarrow as arrow
    from pyarrow import parquet as files

    (root / "data").mkdir(parents=True)
    files.write_table(arrow.Table.from_pylist(rows), root / "data" / "train-00000-of-00001.parquet")


def grefcoco(root):
    none = reference(5, [-1], split="train", category_id=[-1], no_target=True, texts=("the kid in blue",))
    both = reference(4, [1774, 1775], split="train", category_id=[18, 18], no_target=False, texts=("two dogs", "both"))
    kept = [annotation(1774, 42, 18, (6.5, 7.25, 20, 10)), annotation(1775, 42, 18, (30, 7, 20, 10))]
    images = [{"id": 42, "file_name": "COCO_train2014_000000000042.jpg", "width": 64, "height": 48}]
    dump(root / "grefcoco/instances.json", coco_data(images=images, annotations=kept))
    dump(root / "grefcoco/grefs(unc).json", [both, none])
    picture(root / "images/train2014/COCO_train2014_000000000042.jpg")


def reasonseg(root):
    picture(root / "train/a.jpg")
    dump(
        root / "train/a.json", {"text": ["the dial", "what shows speed"], "is_sentence": True, "shapes": [shape("target", SQUARE)]}
    )


def omniact(root):
    row = {
        "task": "data/tasks/desktop/ibooks/task_1.30.txt",
        "image": "data/data/desktop/ibooks/screen_1.png",
        "box": "data/metadata/desktop/boxes/ibooks/screen_1.json",
    }
    dump(root / "train.json", {"2849": row})
    (root / row["task"]).parent.mkdir(parents=True)
    (root / row["task"]).write_text("Task: Record a lap\nOutput Script:\npyautogui.click(20.5,22.0)\n")
    picture(root / row["image"])
    dump(root / row["box"], {"lap": {"top_left": [10, 10], "bottom_right": [40, 40], "label": "lap"}})


def real_iad(root):
    stem = "NG/BX/S0010/audiojack_0010_NG_BX_C1_2023"
    normal = {"category": "audiojack", "anomaly_class": "OK", "image_path": "OK/S0001/audiojack_0001_OK_C1_2023.jpg"}
    rows = [
        {**normal, "mask_path": None},
        {"category": "audiojack", "anomaly_class": "BX", "image_path": f"{stem}.jpg", "mask_path": f"{stem}.png"},
    ]
    meta = {"prefix": "audiojack/", "normal_class": "OK", "pre_transform": False}
    dump(root / "realiad_jsons_fuiad_0.4/audiojack.json", {"meta": meta, "train": rows, "test": rows})
    for row in rows:
        picture(root / "realiad_1024/audiojack" / row["image_path"])
    mask_file(root / "realiad_1024/audiojack" / f"{stem}.png")


def isic2018(root):
    for number in range(2):
        picture(root / f"ISIC2018_Task1-2_Training_Input/ISIC_000000{number}.jpg")
        mask_file(root / f"ISIC2018_Task1_Training_GroundTruth/ISIC_000000{number}_segmentation.png")


def lisa_grounding(root):
    picture(root / "images/a.jpg")
    dump(root / "lisa_train.json", [{"image_path": "images/a.jpg", "instruction": ["find it"], "boxes": [[1, 2, 30, 40]]}])


def virft_detection(root):
    box = "<answer>[{'Position': [250, 500, 500, 1000], 'Confidence': 1}]</answer>"
    answers = {"dog": box, "cat": "<answer>No Objects</answer>"}
    parquet(root, [{"image": cell(), "problem": DETECT.format(name), "solution": text} for name, text in answers.items()])


def virft_classification(root):
    problem = CLASSIFY.format("plant", "species", "plant")
    names = ("passion flower", "rose")
    parquet(root, [{"image": cell(), "problem": problem, "solution": f"<answer>{name}</answer>"} for name in names])


def visionreasoner_train(root):
    box = '[{"bbox_2d": [100, 100, 400, 500], "point_2d": [200, 300]}]'
    rows = [{"id": str(i), "problem": "the dog", "solution": s} for i, s in enumerate((box, "[]"))]
    parquet(root, [{**row, "image": cell((840, 840)), "img_height": 48, "img_width": 64} for row in rows])


def rows_of_numbers(path):
    picture(path.parent / "1.jpg")
    row = '{"id": 1, "image": "1.jpg", "question": "What is 1 + 1?", "target": {"number": 2}}\n'
    path.write_text(row)


# Benchmark -> writes its miniature into a folder. Only the split that one may train on is written.
MINIATURES = {
    "grefcoco": grefcoco,
    "reasonseg": reasonseg,
    "omniact": omniact,
    "real_iad": real_iad,
    "isic2018": isic2018,
    "lisa_grounding": lisa_grounding,
    "virft_detection": virft_detection,
    "virft_classification": virft_classification,
    "visionreasoner_train": visionreasoner_train,
}
