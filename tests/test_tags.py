"""Tags and extended JSON, against the plain regular expressions that define them."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visurf import tags
from visurf.types import DataError

TOKENS = ["<think>", "</think>", "<answer>", "</answer>", "\n", " ", "\u00a0", "\u2028", "a", "<answer", "<ANSWER>"]
texts = st.lists(st.sampled_from(TOKENS), max_size=14).map("".join)


@given(texts)
def test_format_is_the_whole_text_match(text):
    pattern = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)
    assert tags.think_answer_format(text) == (pattern.fullmatch(text) is not None)


@given(texts)
def test_answers_are_the_lazy_matches(text):
    found = re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL)
    assert list(tags.answers(text)) == found
    assert tags.first_answer(text) == (found[0] if found else None)
    assert tags.last_answer(text) == (found[-1] if found else None)


@given(texts)
def test_a_single_line_answer_is_the_lazy_match_without_line_feeds(text):
    match = re.search(r"<answer>([^\n]*?)</answer>", text)
    assert tags.single_line_answer(text) == (match.group(1) if match else None)


@pytest.mark.parametrize("text", ["'a'", "[1,]", "+1", "01", "// a\n1", "\ufeff1", '"\n"', "", "nan", "[" * 10**5, "9" * 10**5])
def test_what_is_no_json(text):
    with pytest.raises(DataError):
        tags.load_json(text)


def test_json_extensions():
    assert tags.load_json(' {"a": 1, "a": 2}\n') == {"a": 2}
    assert tags.load_json("[Infinity, -Infinity]") == [math.inf, -math.inf]
    assert math.isnan(tags.load_json("NaN"))
    assert tags.load_json("1" + "0" * 400) == 10**400
