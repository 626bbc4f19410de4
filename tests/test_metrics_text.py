"""Text metrics against hand-computed values."""

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visurf.metrics import (
    Share,
    accuracy,
    anls,
    anls_score,
    edit_distance,
    extract_mathvista,
    grouped_accuracy,
    mathvista_correct,
    normalise_mathvista,
    relaxed_accuracy,
    relaxed_correct,
)


def plain_distance(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        previous, row = row, [i]
        for j, y in enumerate(b, start=1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (x != y)))
    return row[-1]


@given(st.text("abcé", max_size=80), st.text("abcé", max_size=80))
def test_edit_distance_equals_the_plain_table(a, b):
    assert edit_distance(a, b) == plain_distance(a, b)


def test_edit_distance_of_long_texts_is_fast():
    start = time.perf_counter()
    assert edit_distance("ab" * 20_000, "a short option") > 39_000
    assert time.perf_counter() - start < 2


def test_accuracy():
    assert accuracy([True, False, True, True]) == 0.75
    with pytest.raises(ValueError, match="no samples"):
        accuracy([])


def test_grouped_accuracy():
    shares = grouped_accuracy([True, False, True], [["a", "b"], ["a"], ["b", "b"]])
    assert shares == {"a": Share(1, 2), "b": Share(2, 2)}
    assert math.isnan(Share(0, 0).fraction)
    with pytest.raises(ValueError, match="verdicts"):
        grouped_accuracy([True], [])


@pytest.mark.parametrize(
    ("prediction", "truth", "right"),
    [
        ("100", "100", True),
        ("95", "100", True),
        ("94.9", "100", False),
        ("105.1", "100", False),
        ("-105", "-100", True),
        ("-100", "100", False),
        ("50%", "0.5", True),
        ("50", "50%", False),
        ("0", "0", True),
        ("0.0", "0", False),
        ("0.01", "0", False),
        ("Blue", "blue", True),
        ("blue ", "blue", False),
        ("12 kg", "12", False),
        ("nan", "nan", True),
        ("inf", "inf", True),
        ("nan", "5", False),
        ("", "5", False),
        ("%", "%", True),
    ],
)
def test_relaxed_correct(prediction, truth, right):
    assert relaxed_correct(prediction, truth) is right


def test_relaxed_accuracy_counts_failures():
    assert relaxed_accuracy(["100", None, "x", "yes"], ["101", "1", "y", "Yes"]) == 0.5
    assert relaxed_accuracy(["110"], ["100"], tolerance=0.1) == 1.0


@pytest.mark.parametrize(
    ("prediction", "truths", "score"),
    [
        ("hello", ["hello"], 1.0),
        ("HELLO\t world", ["hello world"], 1.0),
        ("helo", ["hello"], 0.8),
        ("hexxo", ["hello", "hexxx"], 0.8),
        ("ab", ["ax"], 0.5),
        ("abc", ["axx"], 0.0),
        ("", ["x"], 0.0),
        ("", [""], 1.0),
    ],
)
def test_anls_score(prediction, truths, score):
    assert anls_score(prediction, truths) == pytest.approx(score)


def test_anls():
    assert anls_score("ab", ["ax"], keep_at_threshold=False) == 0.0
    assert anls(["hello", None, "abc", "helo"], [["hello"], ["x"], ["axx"], ["hello"]]) == pytest.approx(0.45)
    with pytest.raises(ValueError, match="no accepted answer"):
        anls(["x"], [[]])


@pytest.mark.parametrize("metric", [relaxed_accuracy, anls])
def test_one_entry_per_sample(metric):
    with pytest.raises(ValueError, match="no samples"):
        metric([], [])
    with pytest.raises(ValueError, match="None for a failed"):
        metric(["a"], [])


COLOURS = ["red", "green", "blue"]


@pytest.mark.parametrize(
    ("extraction", "choices", "expected"),
    [
        ("B", COLOURS, "green"),
        ("  B\u2028", COLOURS, "green"),
        ("(c) red", COLOURS, "blue"),
        ("(a) or (b)", COLOURS, "red"),
        ("b", COLOURS, "red"),  # a small letter is no option: three substitutions or more, the first of equals
        ("blu", COLOURS, "blue"),
        ("D", COLOURS, "red"),
        ("(D)", ["x", "D"], "D"),
        ("A", ["B", "A"], "B"),
        ("", COLOURS, "red"),
        (None, ["None of these", "x"], "x"),
        (5, ["4", "5"], "5"),
    ],
)
def test_mathvista_choice(extraction, choices, expected):
    assert normalise_mathvista(extraction, question_type="multi_choice", answer_type="text", choices=choices) == expected


