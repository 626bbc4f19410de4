import pickle

import numpy as np
import pytest

from benchmark_miniatures import annotation, coco_data, dump, picture, real, rectangle, reference
from visurf.benchmarks import get_benchmark
from visurf.benchmarks.masks import with_objects
from visurf.benchmarks.rows import RowReport, read_json
from visurf.types import DataError, Masks, Objects

RECTANGLES = [rectangle(10, 10, 30, 20), rectangle(20, 10, 40, 20)]


def instances(**changes):
    data = coco_data(**changes)
    for image in data["images"]:
        image["file_name"] = f"COCO_train2014_{image['id']:012d}.jpg"
    return data


def write_refcoco(root, references, dataset="refcoco", by="unc", **changes):
    dump(root / dataset / "instances.json", instances(**changes))
    (root / dataset / f"refs({by}).p").write_bytes(pickle.dumps(references, protocol=0))
    return root


def load(root, name="refcoco", split="val", **options):
    return get_benchmark(name).load(root, split, **options)


def test_refcoco_one_sample_per_expression(tmp_path):
    write_refcoco(tmp_path, [reference(1, 1774), reference(2, 1775, split="testA"), reference(3, 1775, texts=("dog",))])
    samples = load(tmp_path)
    assert [(s.id, s.question) for s in samples] == [("1_10", "woman in front"), ("1_11", "lady smiling"), ("3_30", "dog")]
    assert samples[0].target == Objects(((6.5, 7.25, 26.5, 17.25),))
    assert samples[0].meta["mask"].load().sum() > 100
    assert with_objects(samples[0]).target.points is not None
    assert [s.id for s in load(tmp_path, split="testA")] == ["2_20", "2_21"]


def test_trap_refcoco_one_sentence_per_reference_is_an_option_not_the_default(tmp_path):
    write_refcoco(tmp_path, [reference(1, 1774), reference(3, 1775)])
    assert len(load(tmp_path)) == 4
    assert [s.id for s in load(tmp_path, expressions="first")] == ["1_10", "3_30"]


def test_trap_refcoco_file_name_of_the_reference_is_ignored(tmp_path):
    write_refcoco(tmp_path, [reference(1, 1774)])
    assert load(tmp_path)[0].images[0].source.name == "COCO_train2014_000000000042.jpg"


@pytest.mark.parametrize("folder", ["images/mscoco/images/train2014", "images/train2014", "train2014"])
def test_refcoco_image_folders(folder, tmp_path):
    write_refcoco(tmp_path, [reference(1, 1774)])
    (tmp_path / folder).mkdir(parents=True)
    assert load(tmp_path)[0].images[0].source.parent == tmp_path / folder
    assert load(tmp_path, images=tmp_path / "x")[0].images[0].source.parent == tmp_path / "x"


@pytest.mark.parametrize("name", ["refcoco", "grefcoco"])
def test_trap_a_picture_of_another_size_than_its_annotations_say_is_a_bad_row(name, tmp_path):
    if name == "refcoco":
        write_refcoco(tmp_path, [reference(1, 1774), reference(2, 1775)])
    else:
        write_grefcoco(tmp_path, [reference(1, [1774]), reference(2, [1775])])
    assert len({id(s.images[0]) for s in load(tmp_path, name)}) == 1
    picture(tmp_path / "train2014/COCO_train2014_000000000042.jpg", size=(32, 24))
    with pytest.raises(DataError, match="32 x 24 pixels upright, got 64 x 48"):
        load(tmp_path, name)
    report = RowReport("skip")
    with pytest.raises(DataError, match="expected at least one usable row"):
        load(tmp_path, name, report=report)
    assert [row for row, _ in report.bad] == ["1", "2"]


def test_trap_refcoco_two_references_may_share_an_annotation(tmp_path):
    write_refcoco(tmp_path, [reference(1, 1774), reference(2, 1774)])
    assert len({s.id for s in load(tmp_path)}) == 4


def test_trap_refcoco_polygons_of_an_annotation_unite(tmp_path):
    changes = {"annotations": [annotation(1774, 42, 18, (10, 10, 30, 10), segmentation=RECTANGLES)]}
    write_refcoco(tmp_path, [reference(1, 1774)], **changes)
    mask = load(tmp_path)[0].meta["mask"].load()
    assert (mask.max(), mask.sum()) == (1, 300)


def test_trap_refcoco_box_overshoot_is_clipped(tmp_path):
    write_refcoco(tmp_path, [reference(1, 1774)], annotations=[annotation(1774, 42, 18, (50, 30, 14.6, 18.4))])
    assert load(tmp_path)[0].target.boxes == ((50, 30, 64, 48),)


