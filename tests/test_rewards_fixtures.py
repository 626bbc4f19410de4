"""The recorded results of the published implementations, and the runner that compares them."""

import json
import os
from pathlib import Path

import pytest

from visurf.fixtures import FAMILIES, Raised, agrees, check_file
from visurf.types import DataError

SHARED = Path(os.environ.get("VISURF_SHARED") or Path(__file__).parents[1].parent / "shared")
TEXT_FAMILIES = [
    "visionreasoner",
    "segzero",
    "visual_rft_detection",
    "visual_rft_lisa",
    "visual_rft_classification",
    "vlm_r1_rec",
    "vlm_r1_detection",
    "vlm_r1_text",
    "vlm_r1_aux",
    "r1v_math",
]
GRADED = {"vlm_r1_text": "math_verify", "vlm_r1_aux": "json_repair", "r1v_math": "mathruler"}


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_every_recorded_case_agrees(family):
    path = SHARED / "fixtures" / f"{family}.json"
    if not path.exists():
        pytest.skip(f"no fixtures at {path.parent}")
    if family in GRADED:
        pytest.importorskip(GRADED[family])
    result = check_file(path)
    assert result.total > 100
    assert str(result) == f"{family}: {result.total} of {result.total} agree"


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
    path.write_text('{"cases": [{"id": 1}]}')
    with pytest.raises(DataError, match="not a fixture file"):
        check_file(path)


def test_every_runner_can_be_imported():
    for name in TEXT_FAMILIES:
        assert callable(FAMILIES[name].load())


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
        (0.0, Raised("Y"), 0.0, False),
        ([1, 2], (1, 2), 0.0, True),
        ([1, 2], [1], 0.0, False),
        ({"a": 1}, {}, 0.0, False),
    ],
)
def test_comparison_of_values(expected, got, tolerance, same):
    assert agrees(expected, got, tolerance) is same
