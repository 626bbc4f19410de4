import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmark_miniatures import annotation, coco_data, dump, picture, real
from visurf.benchmarks import get_benchmark
from visurf.benchmarks.convert import from_coco, to_row, write_jsonl
from visurf.benchmarks.convert_csv import from_csv
from visurf.benchmarks.convert_yolo import from_yolo, read_yolo_names
from visurf.benchmarks.rows import RowReport, read_jsonl
from visurf.benchmarks.show import contact_sheet, draw_label, format_summaries, label_text, show, summarise
from visurf.types import Choice, DataError, Detections, ImageRef, Masks, Number, Objects, Points, Sample, Text


def test_coco_to_jsonl(tmp_path):
    rows = from_coco(dump(tmp_path / "a.json", coco_data()), tmp_path, question="Find every {category}.", absent=None)
    assert rows[0] == {
        "id": "42_18",
        "image": "000000000042.jpg",
        "question": "Find every dog.",
        "target": {"boxes": [[6.5, 7.25, 26.5, 17.25], [30.0, 7.0, 50.0, 17.0]]},
    }
    assert [r["target"] for r in rows[1:]] == [[]] * 4
    out = tmp_path / "rows.jsonl"
    assert write_jsonl(rows, out) == 5
    assert [row for _, row in read_jsonl(out)] == rows
    assert not list(tmp_path.glob("*.partial"))


def test_coco_to_jsonl_holds_sizes_against_the_pictures(tmp_path):
    picture(tmp_path / "000000000042.jpg", size=(32, 24))
    with pytest.raises(DataError, match="32 x 24 pixels upright, got 64 x 48"):
        from_coco(dump(tmp_path / "a.json", coco_data()), tmp_path)


def test_coco_to_jsonl_takes_lvis_files(tmp_path):
    data = coco_data(annotations=[annotation(1, 42, 18, (5, 5, 10, 10))])
    data["images"] = [{"id": 42, "coco_url": "http://x/val2017/1.jpg", "width": 64, "height": 48, "neg_category_ids": [90]}]
    rows = from_coco(dump(tmp_path / "a.json", data), tmp_path, absent=None)
    assert [(r["image"], r["question"], bool(r["target"])) for r in rows] == [
        ("val2017/1.jpg", "dog", True),
        ("val2017/1.jpg", "toothbrush", False),
    ]


def test_real_coco_to_jsonl(tmp_path):
    root = real("coco2017_subset")
    rows = from_coco(root / "annotations/instances_val2017.json", root / "val2017", absent=1)
    assert sum(not r["target"] for r in rows) == 188
    assert all(x1 < x2 and y1 < y2 for r in rows if r["target"] for x1, y1, x2, y2 in r["target"]["boxes"])
    assert len({r["id"] for r in rows}) == len(rows)


