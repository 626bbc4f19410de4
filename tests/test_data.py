"""Samples from JSONL and data-set rows: every problem names file, line and field before training starts."""

import dataclasses
import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from visurf.benchmarks.masks import ImageMask
from visurf.config import DataConfig
from visurf.data import describe, load_data
from visurf.tasks import TASKS
from visurf.types import DataError, ImageRef, Number, Objects, Points, Sample, Text

REFERRING = TASKS["referring"]


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (100, 80)).save(tmp_path / "a.png")
    return tmp_path


def write(folder, *rows):
    path = folder / "data.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows), encoding="utf-8")
    return str(path)


def row(**changes):
    made = {"id": "1", "image": "a.png", "question": "the dog", "target": [[10, 20, 30, 40]], **changes}
    return {k: v for k, v in made.items() if v is not ...}


def load(folder, *rows, task=REFERRING, **config):
    return load_data(write(folder, *rows), DataConfig(**config), task)


def test_boxes_points_and_nothing(folder):
    data = load(
        folder,
        row(),
        row(id="2", target={"boxes": [[10, 20, 30, 40]], "points": [[11, 22]]}),
        row(id="3", target=[]),
        row(id=4, target={"boxes": []}),
    )
    assert [s.target for s in data.samples] == [
        Objects(((10, 20, 30, 40),), ((20, 30),)),
        Objects(((10, 20, 30, 40),), ((11, 22),)),
        Objects((), ()),
        Objects((), ()),
    ]
    assert data.derived_points == 1
    assert describe(data) == {"samples": 4, "no object": 2, "skipped": 0, "derived points": 1}


def test_masks_give_the_tight_box_and_the_deepest_point(folder):
    mask = np.zeros((80, 100), dtype=np.uint8)
    mask[20:41, 30:71] = 255
    Image.fromarray(mask).save(folder / "m.png")
    data = load(folder, row(target={"masks": ["m.png"]}))
    (box,), (point,) = data.samples[0].target.boxes, data.samples[0].target.points
    assert box == (30, 20, 71, 41)
    assert point[1] == 30.5
    assert 40 <= point[0] <= 61
    assert data.derived_points == 1


@pytest.mark.parametrize(
    ("frame", "box_format", "box"),
    [("pixel", "xyxy", [10, 20, 30, 60]), ("pixel", "xywh", [10, 20, 20, 40]), ("1000", "xyxy", [100, 250, 300, 750]),
     ("unit", "xywh", [0.1, 0.25, 0.2, 0.5])],
)  # fmt: skip
def test_frames_and_box_formats(folder, frame, box_format, box):
    (sample,) = load(folder, row(target=[box]), frame=frame, box_format=box_format).samples
    assert sample.target.boxes[0] == pytest.approx((10, 20, 30, 60))


