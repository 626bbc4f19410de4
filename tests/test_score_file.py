"""Rewards over files: every published reward as recorded, bad rows by name, users' functions, and speed."""

import json
import re
import time
from pathlib import Path

import pytest

from visurf.rewards import vlm_r1
from visurf.score_file import score_file
from visurf.score_rewards import DETECTION_METHODS, REWARDS, TEXT_METHODS
from visurf.types import DataError

BOX = '<think>I see</think><answer>[{"bbox_2d": [100, 100, 199, 199], "point_2d": [150, 150]}]</answer>'
EMPTY = "<think>I see</think><answer>[]</answer>"


@pytest.fixture
def score(tmp_path):
    def run(reward, rows, **options):
        path = tmp_path / "completions.jsonl"
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        found = []
        result = score_file(reward, path, found.append, **options)
        return found, result

    return run


def row(completion, target, **more):
    return {"id": "a", "completion": completion, "target": target, **more}


def finite(value):
    return value if isinstance(value, str) else pytest.approx(value, abs=1e-9)


def of_fixture(shared, family):
    """(row, recorded values) of every case."""
    for case in json.loads((shared / "fixtures" / f"{family}.json").read_text(encoding="utf-8"))["cases"]:
        data = dict(case["input"])
        texts = {"completion": data.pop("prediction"), "target": data.pop("ground_truth", None) or data.pop("solution", "")}
        yield {"id": case["id"], **texts, **data, **{k: case[k] for k in ("symbolic_match",) if k in case}}, case["expected"]


def test_visionreasoner_and_seg_zero_give_the_recorded_totals(shared, score):
    for family, reward, key in (
        ("visionreasoner", "visionreasoner", None),
        ("segzero", "segzero", "lenient"),
        ("segzero", "segzero_strict", "strict"),
    ):
        rows, expected = zip(*of_fixture(shared, family), strict=True)
        found, result = score(reward, rows, variant="published")
        assert [f["id"] for f in found] == [r["id"] for r in rows]
        wanted = [e if key is None else e[key] for e in expected]
        assert [f["total"] for f in found] == [finite(e["total"]) for e in wanted]
        if key is None:
            assert [f["parts"]["accuracy"] for f in found] == [finite(e["accuracy"]) for e in wanted]
        else:
            assert [f["parts"] | {"total": f["total"]} for f in found] == wanted
        assert result.rows == len(rows)


def test_visual_rft_gives_the_recorded_rewards_with_and_without_the_symbolic_stage(shared, score):
    for family in ("visual_rft_detection", "visual_rft_lisa", "visual_rft_classification"):
        rows, expected = zip(*of_fixture(shared, family), strict=True)
        plain = [{k: v for k, v in r.items() if k != "symbolic_match"} for r in rows]
        runs = {"reference": score(family, rows, variant="published")[0]}
        runs["without_symbolic_stage"] = score(family, plain, variant="published", symbolic=False)[0]
        for name, found in runs.items():
            for got, case in zip(found, expected, strict=True):
                wanted = case[name] if isinstance(case[name], dict) else {"accuracy": case[name]}
                assert got["parts"] == {k: finite(v) for k, v in {**wanted, "format": case["format"]}.items()}


def test_vlm_r1_gives_the_recorded_rewards(shared, score):
    for family in ("qwen", "internvl", "glm"):
        for data, expected in of_fixture(shared, "vlm_r1_rec"):
            if "raises" not in json.dumps(expected[family]):
                (got,), _ = score(f"vlm_r1_rec_{family}", [data])
                assert got["parts"] == {k: finite(v) for k, v in expected[family].items()}
    for method in DETECTION_METHODS:
        rows, expected = zip(*of_fixture(shared, "vlm_r1_detection"), strict=True)
        good = [(r, e[method]) for r, e in zip(rows, expected, strict=True) if not isinstance(e[method], dict)]
        found, _ = score(f"vlm_r1_detection_{method}", [r for r, _ in good])
        assert [f["total"] for f in found] == [finite(value) for _, value in good]
        _, result = score("vlm_r1_detection", [r | {"method": method} for r in rows], on_bad_row="skip")
        assert (result.rows, len(result.skipped)) == (len(good), len(rows) - len(good))


