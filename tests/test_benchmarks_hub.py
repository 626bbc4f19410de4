import io
import json

import numpy as np
import pytest
from PIL import Image

from visurf.benchmarks import get_benchmark
from visurf.benchmarks.lmms_refcoco import from_rows as refcoco_rows
from visurf.benchmarks.masks import with_objects
from visurf.benchmarks.rows import RowReport
from visurf.benchmarks.virft import classification_from_rows, detection_from_rows
from visurf.benchmarks.visionreasoner import evaluation_from_rows, training_from_rows
from visurf.types import DataError, Detections, ImageRef, Masks, Number, Objects, Text


def encoded(size=(64, 48), mode="RGB"):
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, format="PNG")
    return stream.getvalue()


DETECT = "Detect all objects belonging to the category '{}' in the image, and provide the bounding boxes"


def detection(solution, category="fire hydrant", **changes):
    return {"image": Image.new("RGB", (64, 48)), "problem": DETECT.format(category), "solution": solution, **changes}


def test_virft_detection_rows():
    items = [{"Position": [250, 500, 500, 1000], "Confidence": 1}, {"Position": [0, 0, 1000, 1000], "Confidence": 1}]
    two = f"<answer>{items}</answer>"  # Python's own notation, with single quotes
    first, none = detection_from_rows([detection(two), detection("<answer>No Objects</answer>")])
    assert first.question == first.meta["category"] == "fire hydrant"
    assert first.target == Detections(((16, 24, 32, 48), (0, 0, 64, 48)), (1.0, 1.0))
    assert none.target == Detections()


def test_trap_virft_solutions_are_python_literals_and_never_evaluated(tmp_path):
    with pytest.raises(json.JSONDecodeError):
        json.loads("[{'Position': [1, 2, 3, 4]}]")
    code = f"<answer>[__import__('pathlib').Path({str(tmp_path / 'ran')!r}).touch()]</answer>"
    for bad in (code, "<answer>[{'Position': [1, 2, 3]}]</answer>", "<answer>7</answer>", "no tags", "<answer>[[[</answer>"):
        with pytest.raises(DataError, match="row 0, field 'solution'"):
            detection_from_rows([detection(bad)])
    assert not (tmp_path / "ran").exists()
    with pytest.raises(DataError, match="field 'solution'"):
        detection_from_rows([detection("<answer>" + "[" * 100_000 + "</answer>")])


@pytest.mark.parametrize(
    "item", ["'Position': [5, 0, 5, 10]", "'Position': [0, 0, 2000, 10]", "'Position': [0, 0, 9, 10], 'Confidence': 2"]
)
def test_virft_impossible_boxes(item):
    with pytest.raises(DataError, match="row 0, field 'solution'"):
        detection_from_rows([detection(f"<answer>[{{{item}}}]</answer>")])


def test_trap_virft_pictures_are_rgba():
    row = detection("<answer>No Objects</answer>", image={"bytes": encoded(mode="RGBA"), "path": None})
    assert detection_from_rows([row])[0].images[0].load().mode == "RGB"


def test_virft_category_must_be_in_the_problem():
    with pytest.raises(DataError, match="field 'problem'"):
        detection_from_rows([detection("<answer>No Objects</answer>", problem="Detect it")])


def test_trap_virft_empty_class_answer_is_an_error():
    problem = "This is an image containing a plant. Please identify the species of the plant based on the image."
    row = {"image": encoded(), "problem": problem, "solution": "<answer>passion flower</answer>"}
    (sample,) = classification_from_rows([row])
    assert (sample.target, sample.meta["noun"], sample.meta["slot"]) == (Text("passion flower"), "plant", "species")
    report = RowReport("skip")
    assert len(classification_from_rows([row, {**row, "solution": "<answer> </answer>"}], report=report)) == 1
    assert "empty answer" in report.bad[0][1]


def training(solution, **changes):
    image = Image.new("RGB", (840, 840))
    return {
        "id": "123",
        "problem": "the glasses",
        "solution": solution,
        "image": image,
        "img_height": 530,
        "img_width": 1024,
        **changes,
    }


SOLUTION = '[{"bbox_2d": [416, 7, 833, 553], "point_2d": [648, 249]}]'


def test_trap_visionreasoner_training_boxes_are_pixels_of_the_squashed_picture():
    (sample,) = training_from_rows([training(SOLUTION)])
    assert sample.target == Objects(((416, 7, 834, 554),), ((648, 249),))  # the last pixel is inclusive
    assert (sample.size, sample.meta["original_size"]) == ((840, 840), (1024, 530))
    with pytest.raises(DataError, match="leaves its image"):
        training_from_rows([training('[{"bbox_2d": [416, 7, 1000, 553], "point_2d": [648, 249]}]')])


def test_trap_visionreasoner_a_box_up_to_the_edge_ends_there():
    (sample,) = training_from_rows([training('[{"bbox_2d": [0, 7, 840, 839], "point_2d": [648, 249]}]')])
    assert sample.target.boxes == ((0, 7, 840, 840),)


def test_trap_visionreasoner_no_target_is_an_empty_list():
    assert training_from_rows([training("[]")])[0].target == Objects((), ())


def test_trap_visionreasoner_older_keys():
    old = '{"bbox": [416, 7, 833, 553], "points_1": [648, 249], "points_2": [600, 200]}'
    assert training_from_rows([training(old)])[0].target == Objects(((416, 7, 834, 554),), ((648, 249),))