@pytest.mark.parametrize(
    ("task", "target", "expected"),
    [
        ("gui", {"points": [[5, 6]]}, Points(((5, 6),))),
        ("gui", {"boxes": [[1, 2, 9, 9]], "points": [[5, 6]]}, Points(((5, 6),), ((1, 2, 9, 9),))),
        ("classification", {"class": " bus "}, Text("bus")),
        ("classification", {"text": "two of them"}, Text("two of them")),
        ("counting", {"number": 7}, Number("7")),
    ],
)
def test_other_targets(folder, task, target, expected):
    if task not in TASKS:
        pytest.skip(f"no task {task}")
    (sample,) = load(folder, row(target=target), task=TASKS[task]).samples
    assert sample.target == expected


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "data.jsonl:2: not JSON"),
        ("[1]", "expected an object"),
        (row(id=...), "missing field 'id'"),
        (row(target=...), "missing field 'target'"),
        (row(question=""), "field question"),
        (row(question=3), "field question"),
        (row(id=True), "field id"),
        (row(id="0"), "field id: '0' occurs twice"),
        (row(colour="red"), "unknown field 'colour'"),
        (row(image="b.png"), "field image: image .*b.png: no such file"),
        (row(image="broken.png"), "field image: image .*broken.png: cannot be read as an image"),
        (row(image="/etc/a.png"), "leaves the image folder"),
        (row(image="../a.png"), "leaves the image folder"),
        (row(image=7), "field image: expected a path"),
        (row(image=...), "missing field 'image'"),
        (row(target=[[10, 20, 10, 40]]), "expected x1 < x2"),
        (row(target=[[10, 20, 30, 90]]), "leaves its image of 100 x 80"),
        (row(target=[[10, 20, 30]]), "expected 4 finite numbers"),
        (row(target=[["a", 20, 30, 40]]), "expected 4 finite numbers"),
        (row(target=[[float("nan"), 20, 30, 40]]), "expected 4 finite numbers"),
        (row(target={"boxes": [[1, 2, 3, 4]], "points": []}), "1 boxes but 0 points"),
        (row(target=[[-0.9, 20, -0.1, 40]]), r"box \[-0.9, 20.*\] lies outside its image of 100 x 80"),
        (row(target=[[10, 80.2, 20, 80.9]]), "lies outside its image of 100 x 80"),
        (row(target={"points": [[500, 1]]}), "leaves its image"),
        (row(target={"points": [[5, 1]]}), "needs Objects.*got Points"),
        (row(target={"class": "bus"}), "needs Objects.*got Text"),
        (row(target={"box": []}), "expected an empty list or one of"),
        (row(target={"boxes": [], "class": "bus"}), "exclude each other"),
        (row(target=None), "expected an empty list or one of"),
        (row(response=3), "field response"),
        (row(meta=[1]), "field meta"),
    ],
)
def test_a_bad_row_is_an_error_and_can_be_skipped(folder, bad, message):
    (folder / "broken.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=message):
        load(folder, row(id="0"), bad)
    data = load(folder, row(id="0"), bad, on_bad_sample="skip")
    assert [s.id for s in data.samples] == ["0"]
    ((where, problem),) = data.skipped
    assert where.endswith("data.jsonl:2")
    assert problem.startswith(where)


def test_a_file_without_usable_rows_is_an_error(folder):
    with pytest.raises(DataError, match="no usable sample"):
        load(folder, row(question=""), on_bad_sample="skip")
    with pytest.raises(DataError, match="no such file"):
        load_data(str(folder / "none.jsonl"), DataConfig(), REFERRING)
    (folder / "array.jsonl").write_text(json.dumps([row()]))
    with pytest.raises(DataError, match="one JSON array"):
        load_data(str(folder / "array.jsonl"), DataConfig(), REFERRING)
    (folder / "latin.jsonl").write_bytes(json.dumps(row(question="é"), ensure_ascii=False).encode("latin1"))
    with pytest.raises(DataError, match="not UTF-8"):
        load_data(str(folder / "latin.jsonl"), DataConfig(), REFERRING)


def test_bom_blank_lines_and_line_separators_inside_a_question(folder):
    path = folder / "data.jsonl"
    lines = [json.dumps(row(question="a\u2028b"), ensure_ascii=False), "", json.dumps(row(id="2"))]
    path.write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode())
    data = load_data(str(path), DataConfig(), REFERRING)
    assert [s.question for s in data.samples] == ["a\u2028b", "the dog"]


def test_images_are_lazy_upright_and_sniffed(folder):
    picture = Image.new("RGB", (60, 30), "red")
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(folder / "turned.png.jpg", "JPEG", exif=exif)
    (folder / "turned.png.jpg").rename(folder / "turned.gif")
    (sample,) = load(folder, row(image=["turned.gif", "a.png"], target=[[1, 2, 29, 55]])).samples
    assert sample.size == (30, 60)
    assert sample.images[0].load().size == (30, 60)
    assert sample.images[0].load().mode == "RGB"
    assert len(sample.images) == 2


RAMP = np.linspace(0, 65535, 60 * 30).reshape(30, 60).astype(np.uint16)


def stored(name):
    """A ramp from black to white of 16 bits, as an encoded file or an image in memory."""
    if name == "memory":
        return Image.fromarray(RAMP)
    stream = io.BytesIO()
    if name == "PGM":
        return b"P5 60 30 65535\n" + RAMP.astype(">u2").tobytes()
    if name == "TIFF, big-endian":
        Image.fromarray(RAMP.astype(">u2")).save(stream, "TIFF")
    elif name == "TIFF, 12 bits":
        rows = (RAMP >> 4).reshape(-1, 2).astype(int)
        packed = (
            np.stack([rows[:, 0] >> 4, (rows[:, 0] & 15) << 4 | rows[:, 1] >> 8, rows[:, 1] & 255], 1).astype(np.uint8).tobytes()
        )
        entries = [(256, 60), (257, 30), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 30), (279, len(packed))]
        place = 8 + len(packed)
        table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
        return b"II*\0" + struct.pack("<I", place) + packed + struct.pack("<H", len(entries)) + table + b"\0" * 4
    else:
        Image.fromarray(RAMP).save(stream, name)
    return stream.getvalue()