def test_trap_refcoco_python2_strings_of_utf8_are_repaired(tmp_path):
    write_refcoco(tmp_path, [reference(1, 1774, texts=("caf\u00c3\u00a9", "plain"))])
    assert [s.question for s in load(tmp_path)] == ["café", "plain"]


def test_trap_refcoco_google_split_must_be_asked_for(tmp_path):
    write_refcoco(tmp_path, [reference(1, 1774, split="test")], by="google")
    with pytest.raises(DataError, match=r"refs\(unc\)\.p: cannot be read"):
        load(tmp_path)
    with pytest.raises(DataError, match=r"refcoco \(google\): unknown split 'testA'"):
        load(tmp_path, split="testA", split_by="google")
    assert load(tmp_path, split="test", split_by="google")


def test_refcoco_plus_and_g_lie_in_their_own_folders(tmp_path):
    write_refcoco(tmp_path, [reference(1, 1774)], dataset="refcoco+")
    write_refcoco(tmp_path, [reference(1, 1774, split="test")], dataset="refcocog", by="umd")
    assert load(tmp_path, "refcoco+")
    assert load(tmp_path, "refcocog", split="test")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (reference(1, 99), "row 0, field 'ann_id': 99 is not in"),
        (reference(1, 1774, image_id=43), "row 0, field 'image_id': expected 42"),
        (reference(1, 1774, texts=()), "row 0, field 'sentences': expected at least one"),
        (reference(1, 1774, texts=(" ",)), "row 0, sentence 0, field 'sent': expected an expression"),
        ({"ref_id": 1}, "row 0, field 'split': expected str, but the field is missing"),
        ("text", "row 0: expected an object"),
    ],
)
def test_refcoco_bad_rows_are_named_or_counted(bad, message, tmp_path):
    write_refcoco(tmp_path, [bad, reference(2, 1775)])
    with pytest.raises(DataError, match=message):
        load(tmp_path)
    report = RowReport("skip")
    assert len(load(tmp_path, report=report)) == 2
    assert len(report.bad) == 1


def test_refcoco_evil_pickle(tmp_path):
    write_refcoco(tmp_path, [])
    (tmp_path / "refcoco/refs(unc).p").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(DataError, match=r"os\.system"):
        load(tmp_path)


def test_real_refcoco_expression_files_hold_several_expressions_a_reference():
    for name, refs, rows in (("A", 1975, 1984), ("B", 1810, 1824)):
        predictions = read_json(real(f"refcoco/sample_expressions_test{name}.json"))["predictions"]
        assert (len({p["ref_id"] for p in predictions}), len(predictions)) == (refs, rows)


def write_grefcoco(root, references, **changes):
    dump(root / "grefcoco/instances.json", instances(**changes))
    dump(root / "grefcoco/grefs(unc).json", references)
    return root


NO_TARGET = reference(5, [-1], category_id=[-1], no_target=True, texts=("the kid in blue",))
BOTH = reference(4, [1774, 1775], category_id=[18, 18], no_target=False, texts=("two dogs", "both"))


def test_grefcoco_multi_and_no_target(tmp_path):
    samples = load(write_grefcoco(tmp_path, [BOTH, NO_TARGET]), "grefcoco")
    assert [s.id for s in samples] == ["4_40", "4_41", "5_50"]
    assert samples[0].target.boxes == ((6.5, 7.25, 26.5, 17.25), (30, 7, 50, 17))
    assert samples[0].meta["mask"].load().sum() == sum(m.load().sum() for m in samples[0].meta["object_masks"])
    assert len(with_objects(samples[0]).target.points) == 2


def test_trap_grefcoco_no_target_is_an_empty_list_and_an_empty_mask(tmp_path):
    sample = load(write_grefcoco(tmp_path, [NO_TARGET]), "grefcoco")[0]
    assert sample.target == Objects()
    assert sample.meta["no_target"] is True
    mask = sample.meta["mask"].load()
    assert (mask.shape, mask.sum()) == ((48, 64), 0)
    assert with_objects(sample) is sample


def test_trap_grefcoco_ann_id_may_be_a_bare_number(tmp_path):
    one = reference(1, 1774, no_target=False, texts=("dog",))
    none = reference(2, -1, texts=("cat",))
    samples = load(write_grefcoco(tmp_path, [one, none]), "grefcoco")
    assert [len(s.target.boxes) for s in samples] == [1, 0]


def test_trap_grefcoco_crowd_targets_are_dropped_and_counted(tmp_path):
    report = RowReport()
    mixed = reference(1, [1774, 901800000042], texts=("dogs",))
    samples = load(write_grefcoco(tmp_path, [mixed]), "grefcoco", report=report)
    assert len(samples[0].target.boxes) == 1
    assert report.left_out == {"crowd region among an expression's objects": ["1:901800000042"]}
    with pytest.raises(DataError, match="at least one object that is no crowd"):
        load(write_grefcoco(tmp_path, [reference(1, [901800000042])]), "grefcoco")


