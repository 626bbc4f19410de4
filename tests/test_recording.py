"""What a run keeps to be looked at: whole groups, small pictures, the command; never more bytes than asked for."""

import json

import numpy as np
import pytest
from PIL import Image

from report_runs import HOSTILE, absent, boxes, group, present, scorer, write_run
from visurf.benchmarks.masks import ImageMask
from visurf.config import RecordingConfig
from visurf.control import Controls
from visurf.group_rows import group_row
from visurf.provenance import command_line
from visurf.recording import Recorder
from visurf.small_pictures import PictureStore, illustrate, is_stored_name, mask_runs, small_picture, target_masks
from visurf.types import ImageRef, Masks, Sample, Text


def rows_of(folder):
    # A separator of lines inside a text is no end of a row.
    return [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().split("\n") if line]


def unrolled(runs):
    width, height = runs["size"]
    found = np.concatenate([np.full(run, i % 2) for i, run in enumerate(runs["runs"])])
    return found.reshape(height, width)


def test_a_row_says_what_the_controls_did():
    sample = present(1)[0]
    right = boxes([round(v) for v in sample.target.boxes[0]])
    row = group_row(3, group(sample, [right, boxes([1, 1, 9, 9])]), scorer(), Controls())
    assert [m["source"] for m in row["members"]] == ["policy", "policy", "label"]
    assert row["members"][0]["measures"]["giou"] > 0.6 > row["members"][1]["measures"]["giou"]
    # The best rollout earns 7 with its thinking, the label 6 without.
    assert row["controls"] == {
        "aligned": True,
        "eliminated": ["thinking_format"],
        "own_reasoning": False,
        "smoothed": True,
        "before_smoothing": 6.0,
        "best_rollout": 7.0,
    }
    assert row["members"][2]["advantage"] == 0
    assert row["members"][2]["total"] == 6.0 != row["members"][2]["reward"]
    assert not row["rescued"]


def test_a_label_that_alone_brings_a_signal_rescues_its_group():
    sample = absent(1)[0]
    wrong = boxes([1, 1, 9, 9])
    row = group_row(1, group(sample, [wrong, wrong]), scorer(), Controls())
    assert row["rescued"]
    assert not row["smoothed"]
    assert row["members"][2]["advantage"] > 0


def test_pictures_are_small_and_named_by_what_they_show(tmp_path):
    big = Image.fromarray(np.random.default_rng(0).integers(0, 255, (900, 1200, 3), dtype=np.uint8))
    big.save(tmp_path / "a.png")
    name, data = small_picture(ImageRef(tmp_path / "a.png"), 300)
    assert is_stored_name(name)
    (tmp_path / name).write_bytes(data)
    with Image.open(tmp_path / name) as stored:
        assert stored.size == (300, 225)
        assert not stored.getexif()
    assert small_picture(ImageRef(big), 300) == (name, data)
    assert big.size == (1200, 900)  # the caller's picture stays what it is


def test_masks_survive_their_run_lengths():
    mask = np.zeros((40, 60), np.uint8)
    mask[5:20, 10:30] = 1
    mask[0, 0] = 255
    assert (unrolled(mask_runs(mask)) == (mask == 1)).all()
    assert (unrolled(mask_runs(np.ones((3, 2), np.uint8))) == 1).all()
    assert mask_runs(np.zeros((1, 1), np.uint8)) == {"size": [1, 1], "runs": [1]}
    large = np.zeros((2000, 1000), np.uint8)
    large[:1000] = 1
    small = unrolled(mask_runs(large))
    assert small.shape == (128, 64)
    assert small[:64].all()
    assert not small[64:].any()
    assert len(target_masks(Sample("1", (), "q", Masks((mask,))))) == 1


def test_a_mask_that_cannot_be_used_is_not_shown(tmp_path):
    Image.new("L", (8, 6)).save(tmp_path / "m.png")
    for mask in (ImageMask(tmp_path / "m.png"), ImageMask(tmp_path / "none.png")):
        assert target_masks(Sample("1", (), "q", Masks((mask,)))) == []
        assert target_masks(Sample("1", (), "q", Text("yes"), meta={"mask": mask})) == []


