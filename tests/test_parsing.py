"""Every named parse error, and text that no parser may choke on."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visurf.geometry import Frame
from visurf.parsing import MAX_ANSWER, parse_choice, parse_number, parse_objects, parse_points, parse_text
from visurf.types import Choice, Number, Objects, ParseError, Points, Text

FRAME = Frame((1000.0, 1000.0), (500, 250))
OPTIONS = ("a cat", "a dog", "no animal")
PARSERS = {
    "objects": lambda text: parse_objects(text, FRAME),
    "points": lambda text: parse_points(text, FRAME),
    "text": parse_text,
    "number": parse_number,
    "choice": lambda text: parse_choice(text, OPTIONS),
}


def answer(content):
    return f"<think>so</think><answer>{content}</answer>"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[]", Objects((), ())),
        (" [] \n", Objects((), ())),
        ('[{"bbox_2d": [0,0,1000,1000]}]', Objects(((0.0, 0.0, 500.0, 250.0),), None)),
        ('[{"bbox_2d": [10,20,30,40], "point_2d": [20,30]}]', Objects(((5.0, 5.0, 15.0, 10.0),), ((10.0, 7.5),))),
        (
            '[{"bbox_2d": [10,20,30,40], "point_2d": [20,30]}, {"bbox_2d": [0,0,2,4]}]',
            Objects(((5, 5, 15, 10), (0, 0, 1, 1)), None),
        ),
        ('[{"bbox_2d": [10.5,20,30,40], "label": "x"}]', Objects(((5.25, 5.0, 15.0, 10.0),), None)),
        ('[{"bbox_2d": [-10,20,30,4000]}]', Objects(((-5.0, 5.0, 15.0, 1000.0),), None)),
    ],
)
def test_objects(content, expected):
    assert parse_objects(answer(content), FRAME) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no_answer"),
        ("[]", "no_answer"),
        ("<answer>[]", "no_answer"),
        ("<ANSWER>[]</ANSWER>", "no_answer"),
        (answer("[" + " " * MAX_ANSWER + "]"), "answer_too_long"),
        (answer(""), "not_json"),
        (answer("[{'bbox_2d': [1,2,3,4]}]"), "not_json"),
        (answer("[" * 50_000), "not_json"),
        (answer("[" + "9" * 5000 + "]"), "not_json"),
        (answer("{}"), "not_a_list"),
        (answer("null"), "not_a_list"),
        (answer("true"), "not_a_list"),
        (answer("[1]"), "bad_object"),
        (answer("[[1,2,3,4]]"), "bad_object"),
        (answer('["bbox_2d"]'), "bad_object"),
        (answer('[{"point_2d": [1,2]}]'), "bad_object"),
        (answer('[{"bbox_2d": [1,2,3]}]'), "bad_box"),
        (answer('[{"bbox_2d": [1,2,3,"4"]}]'), "bad_box"),
        (answer('[{"bbox_2d": [1,2,3,true]}]'), "bad_box"),
        (answer('[{"bbox_2d": [1,2,3,NaN]}]'), "bad_box"),
        (answer('[{"bbox_2d": [1,2,3,Infinity]}]'), "bad_box"),
        (answer('[{"bbox_2d": [1,2,3,1e12]}]'), "bad_box"),
        (answer('[{"bbox_2d": [1,2,3,' + "9" * 400 + "]}]"), "bad_box"),
        (answer('[{"bbox_2d": null}]'), "bad_box"),
        (answer('[{"bbox_2d": [5,2,5,4]}]'), "degenerate_box"),
        (answer('[{"bbox_2d": [1,9,3,4]}]'), "degenerate_box"),
        (answer('[{"bbox_2d": [1,2,3,4], "point_2d": [1]}]'), "bad_point"),
        (answer('[{"bbox_2d": [1,2,3,4], "point_2d": null}]'), "bad_point"),
    ],
)
def test_errors_of_objects(text, reason):
    found = parse_objects(text, FRAME)
    assert isinstance(found, ParseError)
    assert found.reason == reason


def test_the_first_answer_counts():
    assert parse_text("<answer>one</answer><answer>two</answer>") == Text("one")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('[{"point_2d": [100,100]}]', ((50.0, 25.0),)),
        ("[100, 100]", ((50.0, 25.0),)),
        ("[[100, 100], [0, 0]]", ((50.0, 25.0), (0.0, 0.0))),
        ("[]", ()),
    ],
)
def test_points(content, expected):
    assert parse_points(answer(content), FRAME) == Points(expected)


@pytest.mark.parametrize(
    ("content", "reason"), [("7", "not_a_list"), ('[{"bbox_2d": [1,2]}]', "bad_point"), ("[1,2,3]", "bad_point"), ("x", "not_json")]
)
def test_errors_of_points(content, reason):
    assert parse_points(answer(content), FRAME).reason == reason


def test_numbers_texts_and_choices():
    assert parse_number(answer(" 1,234.5 ")) == Number("1,234.5")
    assert parse_number(answer("1,234.5")).value == 1234.5
    for written in ("-1,234,567", "+1,234", "12,345.", "1,234e2"):
        assert parse_number(answer(written)).value == float(written.replace(",", ""))
    for written in ("1,5", "2,3,1", "1,2345", "1234,567", ",123", "1,234,56", "1,234,", "1,,234", "1.5,000"):
        assert parse_number(answer(written)).reason == "not_a_number", written
    assert parse_number(answer("five")).reason == "not_a_number"
    assert parse_number(answer("inf")).reason == "not_a_number"
    assert parse_number("5").reason == "no_answer"
    assert parse_text(answer("  a  b ")) == Text("a  b")
    assert parse_text(answer(" ")).reason == "empty_answer"
    for written in ("B", "b", "(B)", "B.", "B) a dog", "B: a dog", "A DOG"):
        assert parse_choice(answer(written), OPTIONS) == Choice("B", OPTIONS), written
    for written in ("D", "a cow", "Bee", "A or B"):
        assert parse_choice(answer(written), OPTIONS).reason == "not_an_option", written
    assert parse_choice(answer(""), OPTIONS).reason == "empty_answer"


def test_a_choice_by_its_own_text_with_its_own_stops():
    cats = ("The cat sleeps.", "The cat sleeps (again).", "(none)")
    for written, letter in (
        ("The cat sleeps.", "A"),
        ("the cat sleeps", "A"),
        ("The cat sleeps (again).", "B"),
        ("The cat sleeps (again)", "B"),
        ("(None)", "C"),
        ("none.", "C"),
    ):
        assert parse_choice(answer(written), cats) == Choice(letter, cats), written
    assert parse_choice(answer("x."), ("x", "x.")).letter == "B", "the text as it is comes first"
    assert parse_choice(answer("C"), ("C", "B", "A")).letter == "C", "a letter is a letter"
    assert parse_choice(answer("cafe\u0301"), ("tea", "caf\u00e9")).letter == "B"
    assert parse_choice(answer("..."), ("a", "...")).letter == "B"
    assert parse_choice(answer("..."), ("a", "b")).reason == "not_an_option"


MARKS = ("<answer>", "</answer>", "<think>", "</think>", '"bbox_2d"', '"point_2d"', '{"bbox_2d": [', '], "point_2d": [')
PIECES = st.sampled_from([*MARKS, *'[]{}:,1B. "\n', "-2.5e3", "NaN", "null", "\\u0000", "é", "\ud800"])


@given(
    st.one_of(
        st.text(), st.lists(PIECES, max_size=30).map("".join), st.lists(PIECES, max_size=20).map(lambda p: answer("".join(p)))
    )
)
def test_no_text_raises(text):
    for name, parse in PARSERS.items():
        found = parse(text)
        assert isinstance(found, Objects | Points | Text | Number | Choice | ParseError), name


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize(
    "text",
    [
        "<answer>" * 12_500,
        "<answer>[" + "[" * 99_900 + "</answer>",
        "<answer>" + '{"a":' * 19_000 + "</answer>",
        "<think>" * 14_000 + "</answer>",
        "<answer>" + " " * 99_900 + "</answer>",
        "<answer>" + "9" * 99_900 + "</answer>",
        "<answer>[" + "[1," * 33_000 + "</answer>",
        "<answer>" + '"' + "\\" * 99_000 + "</answer>",
        "</answer>" * 11_000 + "<answer>",
        "<answer>(" * 11_000,
        "<answer>a" + "\u0301\u0316" * 49_000 + "</answer>",
    ],
    ids=lambda text: text[:20],
)
def test_a_hundred_kilobytes_take_no_time(name, text):
    best = min(_seconds(PARSERS[name], text) for _ in range(3))
    assert best < 0.05


def _seconds(parse, text):
    began = time.perf_counter()
    parse(text)
    return time.perf_counter() - began
