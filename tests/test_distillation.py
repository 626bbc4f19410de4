"""Answers of a model as labels: what is accepted and kept, how it is written, and that a killed run goes on exactly."""

import dataclasses
import json
import math

import pytest
from PIL import Image

from visurf.cli import main
from visurf.config import Config, ConfigError, load_config, merge
from visurf.control import Controls
from visurf.data import load_data
from visurf.distillation import Candidate, Distillation, Tally, choose, distil, least_reward
from visurf.models.random_checkpoint import write_checkpoint
from visurf.picture_files import picture_name
from visurf.policy import Policy
from visurf.preparation import make_scorer
from visurf.rollout.local import Rollout
from visurf.row_file import RowFile
from visurf.scoring import label_completion
from visurf.tasks import TASKS
from visurf.training import train
from visurf.types import DataError, Demonstration, ImageRef, Objects, Text

BASE = {
    "model": {"path": "mini"},
    "data": {"train": "world:clean?count=20&seed=3&absent=0"},
    "task": {"prompt": "bare"},
    "reward": {"frame": [64, 64]},
    "rollout": {"group_size": 4, "max_tokens": 40},
    "prompts_per_step": 8,
    "threads": 1,
}


def config_with(**changes):
    return load_config(None, merge(BASE, changes))


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    """An uninterrupted run: its folder and summary."""
    folder = tmp_path_factory.mktemp("distilled")
    return folder, distil(config_with(), folder / "rows.jsonl")


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_kept_answer_earns_what_was_asked_for(distilled, mini):
    folder, summary = distilled
    config = config_with(data={"train": str(folder / "rows.jsonl")})
    data = load_data(config.data.train, config.data, TASKS["referring"])
    assert len(data.samples) == summary["rows"] > 5
    assert summary["accepted_from"] == pytest.approx(0.8 * 7)
    scorer = make_scorer(config, TASKS["referring"])
    for sample in data.samples:
        prompt = mini.encode_prompt(sample, sample.question)
        label = scorer.read(label_completion(scorer.task, sample, prompt.frame, Controls()), sample, prompt.frame)
        reward = scorer.score_label(label, sample, Controls()).total
        assert reward == sample.meta["distilled"]["reward"] >= summary["accepted_from"]
        assert label.text.startswith("<think>")


def test_the_summary_is_that_of_the_rows(distilled):
    folder, summary = distilled
    about = [row["meta"]["distilled"] for row in rows_of(folder / "rows.jsonl")]
    assert summary["prompts"] == 20
    assert summary["answered_share"] == len(about) / 20
    assert summary["mean_reward_kept"] == pytest.approx(sum(a["reward"] for a in about) / len(about))
    assert summary["mean_tokens_kept"] == pytest.approx(sum(a["tokens"] for a in about) / len(about))
    assert 0 < summary["accepted_share"] <= 1
    assert summary["mean_reward"] < summary["mean_reward_kept"]


@pytest.mark.parametrize("paradigm", ["sft", "visurf"])
def test_the_rows_train(paradigm, distilled, tmp_path):
    folder, _ = distilled
    changes = {"data": {"train": str(folder / "rows.jsonl")}, "paradigm": paradigm, "steps": 1, "out": str(tmp_path / "run")}
    result = train(config_with(**changes, prompts_per_step=4))
    if paradigm == "sft":
        # The student is the teacher: it finds its own words likely.
        assert result.metrics["label/nll"] < 0.3
    else:
        assert result.metrics["label/reward"] >= 5.6
    groups = [json.loads(line) for line in (tmp_path / "run" / "rollouts.jsonl").read_text().splitlines()]
    labels = [m for g in groups for m in g["members"] if m["source"] == "label"]
    assert labels
    assert all(m["text"].startswith("<think>") and m["parts"]["thinking_format"] == 1 for m in labels)