def test_yolo_to_jsonl(tmp_path):
    for name in ("a", "sub/b"):
        picture(tmp_path / f"images/{name}.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("1 0.5 0.5 0.25 0.5\n\n1 0.1 0.1 0.5 0.1 0.5 0.6\n")
    rows = from_yolo(tmp_path / "images", tmp_path / "labels", ["cat", "dog"], question="the {category}", absent=None)
    assert [(r["id"], r["question"]) for r in rows] == [
        ("a_0", "the cat"),
        ("a_1", "the dog"),
        ("sub/b_0", "the cat"),
        ("sub/b_1", "the dog"),
    ]
    assert rows[1]["target"] == {"boxes": [[24.0, 12.0, 40.0, 36.0], [6.4, 4.8, 32.0, 28.8]]}
    assert [r["target"] for r in rows if r["id"] != "a_1"] == [[]] * 3
    assert len(from_yolo(tmp_path / "images", tmp_path / "labels", ["cat", "dog"], absent=0)) == 1
    drawn = [from_yolo(tmp_path / "images", tmp_path / "labels", ["cat", "dog"], seed=seed) for seed in (0, 0, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert {len(rows) for rows in drawn} == {3}, "one class that it does not hold is asked of each picture"
    assert len({tuple(row["id"] for row in rows) for rows in drawn}) == 2


def test_yolo_with_a_wrong_label_folder_is_an_error(tmp_path):
    picture(tmp_path / "images/a.jpg")
    with pytest.raises(DataError, match="none: expected the folder of label files, there is none"):
        from_yolo(tmp_path / "images", tmp_path / "none", ["cat"])
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/b.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    with pytest.raises(DataError, match=r"labels/a\.txt, but none belongs to any of 1 pictures"):
        from_yolo(tmp_path / "images", tmp_path / "labels", ["cat"])


def test_yolo_pictures_of_one_name_keep_their_suffix(tmp_path):
    for name in ("a.png", "a.bmp", "a.png.jpg", "b.png"):
        picture(tmp_path / "images" / name)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    rows = from_yolo(tmp_path / "images", tmp_path / "labels", ["cat"])
    assert [row["id"] for row in rows] == ["a.bmp_0", "a.png_0", "a.png.jpg_0", "b_0"]


@pytest.mark.parametrize(
    "line",
    ["2 .5 .5 .1 .1", "-1 .5 .5 .1 .1", "0 .5 .5 .1", "x .5 .5 .1 .1", "0 .5 .5 0 .1", "0 .9 .5 .5 .1", "0 nan .5 .1 .1"],
)
def test_yolo_bad_lines(line, tmp_path):
    picture(tmp_path / "images/a.jpg")
    picture(tmp_path / "images/b.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text(line)
    with pytest.raises(DataError, match=r"a\.txt: line 1"):
        from_yolo(tmp_path / "images", tmp_path / "labels", ["cat", "dog"])
    report = RowReport("skip")
    assert len(from_yolo(tmp_path / "images", tmp_path / "labels", ["cat", "dog"], absent=None, report=report)) == 2
    assert [i for i, _ in report.bad] == ["a.jpg"]


def test_yolo_names(tmp_path):
    for text in ("names: [cat, dog]", "names:\n  0: cat\n  1: dog\n"):
        (tmp_path / "data.yaml").write_text(text)
        assert read_yolo_names(tmp_path / "data.yaml") == ["cat", "dog"]
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert read_yolo_names(tmp_path / "classes.txt") == ["cat", "dog"]
    for text in ("nc: 2", "names: {1: cat}", "[1", "names: !!python/object/apply:os.system ['true']", "7"):
        (tmp_path / "data.yaml").write_text(text)
        with pytest.raises(DataError, match=r"data\.yaml"):
            read_yolo_names(tmp_path / "data.yaml")


@pytest.mark.parametrize("names", ["['', b]", "[' ', b]", "{0: null, 1: b}", "[no, b]", "[[a], b]", "[{a: 1}, b]"])
def test_yolo_classes_without_a_name_are_refused(names, tmp_path):
    (tmp_path / "data.yaml").write_text(f"names: {names}\n")
    with pytest.raises(DataError, match=r"data\.yaml, field 'names': expected a name of class 0, got"):
        read_yolo_names(tmp_path / "data.yaml")
    (tmp_path / "data.yaml").write_text("names: ['no', 7, 1.5]\n")
    assert read_yolo_names(tmp_path / "data.yaml") == ["no", "7", "1.5"]


def test_yolo_names_of_a_text_file_keep_their_numbers(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("cat\r\ndog\r\n\r\n\n")
    assert read_yolo_names(path) == ["cat", "dog"]
    for text, line in (("cat\n\ndog\n", 2), ("\ncat\n", 1), ("cat\ndog\n \nbird\n", 3), ("", 1)):
        path.write_text(text)
        with pytest.raises(DataError, match=rf"classes\.txt: line {line}: expected a class name"):
            read_yolo_names(path)


def test_yolo_poses_are_refused(tmp_path):
    (tmp_path / "data.yaml").write_text("names: [person]\nkpt_shape: [4, 2]\n")
    with pytest.raises(DataError, match=r"data\.yaml, field 'kpt_shape': these labels are poses"):
        read_yolo_names(tmp_path / "data.yaml")


@pytest.mark.parametrize(
    "line",
    [
        "0 .5 .5 .4 .6 .4 .3 2 .6 .4 1",
        "0 .5 .5 .4 .6 .4 .3 2 0 0 0",
        "0 .5 .5 .4 .6 0 0 0 0 0 0",
        "0 .5 .5 .4 .6 .4 .3 2",
    ],
)
def test_yolo_poses_without_a_data_yaml_are_told_by_their_visibilities(line, tmp_path):
    with pytest.raises(DataError, match=r"a\.txt: line 1: these labels are poses; expected boxes or polygons"):
        yolo_boxes(tmp_path, line)


@pytest.mark.parametrize(
    ("line", "box"),
    [
        # At two edges of the picture, so that what would be visibilities are 0 or 1.
        ("0 .2 .6 .3 .7 .35 .9 0 .8 .1 1", [0, 60, 35, 100]),
        ("0 .3 .2 .2 .3 .1 .35 0 .3 .1 0", [0, 0, 30, 35]),
        ("0 0 0 .5 0 .5 1 0 1 0 0", [0, 0, 50, 100]),
        ("0 .4 .4 .2 .2 .5 .5 .5 .4 .4 .5", [20, 20, 50, 50]),
    ],
)
def test_yolo_polygons_are_no_poses(line, box, tmp_path):
    assert yolo_boxes(tmp_path, line) == [pytest.approx(box)]


def yolo_boxes(root, line):
    picture(root / "images/a.jpg", size=(100, 100))
    (root / "labels").mkdir()
    (root / "labels/a.txt").write_text(line)
    (row,) = from_yolo(root / "images", root / "labels", ["x"])
    return row["target"]["boxes"]


def test_a_csv_field_that_is_too_long_is_a_data_error(tmp_path):
    long = "x" * 140_000
    for text, line in ((f"image,question,class\na.jpg,x,y\na.jpg,{long},y\n", 2), (f"image,question,{long}\n", 0)):
        with pytest.raises(DataError, match=rf"a\.csv: behind line {line}: not a CSV table \(field larger"):
            from_csv(*write_csv(tmp_path, text))


def write_csv(root, text):
    picture(root / "images/a.jpg")
    (root / "a.csv").write_text(text, encoding="utf-8-sig")
    return root / "a.csv", root / "images"


def test_csv_to_jsonl_groups_objects(tmp_path):
    text = 'image,question,x1,y1,x2,y2\na.jpg,the dog,1,2,30,40\na.jpg,the dog,30,2,40,9.5\na.jpg,"the cat, black",,,,\n'
    rows = from_csv(*write_csv(tmp_path, text))
    assert rows == [
        {"id": "0", "image": "a.jpg", "question": "the dog", "target": {"boxes": [[1, 2, 30, 40], [30, 2, 40, 9.5]]}},
        {"id": "1", "image": "a.jpg", "question": "the cat, black", "target": []},
    ]


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("image;question;x1;y1;x2;y2\na.jpg;q;1;2;10;20", {"boxes": [[1, 2, 11, 22]]}),
        ("image,question,xmin,ymin,xmax,ymax\na.jpg,q,1,2,10,20", {"boxes": [[1, 2, 11, 22]]}),
        ("Image,Question,X1,Y1,X2,Y2\na.jpg,q,1,2,10,20", {"boxes": [[1, 2, 11, 22]]}),
        ("image,question,class,x1,y1,x2,y2\na.jpg,q,,1,2,10,20", {"boxes": [[1, 2, 11, 22]]}),
        ("image\tquestion\tx\ty\na.jpg\tq\t5\t6", {"points": [[5, 6]]}),
        ("image,question,class\na.jpg,q,tabby", {"class": "tabby"}),
        ("image,question,number\na.jpg,q,3", {"number": 3}),
        ("image,question,number\na.jpg,q,3.5", {"number": 3.5}),
        ("image,question,text\na.jpg,q,hello", {"text": "hello"}),
        ("id,image,question,x1,y1,x2,y2,x,y\nk,a.jpg,q,1,2,10,20,5,6", {"boxes": [[1, 2, 11, 22]], "points": [[5, 6]]}),
    ],
)
def test_csv_targets(text, target, tmp_path):
    assert from_csv(*write_csv(tmp_path, text), box_format="xywh")[0]["target"] == target


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,x1\na.jpg,1", "missing .'question'"),
        ("image,question,x1,y1,x2,y2\na.jpg,q,1,2,3", "line 2: expected 6 fields"),
        ("image,question,x1,y1,x2,y2\na.jpg,q,1,2,3,x", "line 2, fields x1, y1, x2, y2: expected numbers"),
        ("image,question,x1,y1,x2,y2\na.jpg,q,1,2,3,", "line 2, fields x1, y1, x2, y2: expected numbers"),
        ("image,question,x1,y1,x2,y2\na.jpg,q,5,2,3,9", "expected x1 < x2"),
        ("image,question,x1,y1,x2,y2\na.jpg,q,5,2,300,9", "leaves its image"),
        ("image,question,class\n../a.jpg,q,x", "line 2, field 'image': image path"),
        ("id,image,question,class\n1,a.jpg,q,x\n1,a.jpg,r,x", "used for two images or questions"),
        ("image,question,class\na.jpg,q,x\na.jpg,q,y", "line 3: a second line for a row with a class"),
        ("image,question,label\na.jpg,q,x", "line 1: unknown column 'label'.* Known: class, id"),
        ("image,question,x_min,ymin,xmax,ymax\na.jpg,q,1,2,3,4", "unknown column 'x_min'; did you mean 'xmin'"),
        ("image,question\na.jpg,q", "line 1: no column says what is true"),
        ("image,question,x1,y1,x2\na.jpg,q,,,", "line 1: expected all of the columns x1, y1, x2, y2, got 3"),
        ("image,question,x1,y1,x2,y2,xmin\na.jpg,q,1,2,3,4,1", "line 1: column 'x1' stands twice"),
        ("image,question,class,x1,y1,x2,y2\na.jpg,q,dog,1,2,3,4", "line 2: class and x1 exclude each other"),
        ("image,question,class,x1,y1,x2,y2\na.jpg,q,,1,2,3,4\na.jpg,q,dog,,,,", "line 3: a second line"),
        ("image,question,text,class\na.jpg,q,a dog,dog", "line 2: class and text exclude each other"),
        ("image,question,class\na.jpg,q,", "line 2: expected a class, but it is empty"),
        ("image,question,number\na.jpg,q,nan", "line 2, fields number: expected finite numbers"),
        ("image,question,x,y\na.jpg,q,inf,2", "line 2, fields x, y: expected finite numbers"),
        ("image,question,x1,y1,x2,y2\na.jpg,q,50,2,20,9", "is it xywh. give --box-format xywh"),
        ("image,question,x1,y1,x2,y2,x,y\na.jpg,q,1,2,3,4,2,3\na.jpg,q,1,2,3,4,,", "2 boxes but 1 points"),
    ],
)
def test_csv_bad_rows(text, message, tmp_path):
    with pytest.raises(DataError, match=message):
        from_csv(*write_csv(tmp_path, text))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.floats(0, 1, allow_nan=False)] * 4), min_size=1, max_size=4))
