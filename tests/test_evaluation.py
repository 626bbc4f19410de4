"""Evaluation of models: log-probs of options at the answer position, and whole benchmarks."""

import dataclasses
import json

import pytest
import torch

from benchmark_miniatures import dump, mask_file, picture
from test_benchmarks_tasks import empty_real_iad
from tiny import make_prompt
from tiny import picture as noise
from visurf.config import Config, ModelConfig, RolloutConfig
from visurf.evaluation import _answer_position, evaluate_benchmark, option_scores, records, summarise
from visurf.policy import Policy
from visurf.rollout.local import Sampling
from visurf.scoring import Scorer
from visurf.tasks import TASKS, RewardSettings
from visurf.types import Choice, DataError, Detections, ImageRef, Number, Objects, ParseError, Points, Sample, Text
from visurf.unreadable import unanswered


@pytest.fixture
def policy(tiny):
    return Policy(tiny.network.eval(), temperature=1.0, banned=tiny.banned_ids)


def plain_scores(model, plain, prompt, prefix, options):
    """The same by the plain forward of transformers, one option at a time."""
    found = []
    for option in options:
        ids = model.tokenizer(prefix + option, add_special_tokens=False).input_ids
        start = len(model.tokenizer(prefix, add_special_tokens=False).input_ids)
        everything = torch.tensor([[*prompt.token_ids, *ids]])
        inputs = {"input_ids": everything, **prompt.tensors, "mm_token_type_ids": (everything == model.image_id).long()}
        with torch.no_grad():
            logits = plain(**inputs).logits[0].float()
        logits[:, list(model.banned_ids)] = float("-inf")
        logp = torch.log_softmax(logits, -1)
        first = len(prompt.token_ids) - 1
        found.append(sum(float(logp[first + i, t]) for i, t in enumerate(ids) if i >= start))
    return found


@pytest.mark.parametrize("prefix", ["<answer>", "<think>red circle</think><answer>"])
@pytest.mark.parametrize("options", [("red", "blue"), ("one", "two three"), ("one", "one two")])
def test_option_scores_are_those_of_the_plain_forward(random_models, prefix, options):
    model, plain = random_models["qwen2_5_vl"]
    policy = Policy(model.network, temperature=1.0, banned=model.banned_ids)
    prompt = make_prompt(model)
    if options == ("one", "one two"):
        # One begins with the other: both still count from the end of the prefix.
        assert option_scores(model, policy, prompt, options, prefix)[0] > option_scores(model, policy, prompt, options, prefix)[1]
    expected = plain_scores(model, plain, prompt, prefix, options)
    assert option_scores(model, policy, prompt, options, prefix) == pytest.approx(expected, abs=1e-4)


def test_an_option_must_add_something(tiny, policy):
    with pytest.raises(ValueError, match="adds no token"):
        option_scores(tiny, policy, make_prompt(tiny), ("red", ""))


def test_the_answer_position():
    assert _answer_position("<think>a</think><answer>yes</answer>") == "<think>a</think><answer>"
    assert _answer_position("never") == "<answer>"


def test_yes_no_records_are_scored_whatever_was_said(tiny, policy):
    task = TASKS["anomaly_yes_no"]
    samples = [Sample(f"{i}", (noise(i),), "Is there a red circle?", Text("yes" if i else "no")) for i in range(3)]
    scorer = Scorer(task, task.parts(RewardSettings()))
    policy.train()
    found = list(records(tiny, policy, samples, scorer, "bare", Sampling(4)))
    assert policy.training
    assert [r["id"] for r in found] == ["0", "1", "2"]
    for record in found:
        yes, no = record["option_logprobs"]
        assert yes < 0
        assert no < 0
        assert record["score"] == yes - no
    assert len({r["score"] for r in found}) == 3
    json.dumps(found)


@pytest.fixture
def config(checkpoints):
    return Config(
        model=dataclasses.replace(ModelConfig(), path=str(checkpoints["qwen2_5_vl"]), min_pixels=512),
        rollout=dataclasses.replace(RolloutConfig(), max_tokens=4),
    )


def test_a_benchmark_gives_one_record_per_sample(config, tmp_path):
    for name in ("ISIC_0000001", "ISIC_0000002"):
        picture(tmp_path / f"data/ISIC2018_Task1-2_Test_Input/{name}.jpg")
        mask_file(tmp_path / f"data/ISIC2018_Task1_Test_GroundTruth/{name}_segmentation.png")
    config = dataclasses.replace(config, task=dataclasses.replace(config.task, prompt="bare"))
    seen = []
    found = evaluate_benchmark(
        config, "isic2018", tmp_path / "data", "test", out=tmp_path / "out", progress=lambda *a: seen.append(a), resamples=20
    )
    assert [r["id"] for r in found.records] == ["ISIC_0000001", "ISIC_0000002"]
    assert seen == [(1, 2), (2, 2)]
    assert found.summary.n == 2
    assert set(found.summary.metrics) >= {"box_accuracy", "giou", "thinking", "reward"}
    assert len((tmp_path / "out/records.jsonl").read_text().splitlines()) == 2
    assert json.loads((tmp_path / "out/summary.json").read_text())["benchmark"] == "isic2018"
    limited = evaluate_benchmark(config, "isic2018", tmp_path / "data", "test", limit=1, resamples=20)
    assert limited.notes["limit"] == "the first 1 of 2 samples"


