import json

import pytest
from PIL import Image

from benchmark_miniatures import annotation, coco_data, dump, picture, real
from visurf.benchmarks import get_benchmark, lvis
from visurf.benchmarks.class_lists import COCO_8, COCO_15_NOVEL, COCO_65_BASE, COCO_80, LVIS_6, LVIS_13
from visurf.benchmarks.coco_layout import load_coco_layout, read_coco, readable
from visurf.benchmarks.exist_check import read_exist_map, select_pairs
from visurf.benchmarks.rows import RowReport
from visurf.benchmarks.selection import class_of, draw, few_shot
from visurf.types import DataError, Detections, Sample, Text


@pytest.fixture
def coco(tmp_path):
    dump(tmp_path / "annotations/instances_val2017.json", coco_data())
    return tmp_path


def load(root, **options):
    return get_benchmark("coco").load(root, "val", **options)


def test_coco_one_sample_per_image_and_category(coco):
    report = RowReport()
    samples = load(coco, report=report)
    assert [s.id for s in samples] == ["42_18", "42_90", "43_1", "43_18", "43_90"]
    dog = samples[0]
    assert dog.question == "dog"
    assert dog.target == Detections(((6.5, 7.25, 26.5, 17.25), (30, 7, 50, 17)), (1.0, 1.0))
    assert dog.images[0].source == coco / "val2017/000000000042.jpg"
    assert samples[1].target == Detections()
    assert report.left_out == {"only a crowd region": ["42_1"]}


def test_trap_coco_boxes_are_xywh_floats(coco):
    assert load(coco)[0].target.boxes[0][2] == 6.5 + 20


def test_trap_coco_crowd_is_no_target_and_its_id_exceeds_32_bits(coco):
    assert load(coco)[0].meta["crowd_boxes"] == ((0, 0, 10, 5),)
    assert read_coco(coco / "annotations/instances_val2017.json").annotations[42][2]["id"] == 901800000042


def test_trap_coco_image_without_annotations_is_asked_too(coco):
    assert [s.target for s in load(coco) if s.meta["image_id"] == 43] == [Detections()] * 3


def test_trap_coco_area_is_not_width_times_height(coco):
    record = read_coco(coco / "annotations/instances_val2017.json").annotations[42][0]
    assert record["area"] != record["bbox"][2] * record["bbox"][3]


def test_coco_absent_categories_drawn_by_seed(coco):
    assert [s.id for s in load(coco, absent=0)] == ["42_18"]
    one = load(coco, absent=1, seed=3)
    assert [s.id for s in one] == [s.id for s in load(coco, absent=1, seed=3)]
    assert sum(not s.target.boxes for s in one) == 2
    assert len({tuple(s.id for s in load(coco, absent=1, seed=k)) for k in range(20)}) > 1


def test_coco_class_list_and_unknown_class(coco):
    assert [s.meta["category"] for s in load(coco, classes=["toothbrush", "dog"])][:2] == ["toothbrush", "dog"]
    with pytest.raises(DataError, match=r"classes \['cow'\] are not among its 3 categories"):
        load(coco, classes=["dog", "cow"])


def test_coco_overshoot_below_a_pixel_is_clipped_more_is_an_error(tmp_path):
    data = coco_data(annotations=[annotation(1, 42, 18, (60, 40, 4.5, 8.5))])
    dump(tmp_path / "annotations/instances_val2017.json", data)
    assert load(tmp_path)[1].target.boxes == ((60, 40, 64, 48),)
    data["annotations"][0]["bbox"] = [60, 40, 8, 8]
    dump(tmp_path / "annotations/instances_val2017.json", data)
    with pytest.raises(DataError, match=r"instances_val2017\.json: annotation 1, field 'bbox': box .* leaves its image"):
        load(tmp_path)
    report = RowReport("skip")
    assert "42_18" not in [s.id for s in load(tmp_path, report=report)]
    assert [i for i, _ in report.bad] == ["42_18"]


