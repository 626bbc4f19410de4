import json
import pickle

import numpy as np
import pytest
from PIL import Image

from benchmark_miniatures import mask_file, picture, real, rectangle
from visurf.benchmarks.coco_layout import annotation_mask
from visurf.benchmarks.masks import (
    ImageMask,
    PaintedMask,
    PolygonMask,
    RunLengthMask,
    UnionMask,
    components,
    with_objects,
)
from visurf.benchmarks.rasterise import decode_counts, fill_coco, fill_opencv
from visurf.types import DataError, Detections, ImageRef, Masks, Objects, Sample


def random_polygons(count, *, integer):
    rng = np.random.default_rng(0)
    for _ in range(count):
        width, height = (int(v) for v in rng.integers(8, 90, 2))
        n = rng.integers(3, 12)
        if integer:
            yield rng.integers(0, [width, height], (n, 2)).astype(float), (width, height)
        else:
            yield rng.random((n, 2)) * [width + 6, height + 6] - 3, (width, height)


def test_polygons_equal_pycocotools():
    coco = pytest.importorskip("pycocotools.mask")
    for points, (width, height) in random_polygons(200, integer=False):
        expected = coco.decode(coco.frPyObjects([points.ravel().tolist()], height, width))[..., 0]
        np.testing.assert_array_equal(fill_coco(tuple(points.ravel()), (width, height)), expected)


def test_polygons_equal_opencv_with_its_outline():
    cv2 = pytest.importorskip("cv2")
    for points, (width, height) in random_polygons(200, integer=True):
        expected = np.zeros((height, width), np.uint8)
        cv2.polylines(expected, [points.astype(np.int32)], True, 1, 1)
        cv2.fillPoly(expected, [points.astype(np.int32)], 1)
        # The fractions are truncated, not rounded.
        np.testing.assert_array_equal(fill_opencv(tuple(map(tuple, points + 0.9)), (width, height)), expected)


def test_the_two_rasterisers_differ_on_the_border():
    assert fill_coco(tuple(rectangle(2, 2, 5, 5)), (10, 10)).sum() == 9
    assert fill_opencv(((2, 2), (5, 2), (5, 5), (2, 5)), (10, 10)).sum() == 16


@pytest.mark.parametrize("vertices", [((3.0, 3.0),), ((1.0, 1.0), (6.0, 6.0)), ((-5.0, -5.0), (30.0, -5.0), (30.0, 30.0))])
def test_opencv_fill_takes_degenerate_and_outside_polygons(vertices):
    assert fill_opencv(vertices, (10, 10)).any()


def test_polygons_far_outside_are_refused_before_they_fill_the_memory():
    with pytest.raises(DataError, match="a polygon reaches 1e"):
        fill_coco((0.0, 0.0, 1e15, 0.0, 1e15, 5.0), (10, 10))
    with pytest.raises(DataError, match="a polygon reaches 1e"):
        fill_opencv(((0.0, 0.0), (1e15, 0.0), (5.0, 5.0)), (10, 10))


def test_real_coco_masks_equal_pycocotools():
    coco = pytest.importorskip("pycocotools.mask")
    data = json.loads(real("coco2017_subset/annotations/instances_val2017.json").read_text())
    sizes = {i["id"]: (i["width"], i["height"]) for i in data["images"]}
    crowds = [a for a in data["annotations"] if a["iscrowd"]]
    assert len(crowds) == 20
    for annotation in [*data["annotations"][:150], *crowds]:
        width, height = sizes[annotation["image_id"]]
        rle = coco.frPyObjects(annotation["segmentation"], height, width)
        expected = coco.decode(coco.merge(rle) if isinstance(rle, list) else rle)
        mask = annotation_mask(annotation, (width, height), "test").load()
        np.testing.assert_array_equal(mask, expected)


