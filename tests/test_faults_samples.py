"""Samples and completions that go wrong in the middle of a run."""

import dataclasses
import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from replay import make_loop, optimise
from test_faults_checkpoints import tiny_run
from test_security import png_of
from test_training import deterministic
from visurf import checkpoint
from visurf.config import ConfigError, RolloutConfig
from visurf.geometry import Frame
from visurf.group_rows import group_row
from visurf.loop import Loop
from visurf.mini.world import SHIFTED, referring_samples
from visurf.paradigms import RLVR, SFT, VISURF
from visurf.preparation import sample_order
from visurf.scoring import Scorer
from visurf.tasks import TASKS, RewardSettings
from visurf.tasks.task import Part
from visurf.training import train
from visurf.types import Completion, DataError, ImageRef, Objects, Sample

COUNT = 5


def write_data(folder, *, questions=(), sizes=()):
    """Five rows with a picture each."""
    rows = []
    for i in range(COUNT):
        size = dict(sizes).get(i, (64, 48))
        pixels = np.random.default_rng(i).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        question = dict(questions).get(i, "red circle")
        rows.append({"id": f"row-{i}", "image": f"{i}.png", "question": question, "target": []})
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "data.jsonl")


def one_each(folder, out, **changes):
    """Five steps of one sample each; the last steps' samples are not read ahead when the first step is over."""
    from visurf.config import merge

    values = {"data": {"train": str(folder / "data.jsonl")}, "prompts_per_step": 1, "steps": COUNT, "checkpoint": {"every": 0}}
    return tiny_run(out, **merge(values, changes))


def sample_of(step):
    """The number of the sample that a step, from 1, asks about."""
    return sample_order(COUNT, 0, step - 1, 1)[0]


def delete(path):
    path.unlink()


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def bomb(path):
    path.write_bytes(png_of(60_000, 60_000))


def narrow(path):
    Image.new("RGB", (1, 5000)).save(path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    write_data(folder)
    train(one_each(folder, folder / "run"))
    return folder / "run"


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (delete, "no such file"),
        (truncate, "cannot be decoded"),
        (bomb, "over the limit|exceeds limit"),
        (narrow, "1 x 5000 pixels, but 64 x 48 when the data was read"),
    ],
)
def test_an_image_that_goes_bad_names_its_sample_and_costs_no_finished_step(tmp_path, undisturbed, harm, said):
    write_data(tmp_path)
    number = sample_of(4)
    path = tmp_path / f"{number}.png"
    sound = path.read_bytes()

    def report(event):
        if event["event"] == "step" and event["step"] == 1:
            harm(path)

    with pytest.raises(DataError, match=rf"sample row-{number}: image .*{number}\.png: .*({said}).*data.on_bad_sample=skip"):
        train(one_each(tmp_path, tmp_path / "run"), report)
    assert checkpoint.latest(tmp_path / "run").name == "step-000003"
    path.write_bytes(sound)
    train(one_each(tmp_path, tmp_path / "run"))
    rows, whole = (deterministic(out / "metrics.jsonl") for out in (tmp_path / "run", undisturbed))
    assert rows == whole


def test_a_sample_that_goes_bad_can_be_left_out_counted_and_named(tmp_path, undisturbed):
    write_data(tmp_path)
    number = sample_of(4)

    def report(event):
        if event["event"] == "step" and event["step"] == 1:
            delete(tmp_path / f"{number}.png")

    config = one_each(tmp_path, tmp_path / "run", data={"on_bad_sample": "skip"})
    train(config, report)
    rows, whole = (deterministic(out / "metrics.jsonl") for out in (tmp_path / "run", undisturbed))
    assert [row["data/skipped"] for row in rows] == [0, 0, 0, 1, 0]
    assert rows[:3] == whole[:3]
    kept = (tmp_path / "run" / "incidents" / "step-000004-skipped.jsonl").read_text()
    assert json.loads(kept)["id"] == f"row-{number}"
    assert "no such file" in json.loads(kept)["problem"]