def test_coco_degenerate_box_takes_its_pair_with_it(tmp_path):
    data = coco_data(annotations=[annotation(1, 42, 18, (6, 6, 5, 0)), annotation(2, 42, 18, (6, 6, 5, 5))])
    dump(tmp_path / "annotations/instances_val2017.json", data)
    report = RowReport("skip")
    assert len(load(tmp_path, report=report)) == 5
    assert [i for i, _ in report.bad] == ["42_18"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": [annotation(1, 99, 18, (0, 0, 5, 5))]}, "annotations row 0, field 'image_id'"),
        ({"annotations": [annotation(1, 42, 7, (0, 0, 5, 5))]}, "annotations row 0, field 'category_id': 7"),
        ({"annotations": [annotation(1, 42, 18, (0, 0, 5, 5))] * 2}, "annotations row 1, field 'id': 1 occurs twice"),
        ({"annotations": [annotation("1", 42, 18, (0, 0, 5, 5))]}, "field 'id': expected int, got '1'"),
        ({"annotations": [{"id": 1}]}, "field 'image_id': expected int, but the field is missing"),
        ({"images": [{"id": 42}, {"id": 42}], "annotations": []}, "images row 1, field 'id': 42 occurs twice"),
        ({"images": [{"id": 42, "file_name": "a.jpg", "width": 4}], "annotations": []}, "image 42, field 'height'"),
        ({"images": [{"id": 42, "file_name": "../a.jpg", "width": 4, "height": 4}], "annotations": []}, "image path"),
        ({"images": [{"id": 42, "width": 4, "height": 4}], "annotations": []}, "field 'file_name'"),
    ],
)
def test_coco_broken_files_name_row_and_field(change, message, tmp_path):
    dump(tmp_path / "annotations/instances_val2017.json", coco_data(**change))
    with pytest.raises(DataError, match=message.replace("(", r"\(")):
        load(tmp_path)


def test_trap_coco_copies_with_exchanged_splits(tmp_path):
    data = coco_data()
    data["images"][0]["coco_url"] = "http://images.cocodataset.org/train2017/000000000042.jpg"
    dump(tmp_path / "annotations/instances_val2017.json", data)
    with pytest.raises(DataError, match="image 42, field 'coco_url': expected a picture of val2017"):
        load(tmp_path)


def test_any_coco_layout_with_a_class_list(tmp_path):
    samples = load_coco_layout(dump(tmp_path / "_annotations.coco.json", coco_data()), tmp_path / "pictures", classes=["dog"])
    assert [s.id for s in samples] == ["42_18", "43_18"]
    assert samples[0].images[0].source == tmp_path / "pictures/000000000042.jpg"


def test_loading_opens_no_picture(coco, monkeypatch):
    from PIL import Image

    monkeypatch.setattr(Image, "open", lambda *a, **k: pytest.fail("a picture was opened"))
    assert load(coco)


def test_trap_coco_grayscale_pictures_become_rgb(tmp_path):
    from PIL import Image

    from visurf.types import ImageRef

    Image.new("L", (4, 4)).save(tmp_path / "a.jpg")
    assert ImageRef(tmp_path / "a.jpg").load().mode == "RGB"


def test_real_coco_subset():
    root = real("coco2017_subset")
    samples = load(root)
    assert len({s.meta["image_id"] for s in samples}) == 188
    assert sum(len(s.target.boxes) for s in samples) + sum(len(s.meta.get("crowd_boxes", ())) for s in samples) <= 1692
    data = json.loads((root / "annotations/instances_val2017.json").read_text())
    assert sum(len(s.target.boxes) for s in samples) == sum(not a["iscrowd"] for a in data["annotations"])
    assert {s.meta["image_id"] for s in samples} >= {226111, 58636}  # without annotations
    present = [s for s in samples if s.images[0].source.exists()]
    assert len({s.meta["image_id"] for s in present}) == 57
    sizes = {i["id"]: (i["width"], i["height"]) for i in data["images"]}
    assert all(s.size == sizes[s.meta["image_id"]] for s in present[::40])