def test_real_compressed_run_lengths_decode():
    coco = pytest.importorskip("pycocotools.mask")
    rows = json.loads(real("coco_val2014_100/instances_val2014_fakesegm100_results.json").read_text())
    for row in rows[:60]:
        height, width = row["segmentation"]["size"]
        mask = RunLengthMask(row["segmentation"]["counts"], (width, height)).load()
        np.testing.assert_array_equal(mask, coco.decode(row["segmentation"]))


def test_trap_run_lengths_run_down_the_columns_and_begin_with_zeros():
    mask = RunLengthMask((1, 2, 3), (2, 3)).load()  # three rows, two columns
    np.testing.assert_array_equal(mask, [[0, 0], [1, 0], [1, 0]])
    np.testing.assert_array_equal(RunLengthMask((0, 4, 2), (2, 3)).load(), [[1, 1], [1, 0], [1, 0]])
    with pytest.raises(DataError, match="add up to 5"):
        RunLengthMask((0, 5), (2, 3)).load()


def test_run_lengths_from_arrays_round_trip():
    rng = np.random.default_rng(0)
    for array in (rng.integers(0, 2, (7, 5)), np.zeros((3, 4)), np.ones((3, 4)), np.eye(4)):
        np.testing.assert_array_equal(RunLengthMask.from_array(array).load(), array.astype(np.uint8))


@pytest.mark.parametrize("text", ["\x1f", "~\x7f", "é", "o"])
def test_broken_compressed_run_lengths(text):
    with pytest.raises(DataError, match="run lengths"):
        decode_counts(text)


def test_trap_overlapping_polygons_unite_to_one():
    mask = PolygonMask((tuple(rectangle(0, 0, 6, 6)), tuple(rectangle(3, 3, 9, 9))), (10, 10)).load()
    assert mask.max() == 1
    assert mask.sum() == 36 + 36 - 9


def test_trap_polygon_with_fewer_than_three_vertices_covers_nothing():
    assert PolygonMask(((1.0, 1.0, 5.0, 5.0),), (10, 10)).load().sum() == 0


def test_trap_ignore_stays_255(tmp_path):
    image = ImageRef(picture(tmp_path / "a.jpg"))
    big = (1, ((2.0, 2.0), (40.0, 2.0), (40.0, 40.0), (2.0, 40.0)))
    small = (255, ((10.0, 10.0), (20.0, 10.0), (20.0, 20.0), (10.0, 20.0)))
    for shapes in ((big, small), (small, big)):  # the larger is painted first, whatever the order
        mask = PaintedMask(shapes, image).load()
        assert set(np.unique(mask)) == {0, 1, 255}
        assert (mask == 255).sum() == 11 * 11
        assert (mask == 1).sum() == 39 * 39 - 11 * 11
    union = UnionMask((PaintedMask((big, small), image), PolygonMask((tuple(rectangle(0, 0, 15, 15)),), (64, 48))), (64, 48)).load()
    assert union[12, 12] == 1  # object in one, ignored in the other
    assert union[18, 18] == 255


def test_empty_union_has_the_size_of_the_picture():
    assert UnionMask((), (64, 48)).load().shape == (48, 64)


def test_trap_mask_of_another_resolution_is_resampled_to_nearest(tmp_path):
    path = mask_file(tmp_path / "m.png", size=(32, 24), box=(4, 4, 8, 8))
    image = ImageRef(picture(tmp_path / "a.jpg", size=(64, 48)))
    mask = ImageMask(path, image).load()
    assert mask.shape == (48, 64)
    assert set(np.unique(mask)) == {0, 1}
    assert mask.sum() == 64
    assert ImageMask(path).load().shape == (24, 32)


def test_a_mask_keeps_an_object_that_falls_between_the_pixels_of_a_smaller_picture(tmp_path):
    path = mask_file(tmp_path / "m.png", size=(1024, 1024), box=(515, 3, 518, 6))
    mask = ImageMask(path, ImageRef(picture(tmp_path / "a.jpg", size=(64, 64)))).load()
    np.testing.assert_array_equal(np.argwhere(mask), [[0, 32]])


