"""Mathematical answers, and the worker that grades them."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visurf.rewards import grading, mathematics

pytest.importorskip("mathruler.grader")
pytest.importorskip("math_verify")


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{1} \boxed{42}", "42"),
        (r"\boxed{ \frac{1}{2} }", r"\frac{1}{2}"),
        (r"\boxed{42", None),
        (r"\boxed{42} \boxed{", None),
        (r"\boxed {42}", None),
        (r"\boxed{}", ""),
    ],
)
def test_boxed_content(text, content):
    assert mathematics.boxed_content(text) == content


@pytest.mark.parametrize(
    ("answer", "truth", "accuracy"),
    [
        ("42", "42", 1),
        ("42.0", "42", 1),
        ("42.5", "42", 0),
        ("1/2", "0.5", 1),
        ("x+1", "1+x", 1),
        ("cat", "dog", 0),
        ("42\n", " 42 ", 1),
    ],
)
def test_answer_in_tags(answer, truth, accuracy):
    score = mathematics.answer_score(f"<think>so</think><answer>{answer.strip()}</answer>", truth)
    assert score == {"accuracy": accuracy, "format": 1, "total": (accuracy + 1) / 2}


def test_an_answer_over_several_lines_is_not_seen():
    assert mathematics.answer_accuracy("<answer>\n42\n</answer>", "42") == 0
    assert mathematics.answer_accuracy("42", "42") == 1


@pytest.mark.parametrize(
    ("text", "expected"), [(r"\boxed{42}", 1), (r"\boxed{1}", 0.1), ("42", 0), (r"\boxed{None}", 0), (r"\boxed{}", 0.1)]
)
def test_boxed_score(text, expected):
    assert mathematics.boxed_score(text, "42") == expected


def test_symbolic_match():
    assert mathematics.symbolic_match("the 1/2", "0.5")
    assert not mathematics.symbolic_match("no number", "0.5")


def test_the_worker_is_reused_and_replaced_after_a_time_out_off_the_main_thread():
    assert mathematics.answer_accuracy("42", "42") == 1
    first = grading._worker.process.pid
    caught = []

    def hopeless():
        try:
            # A power tower: the library evaluates it exactly.
            grading.ask("grade", "9**9**9**9+1", "9**9**9**9+2", limit_s=0.5)
        except grading.GradingTimeout as error:
            caught.append(error)

    started = time.monotonic()
    thread = threading.Thread(target=hopeless)
    thread.start()
    thread.join()
    assert time.monotonic() - started < 10
    assert len(caught) == 1
    assert "longer than 0.5 s" in str(caught[0])
    assert mathematics.answer_accuracy("42", "42") == 1
    second = grading._worker.process.pid
    assert second != first
    assert mathematics.answer_accuracy("41", "42") == 0
    assert grading._worker.process.pid == second


def test_a_worker_that_was_killed_is_replaced():
    assert mathematics.answer_accuracy("42", "42") == 1
    grading._worker.process.kill()
    grading._worker.process.wait()
    assert mathematics.answer_accuracy("42", "42") == 1
    grading.stop()
    assert mathematics.answer_accuracy("42", "42") == 1


def test_one_worker_serves_many_threads():
    results = {}
    threads = [
        threading.Thread(target=lambda n=n: results.setdefault(n, mathematics.answer_accuracy(str(n), str(n % 2))))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {0: 1, 1: 1, 2: 0, 3: 0}


@given(st.text(max_size=12), st.text(max_size=6))
def test_grading_raises_only_what_it_says(text, truth):
    try:
        assert 0 <= mathematics.answer_accuracy(text, truth) <= 1
        assert mathematics.boxed_score(rf"\boxed{{{text}}}", truth) in (0, 0.1, 1)
    except (grading.GradingError, grading.GradingTimeout):
        pass
