"""Every value of every layout replaced by a wrong one: a loader returns samples or raises DataError, never anything else."""

import copy
import json
import pickle
import random

import pytest

from benchmark_miniatures import coco_data, dump, reference
from test_benchmarks_detection import lvis_data
from test_benchmarks_hub import DETECT, SOLUTION, encoded, evaluation, hub_reference
from test_benchmarks_referring import BOTH, NO_TARGET, chat, write_grefcoco, write_reasonseg, write_refcoco
from test_benchmarks_tasks import free, problem, talk, write_omniact, write_real_iad
from visurf.benchmarks import get_benchmark
from visurf.benchmarks.lmms_refcoco import from_rows as refcoco_rows
from visurf.benchmarks.rows import RowReport
from visurf.benchmarks.virft import classification_from_rows, detection_from_rows
from visurf.benchmarks.visionreasoner import evaluation_from_rows, training_from_rows
from visurf.types import DataError

WRONG = [None, "x", "", -1, 3.5, 10**30, float("nan"), [], {}, True, [None], {"x": 1}]
DELETED = object()


def nodes(data, path=()):
    yield path
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from nodes(value, (*path, key))


def mutations(data):
    for path in nodes(data):
        for wrong in [*WRONG, DELETED]:
            if not path:
                if wrong is not DELETED:
                    yield path, copy.deepcopy(wrong)
                continue
            changed = copy.deepcopy(data)
            parent = changed
            for key in path[:-1]:
                parent = parent[key]
            if wrong is DELETED:
                del parent[path[-1]]
            else:
                parent[path[-1]] = copy.deepcopy(wrong)
            yield path, changed


def check(data, load, limit=None):
    changes = list(mutations(data))
    if limit is not None:
        changes = random.Random(0).sample(changes, min(limit, len(changes)))
    for path, changed in changes:
        try:
            samples = load(changed, RowReport("skip"))
        except DataError:
            continue
        except Exception as error:
            raise AssertionError(f"{path} -> {changed!r:.300}: {type(error).__name__}: {error}") from error
        assert samples


def file_layouts(root):
    """Name, split, the JSON file that is broken, after writing a sound copy of the layout."""
    dump(root / "coco/annotations/instances_val2017.json", coco_data())
    yield "coco", "val", root / "coco", "annotations/instances_val2017.json"
    dump(root / "lvis/lvis_v1_val.json", lvis_data())
    yield "lvis", "val", root / "lvis", "lvis_v1_val.json"
    write_grefcoco(root / "gref", [BOTH, NO_TARGET])
    yield "grefcoco", "val", root / "gref", "grefcoco/grefs(unc).json"
    write_refcoco(root / "ref", [reference(1, 1774)])
    yield "refcoco", "val", root / "ref", "refcoco/instances.json"
    write_reasonseg(root / "rs/val")
    yield "reasonseg", "val", root / "rs", "val/a.json"
    dump(root / "lisa/lisa_train.json", [{"image_path": "a.jpg", "instruction": ["x"], "boxes": [[1, 2, 30, 40]]}, chat()])
    yield "lisa_grounding", "train", root / "lisa", "lisa_train.json"
    write_omniact(root / "omni")
    yield "omniact", "val", root / "omni", "val.json"
    yield "omniact", "val", root / "omni", "data/metadata/desktop/boxes/ibooks/screen_1.json"
    write_real_iad(root / "iad")
    yield "real_iad", "test", root / "iad", "realiad_jsons/audiojack.json"
    dump(root / "math/testmini.json", {"7": problem(), "8": free("5", "integer")})
    yield "mathvista", "testmini", root / "math", "testmini.json"
    dump(root / "math/query.json", {"7": "Hint"})
    yield "mathvista", "testmini", root / "math", "query.json"
    dump(root / "chart/val/val_augmented.json", [{"imgname": "1.png", "query": "x", "label": "1"}])
    dump(root / "chart/val/val_human.json", [{"imgname": "1.png", "query": "x", "label": "1"}])
    yield "chartqa", "val", root / "chart", "val/val_human.json"
    row = {"questionId": 5, "question": "Who?", "image": "documents/x.png", "answers": ["Ann"], "question_types": ["form"]}
    dump(root / "doc/val_v1.0.json", {"data": [row]})
    yield "docvqa", "val", root / "doc", "val_v1.0.json"
    rec = {"image": "a.jpg", "problem": "p", "normal_caption": "dog", "solution": [1, 2, 30, 40]}
    dump(root / "r1/rows.jsonl", [talk(), rec])
    yield "vlm_r1", "rows", root / "r1", "rows.jsonl"


@pytest.mark.parametrize("limit", [100, pytest.param(None, marks=pytest.mark.slow)])
def test_files_broken_anywhere(limit, tmp_path):
    for name, split, root, file in file_layouts(tmp_path):
        benchmark, path = get_benchmark(name), root / file
        sound = json.loads(path.read_text())

        def load(changed, report, *, benchmark=benchmark, path=path, root=root, split=split):
            dump(path, changed)
            return benchmark.load(root, split, report=report)

        check(sound, load, limit)
        dump(path, sound)


def test_pickles_broken_anywhere(tmp_path):
    write_refcoco(tmp_path, [])

    def load(changed, report):
        (tmp_path / "refcoco/refs(unc).p").write_bytes(pickle.dumps(changed, 2))
        return get_benchmark("refcoco").load(tmp_path, "val", report=report)

    check([reference(1, 1774), reference(2, 1775)], load)


SIZE = {"img_height": 48, "img_width": 64}
ROWS = [
    (detection_from_rows, {"problem": DETECT.format("bus"), "solution": "<answer>[{'Position': [1, 2, 3, 4]}]</answer>"}),
    (detection_from_rows, {"problem": DETECT.format("bus"), "solution": "<answer>[{'Confidence': [1]}, 3]</answer>"}),
    (classification_from_rows, {"problem": "a plant", "solution": "<answer>rose</answer>"}),
    (training_from_rows, {"id": "1", "problem": "the dog", "solution": SOLUTION, **SIZE}),
    (training_from_rows, {"id": "1", "problem": "the dog", "solution": "[]", **SIZE}),
    (evaluation_from_rows, evaluation(bbox=[1, 2, 30, 40], image=None)),
    (evaluation_from_rows, evaluation(mask=[[True, False], [False, False]], image=None, img_height=2, img_width=2)),
    (evaluation_from_rows, evaluation(count=3, image=None)),
    (refcoco_rows, hub_reference(image=None)),
]


@pytest.mark.parametrize(("read", "row"), ROWS)
def test_rows_broken_anywhere(read, row):
    def load(changed, report):
        rows = changed if isinstance(changed, list) else [changed]
        rows = [{**r, "image": encoded()} if isinstance(r, dict) and r.get("image", 0) in (None, 0) else r for r in rows]
        return read(rows, report=report)

    check([row], load)