@pytest.mark.parametrize(
    "solution", ["not json", "7", "[7]", '[{"bbox_2d": [1, 2, 3, 4]}]', '[{"bbox_2d": [1, 2], "point_2d": [1, 2]}]', None]
)
def test_visionreasoner_bad_solutions(solution):
    with pytest.raises(DataError, match="row 0, field 'solution'"):
        training_from_rows([training(solution)])


def evaluation(**changes):
    size = {"img_height": 48, "img_width": 64}
    return {"image": encoded(), "text": "the dog", "image_id": "42", "ann_id": "7", **size, **changes}


def test_visionreasoner_evaluation_rows():
    mask = np.zeros((48, 64), bool)
    mask[8:20, 10:30] = True
    rows = [
        evaluation(bbox=[1, 2, 30, 40]),
        evaluation(mask=mask.tolist()),
        evaluation(mask=(mask & False).tolist()),
        evaluation(count=3),
    ]
    boxed, masked, empty, counted = evaluation_from_rows(rows)
    (several,) = evaluation_from_rows([evaluation(bbox=[[1, 2, 30, 40], [5, 6, 7, 8]])])
    assert len(several.target.boxes) == 2
    assert boxed.target == Objects(((1, 2, 30, 40),))
    assert isinstance(masked.target, Masks)
    assert with_objects(masked).target.boxes == ((10, 8, 30, 20),)
    assert empty.target == Objects()
    assert counted.target == Number("3")


def test_trap_visionreasoner_image_ids_are_text():
    (sample,) = evaluation_from_rows([evaluation(bbox=[1, 2, 30, 40])])
    assert (sample.meta["image_id"], sample.meta["ann_id"]) == ("42", "7")


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"bbox": [1, 2, 30]},
        {"bbox": [1, 2, 300, 40]},
        {"mask": [[True]]},
        {"count": "3"},
        {"bbox": [1, 2, 30, 40], "image": None},
    ],
)
def test_visionreasoner_bad_evaluation_rows(change):
    with pytest.raises(DataError, match="row 0"):
        evaluation_from_rows([evaluation(**change)])


def hub_reference(**changes):
    return {
        "question_id": "1774",
        "image": encoded(),
        "question": "Please ...",
        "answer": ["woman in front", "lady smiling"],
        "segmentation": [1.0, 1.0, 5.0, 1.0, 5.0, 5.0],
        "bbox": [6.5, 7.25, 20.0, 10.0],
        "iscrowd": 0,
        "file_name": "COCO_train2014_000000000042_0.jpg",
        **changes,
    }


def test_trap_lmms_refcoco_boxes_are_xywh_and_answers_explode():
    samples = refcoco_rows([hub_reference()])
    assert [(s.question, s.target.boxes) for s in samples] == [(t, ((6.5, 7.25, 26.5, 17.25),)) for t in hub_reference()["answer"]]
    assert len(refcoco_rows([hub_reference()], expressions="first")) == 1
    for change in (
        {"answer": []},
        {"answer": [None]},
        {"bbox": [1, 2, 3]},
        {"bbox": [60, 40, 20, 20]},
        {"segmentation": ["x"]},
    ):
        with pytest.raises(DataError, match="row 0"):
            refcoco_rows([hub_reference(**change)])


def test_trap_lmms_refcoco_val_mixes_two_splits_and_says_so():
    assert "only testA and testB compare" in get_benchmark("lmms_refcoco").notes


@pytest.fixture
def snapshot(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [
        evaluation(bbox=[1, 2, 30, 40], image={"bytes": encoded((64, 48 + n)), "path": None}, img_height=48 + n) for n in range(7)
    ]
    (tmp_path / "data").mkdir()
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "data/test-00000-of-00001.parquet", row_group_size=3)
    return tmp_path


def test_parquet_pictures_stay_in_the_file_until_they_are_looked_at(snapshot, monkeypatch):
    from visurf.benchmarks import tables

    samples = get_benchmark("visionreasoner_test").load(snapshot, "test")
    assert [s.size for s in samples] == [(64, 48 + n) for n in range(7)]
    monkeypatch.setattr(tables, "_group_column", lambda *a: pytest.fail("pictures were read at load time"))
    samples = get_benchmark("visionreasoner_test").load(snapshot, "test")
    assert len(samples) == 7
    assert callable(samples[0].images[0].source)


def test_parquet_rows_are_named_by_file_group_and_row(snapshot):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    bad = [evaluation(bbox=[1, 2, 30, 40]), evaluation(bbox=[30, 2, 1, 40])]
    parquet.write_table(arrow.Table.from_pylist(bad), snapshot / "data/test-00000-of-00001.parquet")
    with pytest.raises(DataError, match=r"test-00000-of-00001\.parquet: row group 0, row 1, field 'bbox'"):
        get_benchmark("visionreasoner_test").load(snapshot, "test")


def test_parquet_errors(snapshot, tmp_path):
    with pytest.raises(DataError, match="expected parquet files of split 'train'"):
        get_benchmark("visionreasoner_train").load(snapshot, "train")
    (tmp_path / "data/train-0.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        get_benchmark("visionreasoner_train").load(snapshot, "train")


def test_parquet_cell_without_a_picture(snapshot):
    from visurf.benchmarks.tables import ParquetCell

    with pytest.raises(DataError, match="holds no picture"):
        ImageRef(ParquetCell(snapshot / "data/test-00000-of-00001.parquet", 1, 2, "text")).load()
