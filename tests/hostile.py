"""Hostile input: what a model, a data set or a recipe may hold, for the tests of single functions and for fuzzing."""

import hypothesis.strategies as st

from visurf.rewards import (
    mathematics,
    segzero,
    visionreasoner,
    visual_rft,
    visual_rft_detection,
    vlm_r1,
    vlm_r1_detection,
    vlm_r1_text,
)

REC = {"image_size": (420, 280), "grid": (30, 20)}
VR_TRUTH = '[{"bbox_2d": [1, 2, 30, 40], "point_2d": [10, 20]}]'
SEGZERO_TRUTH = "<box>(100,100),(199,199)</box><points>(110,110),(189,189)</points>"
RFT_TRUTH = "<answer>[{'Position': [1, 2, 30, 40], 'Confidence': 1}]</answer>"
LISA_TRUTH = "<answer>(1,2),(30,40)</answer>"
REC_TRUTH = "<answer>[1, 2, 30, 40]</answer>"
OD_TRUTH = '<answer>```json\n[{"bbox_2d": [1, 2, 30, 40], "label": "cat"}]\n```</answer>'

# Each: a function of a completion and a label, and a good label.
REWARDS = {
    "visionreasoner": (lambda t, s: visionreasoner.score(t, s, variant="published"), VR_TRUTH),
    "visionreasoner sound": (lambda t, s: visionreasoner.score(t, s), VR_TRUTH),
    "segzero": (segzero.score, SEGZERO_TRUTH),
    "segzero strict": (lambda t, s: segzero.score(t, s, strict=True), SEGZERO_TRUTH),
    "visual_rft_detection": (lambda t, s: visual_rft_detection.detection(t, s, variant="published"), RFT_TRUTH),
    "visual_rft_detection paper": (lambda t, s: visual_rft_detection.detection(t, s, variant="paper"), RFT_TRUTH),
    "visual_rft_detection sound": (visual_rft_detection.detection, RFT_TRUTH),
    "classification": (lambda t, s: visual_rft.classification(t, s, variant="published"), "<answer>cat</answer>"),
    "classification sound": (visual_rft.classification, "<answer>cat</answer>"),
    "grounding": (lambda t, s: visual_rft.grounding(t, s, variant="published"), LISA_TRUTH),
    "grounding sound": (visual_rft.grounding, LISA_TRUTH),
    "rec_iou qwen": (lambda t, s: vlm_r1.rec_iou(t, s, family="qwen", **REC), REC_TRUTH),
    "rec_iou glm": (lambda t, s: vlm_r1.rec_iou(t, s, family="glm", **REC), REC_TRUTH),
    "rec_evaluation": (lambda t, s: vlm_r1.rec_evaluation(t, s, **REC).iou, REC_TRUTH),
    "rec_format qwen": (lambda t, _: vlm_r1.rec_format(t, family="qwen"), ""),
    "rec_format internvl": (lambda t, _: vlm_r1.rec_format(t, family="internvl"), ""),
    "rec_format glm": (lambda t, _: vlm_r1.rec_format(t, family="glm"), ""),
    "map": (vlm_r1_detection.mean_average_precision, OD_TRUTH),
    "od_ap": (vlm_r1_detection.od_ap, OD_TRUTH),
    "od_length": (vlm_r1_detection.od_length, OD_TRUTH),
    "weighted_sum": (vlm_r1_detection.weighted_sum, OD_TRUTH),
    "multiple_choice": (vlm_r1_text.multiple_choice, "A. cat"),
    "yes_no": (vlm_r1_text.yes_no, "yes"),
    "all_match": (vlm_r1_text.all_match, "cat"),
    "default_accuracy": (vlm_r1_text.default_accuracy, "a red mug, 2"),
    "repetition": (lambda t, _: vlm_r1_text.repetition(t), ""),
    "boxed_content": (lambda t, _: len(mathematics.boxed_content(t) or ""), ""),
}