def test_trap_grefcoco_json_is_preferred_to_the_older_pickle(tmp_path):
    write_grefcoco(tmp_path, [NO_TARGET])
    pickled = tmp_path / "grefcoco/grefs(unc).p"
    pickled.write_bytes(pickle.dumps([BOTH], 0))
    assert [s.id for s in load(tmp_path, "grefcoco")] == ["5_50"]
    (tmp_path / "grefcoco/grefs(unc).json").unlink()
    assert [s.id for s in load(tmp_path, "grefcoco")] == ["4_40", "4_41"]


def test_trap_grefcoco_file_name_with_an_ending_is_ignored(tmp_path):
    assert load(write_grefcoco(tmp_path, [BOTH]), "grefcoco")[0].images[0].source.name == "COCO_train2014_000000000042.jpg"


def test_trap_grefcoco_short_polygons_are_dropped(tmp_path):
    changed = [annotation(1774, 42, 18, (6, 7, 20, 10), segmentation=[[1, 1, 5, 5], rectangle(6, 7, 26, 17)])]
    samples = load(write_grefcoco(tmp_path, [reference(1, [1774])], annotations=changed), "grefcoco")
    assert samples[0].meta["mask"].load().sum() == 200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"no_target": True}, "field 'no_target': True contradicts"),
        ({"ann_id": [77]}, "field 'ann_id': 77 is no annotation of image 42"),
        ({"ann_id": ["1774"]}, "field 'ann_id': expected integers"),
        ({"ann_id": None}, "field 'ann_id': expected int or list"),
        ({"image_id": 7}, "field 'image_id': 7 is not in"),
    ],
)
def test_grefcoco_bad_rows(change, message, tmp_path):
    with pytest.raises(DataError, match=message):
        load(write_grefcoco(tmp_path, [{**BOTH, **change}]), "grefcoco")


def shape(label, points):
    return {"label": label, "labels": [label], "shape_type": "polygon", "points": points, "group_id": None, "flags": {}}


SQUARE = [[10.9, 10.2], [30.0, 10.0], [30.0, 30.0], [10.0, 30.0]]


def write_reasonseg(folder, name="a", texts=("the part that shows speed", "the dial"), shapes=None, encoding="utf-8"):
    picture(folder / f"{name}.jpg")
    shapes = shapes if shapes is not None else [shape("target", SQUARE), shape("Ignore", [[20, 20], [28, 20], [28, 28], [20, 28]])]
    dump(folder / f"{name}.json", {"text": list(texts), "is_sentence": True, "shapes": shapes}, encoding)


def test_reasonseg_texts_by_split(tmp_path):
    for split in ("train", "val"):
        write_reasonseg(tmp_path / "ReasonSeg" / split)
    assert [s.id for s in load(tmp_path, "reasonseg", "train")] == ["a_0", "a_1"]
    assert [s.question for s in load(tmp_path, "reasonseg")] == ["the part that shows speed"]
    assert len(load(tmp_path, "reasonseg", texts="all")) == 2
    assert isinstance(load(tmp_path, "reasonseg")[0].target, Masks)


def test_trap_reasonseg_ignore_is_255_and_flag_is_dropped(tmp_path):
    shapes = [shape("target", SQUARE), shape("ignore area", [[20, 20], [28, 20], [28, 28], [20, 28]]), shape("flag", SQUARE)]
    write_reasonseg(tmp_path / "val", shapes=shapes)
    sample = load(tmp_path, "reasonseg")[0]
    mask = sample.target.load()[0]
    assert (mask == 255).sum() == 81
    assert (mask == 1).sum() == 21 * 21 - 81
    assert sample.meta["ignores"] is True
    assert mask.dtype == np.uint8


def test_trap_reasonseg_largest_shape_is_painted_first(tmp_path):
    shapes = [shape("target", [[12, 12], [14, 12], [14, 14], [12, 14]]), shape("ignore", SQUARE)]
    write_reasonseg(tmp_path / "val", shapes=shapes)
    assert load(tmp_path, "reasonseg")[0].target.load()[0][13, 13] == 1


def test_trap_reasonseg_cp1252(tmp_path):
    write_reasonseg(tmp_path / "val", texts=("the café\u2019s sign",), encoding="cp1252")
    assert load(tmp_path, "reasonseg")[0].question == "the café\u2019s sign"


def test_trap_reasonseg_name_with_jpg_twice(tmp_path):
    write_reasonseg(tmp_path / "val", name="photo.jpg_large")
    assert load(tmp_path, "reasonseg")[0].id == "photo.jpg_large_0"