def test_yolo_boxes_round_trip(tmp_path_factory, shares):
    root = tmp_path_factory.mktemp("yolo")
    picture(root / "images/a.jpg", size=(200, 100))
    boxes = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in shares]
    boxes = [b for b in boxes if b[2] - b[0] > 0.01 and b[3] - b[1] > 0.01]
    (root / "labels").mkdir()
    lines = [f"0 {(x1 + x2) / 2!r} {(y1 + y2) / 2!r} {x2 - x1!r} {y2 - y1!r}" for x1, y1, x2, y2 in boxes]
    (root / "labels/a.txt").write_text("\n".join(lines))
    (row,) = from_yolo(root / "images", root / "labels", ["x"])
    found = row["target"]["boxes"] if row["target"] else []
    np.testing.assert_allclose(found, [(x1 * 200, y1 * 100, x2 * 200, y2 * 100) for x1, y1, x2, y2 in boxes], atol=1e-3)


def test_to_row_of_every_target(tmp_path):
    ref = ImageRef(tmp_path / "x/a.jpg")

    def target(value, **meta):
        return to_row(Sample("1", (ref,), "q", value, meta=meta), tmp_path)["target"]

    assert target(Objects(((0, 0, 1, 1),), ((0.5, 0.5),))) == {"boxes": [[0, 0, 1, 1]], "points": [[0.5, 0.5]]}
    assert target(Detections()) == target(Objects()) == []
    assert target(Points(((1, 2),))) == {"points": [[1, 2]]}
    assert target(Number("1,200")) == {"number": 1200}
    assert target(Text("a cat")) == {"text": "a cat"}
    assert target(Text("tabby"), class_name="tabby") == {"class": "tabby"}
    assert target(Choice("B", ("x", "y"))) == {"text": "B"}
    with pytest.raises(DataError, match="Masks target cannot"):
        target(Masks(()))
    assert to_row(Sample("1", (ref, ref), "q", Text("x")), tmp_path)["image"] == ["x/a.jpg", "x/a.jpg"]
    for outside in (ImageRef(b"x"), ImageRef("/etc/a.jpg")):
        with pytest.raises(DataError, match="expected pictures below"):
            to_row(Sample("1", (outside,), "q", Text("x")), tmp_path)