def test_a_student_of_another_family_learns_the_answers_in_its_own_frame(distilled, tmp_path):
    """The teacher wrote pixels of the resized picture, a Qwen2-VL writes 0 to 1000."""
    folder, _ = distilled
    model = write_checkpoint("qwen2_vl", tmp_path / "model", max_pixels=56 * 56)
    changes = {"model": {"path": str(model)}, "data": {"train": str(folder / "rows.jsonl")}, "out": str(tmp_path / "run")}
    train(config_with(**changes, rollout={"max_tokens": 4}, steps=1, prompts_per_step=2))
    rows = {row["id"]: row for row in rows_of(folder / "rows.jsonl")}
    for group in rows_of(tmp_path / "run" / "rollouts.jsonl"):
        (box,) = rows[group["id"]]["response"]["answer"]["boxes"]
        in_thousandths = ",".join(str(int(v / 64 * 1000 + 0.5)) for v in box)
        (label,) = [m["text"] for m in group["members"] if m["source"] == "label"]
        assert label.startswith(f"<think>{rows[group['id']]['response']['thinking']}</think><answer>")
        assert f'"bbox_2d": [{in_thousandths}]' in label


def test_what_is_drawn_depends_on_seed_and_sample_alone(distilled, tmp_path):
    folder, _ = distilled
    distil(config_with(prompts_per_step=3), tmp_path / "rows.jsonl")
    one, other = ({row["id"]: row["response"] for row in rows_of(f / "rows.jsonl")} for f in (folder, tmp_path))
    # Another batch rounds otherwise, which may turn a draw that is on the edge.
    assert sum(one[name] == other.get(name) for name in one) >= len(one) - 1
    distil(config_with(seed=1), tmp_path / "seed.jsonl")
    assert {row["id"]: row["response"] for row in rows_of(tmp_path / "seed.jsonl")} != one


class Killed(Exception):
    pass


@pytest.mark.parametrize("moment", ["between", "after_rows"])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(moment, distilled, tmp_path, monkeypatch):
    folder, summary = distilled
    out = tmp_path / "rows.jsonl"

    def stop(done, total):
        if done == 8:
            raise Killed

    def progress_of_the_second_batch(self):
        if self.done == 16:
            raise Killed
        written(self)

    written = RowFile._write_progress
    with monkeypatch.context() as patch:
        if moment == "after_rows":
            patch.setattr(RowFile, "_write_progress", progress_of_the_second_batch)
        with pytest.raises(Killed):
            distil(config_with(), out, progress=stop if moment == "between" else None)
    before = out.read_bytes()
    assert 0 < len(before) < len((folder / "rows.jsonl").read_bytes())
    if moment == "between":
        out.write_bytes(before + b'{"id": "half a ro')
    seen = []
    assert distil(config_with(), out, progress=lambda done, total: seen.append((done, total))) == summary
    assert seen == [(16, 20), (20, 20)]
    assert out.read_bytes() == (folder / "rows.jsonl").read_bytes()
    names = [sorted(p.name for p in (f / "rows_images").iterdir()) for f in (folder, tmp_path)]
    assert names[0] == names[1]
    assert distil(config_with(), out, progress=lambda *_: pytest.fail("there is nothing left to do")) == summary


def test_a_file_is_gone_on_with_under_the_same_settings_alone(distilled):
    folder, _ = distilled
    for changes in (
        {"seed": 1},
        {"rollout": {"temperature": 0.7}},
        {"prompts_per_step": 4},
        {"data": {"train": "world:clean?count=21&seed=3"}},
    ):
        with pytest.raises(
            ConfigError, match=r"rows\.jsonl was begun with (seed|rollout\.temperature|prompts_per_step|data\.train): "
        ):
            distil(config_with(**changes), folder / "rows.jsonl")
    with pytest.raises(ConfigError, match="was begun with keep: 'best', asked is 'all'"):
        distil(config_with(), folder / "rows.jsonl", keep="all")