def test_vlm_r1_text_and_mathematics_give_the_recorded_rewards(shared, score):
    pytest.importorskip("math_verify")
    pytest.importorskip("mathruler")
    rows, expected = zip(*of_fixture(shared, "vlm_r1_text"), strict=True)
    found, _ = score("vlm_r1_text", rows)
    assert [f["total"] for f in found] == [finite(e["reference"] if isinstance(e, dict) else e) for e in expected]
    rows, expected = zip(*of_fixture(shared, "r1v_math"), strict=True)
    assert [f["total"] for f in score("mathematics", rows)[0]] == [e["r1v_total"] for e in expected]
    good = [(r, e["boxed_total"]) for r, e in zip(rows, expected, strict=True) if not isinstance(e["boxed_total"], dict)]
    assert [f["total"] for f in score("mathematics_boxed", [r for r, _ in good])[0]] == [e for _, e in good]


def test_variants_and_their_default(score):
    totals = {v: score("visionreasoner", [row(EMPTY, "[]")], variant=v)[0][0]["total"] for v in ("published", "paper", "sound")}
    assert totals == {"published": 2.0, "paper": 2.0, "sound": 7.0}
    assert score("visionreasoner", [row(EMPTY, [])])[0][0] == {
        "id": "a",
        "parts": {"thinking_format": 1.0, "answer_format": 2.0, "accuracy": 3.0, "non_repeat": 1.0},
        "total": 7.0,
    }
    with pytest.raises(ValueError, match="has no variant 'sound'; it has published"):
        score("segzero", [row(EMPTY, "[]")], variant="sound")
    with pytest.raises(ValueError, match="did you mean 'visionreasoner'"):
        score("vision_reasoner", [])


DETECTED = "<think></think><answer>[{'Position': [1, 2, 30, 40], 'Confidence': 0.9}]</answer>"


@pytest.mark.parametrize(
    ("reward", "completion", "target", "total"),
    [
        ("visionreasoner", BOX, {"boxes": [[100, 100, 199, 199]], "points": [[150, 150]]}, 7.0),
        ("visionreasoner", BOX, [[100, 100, 199, 199]], 7.0),
        ("visionreasoner", BOX, [{"bbox_2d": [100, 100, 199, 199], "point_2d": [150, 150]}], 7.0),
        ("visual_rft_detection", DETECTED, {"boxes": [[1, 2, 30, 40]]}, 2.9),
        ("visual_rft_detection", DETECTED, [{"Position": [1, 2, 30, 40], "Confidence": 1}], 2.9),
        ("visual_rft_detection", "<think></think><answer>No Objects</answer>", [], 3.0),
        ("visual_rft_classification", "<think></think><answer>a Cat</answer>", {"class": "cat"}, 2.0),
        ("visual_rft_lisa", "<think></think><answer>(1,2),(30,40)</answer>", {"boxes": [[1, 2, 30, 40]]}, 3.0),
        ("vlm_r1_rec_glm", "<think><answer>[1, 2, 30, 40]</answer>", {"boxes": [[1, 2, 30, 40]]}, 2.0),
        ("vlm_r1_rec_glm", "<think><answer>[1, 2, 30, 40]</answer>", [1, 2, 30, 40], 2.0),
        ("vlm_r1_text_all_match", "<answer>3</answer>", {"number": 3}, 1.0),
        (
            "vlm_r1_detection_map",
            '```json[{"bbox_2d": [1, 2, 30, 40], "label": "a"}]```',
            [{"bbox_2d": [1, 2, 30, 40], "label": "a"}],
            1.0,
        ),
        (
            "segzero",
            '<think></think><answer>{"bbox": [1, 2, 30, 40], "points_1": [5, 6], "points_2": [7, 8]}</answer>',
            {"boxes": [[1, 2, 30, 40]], "points": [[5, 6], [7, 8]]},
            5.0,
        ),
        ("box_overlap", BOX, {"boxes": [[100, 100, 199, 199]]}, 1.0),
        ("box_overlap", "no answer", {"boxes": [[100, 100, 199, 199]]}, 0.0),
        ("box_overlap", EMPTY, [], 1.0),
    ],
)
def test_targets_as_data_files_have_them(score, reward, completion, target, total):
    (got,), _ = score(reward, [row(completion, target)])
    assert got["total"] == pytest.approx(total)


