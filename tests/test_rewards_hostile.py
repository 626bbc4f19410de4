"""What a model may write: no input raises anything but documented errors, and long texts take linear time."""

import time

import pytest
from hypothesis import given

from hostile import REWARDS, SIZE, hostile, long_texts, structured
from visurf.rewards import grading
from visurf.types import DataError


@pytest.fixture(autouse=True)
def _no_repair(monkeypatch):
    # The repair of broken JSON runs in a process with a time limit of its own.
    def too_long(*_, **__):
        raise grading.GradingTimeout

    monkeypatch.setattr(grading, "ask", too_long)


def outcome(reward, text, solution):
    try:
        value = reward(text, solution)
    except DataError:
        return None
    return value["total"] if isinstance(value, dict) else value


@given(hostile, hostile)
def test_no_text_raises_anything_undocumented(text, solution):
    for reward, good in REWARDS.values():
        for label in (good, solution, f"<answer>{solution}</answer>"):
            value = outcome(reward, text, label)
            assert value is None or isinstance(value, int | float)


@given(structured, structured)
def test_no_json_raises_anything_undocumented(data, true):
    for text in (
        f"<think></think><answer>{data}</answer>",
        f"<answer>```json{data}```</answer>",
        f"<answer>[{data}]</answer>",
    ):
        for reward, good in REWARDS.values():
            for label in (good, true, f"<answer>{true}</answer>", f"<answer>```json{true}```</answer>"):
                outcome(reward, text, label)


@pytest.mark.parametrize("name", REWARDS)
def test_a_hundred_kilobytes_are_rated_in_linear_time(name):
    reward, good = REWARDS[name]
    for text in long_texts():
        # CPU time, best of three, with room for a slow machine: a search that is not linear takes seconds to hours here.
        # tests/soak/fuzz.py holds the same inputs to 50 ms.
        times = []
        for _ in range(3):
            started = time.thread_time()
            outcome(reward, text, good)
            times.append((time.thread_time() - started) * SIZE / len(text))
            if times[-1] < 0.25:
                break
        assert min(times) < 0.25, f"{min(times):.3f} s on {text[:60]!r}.."