def lvis_data():
    url = "http://images.cocodataset.org"
    return {
        "images": [
            {"id": 1, "coco_url": f"{url}/val2017/000000000001.jpg", "width": 64, "height": 48}
            | {"neg_category_ids": [3], "not_exhaustive_category_ids": [2]},
            {"id": 2, "coco_url": f"{url}/train2017/000000000002.jpg", "width": 64, "height": 48, "file_name": "COCO_x.jpg"}
            | {"neg_category_ids": [], "not_exhaustive_category_ids": []},
        ],
        "annotations": [{k: v for k, v in annotation(1, 1, 2, (5, 5, 10, 10)).items() if k != "iscrowd"}],
        "categories": [
            {"id": 2, "name": "bow_(weapon)", "frequency": "f"},
            {"id": 3, "name": "kitchen_table", "frequency": "r"},
            {"id": 4, "name": "die", "frequency": "c"},
        ],
    }


def test_lvis_asks_only_what_is_known_to_be_absent(tmp_path):
    dump(tmp_path / "annotations/lvis_v1_val.json", lvis_data())
    samples = get_benchmark("lvis").load(tmp_path, "val")
    assert [s.id for s in samples] == ["1_2", "1_3"]
    assert samples[0].meta["not_exhaustive"] is True
    assert samples[0].meta["frequency"] == "f"
    assert samples[1].meta["not_exhaustive"] is False
    every = get_benchmark("lvis").load(tmp_path, "val", all_absent=True)
    assert len(every) == 6


def test_trap_lvis_path_comes_from_coco_url(tmp_path):
    dump(tmp_path / "lvis_v1_val.json", lvis_data())
    samples = get_benchmark("lvis").load(tmp_path, "val", all_absent=True, images=tmp_path / "coco")
    assert samples[0].images[0].source == tmp_path / "coco/val2017/000000000001.jpg"
    assert samples[-1].images[0].source == tmp_path / "coco/train2017/000000000002.jpg"  # not file_name


def test_trap_lvis_annotations_have_no_iscrowd(tmp_path):
    dump(tmp_path / "lvis_v1_val.json", lvis_data())
    assert get_benchmark("lvis").load(tmp_path, "val")[0].target.boxes == ((5, 5, 15, 15),)


def test_trap_lvis_names_lose_underscores_and_keep_a_way_back(tmp_path):
    dump(tmp_path / "lvis_v1_val.json", lvis_data())
    sample = get_benchmark("lvis").load(tmp_path, "val")[0]
    assert (sample.question, sample.meta["category"]) == ("bow (weapon)", "bow_(weapon)")
    assert readable("kitchen_table") == "kitchen table"


def test_real_lvis_sample(tmp_path):
    path = real("lvis_val_100/lvis_val_100.json")
    samples = lvis.load_file(path, tmp_path)
    assert sum(len(s.target.boxes) for s in samples) == 977
    assert {s.images[0].source.parent.name for s in samples} == {"val2017"}
    with pytest.raises(DataError, match="not among its 1230 categories"):
        lvis.load_file(path, tmp_path, classes=["no such thing"])


def test_published_class_lists():
    assert len(COCO_80) == len(set(COCO_80)) == 80
    assert [len(c) for c in (COCO_8, LVIS_6, COCO_15_NOVEL, COCO_65_BASE, LVIS_13)] == [8, 6, 15, 65, 13]
    assert set(COCO_8) | set(COCO_15_NOVEL) <= set(COCO_80)