def test_an_empty_mask_is_found_before_a_model_answers(config, tmp_path):
    empty_real_iad(tmp_path / "data")
    config = dataclasses.replace(config, task=dataclasses.replace(config.task, prompt="bare"))
    seen = []
    found = evaluate_benchmark(
        config, "real_iad", tmp_path / "data", "test", out=tmp_path / "out", progress=lambda *a: seen.append(a), resamples=20
    )
    assert seen[-1] == (3, 3)
    assert found.notes["masks"].startswith("left out, the mask is empty: 1 ")
    found = evaluate_benchmark(config, "real_iad_yes_no", tmp_path / "data", "test", out=tmp_path / "other", resamples=20)
    shown = [json.loads(line) for line in (tmp_path / "other/records.jsonl").read_text().splitlines()]
    assert [bool(r["pictures"]) for r in shown] == [True] * 4
    assert ["target_masks" in r for r in shown] == [False, False, False, True]


def test_records_are_written_before_anything_is_computed_of_them(config, tmp_path, monkeypatch):
    picture(tmp_path / "data/ISIC2018_Task1-2_Test_Input/ISIC_0000001.jpg")
    mask_file(tmp_path / "data/ISIC2018_Task1_Test_GroundTruth/ISIC_0000001_segmentation.png")

    def fails(*arguments, **options):
        raise ValueError("no metric")

    monkeypatch.setattr("visurf.evaluation.conclude", fails)
    with pytest.raises(ValueError, match="no metric"):
        evaluate_benchmark(config, "isic2018", tmp_path / "data", "test", out=tmp_path / "out")
    assert len((tmp_path / "out/records.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("exist_check", ["none", "model"])
def test_a_damaged_picture_is_named_or_counts_as_failed(config, tmp_path, exist_check):
    pytest.importorskip("pycocotools")
    images = [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 48} for i in (1, 2)]
    picture(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes(b"no picture")
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0} for i in (1, 2)]
    truth = dump(tmp_path / "t.json", {"images": images, "categories": [{"id": 1, "name": "bus"}], "annotations": boxes})
    config = dataclasses.replace(config, task=dataclasses.replace(config.task, prompt="bare"))
    with pytest.raises(DataError, match=r"sample .*2.*cannot be read .*on_bad_sample=skip"):
        evaluate_benchmark(config, "coco", truth, "val", exist_check=exist_check, resamples=20)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, on_bad_sample="skip"))
    found = evaluate_benchmark(config, "coco", truth, "val", exist_check=exist_check, out=tmp_path / "out", resamples=20)
    assert len(found.records) == 2
    failed = found.records[1]
    assert failed["error"] == "unreadable_picture"
    assert "2.png" in failed["detail"]
    assert failed["reward"]["total"] == 0
    assert found.summary.parse_errors["unreadable_picture"] == 1


@pytest.mark.parametrize("task", TASKS)
def test_every_task_judges_a_sample_whose_picture_cannot_be_read(task, tmp_path):
    task = TASKS[task]
    targets = {
        Objects: Objects(((5.0, 5.0, 20.0, 20.0),), ((9.0, 9.0),)),
        Detections: Detections(((5.0, 5.0, 20.0, 20.0),), (1.0,)),
        Points: Points(((9.0, 9.0),)),
        Text: Text("yes"),
        Number: Number("3"),
        Choice: Choice("A", ("a", "b")),
    }
    sample = Sample("s", (ImageRef(tmp_path / "none.png"),), "q", targets[task.targets[0]])
    record = unanswered(sample, ParseError("unreadable_picture", "why"), Scorer(task, task.parts(RewardSettings())))
    assert (record["error"], record["detail"], record["tokens"]) == ("unreadable_picture", "why", 0)
    assert summarise(task, [record])["parse_failed"] == 1
    assert summarise(task, [record])["reward"] <= 1, "no more than not repeating oneself is worth"


def test_detection_asks_the_model_first(config, tmp_path):
    pytest.importorskip("pycocotools")
    images = [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 48} for i in (1, 2)]
    for image in images:
        picture(tmp_path / image["file_name"])
    annotations = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}]
    categories = [{"id": 1, "name": "bus"}, {"id": 2, "name": "cat"}]
    truth = dump(tmp_path / "t.json", {"images": images, "categories": categories, "annotations": annotations})
    config = dataclasses.replace(config, task=dataclasses.replace(config.task, prompt="bare"))
    found = evaluate_benchmark(config, "coco", truth, "val", exist_check="model", resamples=20)
    assert len(found.records) == 4
    assert found.notes["exist_check"].startswith("model")
    asked = sum(r.get("asked", True) for r in found.records)
    assert found.notes["exist_check_rate"] == f"{asked / 4:.4f}"
    assert found.values()["ap"] == 0.0
    every = evaluate_benchmark(config, "coco", truth, "val", resamples=20)
    assert all("asked" not in r for r in every.records)
