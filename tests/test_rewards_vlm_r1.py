"""VLM-R1's rewards: tables computed by hand, and the plain patterns that define the linear searches."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visurf.rewards import grading, vlm_r1, vlm_r1_detection, vlm_r1_text
from visurf.types import DataError

SAME_SIZE = {"image_size": (420, 280), "grid": (30, 20)}
REC_SOLUTION = "<answer>[50, 60, 150, 160]</answer>"
LIST = r"\[\d+,\s*\d+,\s*\d+,\s*\d+\]"

tokens = [
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "{",
    "}",
    "[1, 2, 3, 4]",
    "[1,2,3,4]",
    "[5,\n6, 7, 8]",
    " ",
    "\n",
    "a",
    "[",
]
texts = st.lists(st.sampled_from(tokens), max_size=16).map("".join)


def fenced(*found):
    return "```json\n" + json.dumps([{"bbox_2d": list(b), "label": n} for b, n in found]) + "\n```"


def answered(content):
    return f"<think>I see.</think><answer>{content}</answer>"


def rec(content, family="qwen", solution=REC_SOLUTION, **where):
    return vlm_r1.rec_iou(answered(content), solution, family=family, **{**SAME_SIZE, **where})


@pytest.mark.parametrize(
    ("content", "qwen", "glm"),
    [
        ("[50, 60, 150, 160]", 1, 1),
        ("{'b': [50,60,150,160]} [1, 2, 3, 4]", 1, 1),
        # A column of one pixel in common: 100 of 19900.
        ("[149, 60, 249, 160]", 0, 100 / 19900),
        ("[148, 60, 248, 160]", 200 / 19800, 200 / 19800),
        ("[50.0, 60, 150, 160]", 0, 0),
        ("[ 50, 60, 150, 160]", 0, 0),
        ("[7, 7, 7, 7]", 0, 0),
        ("[1" + "0" * 5000 + ", 1, 1, 1]", 0, 0),
    ],
)
def test_rec_iou(content, qwen, glm):
    assert rec(content) == pytest.approx(qwen)
    assert rec(content, "internvl") == pytest.approx(qwen)
    assert rec(content, "glm") == pytest.approx(glm)


def test_rec_rescales_for_qwen_only():
    # 420 x 280 pixels of input, an image twice as large.
    where = {"image_size": (840, 560)}
    assert rec("[25, 30, 75, 80]", **where) == 1
    assert rec("[50, 60, 150, 160]", "internvl", **where) == 1
    assert rec("[50, 60, 150, 160]", grid=(0, 0)) == 0


@pytest.mark.parametrize("solution", ["[1, 2, 3, 4]", "<answer>None</answer>", ""])
def test_rec_raises_on_a_broken_label(solution):
    with pytest.raises(DataError):
        rec("[1, 2, 3, 4]", solution=solution)
    with pytest.raises(DataError):
        vlm_r1.rec_evaluation("", solution, **SAME_SIZE)


def test_rec_evaluation_takes_the_last_list_in_braces():
    text = answered("{[50, 60, 150, 160], [1, 2, 3, 4]} [5, 6, 7, 8]")
    result = vlm_r1.rec_evaluation(text, REC_SOLUTION, **SAME_SIZE)
    assert (result.extracted, result.iou, result.correct) == ((1, 2, 3, 4), 0, False)
    result = vlm_r1.rec_evaluation(answered("{[50, 60, 150, 160]}"), REC_SOLUTION, **SAME_SIZE)
    assert (result.extracted, result.iou, result.correct) == ((50, 60, 150, 160), 1, True)
    with pytest.raises(DataError, match="both boxes are empty"):
        vlm_r1.rec_evaluation("", "<answer>[5, 5, 5, 5]</answer>", **SAME_SIZE)
    with pytest.raises(DataError, match="no box"):
        vlm_r1.rec_evaluation("", "<answer>[5, 5]</answer>", **SAME_SIZE)


@given(texts)
def test_rec_format_is_the_search_of_its_pattern(text):
    patterns = {
        "qwen": rf"<think>.*?</think>\s*<answer>.*?\{{.*?{LIST}.*?\}}.*?</answer>",
        "internvl": rf"<think>.*?</think>\s*<answer>.*?{LIST}.*?</answer>",
        "glm": r"<think>.*?<answer>.*?</answer>",
    }
    for family, pattern in patterns.items():
        assert vlm_r1.rec_format(text, family=family) == float(re.search(pattern, text, re.DOTALL) is not None)


@given(texts)
def test_rec_evaluation_is_the_search_of_its_pattern(content):
    content = content.replace("<answer>", "").replace("</answer>", "")
    match = re.search(r"\{.*\[(\d+),\s*(\d+),\s*(\d+),\s*(\d+)\].*\}", content, re.DOTALL)
    expected = tuple(int(v) for v in match.groups()) if match else (0, 0, 0, 0)
    assert vlm_r1.rec_evaluation(answered(content), REC_SOLUTION, **SAME_SIZE).extracted == expected


CAT, DOG, FAR = ([100, 100, 200, 200], "cat"), ([100, 100, 200, 200], "dog"), ([400, 400, 500, 500], "cat")


@pytest.mark.parametrize(
    ("predicted", "true", "ap", "length", "weighted"),
    [
        (fenced(CAT), fenced(CAT), 1, 1, 1),
        (fenced(), fenced(), 1, 1, 1),
        (fenced(CAT), fenced(), 0, 0, 0),
        (fenced(), fenced(CAT), 0, 0, 0),
        ("None", "None", 1, 1, 1),
        ("none.", "None", 1, 1, 1),
        (fenced(DOG), fenced(CAT), 0, 0, 0.3),
        # A false alarm first: precision 1/2 at every recall. Completeness 1 - (0 + 1/2)/2.
        (fenced(FAR, CAT), fenced(CAT), 0.5, 0.25, 0.7 + 0.3 * 0.75),
        (fenced(CAT, FAR), fenced(CAT), 1, 0.5, 0.7 + 0.3 * 0.75),
        # Half of the truth: recall points 0 to 0.5, 51 of 101. Completeness 1 - (1/2 + 0)/2.
        (fenced(CAT), fenced(CAT, FAR), 51 / 101, 51 / 101, 0.35 + 0.3 * 0.75),
        # IoU 0.8 exactly: thresholds .50 to .80.
        (fenced(([100, 100, 200, 180], "cat")), fenced(CAT), 0.7, 0.7, 0.7 * 0.8 + 0.3),
        # IoU 0.5 exactly is a match everywhere here.
        (fenced(([100, 100, 200, 150], "cat")), fenced(CAT), 0.1, 0.1, 0.35 + 0.3),
        ("```json\nnonsense\n```", fenced(CAT), 0, 0, 0),
    ],
)
def test_detection(predicted, true, ap, length, weighted):
    pair = answered(predicted), f"<answer> {true} </answer>"
    assert vlm_r1_detection.od_ap(*pair) == pytest.approx(ap)
    assert vlm_r1_detection.mean_average_precision(*pair) == pytest.approx(ap)
    assert vlm_r1_detection.od_length(*pair) == pytest.approx(length)
    assert vlm_r1_detection.weighted_sum(*pair) == pytest.approx(weighted)


def test_detection_reads_different_answers_and_fences():
    two = answered(fenced(CAT) + fenced(FAR))
    solution = f"<answer>{fenced(CAT)}</answer>"
    assert vlm_r1_detection.mean_average_precision(two, solution) == 0
    assert vlm_r1_detection.weighted_sum(two, solution) == 1
    assert vlm_r1_detection.od_ap("no answer", "no answer") == 0
    assert vlm_r1_detection.od_length("no answer", solution) == 0


def test_detection_errors():
    for true in ("```json\n{'a'\n```", '```json\n[{"label": "cat"}]\n```', "```json\n5\n```"):
        with pytest.raises(DataError):
            vlm_r1_detection.mean_average_precision(fenced(CAT), true)
    with pytest.raises(DataError, match="no <answer>"):
        vlm_r1_detection.od_ap(answered("None"), "None")
    unlabelled = '```json\n[{"bbox_2d": [100, 100, 200, 200]}]\n```'
    with pytest.raises(DataError, match="no label"):
        vlm_r1_detection.weighted_sum(unlabelled, fenced(CAT))


def test_a_later_match_without_a_label_takes_the_one_before():
    # FAR matches exactly and comes first; the unlabelled box matches with IoU 0.8 and passes for a cat.
    predicted = fenced(FAR)[:-5] + ', {"bbox_2d": [100, 100, 200, 180]}]\n```'
    assert vlm_r1_detection.weighted_sum(predicted, fenced(FAR, CAT)) == pytest.approx(0.7 * 0.9 + 0.3)


def test_a_truth_without_area_is_minus_one():
    assert vlm_r1_detection.mean_average_precision(fenced(CAT), fenced(([200, 100, 100, 200], "cat"))) == -1


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A", "A"),
        ("a.", "A"),
        ("(A)", None),
        ("A) yes", None),
        ("xA", None),
        ("The answer is B.", "B"),
        ("A. B. B.", "B"),
        ("answer: A, not C.", "C"),
        ("", None),
        ("A or A?", "A"),
    ],
)
def test_choice_letter(text, letter):
    assert vlm_r1_text.choice_letter(text) == letter


@pytest.mark.parametrize(
    ("method", "said", "true", "expected"),
    [
        (vlm_r1_text.multiple_choice, "A. red", "A", 1),
        (vlm_r1_text.multiple_choice, "(A)", "(A)", 0),
        (vlm_r1_text.yes_no, "I know", "No", 1),
        (vlm_r1_text.yes_no, "eyes", "yes", 1),
        (vlm_r1_text.yes_no, "maybe", "perhaps", 1),
        (vlm_r1_text.yes_no, "Yes", "no", 0),
        (vlm_r1_text.all_match, "Red\nmug.", "red mug", 1),
        (vlm_r1_text.all_match, "redmug", "red mug", 0),
        (vlm_r1_text.default_accuracy, "3.50", "3.5", 1),
        (vlm_r1_text.default_accuracy, "4", "3.5", 0),
        (vlm_r1_text.default_accuracy, "1,00", "1,000", 1 - 1 / 9),
        (vlm_r1_text.default_accuracy, "B", "B. red", 1),
        (vlm_r1_text.default_accuracy, "other", "a cat", 0.2),
    ],
)
def test_text_methods(method, said, true, expected):
    assert method(answered(said), f"<answer> {true} </answer>") == pytest.approx(expected)


def test_default_takes_the_verdict_of_the_symbolic_stage():
    assert vlm_r1_text.default_accuracy("a", "b", symbolic=True) == 1
    assert vlm_r1_text.default_accuracy("a", "3", symbolic=False) == 0


@given(st.text("abc", max_size=8), st.text("abc", max_size=8))
def test_similarity_is_symmetric_and_counts_the_common_subsequence(first, second):
    lengths = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            lengths[i + 1][j + 1] = lengths[i][j] + 1 if a == b else max(lengths[i][j + 1], lengths[i + 1][j])
    total = len(first) + len(second)
    expected = 2 * lengths[-1][-1] / total if total else 1
    assert vlm_r1_text.similarity(first, second) == pytest.approx(expected)
    assert vlm_r1_text.similarity(second, first) == pytest.approx(expected)


@given(st.lists(st.sampled_from(["\n", "\r", " ", "\u00a0", "a", ".", "A"]), max_size=10).map("".join))
def test_clean_text_is_idempotent_up_to_full_stops(text):
    cleaned = vlm_r1_text.clean_text(text)
    assert "\n" not in cleaned
    assert "\r" not in cleaned
    assert cleaned == cleaned.lower()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x\ny", "x y"),
        ("x \ny", "x y"),
        ("x\r\n\r\ny", "x y"),
        ("a\u00a0\nb", "a\u00a0b"),
        ("<answer>1</answer><answer>2.</answer>", "2"),
    ],
)
def test_clean_text(text, expected):
    assert vlm_r1_text.clean_text(text) == expected


def test_cosine_length():
    values = [vlm_r1_text.cosine_length(n) for n in (0, 512, 1024, 2048)]
    assert values == pytest.approx([1, 0.75, 0.5, 1])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("a b c d e", 0),
        ("a b c d e f a b c d e f", -1 / 7),
        (fenced(CAT, CAT), -0.5),
        (fenced(CAT, DOG), 0),
        (fenced(CAT, CAT)[7:-3], -0.5),
        ("words " + fenced(CAT, CAT, FAR)[8:-4] + " more", -1 / 3),
        ("```\n" + fenced(CAT, CAT)[8:], -0.5),
        ('```json\n[{"bbox_2d": [1], "label": "a"}, {"bbox_2d": [1.0], "label": "a"}]\n```', 0),
        ("```json\n[]\n```", 0),
    ],
)
def test_repetition(text, expected):
    assert vlm_r1_text.repetition(text) == pytest.approx(expected)


def test_repetition_of_elements_without_keys_is_an_error():
    for block in ("[1, 2]", '["bbox_2d label"]', "[null]"):
        with pytest.raises(DataError):
            vlm_r1_text.repetition(f"```json\n{block}\n```")


def test_a_repair_that_takes_too_long_leaves_the_words(monkeypatch):
    def too_long(*_, **__):
        raise grading.GradingTimeout

    monkeypatch.setattr(grading, "ask", too_long)
    assert vlm_r1_text.repetition("```json\n[{,,,\n```") == 0


@given(
    st.lists(st.sampled_from(["[", "{", "}", "]", '"bbox_2d"', '"label"', " ", "x", ",", "```", "```json"]), max_size=16).map(
        "".join
    )
)
def test_the_list_of_a_text_is_what_the_patterns_find(text):
    match = re.search(r"```json(.*?)```", text, re.DOTALL)
    expected = match.group(1).strip() if match else None
    if match is None:
        match = re.search(r"```(.*?)```", text, re.DOTALL)
        expected = match.group(1).strip() if match else None
        if not expected:
            match = re.search(r'\[\s*\{.*?"bbox_2d".*?"label".*?\}\s*\]', text, re.DOTALL)
            expected = match.group(0) if match else None
    assert vlm_r1_text._list_block(text) == expected