def test_a_run_goes_on_without_a_sample_that_is_gone_and_the_others_keep_their_places(tmp_path, undisturbed):
    write_data(tmp_path)
    number = sample_of(4)

    def report(event):
        if event["event"] == "step" and event["step"] == 1:
            delete(tmp_path / f"{number}.png")

    with pytest.raises(DataError):
        train(one_each(tmp_path, tmp_path / "run"), report)
    train(one_each(tmp_path, tmp_path / "run", data={"on_bad_sample": "skip"}))
    rows, whole = (deterministic(out / "metrics.jsonl") for out in (tmp_path / "run", undisturbed))
    assert rows[:3] == whole[:3]
    shown = [json.loads(line) for line in (tmp_path / "run" / "rollouts.jsonl").read_text().splitlines()]
    assert [(row["step"], row["id"]) for row in shown] == [(s, f"row-{sample_of(s)}") for s in (1, 2, 3, 5)]


def test_data_that_was_changed_under_a_run_is_refused(tmp_path):
    write_data(tmp_path)
    train(one_each(tmp_path, tmp_path / "run", steps=1))
    lines = (tmp_path / "data.jsonl").read_text().splitlines()
    for changed, said in (
        (lines[::-1], "another order"),
        ([*lines, lines[0].replace("row-0", "row-9")], "'row-9' is new"),
        (lines[:-1], "1 samples are missing, such as 'row-4'"),
    ):
        (tmp_path / "data.jsonl").write_text("\n".join(changed))
        with pytest.raises(ConfigError, match=said):
            train(one_each(tmp_path, tmp_path / "run", steps=2))


def test_a_picture_of_one_by_five_thousand_pixels_is_a_data_error(mini):
    sample = Sample("thin", (ImageRef(Image.new("RGB", (1, 5000))),), "red circle", Objects())
    with pytest.raises(DataError, match=r"of 1 x 5000 pixels: the model's image processor cannot take it"):
        mini.encode_prompt(sample, "red circle")


@pytest.mark.parametrize("paradigm", ["rlvr", "sft"])
def test_a_prompt_longer_than_the_context_names_its_sample(tmp_path, paradigm):
    write_data(tmp_path, questions={sample_of(3): "red circle " * 600}.items())
    said = rf"sample row-{sample_of(3)}: its prompt of 1\d\d\d tokens.* exceed the model's context of 1024 tokens; lower"
    with pytest.raises(DataError, match=said):
        train(one_each(tmp_path, tmp_path / "run", paradigm=paradigm))
    assert checkpoint.latest(tmp_path / "run").name == "step-000002"


def test_a_step_of_bad_samples_alone_is_a_step(tiny):
    """Nothing is left to learn from: the step passes, counted, and its gradient is zero."""
    loop = make_loop(tiny, VISURF)
    loop.prompting.on_bad_sample = "skip"
    samples = [dataclasses.replace(s, images=(ImageRef("missing.png"),)) for s in referring_samples(SHIFTED, 2, 1)]
    metrics = loop.step(samples, 0, *optimise(loop))
    assert metrics["data/skipped"] == 2
    assert metrics["policy/grad_norm"] == 0
    assert metrics["train/step_skipped"] == 0


def test_a_label_above_the_limit_of_rollouts_is_learnt_whole(tiny):
    """A label is data: it is never cut. The limit holds for what is sampled."""
    loop = make_loop(tiny, SFT, rollout=RolloutConfig(max_tokens=3))
    metrics = loop.step(referring_samples(SHIFTED, 2, 1, absent=0), 0, *optimise(loop))
    lengths = [len(c.token_ids) for g in loop.groups for c in g.completions]
    assert min(lengths) > 3
    assert all(c.token_ids[-1] in tiny.eos_ids for g in loop.groups for c in g.completions)
    assert metrics["train/step_skipped"] == 0


class Written(Loop):
    """A loop whose rollouts are given."""

    texts = ()

    def sample(self, prompts, labels, number, moment):
        return [[self.written(text) for text in self.texts] for _ in prompts]

    def written(self, text):
        ids = self.model.encode_completion(text)
        return Completion(text, ids, None, None, logprobs=(-1.0,) * len(ids))


def test_an_empty_completion_is_a_parse_error_that_is_scored_and_trained(tiny):
    loop = make_loop(tiny, RLVR)
    loop.__class__ = Written
    loop.scorer.parts = {"length": Part(lambda completion, sample: float(len(completion.text)), 50.0, "accuracy")}
    loop.texts = ("", '[{"bbox_2d": [1, 2, 30, 40]}]', "red", "")
    metrics = loop.step(referring_samples(SHIFTED, 2, 1, absent=0), 0, *optimise(loop))
    empty = loop.groups[0].completions[0]
    assert empty.error is not None
    assert len(empty.token_ids) == 1
    assert metrics["parse/failed"] >= 0.5
    assert metrics["policy/grad_norm"] > 0
    assert group_row(1, loop.groups[0], loop.scorer, loop.controls)["members"][0]["text"] == ""


