"""The whole of `visurf check`: order, exit codes, the page and the JSON, on recipes with and without what is planted."""

import json
from html.parser import HTMLParser

import pytest
from PIL import Image

from visurf.cli import main
from visurf.config import load_config
from visurf.doctor.examination import Choices, examine
from visurf.doctor.findings import Diagnosis, Finding, Histogram, Picture, Section, Table
from visurf.doctor.page import page
from visurf.doctor.report import as_dict, section_text
from visurf.doctor.rollouts import check_rollouts, sample_groups
from visurf.tasks import TASKS

NAMES = ("data", "model", "lengths", "labels", "small", "rewards", "rollouts", "resources")
HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e\"'&</textarea>"


def run(capsys, *arguments):
    code = main(["check", *arguments])
    return code, capsys.readouterr().out


@pytest.fixture
def dogs(tmp_path):
    """A recipe over a few pictures, for a test to spoil."""
    Image.new("RGB", (64, 64), (200, 30, 30)).save(tmp_path / "a.png")
    rows = [
        {"id": i, "image": "a.png", "question": "find the red circle", "target": {"boxes": [[8 + i, 10, 40, 50]]}} for i in range(6)
    ]
    recipe = tmp_path / "dogs.yaml"

    def write(change=None, **values):
        changed = [change(i, dict(row)) for i, row in enumerate(rows)] if change else rows
        (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, changed)))
        base = {
            "model": {"path": "mini"},
            "data": {"train": str(tmp_path / "d.jsonl")},
            "rollout": {"max_tokens": 40, "group_size": 2},
        }
        recipe.write_text(json.dumps({**base, **values, "task": {"name": "referring", "prompt": "bare"}}))
        return str(recipe)

    return write


def test_the_demo_is_all_clear(capsys, tmp_path):
    train = "data.train=world:shifted?count=24&seed=11"
    code, out = run(
        capsys,
        "demo",
        train,
        "data.validation=",
        "--prompts",
        "2",
        "--json",
        str(tmp_path / "c.json"),
        "--html",
        str(tmp_path / "c.html"),
    )
    assert code == 0
    assert "all clear" in out
    found = json.loads((tmp_path / "c.json").read_text())
    assert [s["name"] for s in found["sections"]] == list(NAMES)
    assert {s["verdict"] for s in found["sections"]} == {"clear"}
    assert found["conclusion"] == "all clear"
    rollouts = found["sections"][6]["facts"]
    assert 0 <= rollouts["parse rate"] <= 1
    assert set(rollouts) >= {
        "reward spread within a group",
        "flat groups (rollouts alone)",
        "label: mean advantage",
        "label: share smoothed",
    }
    assert "MB" in found["sections"][7]["facts"]["peak"]
    assert (tmp_path / "c.html").read_text().startswith("<!doctype html>")


def test_a_good_recipe_of_ones_own(capsys, dogs):
    code, out = run(capsys, dogs(), "--prompts", "0")
    assert (code, "ERROR" in out) == (0, False)
    assert "none were asked for" in out


def test_planted_errors_end_with_1(capsys, dogs, tmp_path):
    def outside(i, row):
        return {**row, "target": {"boxes": [[8, 10, 400, 50]]}} if i == 2 else row

    def elsewhere(i, row):
        answer = '<think>a</think><answer>[{"bbox_2d": [1,1,9,9], "point_2d": [5,5]}]</answer>'
        return {**row, "response": answer} if i == 3 else row

    code, out = run(capsys, dogs(outside), "--prompts", "0")
    assert code == 1
    assert "d.jsonl:3" in out
    code, out = run(capsys, dogs(elsewhere), "--prompts", "0", "--html", str(tmp_path / "p.html"))
    assert code == 1
    assert "do not come back" in out
    assert "data:image/png;base64," in (tmp_path / "p.html").read_text()


def test_warnings_end_with_0(capsys, dogs):
    code, out = run(capsys, dogs(), "--prompts", "0", "rollout.max_tokens=5")
    assert code == 0
    assert "warning" in out.splitlines()[-1]


def test_a_recipe_of_the_hub_without_model_and_data(capsys):
    code, out = run(capsys, "visurf/grefcoco_7b", "--gpu", "H100")
    assert code == 1  # no data, and it does not fit
    assert "will not fit" in out
    assert "shape is the published one" in " ".join(out.split())
    assert out.count("the data cannot be read") == 5
    code, out = run(capsys, "visurf/grefcoco_7b-lora-1gpu", "--gpu", "H100")
    assert "will not fit" not in out