def test_published_class_lists_are_coco_and_lvis_names():
    categories = json.loads(real("coco2017_subset/annotations/instances_val2017.json").read_text())["categories"]
    assert [c["name"] for c in categories] == list(COCO_80)
    claims = read_exist_map(real("visual_rft_eval/exist_map_lvis_Qwen2_vl_2B_baseline.json"))
    assert set().union(*claims.values()) <= {*LVIS_6, *LVIS_13}


def shots(n, names=("a", "b")):
    return [Sample(f"{c}{i}", (), "?", Detections(((0, 0, 1, 1),), (1.0,)), meta={"category": c}) for c in names for i in range(n)]


def test_few_shot_is_by_seed_and_independent_of_order():
    pool = shots(20)
    chosen = few_shot(pool, 4, seed=1)
    assert [class_of(s) for s in chosen] == ["a"] * 4 + ["b"] * 4
    assert chosen == few_shot(pool[::-1], 4, seed=1)
    assert chosen != few_shot(pool, 4, seed=2)
    assert few_shot(shots(20, ("a", "b", "c")), 4, seed=1)[:8] == chosen
    assert [class_of(s) for s in few_shot(pool, 1, classes=["b", "a"])] == ["b", "a"]


def test_few_shot_with_too_few_images():
    with pytest.raises(DataError, match="class 'a': expected 4 samples, got 3"):
        few_shot(shots(3), 4)
    assert len(few_shot(shots(3), 10, at_most=True)) == 6  # LVIS's "10-shot" has 1 to 10 images a class
    with pytest.raises(DataError, match="class 'z': expected 10 samples, got 0"):
        few_shot(shots(3), 10, classes=["z"], at_most=True)


def test_few_shot_draws_no_absent_pairs_and_takes_class_names():
    assert {s.id for s in few_shot([*shots(1), Sample("x", (), "?", Detections(), meta={"category": "a"})], 1)} == {
        "a0",
        "b0",
    }
    assert few_shot([Sample("1", (), "?", Text("rose"))], 1)[0].id == "1"
    assert [s.id for s in draw(shots(5), 3, seed=0)] == [s.id for s in draw(shots(5)[::-1], 3, seed=0)]
    with pytest.raises(DataError, match="at least 11"):
        draw(shots(5), 11)


def test_few_shot_of_the_published_classes_on_real_annotations():
    samples = load(real("coco2017_subset"), classes=COCO_8)
    for n in (1, 2):
        chosen = few_shot(samples, n, classes=COCO_8, seed=0)
        assert len(chosen) == 8 * n
        assert all(s.target.boxes for s in chosen)


def test_exist_check_rules(coco, tmp_path):
    samples = load(coco)
    assert select_pairs(samples, "none").rate == 1
    oracle = select_pairs(samples, "oracle")
    assert ([s.id for s in oracle.asked], oracle.rate) == (["42_18"], 0.2)
    claims = read_exist_map(dump(tmp_path / "map.json", {"42": ["dog"], "43": ["dog", "toothbrush"]}))
    mapped = select_pairs(samples, "map", claims=claims)
    assert [s.id for s in mapped.asked] == ["42_18", "43_18", "43_90"]
    assert [s.id for s in mapped.unasked] == ["42_90", "43_1"]  # they stay, as pairs without detections
    assert "map" in mapped.rule
    assert select_pairs(samples, "model", ask=lambda s: s.meta["category"] == "person").rate == 0.2


def test_exist_check_errors(coco, tmp_path):
    samples = load(coco)
    for check, message in (("map", "claims"), ("model", "a function"), ("guess", "expected model, map, oracle or none")):
        with pytest.raises(DataError, match=message):
            select_pairs(samples, check)
    with pytest.raises(DataError, match="lacks 1 images of this split, the first is 43"):
        select_pairs(samples, "map", claims={42: frozenset()})
    for data in ([], {"x": []}, {"1": "dog"}, {"1": [1]}):
        with pytest.raises(DataError, match="expected"):
            read_exist_map(dump(tmp_path / "map.json", data))