def test_rewards_of_the_text_alone_and_of_counts(score):
    assert score("repetition_penalty", [{"id": 1, "completion": "a b"}])[0] == [
        {"id": 1, "parts": {"repetition": 0.0}, "total": 0.0}
    ]
    assert score("vlm_r1_format", [{"id": 1, "completion": EMPTY}])[0][0]["total"] == 1.0
    assert score("vlm_r1_length", [{"id": 1, "completion": "", "n_tokens": 512}])[0][0]["total"] == pytest.approx(0.75)
    (got,), _ = score("length_penalty", [{"id": 1, "completion": "", "n_tokens": 150, "free": 100, "limit": 200}])
    assert got["total"] == -0.5
    point = '<answer>[{"point_2d": [3, 4]}]</answer>'
    (got,), _ = score("point_closeness", [row(point, {"points": [[3, 4]]}, scale=10)])
    assert got["total"] == 1.0


def test_a_published_nan_is_written_as_text(score):
    text = "<think></think><answer>[{'Position': [1, 2, 30, 40], 'Confidence': NaN}]</answer>"
    found, result = score("visual_rft_detection", [row(text, {"boxes": [[1, 2, 30, 40]]})], variant="published", symbolic=False)
    assert (found[0]["parts"]["confidence"], found[0]["total"]) == ("NaN", "NaN")
    assert "confidence" not in result.means


@pytest.mark.parametrize(
    ("reward", "bad", "message"),
    [
        ("visionreasoner", "{", "not valid JSON"),
        ("visionreasoner", "3", "expected an object"),
        ("visionreasoner", {"completion": "a", "target": "[]"}, "field 'id': expected"),
        ("visionreasoner", {"id": True, "completion": "a", "target": "[]"}, "field 'id': expected"),
        ("visionreasoner", {"id": 1, "completion": None, "target": "[]"}, "field 'completion': expected text, got None"),
        ("visionreasoner", {"id": 1, "completion": "a"}, "field 'target': expected"),
        ("visionreasoner", {"id": 1, "completion": "a", "target": "no JSON"}, "field 'target': expected a JSON list"),
        ("visionreasoner", {"id": 1, "completion": "a", "target": [[1, 2]]}, "field 'target': not what this reward takes"),
        ("visionreasoner", {"id": 1, "completion": "a", "target": {"box": [[1, 2, 3, 4]]}}, "field 'target': not what"),
        ("visionreasoner", {"id": 1, "completion": "a", "target": 3}, "field 'target': not what"),
        ("box_overlap", {"id": 1, "completion": "a"}, "field 'target': expected a target of boxes or points, but the row has only"),
        ("box_overlap", row(BOX, [[9, 9, 1, 1]]), "field 'target': expected a finite box"),
        ("box_overlap", row(BOX, [[1, 1, 9, 10**400]]), "field 'target': expected boxes or points"),
        ("visual_rft_classification", {"id": 1, "completion": "a", "target": ""}, "field 'target': the solution names no class"),
        ("visual_rft_detection", {"id": 1, "completion": "a", "target": "x"}, "field 'target': not JSON"),
        ("vlm_r1_rec", row("a", "<answer>[1,2,3,4]</answer>"), "field 'image_width': expected a number"),
        ("vlm_r1_rec", row("a", "[1,2,3,4]", family="x"), "field 'family': expected qwen"),
        ("vlm_r1_detection", row("a", "b", method="x"), "field 'method': expected one of map"),
        ("vlm_r1_length", {"id": 1, "completion": "a", "n_tokens": "3"}, "field 'n_tokens': expected a number"),
        ("length_penalty", {"id": 1, "completion": "a", "n_tokens": 1, "free": 3, "limit": 3}, "field 'limit': expected 0 <= free"),
        ("point_closeness", row("a", {"points": [["x", 1]]}, scale=1), "field 'target': expected boxes or points"),
    ],
)
def test_a_bad_row_names_file_line_and_field_or_is_counted(score, reward, bad, message):
    good = {**row(EMPTY, "[]"), "n_tokens": 1, "free": 1, "limit": 2, "scale": 1, "method": "map", "family": "glm"}
    good |= {"target": {"visionreasoner": "[]", "visual_rft_classification": "cat", "visual_rft_detection": "[]"}.get(reward, [])}
    if reward == "vlm_r1_rec":
        good["target"] = [1, 2, 3, 4]
    with pytest.raises(DataError, match=rf"completions\.jsonl: line 2, .*{re.escape(message)}"):
        score(reward, [good, bad])
    found, result = score(reward, [good, bad, good], on_bad_row="skip")
    assert len(found) == result.rows == 2
    assert [where.rpartition(": ")[2] for where, _ in result.skipped] == ["line 2"]
    assert "1 bad rows skipped; the first: " in str(result)


