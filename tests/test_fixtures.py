"""The recorded results of the published implementations, and the runner that compares them."""

import copy
import json
import subprocess
import sys

import pytest

from visurf.fixtures import FAMILIES, check_file
from visurf.fixtures.agreement import Raised, agrees
from visurf.types import DataError

# What the reference folder holds at least, per family.
SIZES = {
    "visionreasoner": 272, "segzero": 225, "visual_rft_detection": 242, "visual_rft_lisa": 143,
    "visual_rft_classification": 164, "vlm_r1_rec": 155, "vlm_r1_detection": 209, "vlm_r1_text": 349, "vlm_r1_aux": 143,
    "r1v_math": 185, "gres": 89, "reasonseg": 82, "coco_map": 106, "roc_auc": 76, "mathvista": 267, "visurf": 82,
    "grpo_advantages": 127, "grpo_loss": 84, "verl_grpo": 66, "luffy": 69,
}  # fmt: skip
NEEDS = {"vlm_r1_text": "math_verify", "vlm_r1_aux": "json_repair", "r1v_math": "mathruler", "coco_map": "pycocotools"}
GROUPS = ("visurf", "grpo_advantages", "grpo_loss", "verl_grpo", "luffy")


def test_every_family_of_the_reference_folder_is_known(shared):
    assert {path.stem for path in (shared / "fixtures").glob("*.json")} == set(FAMILIES) == set(SIZES)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_recorded_case_agrees(shared, family):
    if family in NEEDS:
        pytest.importorskip(NEEDS[family])
    result = check_file(shared / "fixtures" / f"{family}.json")
    assert result.total >= SIZES[family]
    assert str(result) == f"{family}: {result.total} of {result.total} agree"


def cases_of(shared, family):
    return json.loads((shared / "fixtures" / f"{family}.json").read_text(encoding="utf-8"))["cases"]


def numbers(value, path=()):
    """Paths of all finite numbers in a nested value; booleans are none."""
    if isinstance(value, dict):
        return [p for k, v in value.items() for p in numbers(v, (*path, k))]
    if isinstance(value, list):
        return [p for i, v in enumerate(value) for p in numbers(v, (*path, i))]
    return [path] if isinstance(value, int | float) and not isinstance(value, bool) else []


@pytest.mark.parametrize("family", FAMILIES)
def test_a_number_that_is_off_is_seen_wherever_it_stands(shared, family):
    if family in NEEDS:
        pytest.importorskip(NEEDS[family])
    for case in cases_of(shared, family)[:: 9 if family in GROUPS else 40]:
        before = copy.deepcopy(case)
        for path in numbers(case["expected"])[:40]:
            changed = copy.deepcopy(case)
            holder = changed if not path else changed["expected"]
            for step in path[:-1]:
                holder = holder[step]
            holder[path[-1] if path else "expected"] += 0.01 * max(1.0, abs(holder[path[-1] if path else "expected"]))
            assert not FAMILIES[family].check(changed)[0], (case["id"], path)
        assert case == before, "the input must not be changed"


def test_an_expected_failure_that_returns_a_number_is_seen(shared):
    case = cases_of(shared, "verl_grpo")[0]
    assert not FAMILIES["verl_grpo"].check({**case, "expected": {"raises": "KeyError"}})[0]


def test_only_group_mathematics_needs_torch(shared):
    code = (
        "import sys, pathlib; from visurf.fixtures import FAMILIES, check_file\n"
        f"for path in sorted(pathlib.Path({str(shared / 'fixtures')!r}).glob('*.json')):\n"
        f"    if path.stem not in {(*GROUPS, *NEEDS)!r}: check_file(path)\n"
        "assert 'torch' not in sys.modules"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr


@pytest.fixture
def fixture_file(tmp_path):
    def write(expected, name="vlm_r1_aux"):
        cases = [{"id": i, "input": {"function": "clean_text", "text": "A."}, "expected": e} for i, e in enumerate(expected)]
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"cases": cases}))
        return path

    return write


def test_a_result_lists_its_first_disagreements_and_ends_with_the_count(fixture_file):
    result = check_file(fixture_file(["a", "b", "a", "b", "b", "b", "b", "b"]))
    lines = str(result).splitlines()
    assert lines[0] == "case 1: expected 'b', got 'a'"
    assert lines[-2] == "and 1 more"
    assert lines[-1] == "vlm_r1_aux: 2 of 8 agree"
    assert (result.agreed, result.total) == (2, 8)


def test_an_unknown_family_and_another_layout_are_data_errors(fixture_file, tmp_path):
    with pytest.raises(DataError, match="unknown family"):
        check_file(fixture_file([], name="nothing"))
    path = tmp_path / "segzero.json"
    for text in ('{"cases": [{"id": 1}]}', '{"cases": []}', "[1]", "{", "\xff"):
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(DataError, match="not a fixture file"):
            check_file(path)
    with pytest.raises(DataError, match="not a fixture file"):
        check_file(tmp_path / "luffy.json")


@pytest.mark.parametrize(
    ("expected", "got", "tolerance", "same"),
    [
        (1.0, 1, 0.0, True),
        (1.0, 1.0 + 1e-12, 0.0, False),
        (1.0, 1.0 + 1e-12, 1e-9, True),
        ("NaN", float("nan"), 0.0, True),
        ("Infinity", float("inf"), 0.0, True),
        ("-Infinity", float("inf"), 0.0, False),
        ("NaN", "NaN", 0.0, True),
        (0.0, float("nan"), 1.0, False),
        (True, 1, 0.0, False),
        (None, 0, 0.0, False),
        ({"raises": "X"}, Raised("Y"), 0.0, True),
        ({"raises": "X"}, Raised("Y", defect=True), 0.0, False),
        ({"a": 1}, {"raises": "X"}, 0.0, False),
        ({"a": 1}, {"a": 1, "b": 2}, 0.0, False),
        ({}, {"a": 1}, 0.0, False),
        (1, True, 0.0, False),
        ("a", "a", 0.0, True),
        ("nan", "NaN", 0.0, False),
        (1e6, 1e6 + 1e-4, 1e-9, True),
        (0.0, Raised("Y"), 0.0, False),
        ([1, 2], (1, 2), 0.0, True),
        ([1, 2], [1], 0.0, False),
        ({"a": 1}, {}, 0.0, False),
    ],
)
def test_comparison_of_values(expected, got, tolerance, same):
    assert agrees(expected, got, tolerance) is same