def test_files_that_are_not_ours(tmp_path):
    (tmp_path / "rows.jsonl").write_text("{}")
    with pytest.raises(ConfigError, match="exists and was not begun by this command"):
        RowFile(tmp_path / "rows.jsonl", {})
    assert (tmp_path / "rows.jsonl").read_text() == "{}"
    rows = RowFile(tmp_path / "mine.jsonl", {"a": (1, 2)})
    rows.append([{"id": 1}], 1, {"rows": 1})
    again = RowFile(tmp_path / "mine.jsonl", {"a": (1, 2)})
    assert (again.done, again.tally) == (1, {"rows": 1})
    (tmp_path / "mine.jsonl").write_text("")
    with pytest.raises(ConfigError, match="is shorter than"):
        RowFile(tmp_path / "mine.jsonl", {"a": (1, 2)})


def candidate(number, reward, tokens, thinking=None):
    return Candidate(number, Demonstration(thinking or f"thought {number}", Text("x")), reward, tokens)


def test_best_shortest_and_all():
    found = [candidate(0, 5.0, 9), candidate(1, 7.0, 12), candidate(2, 7.0, 11), candidate(4, 6.0, 8), candidate(5, 6.5, 8)]
    assert [c.number for c in choose(found, "best")] == [2]
    assert [c.number for c in choose(found, "shortest")] == [5]
    assert choose(found, "all") == found
    twice = [*found, candidate(6, 7.0, 11, "thought 2")]
    assert choose(twice, "all") == found
    ties = [candidate(3, 7.0, 8), candidate(7, 7.0, 8)]
    assert [c.number for k in ("best", "shortest") for c in choose(ties, k)] == [3, 3]
    assert choose([], "best") == choose([], "shortest") == choose([], "all") == []


def test_all_accepted_answers_get_rows_of_their_own(tmp_path, distilled):
    _, best = distilled
    summary = distil(config_with(), tmp_path / "rows.jsonl", keep="all")
    rows = rows_of(tmp_path / "rows.jsonl")
    assert best["rows"] < summary["rows"] == len(rows) == len({row["id"] for row in rows})
    assert (summary["accepted_share"], summary["answered_share"]) == (best["accepted_share"], best["answered_share"])
    assert len({row["id"].partition("#")[0] for row in rows}) == best["rows"]
    assert len({json.dumps([row["id"].partition("#")[0], row["response"]]) for row in rows}) == len(rows)


@pytest.fixture
def judge(mini):
    """Rates texts as if the model had sampled them, for one prompt: (texts) -> (kept, tally)."""
    config = config_with()
    (sample,) = load_data("world:clean?count=1&seed=3&absent=0", config.data, TASKS["referring"]).samples
    policy = Policy(mini.network, temperature=1.0, banned=mini.banned_ids)
    prompt = mini.encode_prompt(sample, sample.question)
    right = TASKS["referring"].label_text(sample.target, prompt.frame, True)

    def judged(*texts, least=5.6, keep="all", cut=(), functions=None):
        scorer = make_scorer(config_with(reward={"functions": functions or {}}), TASKS["referring"])
        distillation = Distillation(config, mini, policy, scorer, keep, least)
        tally = Tally()
        rollouts = [Rollout(mini.encode_completion(t.format(right=right)), (), i in cut) for i, t in enumerate(texts)]
        return distillation._kept(prompt, rollouts, tally), tally

    return judged


def test_what_is_accepted(judge):
    good, bare, empty = "<think>red circle row 1</think>{right}", "{right}", "<think>row 1</think><answer>[]</answer>"
    kept, tally = judge(good, bare, empty, good, cut=(3,))
    assert [c.number for c in kept] == [0]
    assert (tally.completions, tally.accepted, tally.truncated, tally.prompts, tally.answered) == (4, 1, 1, 1, 1)
    assert kept[0].reward == 7.0
    # An answer alone earns 6 of 7: enough, but it demonstrates no reasoning.
    assert judge(bare, least=5.0)[0] == []
    assert judge(good, least=7.1)[0] == []
    # As a label it would earn 7, but the reward gave what was sampled 6: the text goes on after the answer.
    assert judge(f"{good} and so on", least=6.5)[0] == []
    assert [c.reward for c in judge(f"{good} and so on", least=6.0)[0]] == [7.0]
    assert judge(empty)[1].answered == 0


