from collections import Counter

import numpy as np
import pytest
from scipy.io import savemat

from benchmark_miniatures import mask_file, picture, real
from visurf.benchmarks import aircraft, cars, flowers102, get_benchmark
from visurf.benchmarks.classification import read_test_list
from visurf.benchmarks.pets import read_head_box
from visurf.benchmarks.rows import RowReport, read_json
from visurf.benchmarks.selection import few_shot
from visurf.types import DataError, ImageRef


def load(root, name, split, **options):
    return get_benchmark(name).load(root, split, **options)


def lines(path):
    return [line for line in path.read_text().split("\n") if line]


def test_flowers_labels_count_from_one(tmp_path):
    savemat(tmp_path / "setid.mat", {"trnid": [[1]], "valid": [[2]], "tstid": [[3, 4]]})
    savemat(tmp_path / "imagelabels.mat", {"labels": np.array([[77, 1, 102, 5]], np.uint8)})
    (first,) = load(tmp_path, "flowers102", "train")
    assert (first.id, first.target.text, first.meta["label"]) == ("image_00001", "passion flower", 76)
    assert first.images[0].source == tmp_path / "jpg/image_00001.jpg"
    assert [s.meta["label"] for s in load(tmp_path, "flowers102", "test")] == [101, 4]
    savemat(tmp_path / "setid.mat", {"trnid": [[9]]})
    with pytest.raises(DataError, match="picture 9 has no label"):
        load(tmp_path, "flowers102", "train")
    with pytest.raises(DataError, match="expected a variable 'tstid'"):
        load(tmp_path, "flowers102", "test")


def test_trap_flowers_official_test_is_the_large_split_and_not_the_published_one():
    root, listed = real("flowers102/setid.mat").parent, real("visual_rft_lists/oxford_flowers_test.tsv")
    official = {split: load(root, "flowers102", split) for split in ("train", "val", "test")}
    assert [len(samples) for samples in official.values()] == [1020, 1020, 6149]
    published = load(root, "flowers102", "visual_rft_test", test_list=listed)
    assert len(published) == 2463
    by_id = {s.id: (split, s.target.text) for split, samples in official.items() for s in samples}
    where = Counter(by_id[s.id.removeprefix("jpg/")][0] for s in published)
    assert where == {"train": 306, "val": 291, "test": 1866}
    assert all(by_id[s.id.removeprefix("jpg/")][1] == s.target.text for s in published)


def test_real_flower_names_in_label_order():
    assert list(flowers102.NAMES) == lines(real("visual_rft_lists/oxford_flowers.txt"))


def test_flowers_few_shot():
    chosen = few_shot(load(real("flowers102/setid.mat").parent, "flowers102", "train"), 4, seed=0)
    assert len(chosen) == 408


def write_pets(root, rows=("Abyssinian_100 1 1 1", "american_bulldog_2 2 2 1"), header="#Image CLASS-ID SPECIES BREED ID\n"):
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations/trainval.txt").write_text(header + "\n".join(rows) + "\n")
    picture(root / "images/Abyssinian_100.jpg")
    return root


def test_pets_names_species_and_labels(tmp_path):
    cat, dog = load(write_pets(tmp_path), "pets", "trainval")
    assert (cat.target.text, cat.meta["species"], cat.meta["label"]) == ("abyssinian", "cat", 0)
    assert (dog.target.text, dog.meta["class_name"], dog.meta["species"]) == ("american bulldog", "american_bulldog", "dog")
    assert (cat.meta["noun"], cat.meta["slot"]) == ("pet", "breed")
    assert cat.question == "What breed is the pet in the image?"


@pytest.mark.parametrize("header", ["", "# comment\n#\n"])
def test_trap_pets_lists_may_begin_with_comments(header, tmp_path):
    assert len(load(write_pets(tmp_path, header=header), "pets", "trainval")) == 2


def test_trap_pets_trimap_border_is_ignored_and_files_may_be_missing(tmp_path):
    write_pets(tmp_path)
    path = mask_file(tmp_path / "annotations/trimaps/Abyssinian_100.png", value=1)
    array = np.full((48, 64), 2, np.uint8)
    array[5:9], array[9:11] = 1, 3
    from PIL import Image

    Image.fromarray(array).save(path)
    cat, dog = load(tmp_path, "pets", "trainval")
    mask = cat.meta["mask"].load()
    assert [(mask == v).sum() for v in (0, 1, 255)] == [42 * 64, 4 * 64, 2 * 64]
    assert "mask" not in dog.meta
    assert "head_box" not in cat.meta