def test_jsonl_is_written_whole_or_not_at_all(tmp_path):
    out = tmp_path / "rows.jsonl"
    write_jsonl([{"id": 1}], out)
    with pytest.raises(TypeError):
        write_jsonl([{"id": 2}, {"id": object()}], out)
    assert json.loads(out.read_text()) == {"id": 1}


@pytest.fixture
def coco(tmp_path):
    data = coco_data()
    data["annotations"].append(annotation(7, 43, 90, (60, 40, 30, 30)))  # leaves its picture
    dump(tmp_path / "annotations/instances_val2017.json", data)
    picture(tmp_path / "val2017/000000000042.jpg")
    return tmp_path


def test_show_counts_and_draws(coco):
    (train, val) = show(get_benchmark("coco"), coco, sheet=coco / "sheet.png")
    assert "train" in train.error
    assert (val.samples, val.pictures, val.no_target, val.bad) == (4, 2, 3, 1)
    assert (val.no_target_share, val.broken_share) == (0.75, 0.2)
    assert (val.checked, val.unreadable, val.median) == (2, 1, (64, 48))
    assert val.left_out == (("only a crowd region", 1),)
    text = format_summaries([train, val])
    assert "75.0%" in text
    assert "20.0%" in text
    assert "50.0%" in text  # one of two pictures is missing
    assert "train" in text
    assert "not loaded" in text
    assert "1 of 2 pictures checked cannot be read" in text
    assert "leaves its image" in text
    with Image.open(coco / "sheet.png") as sheet:
        assert sheet.size == (4 * 320, 364)


