"""Checkpoints that cannot be written, and checkpoints that are not what was written."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from test_training import deterministic, same_weights, small
from visurf import checkpoint, checksums
from visurf.checkpoint import CheckpointError, Progress
from visurf.training import train


def tiny_run(out, **changes):
    """A run of a few seconds: four steps, a checkpoint after every one."""
    from visurf.config import merge

    quick = {
        "data": {"validation": ""},
        "rollout": {"group_size": 2, "max_tokens": 16},
        "prompts_per_step": 2,
        "steps": 4,
        "checkpoint": {"every": 1, "keep": 3},
        "evaluation": {"every": 0},
    }
    return small(out, **merge(quick, changes))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing happened to."""
    out = tmp_path_factory.mktemp("faults") / "whole"
    train(tiny_run(out))
    return out


@pytest.fixture
def stopped(whole, tmp_path):
    """A copy of the run as it was after three steps."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "checkpoints" / "step-000004")
    shutil.rmtree(out / "model")
    return out


def same_run(first, second):
    assert same_weights(first / "model", second / "model")
    for name in ("metrics.jsonl", "rollouts.jsonl"):
        assert deterministic(first / name) == deterministic(second / name)


class Network:
    """A network whose weights are so many bytes in one file."""

    def __init__(self, size):
        self.size = size

    def save_pretrained(self, folder, state_dict=None):
        folder.mkdir()
        (folder / "weights").write_bytes(b"w" * self.size)


def write(out, step, size=1000, keep=0):
    checkpoint.save(out, Progress(step=step), Network(size), {"tensor": torch.arange(10)}, keep)


def test_every_file_of_a_checkpoint_has_its_checksum(whole):
    folder = checkpoint.latest(whole)
    listed = checksums.read_list(folder)
    assert set(listed) == set(checksums.files_in(folder)) >= {"progress.json", "state.pt", "model/model.safetensors"}
    assert checkpoint.damage(folder) == []
    if shutil.which("sha256sum"):
        checked = subprocess.run(["sha256sum", "--strict", "-c", checksums.LIST], cwd=folder, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "harm", "said"),
    [
        ("model/model.safetensors", truncate, "is not what was written"),
        ("model/model.safetensors", flip, "is not what was written"),
        ("state.pt", truncate, "is not what was written"),
        ("state.pt", Path.unlink, "is missing"),
        ("SHA256SUMS", truncate, "SHA256SUMS is no list of checksums"),
        ("SHA256SUMS", Path.unlink, "SHA256SUMS cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_recognised(stopped, name, harm, said):
    harm(stopped / "checkpoints" / "step-000003" / name)
    found, problems = checkpoint.newest_intact(stopped)
    assert found == stopped / "checkpoints" / "step-000002"
    assert len(problems) == 1
    assert "step-000003 is damaged" in problems[0]
    assert said in problems[0]
    assert sorted(p.name for p in found.parent.iterdir()) == ["damaged-step-000003", "step-000002"]


def test_the_run_goes_on_from_the_checkpoint_before_and_says_so(whole, stopped):
    flip(stopped / "checkpoints" / "step-000003" / "model" / "model.safetensors")
    with pytest.warns(UserWarning, match="step-000003 is damaged: model/model.safetensors is not .*; going on from .*step-000002"):
        train(tiny_run(stopped))
    same_run(whole, stopped)


def test_where_no_checkpoint_is_intact_nothing_is_begun_anew(stopped):
    before = (stopped / "metrics.jsonl").read_bytes()
    for folder in (stopped / "checkpoints").iterdir():
        truncate(folder / "state.pt")
    with pytest.raises(CheckpointError, match=r"no checkpoint of .* is intact: .*step-000003.*step-000002.*another out="):
        train(tiny_run(stopped))
    assert (stopped / "metrics.jsonl").read_bytes() == before
    assert checkpoint.steps_in(stopped)


def test_what_killed_processes_left_is_cleared_away(tmp_path):
    write(tmp_path, 1)
    for name in (".partial-step-000009", ".retired-step-000001"):
        shutil.copytree(tmp_path / "checkpoints" / "step-000001", tmp_path / "checkpoints" / name)
    write(tmp_path, 2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-000001", "step-000002"]


@pytest.fixture
def little_room(tmp_path):
    """A folder on a file system of one MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("this machine does not let us mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_costs_the_new_checkpoint_only(little_room):
    write(little_room, 1)
    stuffing = little_room / "stuffing"
    stuffing.write_bytes(b"x" * 900_000)
    with pytest.raises(CheckpointError, match=r"step 2 .*No space left on device.*of step 1, is intact.*same command"):
        write(little_room, 2, size=200_000)
    assert [p.name for p in (little_room / "checkpoints").iterdir()] == ["step-000001"]
    assert checkpoint.newest_intact(little_room) == (checkpoint.folder_of(little_room, 1), [])
    stuffing.unlink()
    write(little_room, 2, size=200_000)
    assert checkpoint.newest_intact(little_room) == (checkpoint.folder_of(little_room, 2), [])


FULL = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from test_faults_checkpoints import tiny_run
from visurf import checkpoint
from visurf.cli import main
import visurf.training
complete, saved = checkpoint.save, []

def save(out, progress, *arguments, **settings):
    # The third checkpoint meets a limit that its weights do not fit into.
    if progress.step == 3:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, resource.RLIM_INFINITY))
    complete(out, progress, *arguments, **settings)

checkpoint.save = save
import yaml
from visurf.config import to_dict
open(sys.argv[2] + ".yaml", "w").write(yaml.safe_dump(to_dict(tiny_run(sys.argv[2]))))
raise SystemExit(main(["train", sys.argv[2] + ".yaml", "--quiet"]))
"""


def test_a_run_on_a_full_disk_ends_with_a_clear_error_and_goes_on_later(whole, tmp_path):
    """The limit on the size of files is the system's own: writing really fails in the middle of the weights."""
    out = tmp_path / "run"
    command = [sys.executable, "-c", FULL, str(Path(__file__).parent), str(out)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 1, ran.stderr
    assert "visurf: the checkpoint of step 3 could not be written" in ran.stderr
    assert "File too large" in ran.stderr
    assert "the last one, of step 2, is intact" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["step-000001", "step-000002"]
    train(tiny_run(out))
    same_run(whole, out)


def test_a_folder_that_may_not_be_written_to_costs_the_new_checkpoint_only(whole, stopped, monkeypatch):
    """As a file system that was remounted read-only; the mode of a folder does not hold for everybody."""
    make = Path.mkdir

    def refuse(self, *arguments, **settings):
        if self.name.startswith(".partial-"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        make(self, *arguments, **settings)

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(CheckpointError, match=r"step 4 .*Read-only file system.*of step 3, is intact"):
        train(tiny_run(stopped))
    monkeypatch.undo()
    train(tiny_run(stopped))
    same_run(whole, stopped)


def test_a_failing_write_of_the_state_leaves_no_trace(tmp_path, monkeypatch):
    write(tmp_path, 1)
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(RuntimeError("PytorchStreamWriter failed writing file")))
    with pytest.raises(CheckpointError, match="PytorchStreamWriter"):
        write(tmp_path, 2)
    assert json.loads((checkpoint.latest(tmp_path) / "progress.json").read_text())["step"] == 1
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]
