"""What goes wrong on one process is agreed on by all: skipped steps, smaller rows, damaged checkpoints in parts."""

import pytest
import torch

from processes import run_worlds
from test_training import deterministic, same_weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("faulty")


@pytest.fixture(scope="module")
def found(checkpoints, folder):
    """Everything that two processes did."""
    checkpoint = str(checkpoints["qwen2_5_vl"])
    jobs = {f"{how} {mode}": ("spoilt", {"checkpoint": checkpoint, "mode": mode, "how": how}) for mode, how in CASES}
    jobs["whole"] = ("run", {"out": str(folder / "whole"), "parallel": "fsdp2"})
    harmed = {"resume": str(folder / "whole"), "harm": "checkpoints/step-000004/optimizer/__1_0.distcp", "parallel": "fsdp2"}
    jobs["harmed"] = ("run", {"out": str(folder / "harmed"), **harmed})
    return run_worlds(folder, [(2, jobs)])


CASES = [("ddp", "nan"), ("fsdp2", "nan"), ("ddp", "memory"), ("ddp", "")]


@pytest.mark.parametrize("mode", ["ddp", "fsdp2"])
def test_a_step_that_is_not_finite_on_one_process_is_skipped_on_all(found, mode):
    result = found[2, f"nan {mode}"]
    first, second, third = result["steps"]
    assert [step["metrics"]["train/step_skipped"] for step in result["steps"]] == [0, 1, 0]
    assert all(torch.equal(first["weights"][n], second["weights"][n]) for n in first["weights"])
    assert not all(torch.equal(second["weights"][n], third["weights"][n]) for n in first["weights"])
    assert all(torch.isfinite(w).all() for w in third["weights"].values())
    assert first["rate"] > second["rate"] > third["rate"]
    assert "log-probs" not in second["kinds"][0]
    assert "log-probs" in second["kinds"][1]
    assert result["sums"][0] == result["sums"][1]


def test_memory_that_runs_out_on_one_process_makes_all_repeat_the_step(found):
    plain, short = (found[2, f"{how} ddp"] for how in ("", "memory"))
    assert [step["budgets"] for step in plain["steps"]] == [[400, 400]] * 3
    assert short["steps"][0]["budgets"] == [400, 400]
    assert short["steps"][1]["budgets"] == short["steps"][2]["budgets"]
    assert short["steps"][1]["budgets"][0] == short["steps"][1]["budgets"][1] < 400
    for a, b in zip(plain["steps"], short["steps"], strict=True):
        assert b["metrics"]["policy/grad_norm"] == pytest.approx(a["metrics"]["policy/grad_norm"], rel=1e-4)
        assert b["metrics"]["loss"] == pytest.approx(a["metrics"]["loss"], rel=1e-4, abs=1e-6)
    assert short["sums"][0] == short["sums"][1]


def test_a_damaged_part_of_a_checkpoint_sends_all_processes_to_the_one_before(found, folder):
    assert found[2, "whole"] == [None, None]
    for said in found[2, "harmed"]:
        assert len(said) == 1
        assert "step-000004 is damaged: optimizer/__1_0.distcp is not what was written; going on from " in said[0]
        assert said[0].endswith("step-000002")
    assert same_weights(folder / "whole" / "model", folder / "harmed" / "model")
    assert deterministic(folder / "whole" / "metrics.jsonl") == deterministic(folder / "harmed" / "metrics.jsonl")
    assert sorted(p.name for p in (folder / "harmed" / "checkpoints").iterdir()) == [
        "damaged-step-000004",
        "step-000002",
        "step-000004",
    ]