def test_show_of_a_folder_without_the_data_set(tmp_path):
    with pytest.raises(DataError, match="no split could be loaded"):
        show(get_benchmark("coco"), tmp_path)


def test_labels_are_drawn_where_they_are(tmp_path):
    ref = ImageRef(Image.new("RGB", (100, 80), "white"))
    drawn = np.asarray(draw_label(Sample("1", (ref,), "q", Objects(((10, 20, 60, 50),), ((30, 40),)))))
    changed = np.argwhere((drawn != 255).any(axis=2))
    assert (changed.min(axis=0).tolist(), changed.max(axis=0).tolist()) == ([20, 10], [49, 59])
    mask = np.zeros((80, 100), np.uint8)
    mask[5:10, 5:10], mask[20:25, 5:10] = 1, 255
    drawn = np.asarray(draw_label(Sample("1", (ref,), "q", Masks((mask,)))))
    assert (drawn[7, 7] != drawn[22, 7]).any()
    assert (drawn[50, 50] == 255).all()
    with pytest.raises(DataError, match="lies on a picture of"):
        draw_label(Sample("1", (ref,), "q", Masks((mask[:5],))))


def test_contact_sheet_shows_what_cannot_be_drawn(tmp_path):
    samples = [Sample(str(n), (ImageRef(tmp_path / "none.jpg"),), "求角 \n <b>", Text("x")) for n in range(3)]
    contact_sheet(samples, tmp_path / "a.png", columns=2, cell=100)
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.size == (200, 288)
    contact_sheet(samples, tmp_path / "b.png", columns=2, cell=100)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (Objects(), "no object"),
        (Detections(((0, 0, 1, 1),) * 2, (1, 1)), "2 boxes"),
        (Points(((0, 0),)), "1 point"),
        (Choice("B", ("x", "y")), "B: y"),
        (Choice("Z"), "Z"),
        (Number("7"), "7"),
        (Text("cat"), "cat"),
        (Masks(()), "mask"),
    ],
)
def test_label_text(target, text):
    assert label_text(Sample("1", (), "q", target)) == text


def test_summary_of_in_memory_pictures():
    samples = [Sample(str(n), (ImageRef(Image.new("RGB", (10 + n, 5))),), "q", Objects()) for n in range(3)]
    summary = summarise(samples, "train", RowReport())
    assert (summary.pictures, summary.smallest, summary.median, summary.largest) == (3, (10, 5), (11, 5), (12, 5))


def test_show_real_samples(tmp_path):
    (val,) = show(get_benchmark("coco"), real("coco2017_subset"), splits=["val"], sheet=tmp_path / "s.png", absent=1, check=20)
    assert val.samples > 188
    assert val.no_target == 188
    assert (tmp_path / "s.png").stat().st_size > 10_000
