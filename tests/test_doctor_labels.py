"""Labels against their targets: what is planted is found, and sound labels are silent."""

import pytest
from PIL import Image

from visurf.control import Controls
from visurf.doctor.labels import check_labels, differs, problems
from visurf.doctor.pictures import draw_frames
from visurf.geometry import Frame
from visurf.scoring import Scorer
from visurf.tasks import TASKS, Part, RewardSettings
from visurf.types import Choice, Demonstration, Detections, ImageRef, Number, Objects, Points, Sample, Text

SIZE = (2000, 1500)
FRAME = Frame((1000.0, 1000.0), SIZE)
PICTURE = ImageRef(Image.new("RGB", SIZE, (90, 120, 150)))
BOX = (100.0, 200.0, 700.0, 900.0)
GOOD = {
    "referring": [Objects((BOX,), ((300.3, 400.7),)), Objects(), Objects((BOX, (1200.2, 30.7, 1999.0, 1500.0)))],
    "detection": [Detections((BOX,), (1.0,)), Detections()],
    "grounding": [Objects((BOX,))],
    "gui": [
        Points(((300.3, 400.7),)),
        Points(((10.0, 10.0), (1990.0, 1490.0)), ((0.0, 0.0, 20.0, 20.0), (1900.0, 1400.0, 2000.0, 1500.0))),
    ],
    "classification": [Text("Golden retriever")],
    "yes_no": [Text("Yes")],
    "counting": [Number("1,200")],
    "multiple_choice": [Choice("B", ("a", "b"))],
    "mathematics": [Number("0.5"), Text("\\frac{1}{3}")],
}


def make(target, response=None, name="s"):
    return Sample(name, (PICTURE,), "q", target, response)


def check(task, samples, *, variant="sound", parts=None, controls=None, frame=FRAME):
    scorer = Scorer(TASKS[task], {**TASKS[task].parts(RewardSettings(variant)), **(parts or {})})
    return check_labels(samples, lambda s: frame, scorer, controls or Controls(), deliberate=variant != "sound")


@pytest.mark.parametrize("task", GOOD)
@pytest.mark.parametrize("extent", [(1000.0, 1000.0), (728.0, 560.0)])
def test_good_labels_are_silent(task, extent):
    section, small = check(task, [make(t, name=str(i)) for i, t in enumerate(GOOD[task])], frame=Frame(extent, SIZE))
    assert section.findings == small.findings == []
    assert section.facts["labels checked"] == len(GOOD[task])
    assert not section.pictures


@pytest.mark.parametrize(
    ("response", "said"),
    [
        # The box in pixels of the original, where the model speaks 0-1000.
        ('<think>a</think><answer>[{"bbox_2d": [100,200,700,900], "point_2d": [400,550]}]</answer>', "says box"),
        ('<think>a</think><answer>[{"bbox_2d": [50,133,350,600], "point_2d": [900,900]}]</answer>', "says point"),
        ("<think>a</think><answer>[]</answer>", "has 0 boxes"),
        ("<think>a</think><answer>the dog</answer>", "not_json"),
        ("no tags", "no_answer"),
    ],
)
def test_a_response_that_answers_something_else_is_an_error_with_a_picture(response, said):
    target = Objects((BOX,), ((400.0, 550.0),))
    section, _ = check("referring", [make(target, response), make(target, name="good")])
    (finding,) = section.findings
    assert finding.level == "error"
    assert said in finding.samples[0]
    assert len(finding.samples) == len(section.pictures) == 1
    assert section.pictures[0].png.startswith(b"\x89PNG")


def test_a_demonstration_is_held_against_its_own_answer():
    other = Objects(((0.0, 0.0, 500.0, 500.0),))
    section, _ = check("referring", [make(Objects((BOX,)), Demonstration("I see", Objects((BOX,))))])
    assert section.findings == []
    found = list(
        problems(
            make(Objects((BOX,)), Demonstration("I see", other)),
            FRAME,
            Scorer(TASKS["referring"], TASKS["referring"].parts(RewardSettings())),
            Controls(),
        )
    )
    # It comes back as written, and the reward says that it is not the target.
    assert [p.kind for p in found] == ["reward"]


def test_a_box_too_small_for_the_frame_is_listed():
    frame = Frame((250.0, 250.0), (4000, 4000))
    tiny = make(Objects(((1001.0, 1001.0, 1007.0, 1007.0),)), name="tiny")
    large = make(Objects(((1001.0, 1001.0, 1907.0, 1907.0),)), name="large")
    section, small = check("referring", [tiny, large], frame=frame)
    assert section.findings == []
    (finding,) = small.findings
    assert finding.level == "warning"
    assert [name.split(":")[0] for name in finding.samples] == ["tiny"]
    assert small.pictures


def test_a_label_that_earns_too_little_is_an_error_and_under_published_a_warning():
    greedy = {"planted": Part(lambda c, s: 0.0, 1.0, "accuracy")}
    section, _ = check("referring", [make(Objects((BOX,)))], parts=greedy)
    assert [f.level for f in section.findings] == ["error"]
    assert "planted pays 0 of 1" in section.findings[0].samples[0]
    empty, _ = check("referring", [make(Objects())], variant="published")
    assert [f.level for f in empty.findings] == ["warning"]
    unbounded = {"planted": Part(lambda c, s: 0.0, float("inf"), "accuracy")}
    assert check("referring", [make(Objects((BOX,)))], parts=unbounded)[0].findings == []


def test_a_reward_that_raises_on_a_label_is_an_error():
    broken = {"planted": Part(lambda c, s: 1 / 0, 1.0, "accuracy")}
    section, _ = check("counting", [make(Number("3"))], parts=broken)
    assert section.findings[0].level == "error"
    assert "division" in section.findings[0].samples[0]


def test_the_thinking_part_is_not_missed_in_an_answer_only_label():
    for eliminate in (True, False):
        section, _ = check("counting", [make(Number("3"))], controls=Controls(eliminate=eliminate))
        assert section.findings == []


def test_what_is_not_checked_is_said():
    raw, _ = check("referring", [make(Objects((BOX,)))], controls=Controls(align=False))
    assert "align" in raw.not_made[0]
    unknown, small = check("referring", [make(Objects((BOX,)))], frame=None)
    assert "frame" in unknown.not_made[0]
    assert small.verdict == "not made"


def test_differences_are_bounded_by_one_unit_of_the_frame():
    unit = FRAME.rounding_bound()
    target = Objects((BOX,))
    for factor, same in ((0.9, True), (1.1, False)):
        moved = Objects(((BOX[0] + factor * unit[0], *BOX[1:]),))
        assert (differs(target, moved, FRAME) == "") is same


def test_both_panels_show_target_and_label():
    sample = make(Objects((BOX,)))
    picture = draw_frames(sample, Objects(((1000.0, 100.0, 1900.0, 800.0),)), FRAME, "caption")
    import io

    image = Image.open(io.BytesIO(picture.png)).convert("RGB")
    colours = {colour for _, colour in image.getcolors(1 << 20)}
    assert (20, 150, 60) in colours
    assert (220, 50, 40) in colours
    assert image.width > 800  # two panels
    assert draw_frames(Sample("x", (), "q", Text("a")), None, FRAME, "") is None