def test_a_completion_of_no_token_at_all_is_left_out_of_the_rows(tiny):
    loop = make_loop(tiny, RLVR)
    loop.__class__ = Written
    loop.texts = ("", "red")
    loop.written = lambda text: Completion(text, (), None, None, logprobs=()) if not text else Written.written(loop, text)
    metrics = loop.step(referring_samples(SHIFTED, 1, 1), 0, *optimise(loop))
    assert np.isfinite(metrics["loss"])


@pytest.mark.parametrize("piece", ["a", "[{", '{"bbox_2d": [1, 2, 3, 4]}, ', "<think>"])
def test_a_completion_of_ten_megabytes_is_read_and_scored(piece):
    text = piece * (10_000_000 // len(piece))
    scorer = Scorer(TASKS["referring"], TASKS["referring"].parts(RewardSettings()))
    sample = Sample("1", (ImageRef(Image.new("RGB", (64, 48))),), "red circle", Objects(((1.0, 2.0, 30.0, 40.0),)))
    read = scorer.read(Completion(text, (), None, None), sample, Frame((1000.0, 1000.0), (64, 48)))
    score = scorer.score(read, sample)
    assert np.isfinite(score.total)
    # What a message shows of it is short.
    assert read.error is None or len(read.error.detail) < 10_000


def test_a_rollout_that_never_ends_is_cut_at_the_limit_counted_and_trained(tiny, monkeypatch):
    loop = make_loop(tiny, RLVR, rollout=RolloutConfig(group_size=3, max_tokens=7))
    monkeypatch.setattr(tiny, "eos_ids", (tiny.end_of_turn,))
    monkeypatch.setattr(tiny, "banned_ids", (*tiny.banned_ids, tiny.end_of_turn))
    loop.policy.banned = torch.tensor(tiny.banned_ids)
    metrics = loop.step(referring_samples(SHIFTED, 2, 1), 0, *optimise(loop))
    completions = [c for g in loop.groups for c in g.completions]
    assert [len(c.token_ids) for c in completions] == [7] * 6
    assert all(c.truncated for c in completions)
    assert metrics["rollout/truncated"] == 1


def test_a_bad_validation_picture_costs_no_finished_step(tmp_path, undisturbed):
    for name in ("train", "check"):
        (tmp_path / name).mkdir()
        write_data(tmp_path / name)
    validation = {"data": {"validation": str(tmp_path / "check" / "data.jsonl")}, "evaluation": {"every": 3, "before": False}}

    def report(event):
        if event["event"] == "step" and event["step"] == 1:
            delete(tmp_path / "check" / "0.png")

    with pytest.raises(DataError, match=r"sample row-0: .*0\.png: no such file"):
        train(one_each(tmp_path / "train", tmp_path / "run", **validation), report)
    assert checkpoint.latest(tmp_path / "run").name == "step-000003"
    train(one_each(tmp_path / "train", tmp_path / "run"))
    assert deterministic(tmp_path / "run" / "metrics.jsonl") == deterministic(undisturbed / "metrics.jsonl")


def test_a_bad_validation_picture_can_count_as_failed(tmp_path):
    for name in ("train", "check"):
        (tmp_path / name).mkdir()
        write_data(tmp_path / name)
    data = {"validation": str(tmp_path / "check" / "data.jsonl"), "on_bad_sample": "skip"}
    said = []

    def report(event):
        said.append(event["event"])
        if event["event"] == "step" and event["step"] == 1:
            delete(tmp_path / "check" / "0.png")

    result = train(one_each(tmp_path / "train", tmp_path / "run", data=data, evaluation={"every": 3}, steps=3), report)
    rows = [json.loads(line) for line in (tmp_path / "run" / "validation.jsonl").read_text().splitlines()]
    assert [row["error"] == "unreadable_picture" for row in rows] == [True, False, False, False, False]
    assert result.validation["samples"] == COUNT
    assert said.count("step") == 3