def test_trap_pets_head_box_counts_from_one(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text("<bndbox><xmin>38</xmin><ymin>92</ymin><xmax>136</xmax><ymax>192</ymax></bndbox>")
    assert read_head_box(path) == (37, 91, 136, 192)
    path.write_text("<bndbox><xmin>x</xmin></bndbox>")
    with pytest.raises(DataError, match="field 'xmin'"):
        read_head_box(path)


@pytest.mark.parametrize(
    "row",
    [
        "Abyssinian_1 1 1",
        "Abyssinian 1 1 1",
        "Abyssinian_1 1 2 1",
        "beagle_1 5 1 1",
        "../x_1 1 1 1",
        "a_1 1 3 1",
        "a_1 x 2 1",
    ],
)
def test_pets_bad_rows(row, tmp_path):
    write_pets(tmp_path, (row, "Abyssinian_100 1 1 1"))
    with pytest.raises(DataError, match=r"trainval\.txt: line 2"):
        load(tmp_path, "pets", "trainval")
    report = RowReport("skip")
    assert len(load(tmp_path, "pets", "trainval", report=report)) == 1
    assert len(report.bad) == 1


def test_trap_pets_stray_files_and_unlisted_pictures_are_not_samples():
    root = real("pets")
    samples = [s for split in ("trainval", "test") for s in load(root, "pets", split)]
    assert len(samples) == 598
    ids = {s.id for s in samples}
    assert not ids & {"Abyssinian_34", "Abyssinian_82"}
    assert (root / "images/Abyssinian_34.jpg").exists()


def test_trap_pets_gif_png_and_invalid_orientation_are_read():
    root = real("pets/images")
    for name, size in (
        ("Abyssinian_34", (250, 202)),
        ("Abyssinian_5", (200, 150)),
        ("Abyssinian_17", (275, 411)),
        ("Bengal_201", (250, 166)),
    ):
        ref = ImageRef(root / f"{name}.jpg")
        assert ref.size == ref.load().size == size
        assert ref.load().mode == "RGB"


def test_trap_pets_class_ids_are_alphabetical_regardless_of_case():
    labels = {s.target.text: s.meta["label"] + 1 for s in load(real("pets"), "pets", "trainval")}
    assert labels == {"abyssinian": 1, "american bulldog": 2, "bengal": 6}


def test_trap_pets_xml_missing_for_some():
    samples = {s.id: s for s in load(real("pets"), "pets", "trainval")}
    assert "head_box" not in samples["Bengal_111"].meta
    assert samples["Abyssinian_100"].meta["mask"].load().max() == 255


def write_aircraft(root, rows=("1514522 707-320", "0034309 F-16A/B", "0000001 Cessna 172")):
    (root / "data").mkdir(parents=True, exist_ok=True)
    (root / "data/variants.txt").write_text("707-320\nCessna 172\nF-16A/B\n")
    (root / "data/images_variant_val.txt").write_text("\n".join(rows) + "\n")
    (root / "data/images_box.txt").write_text("1514522 1 1 64 28\n")
    picture(root / "data/images/1514522.jpg")
    return root


def test_trap_aircraft_names_hold_spaces_and_slashes(tmp_path):
    samples = load(write_aircraft(tmp_path), "aircraft", "val")
    assert [s.target.text for s in samples] == ["707-320", "F-16A/B", "Cessna 172"]
    assert [s.meta["label"] for s in samples] == [0, 2, 1]


def test_trap_aircraft_box_counts_from_one_and_the_number_keeps_its_zeros(tmp_path):
    samples = load(write_aircraft(tmp_path), "aircraft", "val")
    assert samples[0].meta["box"] == (0, 0, 64, 28)
    assert samples[1].images[0].source.name == "0034309.jpg"


def test_trap_aircraft_banner_can_be_cut(tmp_path):
    write_aircraft(tmp_path)
    assert load(tmp_path, "aircraft", "val")[0].size == (64, 48)
    assert load(tmp_path, "aircraft", "val", crop_banner=True)[0].size == (64, 48 - aircraft.BANNER_ROWS)


@pytest.mark.parametrize("row", ["1514522 707-321", "1514522", "x 707-320", "../1 707-320"])
def test_aircraft_bad_rows(row, tmp_path):
    with pytest.raises(DataError, match=r"images_variant_val\.txt: line 1"):
        load(write_aircraft(tmp_path, (row,)), "aircraft", "val")


def test_trap_real_aircraft_has_100_variants():
    rows = read_test_list(real("visual_rft_lists/fgvc_aircraft_test.tsv"))
    assert len(rows) == 3333
    assert {label for _, _, label, _ in rows} == set(range(100))
    assert set(Counter(label for _, _, label, _ in rows).values()) == {33, 34}


def test_trap_cars_labels_from_one_small_integers_and_boxes():
    root = real("cars")
    samples = load(root, "cars", "train")
    assert len(samples) == 8144
    first = samples[0]
    assert (first.meta["label"], first.meta["box"]) == (13, (38.0, 115.0, 569.0, 375.0))
    assert all(x2 - x1 > 0 and y2 - y1 > 0 for x1, y1, x2, y2 in (s.meta["box"] for s in samples))
    assert len({s.meta["label"] for s in samples}) == 196


def test_trap_cars_ids_carry_the_folder():
    assert load(real("cars"), "cars", "train")[0].id == "cars_train/00001"
    listed = load(real("cars"), "cars", "visual_rft_test", test_list=real("visual_rft_lists/stanford_cars_test.tsv"))
    assert (len(listed), listed[0].id) == (8041, "cars_test/00001")


def test_trap_cars_year_moves_to_the_front():
    from visurf.benchmarks.classification import read_mat

    names = [cars.year_first(str(n)) for n in read_mat(real("cars/cars_meta.mat"), "class_names")]
    assert names == lines(real("visual_rft_lists/stanford_cars.txt"))
    assert "2012 Ram C/V Cargo Van Minivan" in names


def test_trap_cars_test_file_of_the_devkit_has_no_classes(tmp_path):
    import shutil

    with pytest.raises(DataError, match=r"looked for devkit/cars_test_annos_withlabels\.mat"):
        load(real("cars"), "cars", "test")
    shutil.copy(real("cars/cars_meta.mat"), tmp_path)
    shutil.copy(real("cars/cars_test_annos.mat"), tmp_path / "cars_test_annos_withlabels.mat")
    with pytest.raises(DataError, match="row 0, field 'class': expected a class from 1 to 196"):
        load(tmp_path, "cars", "test")


@pytest.mark.parametrize(
    ("name", "file", "rows"),
    [
        ("pets", "pets_test.tsv", 3669),
        ("flowers102", "oxford_flowers_test.tsv", 2463),
        ("aircraft", "fgvc_aircraft_test.tsv", 3333),
        ("cars", "stanford_cars_test.tsv", 8041),
    ],
)
def test_published_test_lists(name, file, rows, tmp_path):
    samples = load(tmp_path, name, "visual_rft_test", test_list=real(f"visual_rft_lists/{file}"))
    assert len(samples) == len({s.id for s in samples}) == rows
    names = lines(real(f"visual_rft_lists/{file.replace('_test.tsv', '.txt')}"))
    assert all(s.meta["class_name"].lower() == names[s.meta["label"]].lower() for s in samples)


def test_published_list_paths_fit_a_root_with_or_without_their_folder(tmp_path):
    path = tmp_path / "list.tsv"
    path.write_text("image\tlabel0\tname\noxford_pets/images/a_1.jpg\t0\ta\n")
    picture(tmp_path / "oxford_pets/images/a_1.jpg")
    for root in (tmp_path, tmp_path / "oxford_pets"):
        (sample,) = load(root, "pets", "visual_rft_test", test_list=path)
        assert sample.images[0].source == tmp_path / "oxford_pets/images/a_1.jpg"


def test_published_list_errors(tmp_path):
    with pytest.raises(DataError, match="expected test_list"):
        load(tmp_path, "pets", "visual_rft_test")
    path = tmp_path / "list.tsv"
    for row, message in (
        ("a.jpg\t0", "three|separated by tabs"),
        ("a.jpg\tx\ty", "label from 0"),
        ("../a.jpg\t0\ty", "image path"),
    ):
        path.write_text(f"image\tlabel0\tname\n{row}\n")
        with pytest.raises(DataError, match=f"list.tsv: line 2.*({message})"):
            load(tmp_path, "pets", "visual_rft_test", test_list=path)
    path.write_text("image\tlabel0\tname\noxford_flowers/jpg/a.jpg\t0\trose\n")
    with pytest.raises(DataError, match="expected 'pink primrose' for label 0, got 'rose'"):
        load(tmp_path, "flowers102", "visual_rft_test", test_list=path)


def test_real_lists_are_the_ones_of_the_published_maps():
    assert len(read_json(real("visual_rft_eval/exist_map_coco_Qwen2_vl_2B_baseline.json"))) == 5000