@pytest.mark.parametrize("values", [None, ((1, 1), (3, 255))])
def test_a_mask_file_without_the_object_is_an_error_and_not_no_object(values, tmp_path):
    path = mask_file(tmp_path / "m.png", box=(1, 1, 5, 5), value=3) if values else mask_file(tmp_path / "m.png", box=None)
    with pytest.raises(DataError, match=r"m\.png: this mask is empty"):
        ImageMask(path, values=values).load()


def test_of_shapes_of_one_size_the_first_wins_as_in_lisa(tmp_path):
    image = ImageRef(picture(tmp_path / "a.jpg"))
    square = ((2.0, 2.0), (12.0, 2.0), (12.0, 12.0), (2.0, 12.0))
    beside = tuple((x + 5, y) for x, y in square)
    for first, second in ((1, 255), (255, 1)):
        areas = [np.count_nonzero(fill_opencv(shape, (64, 48))) for shape in (square, beside)]
        expected = np.zeros((48, 64), np.uint8)
        for index in np.argsort(areas)[::-1]:
            expected[fill_opencv((square, beside)[index], (64, 48)) == 1] = (first, second)[index]
        mask = PaintedMask(((first, square), (second, beside)), image).load()
        np.testing.assert_array_equal(mask, expected)
        assert mask[7, 10] == first


def test_unreadable_mask_is_a_data_error(tmp_path):
    (tmp_path / "m.png").write_bytes(b"no picture")
    for name in ("m.png", "none.png"):
        with pytest.raises(DataError, match="cannot be read as a mask"):
            ImageMask(tmp_path / name).load()


def test_masks_are_lazy_small_and_arrays_to_numpy(tmp_path):
    mask = PolygonMask((tuple(rectangle(0, 0, 6, 6)),), (1000, 1000))
    assert len(pickle.dumps(mask)) < 1000
    assert np.asarray(mask).shape == (1000, 1000)
    assert np.asarray(mask, dtype=bool).sum() == 36
    assert Masks((mask,)).load()[0].dtype == np.uint8


def test_with_objects_derives_boxes_and_points(tmp_path):
    path = mask_file(tmp_path / "m.png")
    Image.open(path)
    made = with_objects(Sample("a", (), "?", Masks((ImageMask(path),))))
    assert made.target == Objects(((10.0, 8.0, 30.0, 20.0),), made.target.points)
    assert made.target.points is not None
    assert 10 < made.target.points[0][0] < 30
    empty = with_objects(Sample("a", (), "?", Masks((PolygonMask((), (8, 8)),))))
    assert empty.target == Objects((), ())
    centre = with_objects(Sample("a", (), "?", Objects(((0, 0, 4, 4),))))
    assert centre.target == Objects(((0, 0, 4, 4),), ((2.0, 2.0),))
    own = Sample(
        "a",
        (),
        "?",
        Objects(((0, 0, 4, 4),)),
        meta={"object_masks": (PolygonMask((tuple(rectangle(0, 0, 2, 2)),), (8, 8)),)},
    )
    assert with_objects(own).target.points[0] in ((0.5, 0.5), (1.5, 0.5), (0.5, 1.5), (1.5, 1.5))
    with pytest.raises(DataError, match="expected boxes or masks"):
        with_objects(Sample("a", (), "?", Detections()))


def test_trap_one_mask_may_hold_several_parts(tmp_path):
    array = np.zeros((48, 64), np.uint8)
    array[2:6, 2:6] = array[20:30, 40:50] = array[6, 6] = 1  # the single pixel touches the first part by its corner
    assert [int(part.sum()) for part in components(array)] == [17, 100]
    sample = Sample("a", (), "?", Masks((array,)))
    assert with_objects(sample, split_components=True).target.boxes == ((2, 2, 7, 7), (40, 20, 50, 30))
    assert with_objects(sample).target.boxes == ((2, 2, 50, 30),)