def test_the_label_that_is_written_must_earn_the_least_reward_too(judge, tmp_path):
    (tmp_path / "mine.py").write_text(
        "def spaced(completion, sample):\n    return 5.0 * ('</think> <answer>' in completion.text)\n"
    )
    spaced = {"functions": {"spaced": f"{tmp_path}/mine.py:spaced"}}
    kept, tally = judge("<think>row 1</think> {right}", least=10.0, **spaced)
    assert (kept, tally.accepted, tally.reward) == ([], 0, 12.0)
    assert [c.reward for c in judge("<think>row 1</think> {right}", least=7.0, **spaced)[0]] == [7.0]


def test_the_least_reward_is_four_fifths_of_the_largest_or_what_one_asks(tmp_path):
    (tmp_path / "mine.py").write_text("def mine(completion, sample):\n    return 1.0\n")
    scorer = make_scorer(config_with(), TASKS["referring"])
    assert least_reward(scorer, None) == pytest.approx(5.6)
    assert least_reward(scorer, 3.0) == 3.0
    weighted = make_scorer(config_with(reward={"weights": {"accuracy": 2.0, "non_repeat": 0.0}}), TASKS["referring"])
    assert least_reward(weighted, None) == pytest.approx(0.8 * 9)
    mine = make_scorer(config_with(reward={"functions": {"mine": f"{tmp_path}/mine.py:mine"}}), TASKS["referring"])
    with pytest.raises(ConfigError, match="--min-reward"):
        least_reward(mine, None)


def test_pictures_are_named_where_they_lie_or_copied(tmp_path):
    (tmp_path / "pictures").mkdir()
    lying = tmp_path / "pictures" / "a.png"
    Image.new("RGB", (20, 10), (1, 2, 3)).save(lying)
    store = tmp_path / "rows_images"
    assert picture_name(ImageRef(lying), tmp_path, store, copy=False) == "pictures/a.png"
    assert not store.exists()
    with pytest.raises(DataError, match=r"lies outside of .*--copy-images"):
        picture_name(ImageRef(lying), tmp_path / "else", tmp_path / "else" / "x", copy=False)
    name = picture_name(ImageRef(lying), tmp_path, store, copy=True)
    assert (tmp_path / name).read_bytes() == lying.read_bytes()
    assert picture_name(ImageRef(lying.read_bytes()), tmp_path, store, copy=False) == name
    assert picture_name(ImageRef(lambda: lying.read_bytes()), tmp_path, store, copy=False) == name
    drawn = picture_name(ImageRef(Image.new("RGB", (20, 10), (1, 2, 3))), tmp_path, store, copy=False)
    assert ImageRef(tmp_path / drawn).load().tobytes() == ImageRef(lying).load().tobytes()
    assert {p.suffix for p in store.iterdir()} == {".png"}


def test_rows_from_a_file_name_its_pictures(distilled, tmp_path):
    folder, _ = distilled
    source = {"train": str(folder / "rows.jsonl")}
    summary = distil(config_with(data=source), folder / "again.jsonl")
    assert summary["rows"] > 0
    first = rows_of(folder / "again.jsonl")[0]
    assert first["image"].startswith("rows_images/")
    assert first["meta"]["distilled"]["model"] == "mini"
    with pytest.raises(DataError, match="lies outside of"):
        distil(config_with(data=source), tmp_path / "rows.jsonl")
    distil(config_with(data=source), tmp_path / "rows.jsonl", copy_images=True)
    (copied,) = {row["image"] for row in rows_of(tmp_path / "rows.jsonl") if row["id"] == first["id"]}
    assert (tmp_path / copied).read_bytes() == (folder / first["image"]).read_bytes()


def test_coordinates_in_thoughts_keep_their_frame(judge):
    kept, tally = judge("<think>red circle [ 12 , 40</think>{right}", "<think>red circle row 1</think>{right}")
    assert [c.demonstration.extent for c in kept] == [(64.0, 64.0), None]
    assert tally.coordinates == 1