def test_mathvista_empty_choice():
    fields = {"question_type": "multi_choice", "answer_type": "text"}
    assert normalise_mathvista(" ", **fields, choices=COLOURS, ignore_empty=True) is None
    for choices in (None, []):
        with pytest.raises(ValueError, match="options"):
            normalise_mathvista("A", **fields, choices=choices)
    with pytest.raises(ValueError, match="options"):
        extract_mathvista("A", **fields)


@pytest.mark.parametrize(
    ("extraction", "new", "old"),
    [
        ("5", "5", "5"),
        (" 5 ", "5", "5"),
        ("5.0", "5", None),
        ("-5.9", "-5", None),
        ("1e3", "1000", None),
        (5.7, "5", "5"),
        (True, "1", "1"),
        ("1_0", "10", "10"),
        ("\uff15", "5", "5"),
        ("5,000", None, None),
        ("inf", None, None),
        ("nan", None, None),
        (None, None, None),
        ([5], None, None),
        ("99999999999999999999", "100000000000000000000", "99999999999999999999"),
    ],
)
def test_mathvista_integer_rules(extraction, new, old):
    fields = {"question_type": "free_form", "answer_type": "integer"}
    assert normalise_mathvista(extraction, **fields) == new
    assert normalise_mathvista(extraction, **fields, integer_rule="int(x)") == old


def test_mathvista_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="rule"):
        normalise_mathvista("5", question_type="free_form", answer_type="integer", integer_rule="round")
    with pytest.raises(ValueError, match="kind of answer"):
        normalise_mathvista("5", question_type="free_form", answer_type="text")


@pytest.mark.parametrize(
    ("extraction", "precision", "expected"),
    [
        ("2.675", 2, "2.67"),
        ("0.125", 2.0, "0.12"),
        ("1", 1, "1.0"),
        ("-0.04", 1, "-0.0"),
        ("12.345", -1, "10.0"),
        ("1e20", 1, "1e+20"),
        ("nan", 1, "nan"),
        ("1.2", None, None),
        ("1.2", "x", None),
        ("1,2", 1, None),
        ("1.7e308", -308, None),
    ],
)
def test_mathvista_float(extraction, precision, expected):
    fields = {"question_type": "free_form", "answer_type": "float"}
    assert normalise_mathvista(extraction, **fields, precision=precision) == expected


def test_mathvista_list_and_comparison():
    fields = {"question_type": "free_form", "answer_type": "list"}
    assert normalise_mathvista([1, 2], **fields) == "[1, 2]"
    assert normalise_mathvista("[1,2]", **fields) == "[1,2]"
    assert mathvista_correct("1.2", "1.2")
    assert not mathvista_correct("1.2", "1.20")


@pytest.mark.parametrize(
    ("response", "quick", "expected"),
    [
        ('The answer is "7".', True, "7"),
        ('The answer is "7".', False, None),
        ('x The answer is "1". The answer is "2".', True, '1". The answer is "2'),
        ('The answer is "a\nb".', True, None),
        ('The answer is "\nThe answer is "b". c', True, "b"),
        ('The answer is "7"', True, None),
        ('The answer is "".', True, ""),
        ('The answer is ".', True, None),
        ("", True, ""),
        (None, True, ""),
    ],
)
def test_mathvista_quick_extraction(response, quick, expected):
    got = extract_mathvista(response, question_type="free_form", answer_type="integer", quick=quick)
    assert got == expected


def test_mathvista_extraction_takes_linear_time():
    start = time.perf_counter()
    assert extract_mathvista('The answer is "' * 50_000, question_type="free_form", answer_type="list", quick=True) is None
    assert time.perf_counter() - start < 1


def test_mathvista_extraction_rules():
    choice = {"question_type": "multi_choice", "answer_type": "text", "choices": ["cat", "dog"]}
    assert extract_mathvista("cat", **choice) == "cat"
    assert extract_mathvista("Cat", **choice) is None
    assert extract_mathvista("1_0", question_type="free_form", answer_type="integer") == "10"
    assert extract_mathvista("5.0", question_type="free_form", answer_type="integer") is None
    assert extract_mathvista("1e2", question_type="free_form", answer_type="float") == "100.0"
