"""Pictures that do not open, boxes outside, wrong frames, repeated names, bad rows; and token lengths against limits."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from visurf.config import Config, DataConfig, ModelConfig, RolloutConfig
from visurf.data import DataSet, load_data
from visurf.doctor.at_hand import look
from visurf.doctor.data import check_data, check_question
from visurf.doctor.findings import Section
from visurf.doctor.layouts import Layouts
from visurf.doctor.lengths import check_lengths, measure
from visurf.models import FAMILIES
from visurf.tasks import TASKS
from visurf.types import Detections, ImageRef, Masks, Objects, Points, Sample, Text

NOTHING = DataSet(())


def picture(width=640, height=480):
    return ImageRef(Image.new("RGB", (width, height), (120, 90, 60)))


def levels(section):
    return [(f.level, f.message) for f in section.findings]


def test_good_data_are_silent(tmp_path):
    samples = tuple(Sample(str(i), (picture(),), f"q{i}", Objects(((10.0 + i, 10.0, 600.0, 400.0),))) for i in range(30))
    section = check_data(DataSet(samples), NOTHING, "error")
    assert section.findings == []
    assert section.facts["pictures opened"] == 30
    assert section.facts["largest picture"] == "640 x 480"


def test_a_picture_that_does_not_open_is_named(tmp_path):
    Image.new("RGB", (50, 40)).save(tmp_path / "good.png")
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no picture")
    samples = tuple(Sample(n, (ImageRef(tmp_path / f"{n}.png"),), "q", Text("a")) for n in ("good", "cut", "text", "missing"))
    section = check_data(DataSet(samples), NOTHING, "error")
    (finding,) = section.findings
    assert finding.level == "error"
    assert len(finding.samples) == 3
    assert all(any(name in line for line in finding.samples) for name in ("cut", "text", "missing"))
    assert section.facts["pictures opened"] == 1
    (finding,) = check_data(DataSet(samples), NOTHING, "skip").findings
    assert finding.level == "warning"


@pytest.mark.parametrize(
    "target",
    [
        Objects(((10.0, 10.0, 700.0, 400.0),)),
        Detections(((-30.0, 10.0, 70.0, 40.0),), (1.0,)),
        Objects(((10.0, 10.0, 10.0, 40.0),)),
        Points(((650.0, 10.0),)),
        Objects(((10.0, 10.0, 70.0, 40.0),), ((20.0, 500.0),)),
    ],
)
def test_boxes_and_points_outside_are_errors(target):
    section = check_data(DataSet((Sample("bad", (picture(),), "q", target),)), NOTHING, "error")
    (finding,) = section.findings
    assert finding.level == "error"
    assert "bad" in finding.samples[0]


def test_a_mask_of_another_shape_is_an_error():
    mask = np.zeros((480, 600), np.uint8)
    section = check_data(DataSet((Sample("m", (picture(),), "q", Masks((mask,))),)), NOTHING, "error")
    assert "600 x 480" in section.findings[0].samples[0]
    good = np.zeros((480, 640), np.uint8)
    assert check_data(DataSet((Sample("m", (picture(),), "q", Masks((good,))),)), NOTHING, "error").findings == []


@pytest.mark.parametrize(("largest", "suspicious"), [(998.0, "1000"), (1.0, "unit"), (1900.0, ""), (500.0, "")])
def test_boxes_of_another_frame_are_suspected(largest, suspicious):
    boxes = [(0.1 * largest, 0.1 * largest, largest * (0.5 + 0.5 * i / 29), 0.9 * largest) for i in range(30)]
    samples = tuple(Sample(str(i), (picture(2000, 2000),), f"q{i}", Objects((b,))) for i, b in enumerate(boxes))
    section = check_data(DataSet(samples), NOTHING, "error")
    assert [f.remedy.endswith(f"data.frame={suspicious}") for f in section.findings] == [True] * bool(suspicious)


def test_repeated_names_and_shared_questions(tmp_path):
    Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
    one = Sample("1", (ImageRef(tmp_path / "a.png"),), "q", Text("a"))
    other = dataclasses.replace(one, question="another")
    section = check_data(DataSet((one, other)), DataSet((one,)), "error")
    assert [level for level, _ in levels(section)] == ["warning", "warning"]
    clean = check_data(DataSet((one,)), DataSet((dataclasses.replace(other, id="2"),)), "error")
    assert clean.findings == []


def test_every_bad_row_is_named(tmp_path):
    Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
    rows = [{"id": i, "image": "a.png", "question": "q", "target": {"boxes": [[1, 1, x, 9]]}} for i, x in enumerate((20, 90, 0))]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = load_data(str(tmp_path / "d.jsonl"), DataConfig(on_bad_sample="skip"), TASKS["referring"])
    for on_bad, level in (("error", "error"), ("skip", "warning")):
        (finding,) = check_data(data, NOTHING, on_bad).findings
        assert finding.level == level
        assert ["d.jsonl:2" in finding.samples[0], "d.jsonl:3" in finding.samples[1]] == [True, True]


def test_a_prompt_that_leaves_out_a_question_that_differs_is_a_warning():
    samples = [Sample(str(i), (), question, Text("red")) for i, question in enumerate(("What colour?", "Which kind?"))]

    def found(task, template="", few=samples):
        section = Section("data", "Data")
        check_question(section, few, TASKS[task], template)
        return section.findings

    (finding,) = found("classification")
    assert finding.level == "warning"
    assert "2 different ones" in finding.message
    assert "task.prompt=question or task.prompt=bare" in finding.remedy
    assert not found("classification", few=samples[:1])
    assert not found("classification", "question")
    assert not found("question_answering")
    assert not found("question_answering", "Say it: {question}")
    assert found("question_answering", "Say it: {options}")[0].level == "warning"
    assert found("question_answering", "Say it")[0].level == "error"


def recipe(path, **values):
    return Config(model=ModelConfig(path=str(path)), **values)


def lengths_of(config, samples, task="referring"):
    at_hand = look(config.model)
    return at_hand, *measure(samples, Layouts(at_hand, None), at_hand.model, TASKS[task], config)


@pytest.mark.parametrize("family", FAMILIES)
def test_lengths_are_those_of_the_encoded_prompt(family, family_checkpoints, family_models):
    sizes = ((64, 64), (150, 90), (70, 200))
    samples = [Sample(str(i), (picture(*s),), "the dog <on> the left", Objects()) for i, s in enumerate(sizes)]
    samples.append(Sample("two", (picture(64, 64), picture(100, 60)), "compare", Objects()))
    samples.append(Sample("none", (), "no picture", Objects()))
    config = recipe(family_checkpoints[family])
    at_hand, lengths, problems = lengths_of(config, samples)
    model, task = family_models[family][0], TASKS["referring"]
    assert not problems
    assert at_hand.weights
    assert not at_hand.missing
    for sample, found in zip(samples, lengths, strict=True):
        prompt = model.encode_prompt(sample, task.prompt(sample))
        assert found.prompt == len(prompt.token_ids)
        assert found.image == sum(i == model.image_id for i in prompt.token_ids)
        if sample.images:
            assert Layouts(at_hand, None).frame_of(sample) == prompt.frame


def test_limits_that_are_exceeded(family_checkpoints):
    samples = [Sample(str(i), (picture(100, 80),), "q " * (40 * i + 1), Objects(((1.0, 1.0, 90.0, 70.0),))) for i in range(3)]
    config = recipe(family_checkpoints["qwen2_5_vl"], rollout=RolloutConfig(max_tokens=400))
    _, lengths, problems = lengths_of(config, samples)
    longest, label = max(n.prompt for n in lengths), max(n.label for n in lengths)

    def found(context=100_000, **values):
        section = check_lengths(samples, lengths, problems, dataclasses.replace(config, **values), context)
        return [(f.level, len(f.samples)) for f in section.findings]

    assert found() == []
    assert found(context=longest + 399) == [("error", 1)]
    assert found(tokens_per_microbatch=longest + 399) == [("warning", 1)]
    assert found(rollout=RolloutConfig(max_tokens=label - 1)) == [("warning", 3)]
    assert found(rollout=RolloutConfig(max_tokens=400, token_budget=longest + 3199)) == [("warning", 1)]


def test_a_reserved_token_in_a_question_is_an_error(family_checkpoints):
    config = recipe(family_checkpoints["qwen2_5_vl"])
    samples = [Sample("bad", (picture(100, 80),), "the <|image_pad|>", Objects())]
    at_hand, lengths, problems = lengths_of(config, samples)
    section = check_lengths(samples, lengths, problems, config, at_hand.context)
    assert section.findings[0].level == "error"
    assert "bad" in section.findings[0].samples[0]


def test_a_picture_that_the_processor_refuses_is_an_error(family_checkpoints):
    config = recipe(family_checkpoints["qwen2_5_vl"])
    samples = [Sample("strip", (picture(4000, 10),), "the line", Objects()), Sample("good", (picture(100, 80),), "a", Objects())]
    at_hand, lengths, problems = lengths_of(config, samples)
    assert [n is None for n in lengths] == [True, False]
    (finding,) = check_lengths(samples, lengths, problems, config, at_hand.context).findings
    assert finding.level == "error"
    assert "strip" in finding.samples[0]


def test_a_target_that_the_task_cannot_write_is_an_error_and_no_crash(family_checkpoints):
    config = recipe(family_checkpoints["qwen2_5_vl"])
    samples = [Sample("nothing", (picture(100, 80),), "the line", Objects())]
    problems = lengths_of(config, samples, "grounding")[2]
    assert "nothing" in problems[0]


def test_a_model_that_is_not_here(tmp_path):
    unknown = look(ModelConfig(path="nobody/nothing"))
    assert unknown.network is None
    assert "not on this machine" in unknown.missing
    published = look(ModelConfig(path="Qwen/Qwen2.5-VL-7B-Instruct", max_pixels=840 * 840))
    assert published.model is None
    assert not published.weights
    # 8.29 billion parameters, says the model's card.
    assert 8.2e9 < published.parameters < 8.4e9
    sample = Sample("a", (picture(1680, 1680),), "q", Objects())
    assert Layouts(published, None).frame_of(sample).extent == (840.0, 840.0)
    section = check_lengths(
        [sample], measure([sample], Layouts(published, None), None, TASKS["referring"], Config())[0], [], Config(), 9
    )
    assert "tokenizer" in section.not_made[0]


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Qwen/Qwen2-VL-2B-Instruct", 2.209),
        ("Qwen/Qwen2-VL-7B-Instruct", 8.291),
        ("Qwen/Qwen2.5-VL-3B-Instruct", 3.755),
        ("Qwen/Qwen2.5-VL-7B-Instruct", 8.292),
    ],
)
def test_published_shapes_have_the_published_size(name, billions):
    assert look(ModelConfig(path=name)).parameters / 1e9 == pytest.approx(billions, abs=6e-4)