def test_an_unreadable_or_empty_file_is_an_error(tmp_path):
    for content in (b"", b"\n\n", b"\xff\xfe", b"[1"):
        path = tmp_path / "x.jsonl"
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"x\.jsonl"):
            score_file("visionreasoner", path, print)
    with pytest.raises(DataError, match="cannot be read"):
        score_file("visionreasoner", tmp_path / "none.jsonl", print)


def test_a_json_array_and_odd_line_ends_are_read(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("\ufeff" + json.dumps([row("a\u2028b", "[]")]), encoding="utf-8")
    assert score_file("visionreasoner", path, lambda _: None).rows == 1
    path.write_bytes((json.dumps(row("a\u2028b", "[]"), ensure_ascii=False) + "\r\n").encode())
    assert score_file("visionreasoner", path, lambda _: None).rows == 1


MINE = """
import time
def length(completion, sample):
    return len(completion.text) + sample.meta["bonus"]
def boxes(completion, sample):
    return len(sample.target.boxes)
def trl(prompts, completions, bonus, **columns):
    return [None if b is None else b + len(c) + len(p) for p, c, b in zip(prompts, completions, bonus)]
def raises(completion, sample):
    raise KeyError("x")
def nan(completion, sample):
    return float("nan")
def slow(completions, **columns):
    time.sleep(60)
"""


def test_functions_of_a_file(score, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(MINE)
    rows = [row("abc", [[1, 2, 3, 4]], bonus=1, question="who?"), row("", "x", bonus=None)]
    assert score(f"{mine}:length", rows[:1])[0][0] == {"id": "a", "parts": {"length": 4.0}, "total": 4.0}
    assert score(f"{mine}:boxes", rows[:1])[0][0]["total"] == 1.0
    found, result = score(f"{mine}:trl", rows)
    assert [f["total"] for f in found] == [8.0, None]
    assert (result.means["total"], result.abstained["total"]) == (8.0, 1)
    for name, message in (("raises", "KeyError"), ("nan", "returned nan"), ("slow", r"longer than 0\.1 s")):
        with pytest.raises(DataError, match=f"line 1, field 'completion': .*{message}"):
            score(f"{mine}:{name}", rows, time_limit=0.1)
        assert len(score(f"{mine}:{name}", rows, time_limit=0.1, on_bad_row="skip")[1].skipped) == 2
    with pytest.raises(ValueError, match="has no variants"):
        score(f"{mine}:length", rows, variant="sound")


def test_ten_thousand_rows_take_seconds(score):
    rows = [{"id": i, "completion": BOX, "target": {"boxes": [[i % 90, 2, 300, 400]]}} for i in range(10_000)]
    began = time.monotonic()
    found, _ = score("visionreasoner", rows)
    assert time.monotonic() - began < 20
    assert [f["id"] for f in found] == list(range(10_000))


def test_the_table_of_fields_in_the_documentation():
    page = (Path(__file__).parents[1] / "docs" / "rewards.md").read_text(encoding="utf-8")
    table = page.partition("<!-- rewards of files -->\n")[2].partition("\n\n")[0]
    documented = {}
    for line in table.splitlines()[2:]:
        names, fields, variants = (cell.replace("`", "") for cell in line.strip("| ").split(" | ")[:3])
        for name in names.split(", "):
            documented[name] = (fields.split(", ") if fields != "-" else [], variants.split(", "))
    assert set(documented) == set(REWARDS)
    for name, reward in REWARDS.items():
        assert documented[name] == (list(reward.fields), list(reward.variants)), name


def test_names_cover_every_method_and_family():
    assert {f"vlm_r1_text_{m}" for m in TEXT_METHODS} | {f"vlm_r1_detection_{m}" for m in DETECTION_METHODS} <= set(REWARDS)
    assert {f"vlm_r1_rec_{f}" for f in vlm_r1.Family.__args__} <= set(REWARDS)
