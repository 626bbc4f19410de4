"""Every cell of the tables in docs/rewards.md is what the code computes."""

import re
from pathlib import Path

import pytest
from PIL import Image

from visurf.config import load_config
from visurf.preparation import make_scorer
from visurf.rewards import (
    mathematics,
    segzero,
    shaping,
    visionreasoner,
    visual_rft,
    visual_rft_detection,
    vlm_r1,
    vlm_r1_detection,
    vlm_r1_text,
)
from visurf.tasks import TASKS
from visurf.types import Completion, DataError, ImageRef, Number, Objects, ParseError, Sample

VARIANTS = ("published", "paper", "sound")
COLUMNS = {
    "visionreasoner": VARIANTS,
    "segzero": ("lenient", "strict"),
    "visual_rft_detection": VARIANTS,
    "visual_rft_classification": VARIANTS,
    "visual_rft_lisa": VARIANTS,
    "vlm_r1_rec": ("qwen", "internvl", "glm"),
    "vlm_r1_detection": ("map", "od_ap", "od_ap50", "odLength", "weighted_sum"),
    "vlm_r1_text": ("mcq", "yes_no", "all_match", "default"),
    "vlm_r1_repetition": ("repetition", "repetition_penalty"),
    "r1v_math": ("answer", "boxed"),
}
DETECTION = {
    "map": vlm_r1_detection.mean_average_precision,
    "od_ap": vlm_r1_detection.od_ap,
    "od_ap50": lambda text, label: vlm_r1_detection.od_ap(text, label, only_50=True),
    "odLength": vlm_r1_detection.od_length,
    "weighted_sum": vlm_r1_detection.weighted_sum,
}
TEXT = {
    "mcq": vlm_r1_text.multiple_choice,
    "yes_no": vlm_r1_text.yes_no,
    "all_match": vlm_r1_text.all_match,
    "default": vlm_r1_text.default_accuracy,
}


def cell(section, column, text, label, bare):
    """The values of one cell; `text` and `label` are in tags, `bare` are both without."""
    if section == "visionreasoner":
        score = visionreasoner.score(text, bare[1], variant=column)
        return [score[part] for part in ("answer_format", "accuracy", "total")]
    if section == "segzero":
        return list(segzero.score(text, bare[1], strict=column == "strict").values())
    if section == "visual_rft_detection":
        score = visual_rft_detection.detection(text, label, variant=column)
        return [score["iou"], score["confidence"]]
    if section == "visual_rft_classification":
        return [visual_rft.classification(text, label, variant=column)]
    if section == "visual_rft_lisa":
        return [visual_rft.grounding(text, label, variant=column)]
    if section == "vlm_r1_rec":
        iou = vlm_r1.rec_iou(text, label, family=column, image_size=(840, 560), grid=(30, 20))
        return [iou, vlm_r1.rec_format(text, family=column)]
    if section == "vlm_r1_detection":
        return [DETECTION[column](text, label)]
    if section == "vlm_r1_text":
        return [TEXT[column](text, label)]
    if section == "vlm_r1_repetition":
        return [vlm_r1_text.repetition(bare[0]) if column == "repetition" else shaping.repetition_penalty(bare[0])]
    return [mathematics.answer_accuracy(text, bare[1]) if column == "answer" else mathematics.boxed_score(*bare)]


def compute(section, answer, truth):
    """The cells of one row, as printed."""
    bare = [part.replace("\\n", "\n").replace("\\t", "\t").replace("\\\\", "\\") for part in (answer, truth)]
    text, label = f"<think>I see</think><answer>{bare[0]}</answer>", f"<answer>{bare[1]}</answer>"
    cells = []
    for column in COLUMNS[section]:
        try:
            cells.append(", ".join(f"{round(value, 4) + 0.0:g}" for value in cell(section, column, text, label, bare)))
        except DataError:
            cells.append("error")
    return cells


def unquoted(part):
    """The text of a table cell: in single backticks, in double ones with spaces where it holds backticks itself."""
    if part == "*empty*":
        return ""
    return part[3:-3] if part.startswith("`` ") else part[1:-1]


def rows():
    page = (Path(__file__).parents[1] / "docs" / "rewards.md").read_text(encoding="utf-8")
    for section, table in re.findall(r"<!-- cases: (\w+) -->\n((?:\|.*\n)+)", page):
        for line in table.splitlines()[2:]:
            what, answer, truth, *cells = line.strip("| ").split(" | ")
            yield pytest.param(section, unquoted(answer), unquoted(truth), cells, id=f"{section}: {what}")


@pytest.mark.parametrize(("section", "answer", "truth", "cells"), rows())
def test_the_cells_of_a_row(section, answer, truth, cells):
    if section == "r1v_math":
        pytest.importorskip("mathruler.grader")
    assert compute(section, answer, truth) == cells


def test_every_section_has_its_table():
    assert {parameters.values[0] for parameters in rows()} == set(COLUMNS)


def test_the_first_function_of_the_page_is_a_reward(tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "rewards.md").read_text()
    assert page.index("## Your own functions") < page.index("## Built-in rewards")
    (tmp_path / "my_rewards.py").write_text(re.search(r'```python title="my_rewards.py"\n(.*?)```', page, re.DOTALL)[1])
    reward = {"functions": {"count": f"{tmp_path / 'my_rewards.py'}:count"}, "weights": {"count": 2.0, "non_repeat": 0}}
    config = load_config(None, {"reward": reward})
    scorer = make_scorer(config, TASKS["referring"])
    pictures = (ImageRef(Image.new("RGB", (64, 64))),)
    two = Sample("a", pictures, "the dogs", Objects(((0.0, 0.0, 9.0, 9.0), (20.0, 20.0, 29.0, 29.0))))
    right, wrong = Completion("", (), two.target, None), Completion("", (), Objects(), None)
    unread = Completion("", (), None, ParseError("not_json", ""))
    assert [scorer.score(c, two).parts["count"] for c in (right, wrong, unread)] == [1.0, 0.0, 0.0]
    function = scorer.parts["count"].function
    assert function(right, Sample("b", pictures, "how many", Number("2"))) is None
    found = scorer.score(right, two)
    assert found.total == sum((found.parts[n] or 0) * {"count": 2.0, "non_repeat": 0}.get(n, 1) for n in found.parts)