def test_trap_published_exist_map_chooses_what_the_baseline_claimed():
    coco_claims = read_exist_map(real("visual_rft_eval/exist_map_coco_Qwen2_vl_2B_baseline.json"))
    lvis_claims = read_exist_map(real("visual_rft_eval/exist_map_lvis_Qwen2_vl_2B_baseline.json"))
    assert (len(coco_claims), len(lvis_claims)) == (5000, 19809)
    samples = load(real("coco2017_subset"), classes=COCO_8)
    chosen = select_pairs(samples, "map", claims=coco_claims)
    assert 0 < chosen.rate < 0.2
    assert any(s.target.boxes for s in chosen.unasked)  # the baseline missed some: its AP is not the standard one


@pytest.mark.parametrize(
    ("size", "turned", "why"),
    [
        ((32, 24), False, ""),
        ((64, 48), True, "; its EXIF data turn it, the annotations seem to be for the picture as stored"),
        ((48, 64), False, "; are width and height exchanged?"),
        ((24, 32), True, ""),
    ],
)
def test_trap_a_picture_of_another_size_than_its_annotations_say_is_a_bad_row(size, turned, why, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    dump(tmp_path / "annotations/instances_val2017.json", coco_data())
    picture(tmp_path / "val2017/000000000042.jpg", size=size, exif=exif.tobytes())
    picture(tmp_path / "val2017/000000000043.jpg")
    shown = "48 x 64" if 64 in size else "32 x 24"
    with pytest.raises(DataError, match=rf"image 42, .*000000000042\.jpg, {shown} pixels upright, got 64 x 48") as found:
        load(tmp_path)
    assert str(found.value).endswith(f"got 64 x 48{why}")
    report = RowReport("skip")
    assert {s.meta["image_id"] for s in load(tmp_path, report=report)} == {43}
    assert [row for row, _ in report.bad] == ["42"]


def test_sizes_may_be_written_with_a_point(tmp_path):
    data = coco_data()
    data["images"][0] |= {"width": 64.0, "height": 48.0}
    dump(tmp_path / "annotations/instances_val2017.json", data)
    picture(tmp_path / "val2017/000000000042.jpg")
    assert len(load(tmp_path)) == 5
    for width in (64.5, float("nan"), float("inf"), True, "64", None):
        data["images"][0]["width"] = width
        dump(tmp_path / "annotations/instances_val2017.json", data)
        with pytest.raises(DataError, match="image 42, field 'width': expected"):
            load(tmp_path)


def test_a_picture_without_a_header_is_left_to_who_opens_it(coco):
    (coco / "val2017").mkdir()
    (coco / "val2017/000000000042.jpg").write_bytes(b"no picture")
    assert len(load(coco)) == 5


def test_trap_lvis_picture_of_another_size(tmp_path):
    data = coco_data(annotations=[annotation(1, 42, 18, (5, 5, 10, 10))])
    data["images"] = [{"id": 42, "coco_url": "http://x/val2017/1.jpg", "width": 64, "height": 48, "neg_category_ids": [90]}]
    dump(tmp_path / "annotations/lvis_v1_val.json", data)
    picture(tmp_path / "val2017/1.jpg", size=(128, 96))
    with pytest.raises(DataError, match="128 x 96 pixels upright, got 64 x 48"):
        get_benchmark("lvis").load(tmp_path, "val")


def test_sizes_come_from_the_upright_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = picture(tmp_path / "val2017/000000000042.jpg", exif=exif.tobytes())
    upright = [{**image, "width": 48, "height": 64} if image["id"] == 42 else image for image in coco_data()["images"]]
    dog = annotation(1774, 42, 18, (6.5, 7.25, 20, 10))
    dump(tmp_path / "annotations/instances_val2017.json", coco_data(images=upright, annotations=[dog]))
    assert load(tmp_path)[0].images[0].source == path
    assert load(tmp_path)[0].size == (48, 64)
