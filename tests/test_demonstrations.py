"""Labels with reasoning of their own: rows, rendering in any model's frame, and what cannot be converted."""

import json
import warnings

import numpy as np
import pytest
from PIL import Image

from visurf.config import DataConfig
from visurf.control import Controls
from visurf.data import load_data
from visurf.demonstrations import (
    inside,
    names_coordinates,
    read_response,
    reasoning_of,
    render_demonstration,
    write_answer,
    write_response,
    write_target,
)
from visurf.geometry import Frame
from visurf.scoring import label_completion
from visurf.tasks import TASKS
from visurf.types import (
    Choice,
    DataError,
    Demonstration,
    Detections,
    ImageRef,
    Number,
    Objects,
    Points,
    Sample,
    Text,
)

REFERRING = TASKS["referring"]
CONTROLS = Controls()


def sample_of(size, response, target=None):
    picture = ImageRef(Image.new("RGB", size))
    return Sample("a", (picture,), "the cup", target or Objects(((1, 1, 9, 9),), ((5, 5),)), response)


def read(value, wanted=(Objects,), size=(100, 80), **config):
    return read_response(value, size, DataConfig(**config), "f:1: field response", wanted, None)


def test_what_one_model_wrote_is_rendered_exactly_in_any_frame():
    rng, sample = np.random.default_rng(0), sample_of((8, 8), None)
    for _ in range(1000):
        width, height = (int(v) for v in rng.integers(40, 4000, 2))
        # A Qwen2-VL writes 0 to 1000, a Qwen2.5-VL pixels of an image resized to multiples of 28.
        teacher = Frame((1000.0, 1000.0), (width, height))
        student = Frame(tuple(28.0 * int(v) for v in rng.integers(2, 60, 2)), (width, height))
        (x1, x2), (y1, y2) = (sorted(rng.choice(1001, 2, replace=False).tolist()) for _ in range(2))
        text = f'<think>there</think><answer>[{{"bbox_2d": [{x1},{y1},{x2},{y2}], "point_2d": [{x1},{y2}]}}]</answer>'
        answer = inside(REFERRING.parse(text, sample, teacher), (width, height))
        row = json.loads(json.dumps(write_response(Demonstration("there", answer))))
        kept = read(row, size=(width, height))
        assert render_demonstration(REFERRING, kept, Objects(), teacher) == text
        moved = render_demonstration(REFERRING, kept, Objects(), student)
        x, y = ((v / 1000 * extent) for v, extent in zip((x1, y2), student.extent, strict=True))
        said = REFERRING.parse(moved, sample, student)
        bound = student.rounding_bound()
        for got, true in zip(said.boxes[0], answer.boxes[0], strict=True):
            assert abs(got - true) <= max(bound) + 1e-6
        assert f'"point_2d": [{int(x + 0.5)},{int(y + 0.5)}]' in moved


def test_a_response_as_text_would_have_been_wrong_in_another_frame():
    sample = sample_of((560, 280), Demonstration("left", Objects(((56, 28, 280, 140),))))
    thousand, pixels = Frame((1000.0, 1000.0), (560, 280)), Frame((560.0, 280.0), (560, 280))
    written = label_completion(REFERRING, sample, thousand, CONTROLS).text
    assert '"bbox_2d": [100,100,500,500]' in written
    rendered = label_completion(REFERRING, sample, pixels, CONTROLS)
    assert '"bbox_2d": [56,28,280,140]' in rendered.text
    assert rendered.text.startswith("<think>left</think><answer>")
    assert (rendered.source, rendered.has_reasoning) == ("label", True)
    assert REFERRING.parse(written, sample, pixels) != REFERRING.parse(rendered.text, sample, pixels)


def test_reasoning_without_an_answer_goes_before_the_target():
    sample = sample_of((100, 80), Demonstration("two cups"), Objects())
    assert label_completion(REFERRING, sample, Frame((1000.0, 1000.0), (100, 80)), CONTROLS).text == (
        "<think>two cups</think><answer>[]</answer>"
    )
    raw = label_completion(
        REFERRING, sample_of((100, 80), Demonstration("x")), Frame((50.0, 40.0), (100, 80)), Controls(align=False)
    )
    assert raw.text == '<think>x</think><answer>[{"point_2d": [5, 5], "bbox_2d": [1, 1, 9, 9]}]</answer>'


def test_coordinates_in_a_thought_are_warned_of_in_another_frame_only():
    sample = sample_of((100, 80), Demonstration("at [10, 20]", extent=(1000.0, 1000.0)))
    with pytest.warns(UserWarning, match="names coordinates of another frame"):
        label_completion(REFERRING, sample, Frame((112.0, 84.0), (100, 80)), CONTROLS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        label_completion(REFERRING, sample, Frame((1000.0, 1000.0), (100, 80)), CONTROLS)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("it is at [12, 40, 96, 130]", True),
        ("near (12,40)", True),
        ("( 12.5 , 40.25 )", True),
        ('"bbox_2d": [12,40', True),
        ("row 3, column 4", False),
        ("there are 2, maybe 3 cups (left)", False),
        ("[one, two] (3)", False),
        ("[" * 50_000 + "1" * 50_000, False),
    ],
)
def test_which_thoughts_name_coordinates(text, named):
    assert names_coordinates(text) is named