def test_a_store_keeps_to_its_limit(tmp_path):
    store = PictureStore(tmp_path / "pictures", 100)
    assert store.add("a" * 24 + ".png", b"x" * 60) is not None
    assert store.add("b" * 24 + ".png", b"x" * 60) is None
    assert store.add("a" * 24 + ".png", b"x" * 60) is not None  # there already, costs nothing
    assert store.add("c" * 24 + ".png", b"x" * 30, allowed=80) is None
    assert [p.stat().st_size for p in (tmp_path / "pictures").iterdir()] == [60]


@pytest.mark.parametrize(("text", "pictures"), [(0.02, 0.02), (1.0, 0.0), (0.0, 1.0)])
def test_a_run_keeps_to_its_limits_and_spreads_what_it_records(tmp_path, text, pictures):
    groups = [group(sample, [boxes([1, 1, 9, 9])] * 2) for sample in present(30)]
    write_run(tmp_path, groups, recording=RecordingConfig(text_mb=text, picture_mb=pictures))
    rows = rows_of(tmp_path)
    assert (tmp_path / "rollouts.jsonl").stat().st_size <= text * 2**20
    stored = list((tmp_path / "pictures").glob("*")) if pictures else []
    assert sum(p.stat().st_size for p in stored) <= pictures * 2**20
    if text == 0:
        assert not rows
    elif pictures == 0:
        assert len(rows) == 30
        assert all(row["pictures"] == [] for row in rows)
    else:
        steps = [row["step"] for row in rows]
        assert 3 < len(steps) < 30
        assert steps[-1] > 20  # not all spent at the beginning
        assert all(p is None or (tmp_path / "pictures" / p).is_file() for row in rows for p in row["pictures"])


def test_what_is_recorded_does_not_depend_on_an_interruption(tmp_path):
    settings, controls = RecordingConfig(text_mb=0.02, picture_mb=0.1), Controls()
    groups = [group(sample, [boxes([1, 1, 9, 9])] * 2) for sample in present(16)]

    def record(recorder, out, steps):
        with (out / "rollouts.jsonl").open("a") as rows:
            for step in steps:
                for row in recorder.rows(step, [groups[step - 1]], scorer(), controls):
                    rows.write(json.dumps(row, ensure_ascii=False) + "\n")

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    record(Recorder(whole, settings, 16), whole, range(1, 17))
    record(Recorder(cut, settings, 16), cut, range(1, 8))
    kept = (cut / "rollouts.jsonl").stat().st_size
    record(Recorder(cut, settings, 16, kept), cut, range(8, 10))  # steps that will be done again
    (cut / "rollouts.jsonl").open("r+b").truncate(kept)
    record(Recorder(cut, settings, 16, kept), cut, range(8, 17))
    assert rows_of(whole) == rows_of(cut)
    assert len({row["step"] for row in rows_of(whole)}) < 16


def test_hostile_texts_are_kept_word_for_word(tmp_path):
    write_run(tmp_path, [group(present(1)[0], HOSTILE)])
    (row,) = rows_of(tmp_path)
    assert tuple(m["text"] for m in row["members"][:-1]) == HOSTILE


def test_the_command_is_kept_as_it_was_typed(tmp_path):
    write_run(tmp_path, [])
    (start,) = [json.loads(line) for line in (tmp_path / "invocations.jsonl").read_text().splitlines()]
    assert start["command"] == command_line()
    assert {"python", "numpy", "torch", "transformers"} <= start["versions"].keys()
    assert command_line(["/venv/bin/python", "-m", "visurf", "train", "r.yaml", "a=b c"]) == "python -m visurf train r.yaml 'a=b c'"


def test_records_of_two_models_show_the_same_samples(tmp_path):
    samples = present(12)
    records = [{"id": s.id} for s in samples]
    limit = 3 * len(small_picture(samples[0].images[0], 384)[1])
    found = illustrate(records, samples, tmp_path / "a", limit, 384)
    again = illustrate(list(reversed(records)), list(reversed(samples)), tmp_path / "b", limit, 384)
    shown = {r["id"] for r in found if "pictures" in r}
    assert 0 < len(shown) < 12
    assert shown == {r["id"] for r in again if "pictures" in r}
    assert [r["id"] for r in found] == [s.id for s in samples]