@pytest.mark.parametrize("name", ["PNG", "TIFF", "TIFF, big-endian", "TIFF, 12 bits", "PGM", "memory"])
def test_sixteen_bits_are_scaled_not_cut(name):
    image = ImageRef(stored(name)).load()
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), np.repeat((RAMP >> 8)[..., None], 3, axis=2))


def test_a_turned_picture_of_sixteen_bits_is_upright():
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RAMP).save(stream, "PNG", exif=exif)
    image = ImageRef(stream.getvalue()).load()
    np.testing.assert_array_equal(np.asarray(image)[..., 0], np.rot90(RAMP >> 8, -1))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_header_tells_the_size_that_the_upright_picture_has(kind, orientation):
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    stored = Image.new("RGB", (64, 32))
    stored.paste("white", (0, 0, 16, 16))
    stored.save(stream, kind, exif=exif)
    picture = ImageRef(stream.getvalue())
    assert picture.size == ((64, 32) if orientation < 5 else (32, 64))
    upright = picture.load()
    assert upright.size == picture.size == ImageRef(Image.open(stream)).size == ImageRef(upright).size
    # The corner that the stored picture's upper left one is turned to.
    left, upper = orientation in (1, 4, 5, 8), orientation in (1, 2, 5, 6)
    x, y = (4 if left else picture.size[0] - 5), (4 if upper else picture.size[1] - 5)
    assert np.argwhere(np.asarray(upright)[..., 0] > 127).mean(axis=0) == pytest.approx((y, x), abs=4)


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def turned_png(late, text=False):
    """A PNG of 60 x 30 pixels that are to be turned, as it says before or behind its pixels, in a chunk for that or in a text."""
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RAMP).save(stream, "PNG")
    plain, said = stream.getvalue(), exif.tobytes().removeprefix(b"Exif\0\0")
    profile = b"Raw profile type exif\0\nexif\n%d\n" % (len(said) + 6) + (b"Exif\0\0" + said).hex().encode()
    place = plain.index(b"IEND" if late else b"IDAT") - 4
    return plain[:place] + (chunk(b"tEXt", profile) if text else chunk(b"eXIf", said)) + plain[place:]


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("late", [False, True])
def test_a_png_may_say_behind_its_pixels_that_it_is_turned(late, text):
    picture = ImageRef(turned_png(late, text))
    assert picture.size == picture.load().size == (30, 60)


def test_the_size_of_a_png_is_read_without_its_pixels(monkeypatch):
    stream = io.BytesIO()
    Image.fromarray(RAMP).save(stream, "PNG")
    monkeypatch.setattr(PngImageFile, "load", None)
    assert ImageRef(stream.getvalue()).size == (60, 30)
    assert ImageRef(turned_png(late=False)).size == (30, 60)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_pixels_without_a_white_are_refused(kind):
    stream = io.BytesIO()
    Image.fromarray(RAMP.astype(kind)).save(stream, "TIFF")
    for source in (stream.getvalue(), Image.fromarray(RAMP.astype(kind))):
        with pytest.raises(DataError, match="save it with 8 bits a channel"):
            ImageRef(source).load()