PIECES = [
    *(
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        "<answer",
        "\n",
        " ",
        "\u00a0",
        ".",
        "a",
        "A.",
        "yes",
        "```",
        "```json",
    ),
    *(
        "[",
        "]",
        "{",
        "}",
        "(",
        ")",
        ",",
        ":",
        "'",
        '"',
        "},",
        "[[",
        "]]",
        "[{",
        "}]",
        "1",
        "-1",
        "9" * 30,
        "1e999",
        "NaN",
        "None",
    ),
    *(
        "null",
        "true",
        "Infinity",
        "(1,2),(3,4)",
        "[1, 2, 3, 4]",
        '"bbox_2d"',
        '"point_2d"',
        '"label"',
        '"bbox"',
        '"points_1"',
    ),
    *('"Position"', '"Confidence"', r"\boxed{", "<box>", "</box>", "<points>", "\ud800", "İ", "٣", '"cat"'),
    '{"bbox_2d": [1, 2, 30, 40], "point_2d": [10, 20], "label": "cat"}',
    "{'Position': [1, 2, 30, 40], 'Confidence': 0.5}",
    '{"bbox": [100, 100, 199, 199], "points_1": [110, 110], "points_2": [189, 189]}',
]
hostile = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(PIECES), max_size=20).map("".join))

values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**320), 10**320),
        st.floats(),
        st.sampled_from(["", "abcd", "cat", "bbox_2d"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(
            st.sampled_from(["bbox_2d", "point_2d", "label", "Position", "Confidence", "bbox", "points_1", "points_2"]),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)
structured = values.map(repr).map(
    lambda text: (
        text.replace("'", '"').replace("nan", "NaN").replace("inf", "Infinity").replace("None", "null").replace("True", "true")
    )
)


SIZE = 100_000
LONG = [
    *(
        "<answer>",
        "</answer>",
        "<think>",
        "</think>",
        "</think> ",
        "<answer>\n",
        "<answer></answer>",
        "<think></think><answer>",
    ),
    *(
        "{",
        "}",
        "{}",
        "{a",
        "[",
        "]",
        "[[",
        "}]",
        "} ",
        "{'a':1},",
        "(",
        "(1",
        "(1,2)",
        "(1,2),",
        "(1,2),(3,4)",
        "( 1 , 2 ) , ",
    ),
    *(
        "[1,",
        "[1, 2, 3, 4]",
        "[1,2,3,4",
        "9",
        "1 ",
        " ",
        "\n",
        " \n",
        "\u00a0",
        ".",
        "a.",
        "A.",
        "A B. ",
        "yes",
        "n",
        "```",
        "```json",
    ),
    *(
        "```json[]```",
        '"bbox_2d"',
        '[{"bbox_2d"',
        '[{"bbox_2d""label"',
        "'",
        '"',
        "\\",
        "\\boxed{",
        "_",
        "the ",
        "-",
        "0.",
        "1e9",
    ),
    '{"bbox_2d": [1, 2, 30, 40], "point_2d": [10, 20], "label": "cat"},',
    "{'Position': [1, 2, 30, 40], 'Confidence': 0.5},",
]


def long_texts():
    for piece in LONG:
        text = (piece * (SIZE // len(piece) + 1))[:SIZE]
        yield text
        yield f"<think>{text}</think><answer>{text}</answer>"
    for piece in LONG[-2:]:
        objects = (piece * (SIZE // len(piece)))[:-1]
        yield f"<think></think><answer>[{objects}]</answer>"
        yield f"<answer>```json[{objects}]```</answer>"
    yield "<think></think><answer>a" + "\u0301\u0316" * (SIZE // 2) + "</answer>"
    yield "<think></think><answer>" + "[" * SIZE + "]" * SIZE + "</answer>"
    yield "<think>{</think>" + " " * SIZE + "<answer>[1" + "," + " " * SIZE
