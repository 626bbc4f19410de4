"""Every task trains from a benchmark in its original layout: one step with a tiny random model."""

import math

import pytest

from benchmark_miniatures import coco_data, dump, picture
from test_benchmarks_classification import write_aircraft, write_pets
from test_benchmarks_referring import BOTH, NO_TARGET, write_grefcoco, write_reasonseg
from test_benchmarks_tasks import write_isic, write_omniact, write_real_iad
from visurf.config import load_config
from visurf.models.random_checkpoint import write_checkpoint
from visurf.training import train


def write_coco(root):
    dump(root / "annotations" / "instances_val2017.json", coco_data())
    for number in (42, 43):
        picture(root / "val2017" / f"0000000000{number}.jpg")


def write_expressions(root):
    write_grefcoco(root, [BOTH, NO_TARGET])
    picture(root / "images" / "train2014" / "COCO_train2014_000000000042.jpg")


def write_cats(root):
    write_pets(root, rows=("Abyssinian_100 1 1 1",))


def write_planes(root):
    write_aircraft(root, rows=("1514522 707-320",))


CASES = {
    "grefcoco": ("referring", "val", write_expressions),
    "reasonseg": ("reasoning_segmentation", "train", lambda root: write_reasonseg(root / "ReasonSeg" / "train")),
    "pets": ("classification", "trainval", write_cats),
    "aircraft": ("classification", "val", write_planes),
    "omniact": ("gui", "val", write_omniact),
    "real_iad": ("anomaly", "test", write_real_iad),
    "isic2018": ("lesion", "test", write_isic),
    "coco": ("detection", "val", write_coco),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint("qwen2_5_vl", tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("name", CASES)
def test_a_task_trains_on_its_benchmark(name, checkpoint, tmp_path):
    task, split, write = CASES[name]
    write(tmp_path)
    config = load_config(
        None,
        {
            "model": {"path": str(checkpoint)},
            "data": {"train": f"benchmark:{name}?root={tmp_path}&split={split}"},
            "task": {"name": task},
            "rollout": {"group_size": 2, "max_tokens": 4},
            "prompts_per_step": 1,
            "steps": 1,
            "out": str(tmp_path / "run"),
            "threads": 1,
        },
    )
    metrics = train(config).metrics
    assert metrics["label/reward"] > metrics["reward/total"]
    assert all(math.isfinite(v) for v in metrics.values() if isinstance(v, float))
