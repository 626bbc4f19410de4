"""The reference cases of group and loss mathematics: every one agrees, and a wrong number would be seen."""

import copy
import json

import pytest

from visurf.fixtures_groups import GROUP_FAMILIES

SIZES = {"visurf": 82, "grpo_advantages": 127, "grpo_loss": 84, "verl_grpo": 66, "luffy": 69}


def cases_of(shared, family):
    return json.loads((shared / "fixtures" / f"{family}.json").read_text(encoding="utf-8"))["cases"]


@pytest.mark.parametrize("family", GROUP_FAMILIES)
def test_every_case_of_the_family_agrees(shared, family):
    cases = cases_of(shared, family)
    assert len(cases) >= SIZES[family]
    assert [case["id"] for case in cases if not GROUP_FAMILIES[family](case)[0]] == []


def numbers(value, path=()):
    """Paths of all finite numbers in a nested value; booleans are none."""
    if isinstance(value, dict):
        return [p for k, v in value.items() for p in numbers(v, (*path, k))]
    if isinstance(value, list):
        return [p for i, v in enumerate(value) for p in numbers(v, (*path, i))]
    return [path] if isinstance(value, int | float) and not isinstance(value, bool) else []


@pytest.mark.parametrize("family", GROUP_FAMILIES)
def test_a_number_that_is_off_is_seen_wherever_it_stands(shared, family):
    for case in cases_of(shared, family)[::9]:
        for path in numbers(case["expected"]):
            changed = copy.deepcopy(case)
            holder = changed["expected"] if path else changed
            for step in path[:-1]:
                holder = holder[step]
            holder[path[-1]] += 0.01 * max(1.0, abs(holder[path[-1]]))
            assert not GROUP_FAMILIES[family](changed)[0], (case["id"], path)


@pytest.mark.parametrize("family", GROUP_FAMILIES)
def test_the_input_is_not_changed(shared, family):
    for case in cases_of(shared, family)[::5]:
        before = copy.deepcopy(case)
        GROUP_FAMILIES[family](case)
        assert case == before


def test_an_expected_failure_that_returns_a_number_is_seen(shared):
    case = cases_of(shared, "verl_grpo")[0]
    assert not GROUP_FAMILIES["verl_grpo"]({**case, "expected": {"raises": "KeyError"}})[0]