@pytest.mark.parametrize("mode", ["L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "1"])
def test_other_modes_become_rgb_as_pillow_does(mode):
    picture = Image.radial_gradient("L").resize((60, 30)).convert("RGB").convert("P" if mode == "PA" else mode).convert(mode)
    np.testing.assert_array_equal(np.asarray(ImageRef(picture).load()), np.asarray(picture.convert("RGB")))


def test_a_mask_of_sixteen_bits_may_number_its_object_one(folder):
    mask = np.zeros((80, 100), np.uint16)
    mask[20:40, 10:30] = 1
    Image.fromarray(mask).save(folder / "mask.png")
    (sample,) = load(folder, row(target={"masks": ["mask.png"]})).samples
    assert sample.target.boxes == ((10.0, 20.0, 30.0, 40.0),)


def mask_pictures():
    """A 20 x 20 object at (10, 20) in every way a picture of 100 x 80 can say so."""
    index = np.zeros((80, 100), np.uint8)
    index[20:40, 10:30] = 1
    for name, colours in (("light background", [250, 250, 250, 200, 0, 0]), ("black palette", [0] * 6)):
        palette = Image.frombytes("P", (100, 80), index.tobytes())
        palette.putpalette(colours)
        yield name, palette
    black_and_white = Image.fromarray(index * 255).convert("RGB")
    yield "black second", black_and_white.quantize(2)
    yield "adaptive palette", black_and_white.convert("P", palette=Image.Palette.ADAPTIVE, colors=2)
    yield "zeros and ones", Image.fromarray(index)
    yield "bits", Image.fromarray(index * 255).convert("1")
    yield "cut-out", Image.merge("RGBA", [Image.new("L", (100, 80), 200)] * 3 + [Image.fromarray(index * 255)])
    yield "grey cut-out", Image.merge("LA", [Image.new("L", (100, 80), 9), Image.fromarray(index * 40)])
    yield "opaque", Image.merge("RGBA", [Image.fromarray(index * 255)] * 3 + [Image.new("L", (100, 80), 255)])
    yield "opaque grey", Image.merge("LA", [Image.fromarray(index * 255), Image.new("L", (100, 80), 255)])
    yield "faint red", Image.merge("RGB", [Image.fromarray(index), *[Image.new("L", (100, 80))] * 2])


@pytest.mark.parametrize(("name", "picture"), [pytest.param(*case, id=case[0]) for case in mask_pictures()])
def test_what_a_mask_picture_says(folder, name, picture):
    picture.save(folder / "mask.png")
    with Image.open(folder / "mask.png") as stored:
        assert stored.mode == picture.mode
    (sample,) = load(folder, row(target={"masks": ["mask.png"]})).samples
    assert sample.target.boxes == ((10.0, 20.0, 30.0, 40.0),)
    mask = ImageMask(folder / "mask.png").load()
    assert mask.sum() == mask[20:40, 10:30].sum() == 400


def test_pillow_puts_white_first_and_black_is_still_the_background(folder):
    mask = np.zeros((80, 100), np.uint8)
    mask[20:40, 10:30] = 255
    picture = Image.fromarray(mask).convert("RGB").quantize(2)
    assert picture.getpalette()[:6] == [255, 255, 255, 0, 0, 0]
    picture.save(folder / "mask.png")
    Image.fromarray(mask).convert("RGB").save(folder / "mask.gif")
    for name in ("mask.png", "mask.gif"):
        assert ImageMask(folder / name, threshold=127).load().sum() == 400
        (sample,) = load(folder, row(target={"masks": [name]})).samples
        assert sample.target.boxes == ((10.0, 20.0, 30.0, 40.0),)
    # A trimap's numbers are codes; the object has number 0 here, the rest 1.
    coded = ImageMask(folder / "mask.png", values=((0, 1), (1, 255))).load()
    assert (coded == 1).sum() == 400


def test_an_object_over_the_whole_picture_has_an_index_in_a_black_palette(folder):
    whole = Image.new("P", (100, 80), 1)
    whole.putpalette([0] * 6)
    whole.save(folder / "mask.png")
    assert ImageMask(folder / "mask.png").load().all()


def test_a_response_is_kept(folder):
    (sample,) = load(folder, row(response="<think>a</think><answer>[]</answer>")).samples
    assert sample.response == "<think>a</think><answer>[]</answer>"


@pytest.mark.parametrize("source", ["world:mars", "world:clean?count=x", "world:clean?number=3"])
def test_a_wrong_world_is_an_error(source):
    with pytest.raises(DataError, match="expected world:"):
        load_data(source, DataConfig(), REFERRING)


def test_rows_as_visionreasoner_and_visual_rft_publish_them(folder):
    datasets = pytest.importorskip("datasets")
    picture = Image.new("RGB", (840, 840))
    solution = '[{"bbox_2d": [10, 20, 99, 199], "point_2d": [50, 60]}]'
    rows = [{"id": "7", "problem": "the cup", "solution": solution, "image": picture, "img_height": 500, "img_width": 900}]
    saved = datasets.Dataset.from_list(rows, features=datasets.Features({
        "id": datasets.Value("string"), "problem": datasets.Value("string"), "solution": datasets.Value("string"),
        "image": datasets.Image(), "img_height": datasets.Value("int64"), "img_width": datasets.Value("int64")}))  # fmt: skip
    saved.save_to_disk(str(folder / "saved"))
    (sample,) = load_data(str(folder / "saved"), DataConfig(format="vision_reasoner"), REFERRING).samples
    assert sample.target == Objects(((10, 20, 100, 200),), ((50, 60),))
    assert sample.size == (840, 840)


def test_a_benchmark_in_its_original_layout_is_a_source(folder, shared):
    root = folder / "coco"
    (root / "annotations").mkdir(parents=True)
    subset = json.loads((shared / "samples" / "coco2017_subset" / "annotations" / "instances_val2017.json").read_text())
    here = {p.name for p in (shared / "samples" / "coco2017_subset" / "val2017").iterdir()}
    subset["images"] = [i for i in subset["images"] if i["file_name"] in here]
    ids = {i["id"] for i in subset["images"]}
    subset["annotations"] = [a for a in subset["annotations"] if a["image_id"] in ids]
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(subset))
    (root / "val2017").symlink_to(shared / "samples" / "coco2017_subset" / "val2017")
    from visurf.types import Detections

    task = TASKS.get("detection")
    if task is None:
        pytest.skip("no detection task")
    source = f"benchmark:coco?root={root}&split=val&absent=1"
    every = load_data(source, DataConfig(), task).samples
    assert {s.size for s in every} >= {(640, 480)}
    assert any(not s.target.boxes for s in every)
    few = load_data(f"{source}&shots=1&seed=3", DataConfig(), task).samples
    assert all(isinstance(s.target, Detections) and s.target.boxes for s in few)
    assert len(few) == len({s.meta["category"] for s in few})
    for wrong in ("benchmark:coco?split=val", f"{source}&classes=coco-9", f"{source}&colour=1", "benchmark:kitti?root=a&split=b"):
        with pytest.raises(DataError):
            load_data(wrong, DataConfig(), task)


def test_options_of_a_source_are_values_as_those_of_the_command_line(monkeypatch):
    from visurf import benchmarks

    seen = {}

    def load(root, split, *, report, **options):
        seen.update(options, root=root, split=split)
        return [Sample("a", (), "?", Text("yes"))]

    known = benchmarks.get_benchmark("chartqa")
    monkeypatch.setattr(benchmarks, "get_benchmark", lambda name: dataclasses.replace(known, load=load))

    def options(query):
        seen.clear()
        load_data(f"benchmark:chartqa?root=no&split=2014&{query}", DataConfig(), TASKS["question_answering"])
        assert (seen.pop("root"), seen.pop("split")) == (Path("no"), "2014")
        return dict(seen)

    assert options("crop_banner=False&all_absent=true&absent=2") == {"crop_banner": False, "all_absent": True, "absent": 2}
    assert options("categories=usb") == {"categories": ("usb",)}
    assert options("categories=usb,pcb&classes=dog, cat") == {"categories": ("usb", "pcb"), "classes": ("dog", "cat")}
    assert options("classes=[dog]&texts=all") == {"classes": ["dog"], "texts": "all"}
    assert options("categories=yes&classes=cat, dog: x") == {"categories": ("yes",), "classes": ("cat", "dog: x")}
    assert options("json_folder=1e5&form=yes_no") == {"json_folder": "1e5", "form": "yes_no"}
    with pytest.raises(DataError, match="an option is not valid YAML"):
        options("form=[")


def test_paths_are_relative_to_the_root(tmp_path, monkeypatch):
    from visurf.benchmarks import loader_options

    (tmp_path / "sets" / "mine").mkdir(parents=True)
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "pictures" / "a.png")
    (tmp_path / "sets" / "mine" / "rows.jsonl").write_text('{"id": 1, "image": "a.png", "question": "x", "target": []}\n')
    monkeypatch.chdir("/")
    config = DataConfig(root=str(tmp_path / "sets"), images="../pictures")
    (sample,) = load_data("mine/rows.jsonl", config, TASKS["referring"]).samples
    assert sample.size == (20, 20)
    listed = [{"image_path": "a.png", "instruction": "find it", "boxes": [[1, 2, 10, 12]]}]
    (tmp_path / "sets" / "mine" / "lisa_train.json").write_text(json.dumps(listed))
    source = "benchmark:lisa_grounding?root=mine&split=train&images=../pictures"
    (sample,) = load_data(source, config, TASKS["grounding"]).samples
    assert sample.size == (20, 20)
    assert loader_options({"images": "a", "absent": 2}, "/r") == {"images": Path("/r/a"), "absent": 2}
    with pytest.raises(DataError, match="unknown class list 'coco-9'; did you mean 'coco-8'"):
        loader_options({"classes": "coco-9"})


@pytest.mark.parametrize("place", [{"question": "the \ud83d dog"}, {"meta": {"note": "\udc00"}}, {"id": "\ud83d"}])
def test_half_a_surrogate_pair_is_refused(folder, place):
    with pytest.raises(DataError, match=r"data\.jsonl:1: expected text, got half a surrogate pair: '.ud"):
        load(folder, row(**place))
    assert len(load(folder, row(**place), row(id="2"), on_bad_sample="skip").samples) == 1


def test_a_whole_surrogate_pair_is_a_character(folder):
    assert load(folder, row(question="the \U0001f436")).samples[0].question == "the \U0001f436"
