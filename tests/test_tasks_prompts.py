"""Prompts are data: each published one, letter by letter, as a sample fills it."""

import pytest

from visurf.benchmarks import BENCHMARKS, get_benchmark
from visurf.tasks import TASKS
from visurf.types import Choice, Detections, Objects, Sample, Text

VISIONREASONER = (
    'Please find "the red cup" with bboxs and points.Compare the difference between object(s) and find the most closely matched '
    "object(s).Output the thinking process in <think> </think> and final answer in <answer> </answer> tags.Output the bbox(es) and "
    "point(s) inside the interested object(s) in JSON format.i.e., <think> thinking process here </think><answer>"
    '[{"bbox_2d": [10,100,200,210], "point_2d": [30,110]}, {"bbox_2d": [225,296,706,786], "point_2d": [302,410]}]</answer>'
)
DETECTION = (
    "Detect all objects belonging to the category 'bus' in the image, and provide the bounding boxes (between 0 and 1000, integer) "
    "and confidence (between 0 and 1, with two decimal places).\nIf no object belonging to the category 'bus' in the image, return "
    "'No Objects'.\nOutput the thinking process in <think> </think> and final answer in <answer> </answer> tags.The output answer "
    "format should be as follows:\n<think> ... </think> <answer>[{'Position': [x1, y1, x2, y2], 'Confidence': number}, ...]"
    "</answer>\nPlease strictly follow the format."
)
PLANT = (
    "This is an image containing a plant. Please identify the species of the plant based on the image. Output the thinking process "
    "in <think> </think> and final answer in <answer> </answer> tags. The output answer format should be as follows:\n<think> ... "
    "</think> <answer>species name</answer>\nPlease strictly follow the format."
)
LISA = (
    "Output the bounding box in the image corresponding to the instruction: who sits?. Output the thinking process in <think> "
    '</think> and your grouding box. Following "<think> thinking process </think>\n<answer>(x1,y1),(x2,y2)</answer>)" format.'
)


@pytest.mark.parametrize("name", ["referring", "reasoning_segmentation", "anomaly", "lesion", "gui"])
def test_the_prompt_of_visionreasoner(name):
    sample = Sample("s", (), "The Red Cup.", Objects())
    assert TASKS[name].prompt(sample, "published") == VISIONREASONER
    if name != "gui":
        assert TASKS[name].prompt(sample, "explicit").startswith(VISIONREASONER)
        assert TASKS[name].prompt(sample, "explicit").endswith("<answer>[]</answer>")


def test_the_prompt_of_detection():
    assert TASKS["detection"].prompt(Sample("s", (), "bus", Detections())) == DETECTION


@pytest.mark.parametrize(
    ("noun", "slot", "article"),
    [("plant", "species", "a"), ("pet", "breed", "a"), ("aircraft", "model", "an"), ("car", "model", "a")],
)
def test_the_prompt_of_classification(noun, slot, article):
    sample = Sample("s", (), "?", Text("x"), meta={"noun": noun, "slot": slot})
    expected = PLANT.replace("a plant.", f"{article} {noun}.").replace("plant", noun).replace("species", slot)
    assert TASKS["classification"].prompt(sample) == expected


def test_the_prompt_of_classification_without_a_subject():
    assert "containing an object. Please identify the class of the object" in TASKS["classification"].prompt(
        Sample("s", (), "?", Text("x"))
    )


def test_the_prompt_of_grounding():
    sample = Sample("s", (), "who sits?", Objects())
    assert TASKS["grounding"].prompt(sample, "published") == LISA
    assert TASKS["grounding"].prompt(sample) == LISA + " Coordinates are integers between 0 and 1000."


@pytest.mark.parametrize("name", ["multiple_choice", "mathematics"])
def test_options_stand_below_the_question(name):
    sample = Sample("s", (), "Which {angle}?", Choice("A", ("30", "{question}")))
    assert "Which {angle}?\n(A) 30\n(B) {question}\n" in TASKS[name].prompt(sample)
    free = TASKS["mathematics"].prompt(Sample("s", (), "How many?", Text("4")))
    assert free.startswith("How many? Output")


def test_a_question_is_filled_in_once():
    sample = Sample("s", (), "the {question} {category}", Detections())
    assert TASKS["detection"].prompt(sample, "bare") == "the {question} {category}"
    assert TASKS["detection"].prompt(sample, "All {category}!") == "All the {question} {category}!"


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_has_its_task_and_metrics(name):
    benchmark = get_benchmark(name)
    task = TASKS[benchmark.task]
    known = {*task.metrics, *({"lvis_ap"} if benchmark.federated else set())}
    assert set(benchmark.metrics) <= known