@pytest.mark.parametrize(
    ("text", "thinking"),
    [
        ("<think>a b\n</think>\n<answer>x</answer>", "a b\n"),
        ("<think> </think><answer>x</answer>", None),
        ("<answer>x</answer><think>late</think>", None),
        ("<think>a", None),
        ("<think>a</think>", None),
        ("<think>a<think>b</think><answer>x</answer>", None),
        ("</think><think>a</think><answer>x</answer>", "a"),
    ],
)
def test_the_reasoning_of_a_completion(text, thinking):
    assert reasoning_of(text) == thinking


@pytest.mark.parametrize(
    "answer",
    [
        Objects((), ()),
        Objects(((1.25, 2, 30, 40.5),), ((3.0, 4.0),)),
        Detections(((1.25, 2, 30, 40.5), (0, 0, 5, 5)), (0.75, 1.0)),
        Detections(),
        Points(((3.5, 4.0),)),
        Points(((3.5, 4.0),), ((1, 2, 30, 40),)),
        Choice("B", ("cat", "dog")),
        Number("1,234.5"),
        Text("boeing 737-800"),
    ],
)
def test_an_answer_comes_back_as_it_was_written(answer):
    row = json.loads(json.dumps(write_response(Demonstration("so", answer, (28.0, 56.0)))))
    assert read(row, (type(answer),)) == Demonstration("so", answer, (28.0, 56.0))
    assert read({"thinking": "so", "answer": write_answer(answer)}, (type(answer),)).answer == answer


def test_a_true_detection_has_no_confidences():
    assert write_target(Detections(((1, 2, 3, 4),), (1.0,))) == [[1.0, 2.0, 3.0, 4.0]]
    assert write_target(Detections()) == []


def test_the_answer_follows_the_formats_of_the_file():
    answer = read({"thinking": "so", "answer": [[100, 100, 400, 500]]}, size=(200, 100), frame="1000", box_format="xywh").answer
    assert answer.boxes == ((20, 10, 100, 60),)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "expected text, or"),
        ({"answer": []}, "expected text, or"),
        ({"thinking": " "}, "expected text, or"),
        ({"thinking": "a", "anser": []}, "unknown key 'anser'"),
        ({"thinking": "<think>a</think>"}, "thinking holds '<think>'"),
        ({"thinking": "a <answer>"}, "thinking holds '<answer>'"),
        ({"thinking": "a", "answer": [[1, 2]]}, "answer: expected 4 finite numbers"),
        ({"thinking": "a", "answer": [[1, 2, 300, 4]]}, "answer: box .* leaves its image"),
        ({"thinking": "a", "answer": {"text": "x"}}, "answer: expected Objects, got Text"),
        ({"thinking": "a", "answer": {"boxes": [[1, 2, 3, 4]], "confidences": [0.5]}}, "confidences: expected one"),
        ({"thinking": "a", "frame": [1000]}, "frame: expected its width and height"),
        ({"thinking": "a", "frame": [0, 5]}, "frame: expected its width and height"),
    ],
)
def test_responses_that_cannot_be_read(value, message):
    with pytest.raises(DataError, match=f"f:1: field response: .*{message}|f:1: field response: {message}"):
        read(value)


@pytest.mark.parametrize("confidences", [[0.5, 0.5], [1.5], ["high"], 0.5])
def test_confidences_are_one_a_box(confidences):
    with pytest.raises(DataError, match="confidences: expected one"):
        read({"thinking": "a", "answer": {"boxes": [[1, 2, 3, 4]], "confidences": confidences}}, (Detections,))


def test_an_answer_is_cut_to_its_image_as_rendering_cuts_it():
    frame = Frame((1000.0, 1000.0), (100, 80))
    wide = Objects(((-5.0, 10.0, 130.0, 60.0),), ((120.0, 90.0),))
    cut = inside(wide, (100, 80))
    assert cut == Objects(((0.0, 10.0, 100.0, 60.0),), ((100.0, 80.0),))
    assert REFERRING.label_text(cut, frame, True) == REFERRING.label_text(wide, frame, True)
    assert inside(Objects(((101.0, 1.0, 130.0, 60.0),)), (100, 80)) is None
    assert inside(Text("x"), (100, 80)) == Text("x")


def test_rows_with_reasoning_load(tmp_path):
    Image.new("RGB", (100, 80)).save(tmp_path / "a.png")
    row = {"id": 1, "image": "a.png", "question": "x", "target": [], "response": {"thinking": "none", "answer": []}}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    (sample,) = load_data(str(tmp_path / "rows.jsonl"), DataConfig(), REFERRING).samples
    assert sample.response == Demonstration("none", Objects((), ()))