def test_trap_reasonseg_polygons_lie_on_the_exif_rotated_picture(tmp_path):
    from PIL import Image

    write_reasonseg(tmp_path / "val", shapes=[shape("target", [[2, 50], [20, 50], [20, 60], [2, 60]])])
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "val/a.jpg", exif=exif.tobytes())
    mask = load(tmp_path, "reasonseg")[0].target.load()[0]
    assert mask.shape == (64, 48)
    assert mask[55, 10] == 1


def test_trap_reasonseg_only_ignored_regions_is_an_empty_target(tmp_path):
    write_reasonseg(tmp_path / "val", shapes=[shape("ignore", SQUARE)])
    sample = load(tmp_path, "reasonseg")[0]
    assert not (sample.target.load()[0] == 1).any()
    assert with_objects(sample).target.boxes == ()


def test_trap_reasonseg_box_covers_every_shape_not_the_first(tmp_path):
    write_reasonseg(
        tmp_path / "val",
        shapes=[shape("ignore", SQUARE), *(shape("target", [[x, 2], [x + 3, 2], [x + 3, 5]]) for x in (1, 50))],
    )
    assert with_objects(load(tmp_path, "reasonseg")[0]).target.boxes == ((1, 2, 54, 6),)


@pytest.mark.parametrize(
    "data", [{"text": [], "shapes": []}, {"text": "x"}, {"text": ["a"], "is_sentence": True, "shapes": [{}]}, []]
)
def test_reasonseg_bad_rows(data, tmp_path):
    write_reasonseg(tmp_path / "val", name="good")
    picture(tmp_path / "val/bad.jpg")
    dump(tmp_path / "val/bad.json", data)
    with pytest.raises(DataError, match=r"bad\.json"):
        load(tmp_path, "reasonseg")
    report = RowReport("skip")
    assert [s.id for s in load(tmp_path, "reasonseg", report=report)] == ["good_0"]
    assert [i for i, _ in report.bad] == ["bad"]
    (tmp_path / "val/bad.json").unlink()
    with pytest.raises(DataError, match=r"bad\.json: cannot be read"):
        load(tmp_path, "reasonseg")


def test_lisa_grounding_pixels(tmp_path):
    picture(tmp_path / "images/a.jpg")
    dump(tmp_path / "lisa_train.json", [{"image_path": "images/a.jpg", "instruction": ["x", "y"], "boxes": [[1, 2, 30, 40]]}])
    samples = load(tmp_path, "lisa_grounding", "train")
    assert [(s.id, s.question, s.target) for s in samples] == [
        (f"0_{n}", t, Objects(((1, 2, 30, 40),))) for n, t in enumerate("xy")
    ]


def chat(image="images/a.jpg", answer="(500,250),(750,1000)"):
    ask = f"<img>{image}</img>\n Output the bounding box in the image corresponding to the instruction: find it"
    return {"id": "lisa_0", "conversations": [{"from": "user", "value": ask}, {"from": "assistant", "value": answer}]}


def test_trap_lisa_grounding_chat_is_in_thousandths(tmp_path):
    picture(tmp_path / "images/a.jpg")
    dump(tmp_path / "lisa_train_sft.json", [chat()])
    sample = load(tmp_path, "lisa_grounding", "train")[0]
    assert (sample.id, sample.question, sample.target.boxes) == ("lisa_0", "find it", ((32, 12, 48, 48),))


@pytest.mark.parametrize(
    "row",
    [
        {"image_path": "images/a.jpg", "instruction": ["x"], "boxes": [[30, 2, 1, 40]]},
        {"image_path": "images/a.jpg", "instruction": ["x"], "boxes": [[1, 2, 300, 40]]},
        {"image_path": "images/a.jpg", "instruction": [], "boxes": [[1, 2, 30, 40]]},
        {"image_path": "images/a.jpg", "instruction": ["x"], "boxes": []},
        {"image_path": "/images/a.jpg", "instruction": ["x"], "boxes": [[1, 2, 30, 40]]},
        chat(answer="no box"),
        chat(image="../a.jpg"),
        chat(answer="(750,250),(500,1000)"),
    ],
)
def test_lisa_grounding_bad_rows(row, tmp_path):
    picture(tmp_path / "images/a.jpg")
    dump(tmp_path / "lisa_train.json", [row])
    with pytest.raises(DataError, match=r"lisa_train\.json: row 0"):
        load(tmp_path, "lisa_grounding", "train")


@pytest.mark.parametrize("name", ["refcoco", "refcoco+", "refcocog", "grefcoco"])
def test_trap_refcoco_test_pictures_are_coco_training_pictures(name):
    assert "train2014" in get_benchmark(name).notes


def test_trap_reasonseg_hub_copies_lost_their_ignore_regions():
    assert "ignore" in get_benchmark("reasonseg").notes
    assert "ignore" in get_benchmark("visionreasoner_test").notes