def test_a_hub_model_over_data_that_are_here(capsys, dogs):
    """Frames and image tokens are known from the published processor, so labels are checked; texts are not counted."""
    code, out = run(capsys, dogs(model={"path": "Qwen/Qwen2.5-VL-3B-Instruct"}))
    flat = " ".join(out.split())
    assert code == 0
    assert "labels checked 6" in flat
    assert "the model's tokenizer is not on this machine" in flat
    code, out = run(capsys, dogs(model={"path": "nobody/nothing"}))
    flat = " ".join(out.split())
    assert code == 0
    assert "the model's frame for them is not known" in flat
    assert "the model's shape is not known" in flat
    assert "samples probed 6" in flat


def test_wrong_usage_is_2(capsys, dogs):
    assert main(["check", "no/such/recipe"]) == 2
    assert main(["check", dogs(), "--limit", "-1"]) == 2
    assert main(["check", dogs(), "rollout.nonsense=1"]) == 2


def test_a_reward_that_cannot_be_made_is_an_error(capsys, dogs):
    code, out = run(capsys, dogs(reward={"weights": {"nonsense": 1}}), "--prompts", "0")
    assert code == 1
    assert "nonsense" in out


def test_fewer_samples_when_asked(dogs):
    config = load_config(dogs())
    found = examine("x", config, Choices(limit=2, prompts=0))
    labels = next(s for s in found.sections if s.name == "labels")
    assert labels.facts["labels checked"] == 2
    assert "4 of 6" in found.sections[0].not_made[0]


def test_rollouts_are_judged(dogs):
    config = load_config(dogs())
    from visurf.data import load_data

    samples = load_data(config.data.train, config.data, TASKS["referring"]).samples
    sampled = sample_groups(config, TASKS["referring"], samples, 3)
    assert [len(g.completions) for g in sampled.groups] == [3, 3, 3]
    assert all(g.label_index == 2 for g in sampled.groups)
    section = check_rollouts(sampled, 2)
    assert len(section.tables[0].rows) == 6
    import dataclasses

    # Rollouts that nobody can read: all of them, and so flat.
    broken = []
    for group in sampled.groups:
        from visurf.types import ParseError

        completions = tuple(
            dataclasses.replace(c, answer=None, error=ParseError("no_answer"), truncated=True) if c.source == "policy" else c
            for c in group.completions
        )
        broken.append(dataclasses.replace(group, completions=completions, rewards=(1.0, 1.0, 6.0)))
    messages = " ".join(f.message for f in check_rollouts(dataclasses.replace(sampled, groups=broken), 2).findings)
    assert "only 0%" in messages
    assert "no_answer" in messages
    assert "100% of the rollouts are cut" in messages
    assert "in 100% of the groups all rollouts earn the same" in messages


class Tags(HTMLParser):
    """Which tags a page has, and every address in it."""

    def __init__(self):
        super().__init__()
        self.tags, self.addresses, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_self_contained_and_escapes_everything():
    section = Section(
        "rollouts",
        HOSTILE,
        facts={HOSTILE: HOSTILE},
        findings=[Finding("error", HOSTILE, HOSTILE, (HOSTILE,) * 40)],
        histograms=[Histogram(HOSTILE, (1, 2, 2, 30), 9), Histogram("empty", ())],
        tables=[Table(HOSTILE, (HOSTILE,), ((HOSTILE * 20,), ("a",)))],
        pictures=[Picture(HOSTILE, b"\x89PNG")],
        not_made=[HOSTILE],
    )
    text = page(Diagnosis(HOSTILE, (section,), 1.0, {HOSTILE: HOSTILE}))
    seen = Tags()
    seen.feed(text)
    assert "script" not in seen.tags
    assert "textarea" not in seen.tags
    assert not seen.open
    assert all(address.startswith("data:image/png;base64,") for address in seen.addresses)
    assert "and 28 more" in text
    terminal = section_text(section)
    assert "\x1b" not in terminal
    assert "\u202e" not in terminal


def test_conclusions_and_exit_codes():
    def diagnose(*levels):
        section = Section("data", "Data", findings=[Finding(level, "m") for level in levels])
        return Diagnosis("r", (section,), 0.0, {})

    assert (diagnose().conclusion, diagnose().exit_code) == ("all clear", 0)
    assert (diagnose("warning", "warning").conclusion, diagnose("warning").exit_code) == ("2 warnings", 0)
    assert (diagnose("error", "warning").conclusion, diagnose("error").exit_code) == ("1 error, 1 warning", 1)
    assert as_dict(diagnose("error"))["sections"][0]["verdict"] == "error"
    assert Section("a", "A", not_made=["why"]).verdict == "not made"


@pytest.mark.parametrize("values", [(3, 3, 3), (1, 2, 3, 50), (0.1, 0.9, 0.5), tuple(range(1000)), ()])
def test_histograms_count_everything_once(values):
    bins = Histogram("t", values).bins()
    assert sum(count for *_, count in bins) == len(values)
    assert len(bins) <= 12