def test_a_sample_without_any_accepted_answer_has_no_row(tmp_path):
    summary = distil(config_with(), tmp_path / "rows.jsonl", min_reward=100.0)
    assert (summary["rows"], summary["answered_share"]) == (0, 0.0)
    assert math.isnan(summary["mean_reward_kept"])
    assert (tmp_path / "rows.jsonl").read_bytes() == b""
    assert not (tmp_path / "rows_images").exists()


def test_data_must_be_named_and_one_process_works(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"data\.train is not set"):
        distil(Config(), tmp_path / "rows.jsonl")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="one process"):
        distil(config_with(), tmp_path / "rows.jsonl")


def test_the_command(tmp_path, capsys):
    out = tmp_path / "rows.jsonl"
    asked = [
        "data",
        "distil",
        "mini",
        "world:clean?count=4&seed=3&absent=0",
        "--out",
        str(out),
        "--samples",
        "3",
        "--temperature",
        "0.5",
    ]
    settings = ["task.prompt=bare", "reward.frame=[64, 64]", "rollout.max_tokens=40", "threads=1"]
    assert main([*asked, *settings, "--keep", "shortest", "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert "prompts                4" in printed
    assert f"rows in {out}" in printed
    settings_kept = json.loads((tmp_path / "rows.jsonl.progress.json").read_text())["settings"]
    assert (settings_kept["rollout"]["group_size"], settings_kept["rollout"]["temperature"]) == (3, 0.5)
    assert settings_kept["keep"] == "shortest"
    assert main([*asked, *settings, "--keep", "shortest", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prompts"] == 4
    nothing = ["--min-reward", "100", "--json", "--out", str(tmp_path / "none.jsonl")]
    assert main([*asked, *settings, *nothing]) == 0
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["mean_reward_kept"] is None
    assert main([*asked, *settings]) == 2
    assert "was begun with keep" in capsys.readouterr().err


def test_a_benchmark_is_answered_with_its_recipe(tmp_path):
    """Rows of parquet pictures, masks as truths, and a prompt that needs the sample's meta."""
    from recipe_miniatures import MINIATURES

    pytest.importorskip("pyarrow")
    model = write_checkpoint("qwen2_vl", tmp_path / "model", max_pixels=56 * 56)
    MINIATURES["virft_classification"](tmp_path / "ViRFT_CLS_flower_4_shot")
    MINIATURES["isic2018"](tmp_path / "isic2018")
    small = {"model": {"path": str(model), "min_pixels": 3136, "max_pixels": 3136}, "data": {"root": str(tmp_path)}}
    small |= {"rollout": {"group_size": 1, "max_tokens": 4}, "threads": 1}
    for recipe in ("visual_rft/flowers_4shot_2b", "visurf/isic2018_7b"):
        out = tmp_path / recipe.replace("/", "_") / "rows.jsonl"
        summary = distil(load_config(recipe, small), out, copy_images=True)
        assert (summary["prompts"], summary["rows"]) == (2, 0)


def test_a_row_keeps_question_target_and_what_json_can_hold_of_meta():
    from visurf.distillation import _row
    from visurf.types import Sample

    sample = Sample("7", (), "x", Objects(((1, 2, 3, 4),), ((2, 3),)), meta={"noun": "pet", "mask": object(), "size": (3, 4)})
    found = Candidate(2, Demonstration("so", Objects(), (28.0, 28.0)), 6.5, 9)
    row = _row(sample, found, [], dataclasses.replace(Config()), "all")
    assert row == {
        "id": "7#2",
        "question": "x",
        "target": {"boxes": [[1.0, 2.0, 3.0, 4.0]], "points": [[2.0, 3.0]]},
        "response": {"thinking": "so", "answer": [], "frame": [28.0, 28.0]},
        "meta": {"noun": "pet", "size": [3, 4], "distilled": {"model": "mini", "reward": 6.5, "tokens": 9}},
    }
