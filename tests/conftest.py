"""What tests share: the embedded model, tiny random ones, and the neighbouring folder with reference data."""

import os
from pathlib import Path

import pytest
import torch

from naive import load_plain
from tiny import load_random, save_family, save_random
from visurf.models import FAMILIES, load_model
from visurf.rollout import local
from visurf.rollout.fixed import FixedBatch

SHARED = Path(os.environ.get("VISURF_SHARED") or Path(__file__).parents[1].parent / "shared")


@pytest.fixture(scope="session")
def shared():
    """The folder with reference cases and real samples; tests that need it are skipped without it."""
    if not SHARED.is_dir():
        pytest.skip("the folder with reference data is not there")
    return SHARED


@pytest.fixture(scope="session")
def mini():
    """The embedded model. Do not change its weights."""
    return load_model("mini")


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Folders of tiny random checkpoints, by architecture."""
    kinds = ("qwen2_5_vl", "qwen2_vl")
    return {kind: save_random(tmp_path_factory.mktemp(kind), kind) for kind in kinds}


@pytest.fixture(scope="session")
def random_models(checkpoints):
    """Architecture -> (model through the library, the same weights through plain transformers). Do not change their weights."""
    return {kind: (load_random(folder), load_plain(folder)) for kind, folder in checkpoints.items()}


@pytest.fixture(scope="session")
def family_checkpoints(tmp_path_factory):
    """Folders of tiny random checkpoints of every family."""
    return {name: save_family(tmp_path_factory.mktemp(name), name) for name in FAMILIES}


@pytest.fixture(scope="session")
def family_models(family_checkpoints):
    """Family -> (model through the library, the same weights through plain transformers). Do not change their weights."""
    return {name: (load_model(folder), load_plain(folder)) for name, folder in family_checkpoints.items()}


@pytest.fixture
def tiny(checkpoints):
    """A fresh tiny random Qwen2.5-VL that a test may change."""
    return load_random(checkpoints["qwen2_5_vl"])


@pytest.fixture(params=["changing", "fixed"])
def engine(request, monkeypatch):
    """Decoding in changing shapes, as on a CPU, and in fixed ones, as on a GPU (there the steps are also recorded)."""
    if request.param == "fixed":
        monkeypatch.setattr(local, "new_batch", FixedBatch)
    return request.param


@pytest.fixture(autouse=True)
def _deterministic():
    torch.manual_seed(0)
