"""OmniACT, Real-IAD, ISIC 2018, MathVista, ChartQA, DocVQA and VLM-R1's files."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from benchmark_miniatures import dump, mask_file, picture, real
from visurf.benchmarks import get_benchmark
from visurf.benchmarks.masks import with_objects
from visurf.benchmarks.omniact import parse_script
from visurf.benchmarks.rows import RowReport
from visurf.config import DataConfig
from visurf.data import load_data
from visurf.predictions import evaluate_predictions
from visurf.tasks import TASKS
from visurf.types import Choice, DataError, ImageRef, Number, Objects, Points, Sample, Text


def load(root, name, split, **options):
    return get_benchmark(name).load(root, split, **options)


BOXES = {
    "example_0": {"top_left": [10, 10], "bottom_right": [40, 40], "label": "window"},
    "example_1": {"top_left": [18, 18], "bottom_right": [30, 30], "label": 7},
    "inverted": {"top_left": [30, 30], "bottom_right": [18, 18], "label": "bad"},
    "outside": {"top_left": [30, 30], "bottom_right": [900, 900], "label": "bad"},
    "short": {"top_left": [30], "bottom_right": [40, 40], "label": "bad"},
}


def write_omniact(root, script="pyautogui.click(20.5,22.0)", web=False, boxes=None):
    kind, app = ("web", "maps") if web else ("desktop", "ibooks")
    row = {
        "task": f"data/tasks/{kind}/{app}/task_1.30.txt",
        "image": f"data/data/{kind}/{app}/screen_1.png",
        "box": f"data/metadata/{kind}/boxes/{app}/screen_1.json",
    }
    dump(root / "val.json", {"2849": row})
    (root / row["task"]).parent.mkdir(parents=True, exist_ok=True)
    (root / row["task"]).write_text(f"Task: Record a lap\nOutput Script:\n{script}\n")
    picture(root / (row["image"].replace("screen_1", "screen1") if web else row["image"]))
    dump(
        root / (row["box"].replace("screen_1", "screen1_boxes") if web else row["box"]),
        boxes if boxes is not None else BOXES,
    )
    return root


def test_omniact_target_is_the_click_and_the_smallest_box_around_it(tmp_path):
    report = RowReport()
    (sample,) = load(write_omniact(tmp_path), "omniact", "val", report=report)
    assert (sample.id, sample.question) == ("2849", "Record a lap")
    assert sample.target == Points(((20.5, 22.0),), ((18, 18, 30, 30),))
    assert sample.images[0].source.name == "screen_1.png"


def test_trap_omniact_impossible_boxes_are_counted(tmp_path):
    report = RowReport()
    load(write_omniact(tmp_path), "omniact", "val", report=report)
    assert report.left_out == {"impossible element box": [f"screen_1.json:{n}" for n in ("inverted", "outside", "short")]}


def test_trap_omniact_label_may_be_no_text(tmp_path):
    assert load(write_omniact(tmp_path), "omniact", "val")[0].meta["element"] == "7"


def test_trap_omniact_web_paths_of_the_index_are_wrong(tmp_path):
    (sample,) = load(write_omniact(tmp_path, web=True), "omniact", "val")
    assert sample.images[0].source.name == "screen1.png"
    assert sample.target.boxes == ((18, 18, 30, 30),)


@pytest.mark.parametrize(
    ("script", "actions", "point"),
    [
        ("pyautogui.click(20.5,22.0)", ("click",), (20.5, 22)),
        ("yautogui.click(20,22)", ("click",), (20, 22)),
        ("click(20, 22)", ("click",), (20, 22)),
        ("pyautogui.moveTo(20,22)\npyautogui.click()", ("moveto", "click"), (20, 22)),
        ("pyautogui.rightClick(x=20, y=22)", ("rightclick",), (20, 22)),
        ("pyautogui.click(20,22)\npyautogui.click(1,1)", ("click", "click"), (20, 22)),
        ("pyautogui.write('a(5,6)')\npyautogui.doubleClick(20,22)", ("write", "doubleclick"), (20, 22)),
        ("pyautogui.hotKey(\"ctrl\", 'c')", ("hotkey",), None),
        ("pyautogui.hscroll([10])", ("hscroll",), None),
        ("pyautogui.click()", ("click",), None),
        ("nothing to call", (), None),
    ],
)
def test_trap_omniact_scripts_are_read_tolerantly(script, actions, point):
    read = parse_script(f"Task: do\nOutput Script:\n{script}", "t")
    assert (read.instruction, read.actions, read.point) == ("do", actions, point)


def test_omniact_scripts_are_never_evaluated(tmp_path):
    script = f"__import__('pathlib').Path({str(tmp_path / 'ran')!r}).touch()"
    parse_script(f"Task: do\nOutput Script:\n{script}", "t")
    assert not (tmp_path / "ran").exists()
    parse_script("Task: do\nOutput Script:\n" + "click" * 50_000 + "(" * 50_000, "t")  # linear time


@pytest.mark.parametrize(
    ("script", "reason"),
    [("pyautogui.press('a')", "the script points nowhere"), ("pyautogui.click(60,5)", "no box contains the point")],
)
def test_omniact_rows_that_ground_nothing_are_counted(script, reason, tmp_path):
    report = RowReport()
    with pytest.raises(DataError, match="at least one usable row"):
        load(write_omniact(tmp_path, script), "omniact", "val", report=report)
    assert report.left_out[reason] == ["2849"]


def test_omniact_bad_rows(tmp_path):
    write_omniact(tmp_path)
    for change, message in (
        ({"task": "../x"}, "image path"),
        ({"image": 7}, "field 'image'"),
        ({"box": "none.json"}, "cannot be read"),
    ):
        row = json.loads((tmp_path / "val.json").read_text())["2849"]
        dump(tmp_path / "test.json", {"1": {**row, **change}})
        with pytest.raises(DataError, match=message):
            load(tmp_path, "omniact", "test")
    with pytest.raises(DataError, match="expected 'Task"):
        parse_script("Output Script:\nclick(1,2)", "t")


def write_real_iad(root, nested=False, **changes):
    stem = "NG/BX/S0010/audiojack_0010_NG_BX_C{}_2023"
    rows = [
        {
            "category": "audiojack",
            "anomaly_class": "OK",
            "image_path": "OK/S0001/audiojack_0001_OK_C1_2023.jpg",
            "mask_path": None,
        },
        {"category": "audiojack", "anomaly_class": "BX"}
        | {"image_path": f"{stem.format(1)}.jpg", "mask_path": f"{stem.format(1)}.png"},
        {"category": "audiojack", "anomaly_class": "BX", "image_path": f"{stem.format(2)}.jpg", "mask_path": None},
    ]
    data = {"meta": {"prefix": "audiojack/", "normal_class": "OK", "pre_transform": False}, "train": rows[:1], "test": rows}
    folder = root / "realiad_jsons" / "realiad_jsons" if nested else root / "realiad_jsons"
    dump(folder / "audiojack.json", {**data, **changes})
    for row in rows:
        picture(root / "realiad_1024/audiojack" / row["image_path"])
    mask_file(root / "realiad_1024/audiojack" / f"{stem.format(1)}.png", size=(32, 24), box=(4, 4, 8, 8))
    return root


def test_real_iad_normal_is_no_object_and_anomalous_a_mask(tmp_path):
    normal, defect, _ = load(write_real_iad(tmp_path), "real_iad", "test")
    assert normal.target == Objects()
    assert defect.question == "the defect on the audiojack"
    assert defect.target.load()[0].shape == (48, 64)
    assert with_objects(defect).target.boxes == ((8, 8, 16, 16),)
    assert defect.meta["defect"] == "deformation"
    assert len(load(tmp_path, "real_iad", "train")) == 1


def test_trap_real_iad_hidden_defect_counts_as_normal(tmp_path):
    hidden = load(write_real_iad(tmp_path), "real_iad", "test")[2]
    assert hidden.target == Objects()
    assert (hidden.meta["anomaly_class"], hidden.meta["anomalous"], hidden.meta["hidden_defect"]) == ("BX", False, True)
    assert [s.target for s in load(tmp_path, "real_iad_yes_no", "test")] == [Text("no"), Text("yes"), Text("no")]


def test_trap_real_iad_nested_json_folder(tmp_path):
    assert len(load(write_real_iad(tmp_path, nested=True), "real_iad", "test")) == 3


def test_trap_real_iad_categories_come_from_the_files(tmp_path):
    write_real_iad(tmp_path)
    (tmp_path / "realiad_jsons/._audiojack.json").write_bytes(b"\0")
    assert {s.meta["category"] for s in load(tmp_path, "real_iad", "test")} == {"audiojack"}
    with pytest.raises(DataError, match=r"unknown categories \['capacitor'\]; there are \['audiojack'\]"):
        load(tmp_path, "real_iad", "test", categories=["capacitor"])


def test_trap_real_iad_mask_of_another_size_and_any_positive_value(tmp_path):
    write_real_iad(tmp_path)
    path = next(tmp_path.glob("realiad_1024/**/*.png"))
    mask_file(path, size=(32, 24), box=(4, 4, 8, 8), value=3)
    mask = load(tmp_path, "real_iad", "test")[1].meta["mask"].load()
    assert (mask.shape, mask.max(), mask.sum()) == ((48, 64), 1, 64)


def test_trap_real_iad_defect_too_small_for_its_copy_is_still_one(tmp_path):
    write_real_iad(tmp_path)
    mask_file(next(tmp_path.glob("realiad_1024/**/*.png")), size=(1024, 1024), box=(513, 513, 516, 516))
    defect = load(tmp_path, "real_iad", "test")[1]
    assert with_objects(defect).target.boxes == ((32, 24, 33, 25),)
    assert TASKS["anomaly"].judge(defect, Objects())["anomalous"] == 1.0
    assert TASKS["anomaly"].judge(defect, Objects())["n_hit"] is None


def test_real_iad_empty_mask_is_an_error_and_no_normal_picture(tmp_path):
    write_real_iad(tmp_path)
    mask_file(next(tmp_path.glob("realiad_1024/**/*.png")), box=None)
    normal, defect, _ = load(tmp_path, "real_iad", "test")
    with pytest.raises(DataError, match=r"BX_C1_2023\.png: this mask is empty"):
        TASKS["anomaly"].judge(defect, Objects())
    assert TASKS["anomaly"].judge(normal, Objects())["anomalous"] == 0.0


def empty_real_iad(root):
    """Two pictures with a defect, of which the first has lost its mask, and two without."""
    write_real_iad(root)
    data = json.loads((root / "realiad_jsons/audiojack.json").read_text())
    other = data["test"][1] | {"image_path": "NG/BX/S0011/audiojack_0011_NG_BX_C1_2023.jpg"}
    picture(root / "realiad_1024/audiojack" / other["image_path"])
    dump(root / "realiad_jsons/audiojack.json", data | {"test": [*data["test"], other | {"mask_path": "mask.png"}]})
    mask_file(next(root.glob("realiad_1024/**/*.png")), box=None)
    mask_file(root / "realiad_1024/audiojack/mask.png", box=(8, 8, 16, 16))
    return root


def test_real_iad_with_an_empty_mask_is_judged_without_it(tmp_path):
    empty_real_iad(tmp_path)
    normal, lost, hidden, defect = load(tmp_path, "real_iad", "test")
    rows = [{"id": s.id, "completion": "<think>a</think><answer>[]</answer>"} for s in (normal, lost, hidden)]
    rows.append({"id": defect.id, "completion": '<answer>[{"bbox_2d": [8, 8, 16, 16], "point_2d": [9, 9]}]</answer>'})
    found = evaluate_predictions("real_iad", tmp_path, "test", rows, resamples=5)
    assert [r["id"] for r in found.records] == [normal.id, hidden.id, defect.id]
    assert found.notes["masks"] == f"left out, the mask is empty: 1 ({lost.id})"
    assert found.unknown == ()
    assert found.values()["giou"] == found.values()["roc_auc"] == 1.0
    (tmp_path / "realiad_1024/audiojack/mask.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=rf"sample {defect.id}: .*mask\.png: cannot be read as a mask"):
        evaluate_predictions("real_iad", tmp_path, "test", rows, resamples=5)


def test_no_score_of_yes_and_no_needs_a_mask(tmp_path):
    samples = load(empty_real_iad(tmp_path), "real_iad_yes_no", "test")
    rows = [{"id": s.id, "completion": f"<think>a</think><answer>{s.target.text}</answer>"} for s in samples]
    found = evaluate_predictions("real_iad_yes_no", tmp_path, "test", rows, resamples=5)
    assert len(found.records) == 4
    assert "masks" not in found.notes
    assert found.values()["accuracy"] == 1.0


def test_masks_that_are_all_empty_are_an_error(tmp_path):
    write_isic(tmp_path)
    for name in tmp_path.glob("ISIC2018_Task1_*/*.png"):
        mask_file(name, box=None)
    with pytest.raises(DataError, match=r"no sample can be compared; left out, the mask is empty: 2 \(ISIC_0000000, ISIC_"):
        evaluate_predictions("isic2018", tmp_path, "test", [{"id": "ISIC_0000000", "completion": "x"}])


def test_anomalous_is_what_the_data_set_says():
    for said, target in ((True, Objects()), (False, Objects(((0, 0, 4, 4),)))):
        sample = Sample("a", (ImageRef(Image.new("RGB", (8, 8))),), "?", target, meta={"anomalous": said})
        assert TASKS["anomaly"].judge(sample, Objects())["anomalous"] == float(said)


def test_real_iad_views_of_a_part_share_its_name(tmp_path):
    samples = load(write_real_iad(tmp_path), "real_iad", "test")
    assert len({s.meta["part"] for s in samples}) == 2
    assert len({s.id for s in samples}) == 3


@pytest.mark.parametrize(
    "change", [{"mask_path": 3}, {"image_path": "/etc/x.jpg"}, {"mask_path": "../x.png"}, {"anomaly_class": None}]
)
def test_real_iad_bad_rows(change, tmp_path):
    row = {"category": "audiojack", "anomaly_class": "BX", "image_path": "a.jpg", "mask_path": "a.png", **change}
    write_real_iad(tmp_path, test=[row])
    with pytest.raises(DataError, match=r"audiojack\.json: test row 0"):
        load(tmp_path, "real_iad", "test")


def write_isic(root, suffix=""):
    pictures, truths = root / f"ISIC2018_Task1-2_Test_Input{suffix}", root / f"ISIC2018_Task1_Test_GroundTruth{suffix}"
    for n in range(2):
        picture(pictures / f"ISIC_000000{n}.jpg")
        mask_file(truths / f"ISIC_000000{n}_segmentation.png")
    return root


def test_isic_pairs_pictures_with_masks(tmp_path):
    samples = load(write_isic(tmp_path), "isic2018", "test")
    assert [s.id for s in samples] == ["ISIC_0000000", "ISIC_0000001"]
    assert with_objects(samples[0]).target.boxes == ((10, 8, 30, 20),)  # half-open: the last pixel plus one
    assert len({s.question for s in samples}) == 1


def test_trap_isic_other_files_among_the_pictures(tmp_path):
    write_isic(tmp_path)
    folder = tmp_path / "ISIC2018_Task1-2_Test_Input"
    for name in ("ATTRIBUTION.txt", "LICENSE.txt", "ISIC_0000000_superpixels.png"):
        (folder / name).write_text("x")
    report = RowReport()
    assert len(load(tmp_path, "isic2018", "test", report=report)) == 2
    assert len(report.left_out["not a picture of the set"]) == 3


def test_trap_isic_copies_append_to_the_folder_name(tmp_path):
    assert len(load(write_isic(tmp_path, "_x2"), "isic2018", "test")) == 2
    write_isic(tmp_path)
    with pytest.raises(DataError, match="expected one folder"):
        load(tmp_path, "isic2018", "test")


def test_trap_isic_mask_is_binarised_in_the_middle_not_above_zero(tmp_path):
    write_isic(tmp_path)
    path = tmp_path / "ISIC2018_Task1_Test_GroundTruth/ISIC_0000000_segmentation.png"
    blurred = np.full((48, 64), 100, np.uint8)
    blurred[8:20, 10:30] = 200
    Image.fromarray(blurred).save(path)
    assert load(tmp_path, "isic2018", "test")[0].target.load()[0].sum() == 12 * 20


@pytest.mark.parametrize("mode", ["L", "P", "1"])
def test_trap_isic_copies_may_hold_zeros_and_ones(mode, tmp_path):
    write_isic(tmp_path)
    path = mask_file(tmp_path / "ISIC2018_Task1_Test_GroundTruth/ISIC_0000000_segmentation.png", value=1)
    stored = Image.open(path).copy()
    if mode == "P":
        stored = Image.frombytes("P", stored.size, stored.tobytes())
        stored.putpalette([0, 0, 0, 255, 255, 255])
    (stored.point(lambda v: 255 * v, "1") if mode == "1" else stored).save(path)
    sample = load(tmp_path, "isic2018", "test")[0]
    assert with_objects(sample).target.boxes == ((10, 8, 30, 20),)
    assert TASKS["lesion"].judge(sample, Objects(((10, 8, 30, 20),)))["giou"] == 1.0


@pytest.mark.parametrize("value", [0, 100])
def test_trap_isic_every_picture_has_a_lesion(value, tmp_path):
    write_isic(tmp_path)
    mask_file(tmp_path / "ISIC2018_Task1_Test_GroundTruth/ISIC_0000000_segmentation.png", value=value)
    with pytest.raises(DataError, match=rf"0_segmentation\.png: this mask is empty; its largest value is {value}, .* than 127"):
        load(tmp_path, "isic2018", "test")[0].target.load()
    source = f"benchmark:isic2018?root={tmp_path}&split=test"
    with pytest.raises(DataError, match="this mask is empty"):
        load_data(source, DataConfig(), TASKS["lesion"])
    data = load_data(source, DataConfig(on_bad_sample="skip"), TASKS["lesion"])
    assert [s.id for s in data.samples] == ["ISIC_0000001"]
    assert data.skipped[0][0] == "ISIC_0000000"


def test_trap_isic_segmentation_of_2017_is_spelled_otherwise(tmp_path):
    write_isic(tmp_path)
    truth = tmp_path / "ISIC2018_Task1_Test_GroundTruth/ISIC_0000001_segmentation.png"
    truth.rename(truth.with_name("ISIC_0000001_Segmentation.png"))
    with pytest.raises(DataError, match="expected its mask at"):
        load(tmp_path, "isic2018", "test")
    report = RowReport("skip")
    assert len(load(tmp_path, "isic2018", "test", report=report)) == 1
    assert [i for i, _ in report.bad] == ["ISIC_0000001"]


def problem(**changes):
    return {
        "question": "What is the angle?\r\n求角",
        "image": "images/7.jpg",
        "choices": ["30", "45", "45", "90"],
        "unit": None,
        "precision": None,
        "answer": "45",
        "question_type": "multi_choice",
        "answer_type": "text",
        "pid": "7",
        "metadata": {"split": "testmini"},
        **changes,
    }


def free(answer, kind, **changes):
    return problem(answer=answer, answer_type=kind, question_type="free_form", choices=None, **changes)


def test_mathvista_targets(tmp_path):
    dump(
        tmp_path / "data/testmini.json",
        {"7": problem(), "8": free("5", "integer"), "9": free("1.20", "float", precision=2.0), "10": free("[1, 2]", "list")},
    )
    dump(tmp_path / "data/query.json", {"7": "Hint: choose"})
    samples = load(tmp_path, "mathvista", "testmini")
    assert [s.target for s in samples] == [
        Choice("B", ("30", "45", "45", "90")),
        Number("5"),
        Number("1.20"),
        Text("[1, 2]"),
    ]
    assert samples[0].images[0].source == tmp_path / "images/7.jpg"
    assert [s.meta["query"] for s in samples[:2]] == ["Hint: choose", None]
    assert samples[2].meta["precision"] == 2.0


def test_trap_mathvista_duplicate_choices_take_the_first(tmp_path):
    dump(tmp_path / "testmini.json", {"7": problem()})
    assert load(tmp_path, "mathvista", "testmini")[0].target.letter == "B"


@pytest.mark.parametrize(
    ("said", "option"),
    [("45", "45°"), ("45 degrees", "45°"), ("$45^\\circ$", "45°"), ("B", "45°"), ("(b)", "45°"), ("c.", "60°"), ("60", "60°")],
)
def test_trap_mathvista_takes_the_nearest_option_of_any_answer(tmp_path, said, option):
    choices = ["30°", "45°", "60°", "90°"]
    dump(tmp_path / "testmini.json", {"7": problem(choices=choices, answer="45°")})
    rows = [{"id": "7", "completion": f"<think>a</think><answer>{said}</answer>"}]
    found = evaluate_predictions("mathvista", tmp_path, "testmini", rows, resamples=5)
    assert found.records[0]["error"] is None
    assert found.values()["mathvista"] == float(option == "45°")
    (silent,) = evaluate_predictions("mathvista", tmp_path, "testmini", [{"id": "7", "completion": said}], resamples=5).records
    assert (silent["error"], silent["measures"]["mathvista"]) == ("no_answer", 0.0)


def test_trap_mathvista_numbers_are_text_and_stay_as_written(tmp_path):
    dump(tmp_path / "testmini.json", {"9": free("1.20", "float", precision=2)})
    assert load(tmp_path, "mathvista", "testmini")[0].target.text == "1.20"
    dump(tmp_path / "testmini.json", {"9": free(1.2, "float", precision=2)})
    with pytest.raises(DataError, match=r"pid 9, field 'answer': expected str, got 1\.2"):
        load(tmp_path, "mathvista", "testmini")


@pytest.mark.parametrize(
    "change",
    [
        {"answer": "46"},
        {"question_type": "essay"},
        {"choices": None},
        {"question_type": "free_form", "answer_type": "integer", "answer": "five"},
    ],
)
def test_mathvista_bad_rows(change, tmp_path):
    dump(tmp_path / "testmini.json", {"7": problem(**change)})
    with pytest.raises(DataError, match="pid 7, field"):
        load(tmp_path, "mathvista", "testmini")


def test_real_mathvista_testmini():
    samples = load(real("mathvista/testmini.json").parent, "mathvista", "testmini")
    assert Counter(type(s.target).__name__ for s in samples) == {"Choice": 540, "Number": 458, "Text": 2}
    queries = json.loads(real("mathvista/query_testmini.json").read_text())
    assert all(s.meta["query"] == queries[s.id] for s in samples)
    repeated = [s.id for s in samples if isinstance(s.target, Choice) and len(set(s.target.options)) < len(s.target.options)]
    assert sorted(repeated, key=int) == ["587", "740", "781"]
    assert all(s.target.options[ord(s.target.letter) - 65] == s.meta["answer"] for s in samples if isinstance(s.target, Choice))


def test_mathvista_may_not_be_trained_on():
    assert "training set is prohibited" in get_benchmark("mathvista").licence


def test_chartqa(tmp_path):
    folder = tmp_path / "ChartQA Dataset/val"
    dump(folder / "val_human.json", [{"imgname": "1.png", "query": "How many? ", "label": " 2,014 "}])
    dump(folder / "val_augmented.json", [{"imgname": "1.png", "query": "What share?", "label": 14.5}])
    samples = load(tmp_path, "chartqa", "val")
    assert [(s.id, s.question, s.target.text) for s in samples] == [
        ("human_0", "How many?", "2,014"),
        ("augmented_0", "What share?", "14.5"),
    ]
    assert samples[0].images[0].source == folder / "png/1.png"
    assert len(load(tmp_path, "chartqa", "val", parts=("human",))) == 1
    dump(folder / "val_human.json", [{"imgname": "../1.png", "query": "x", "label": "2"}])
    with pytest.raises(DataError, match=r"val_human\.json: row 0, field 'imgname'"):
        load(tmp_path, "chartqa", "val")


def test_docvqa(tmp_path):
    row = {
        "questionId": 52212,
        "question": "Who?",
        "image": "documents/x_1.png",
        "answers": ["Ann", "ann"],
        "question_types": ["form"],
    }
    dump(tmp_path / "spdocvqa_qas/val_v1.0_withQT.json", {"data": [row]})
    (tmp_path / "spdocvqa_images").mkdir()
    (sample,) = load(tmp_path, "docvqa", "val")
    assert (sample.id, sample.target, sample.meta["answers"]) == ("52212", Text("Ann"), ("Ann", "ann"))
    assert sample.images[0].source == tmp_path / "spdocvqa_images/x_1.png"
    for change in ({"answers": []}, {"answers": [None]}, {"image": "../x.png"}, {"questionId": "7"}):
        dump(tmp_path / "spdocvqa_qas/val_v1.0_withQT.json", {"data": [{**row, **change}]})
        with pytest.raises(DataError, match="data row 0"):
            load(tmp_path, "docvqa", "val")


def talk(**changes):
    said = [{"from": "human", "value": "<image>What is it?"}, {"from": "gpt", "value": " A cat "}]
    return {"id": 1, "image": "a.jpg", "conversations": said, **changes}


def test_trap_vlm_r1_rows_with_several_pictures_have_no_placeholder(tmp_path):
    several = talk(id="2", image=["a.jpg", "b\\c.jpg"])
    several["conversations"] = [{"from": "human", "value": "Compare."}, {"from": "gpt", "value": "same"}]
    dump(tmp_path / "rows.jsonl", [talk(), several])
    one, two = load(tmp_path, "vlm_r1", "rows")
    assert (one.question, one.target, len(one.images)) == ("What is it?", Text("A cat"), 1)
    assert [i.source for i in two.images] == [tmp_path / "a.jpg", tmp_path / "b/c.jpg"]


def test_vlm_r1_referring_rows_are_xyxy_pixels(tmp_path):
    picture(tmp_path / "pictures/a.jpg")
    rows = [{"image": "a.jpg", "problem": "Please provide ...", "normal_caption": "the dog", "solution": [1, 2, 30, 40]}]
    dump(tmp_path / "rec.json", rows)
    (sample,) = get_benchmark("vlm_r1").load(tmp_path / "rec.json", images=tmp_path / "pictures")
    assert (sample.question, sample.target) == ("the dog", Objects(((1, 2, 30, 40),)))


def test_trap_vlm_r1_duplicate_ids_numbers_and_text_alike(tmp_path):
    dump(tmp_path / "rows.jsonl", [talk(id=1), talk(id="1")])
    with pytest.raises(DataError, match="'1' occurs twice"):
        load(tmp_path, "vlm_r1", "rows")


@pytest.mark.parametrize(
    "change", [{"image": "/a.jpg"}, {"image": []}, {"image": None}, {"conversations": []}, {"conversations": [7]}]
)
def test_vlm_r1_bad_rows(change, tmp_path):
    dump(tmp_path / "rows.jsonl", [talk(**change)])
    with pytest.raises(DataError, match=r"rows\.jsonl: line 1"):
        load(tmp_path, "vlm_r1", "rows")


def test_real_vlm_r1_rows_have_two_pictures():
    samples = get_benchmark("vlm_r1").load(real("jsonl/vlm_r1_gui_multi_image_first100.jsonl"))
    assert len(samples) == 100
    assert {len(s.images) for s in samples} == {2}
    assert not any("<image>" in s.question for s in samples)
    assert np.mean([s.target.text == "No Defect" for s in samples]) < 1
