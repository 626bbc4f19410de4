"""Groups of real completions: scores, controls and advantages together, without a model."""

import math

import pytest
from PIL import Image

from visurf.advantages import group_advantages
from visurf.control import Controls
from visurf.geometry import Frame
from visurf.groups import Tally, form_group, tally, with_advantages
from visurf.paradigms import RLVR, SFT, VISURF
from visurf.scoring import RewardError, Scorer, label_completion
from visurf.tasks import TASKS, Part, RewardSettings
from visurf.types import Completion, Group, ImageRef, Objects, Sample, Score

FRAME = Frame((840.0, 840.0), (420, 420))
IMAGES = (ImageRef(Image.new("RGB", (420, 420))),)
PRESENT = Sample("present", IMAGES, "the cup", Objects(((100.0, 50.0, 200.0, 150.0),), ((150.0, 100.0),)))
ABSENT = Sample("absent", IMAGES, "the dog", Objects())
RIGHT = '<think>here</think><answer>[{"bbox_2d": [200,100,400,300], "point_2d": [300,200]}]</answer>'
SHIFTED = '<think>here</think><answer>[{"bbox_2d": [200,200,400,400], "point_2d": [300,200]}]</answer>'
WRONG = '<think>there</think><answer>[{"bbox_2d": [600,600,700,700], "point_2d": [650,650]}]</answer>'
BROKEN = "<think>hm</think><answer>[{</answer>"
NOTHING = "<think>not there</think><answer>[]</answer>"
ANSWER_ONLY = '<answer>[{"bbox_2d": [200,100,400,300], "point_2d": [300,200]}]</answer>'


def scorer(variant="sound", **settings):
    task = TASKS["referring"]
    return Scorer(task, task.parts(RewardSettings(variant)), **settings)


def form(sample, texts, controls=None, *, paradigm=VISURF, variant="sound", eps=0.0, frame=FRAME):
    """The group of some texts, as a step forms it."""
    rate, controls = scorer(variant), controls or Controls()
    rollouts = [rate.read(Completion(t, (), None, None), sample, frame) for t in texts]
    label = None
    if paradigm.label:
        label = rate.read(label_completion(rate.task, sample, frame, controls), sample, frame)
    (group,) = with_advantages([form_group(sample, rollouts, label, rate, controls)], paradigm, eps=eps)
    return group


def of_label(group):
    return group.advantages[group.label_index]


def test_rewards_of_a_group_by_hand():
    group = form(PRESENT, [RIGHT, SHIFTED, WRONG, BROKEN])
    # thinking 1 + format 2 + accuracy (IoU, L1, point) + no repetition 1; the label has no thinking.
    assert group.rewards == (7.0, 5.0, 4.0, 2.0, 4.5)
    assert group.smoothed
    assert [c.source for c in group.completions] == ["policy"] * 4 + ["label"]
    assert group.scores[-1].total == 6.0
    assert of_label(group) == 0.0


def test_a_label_ahead_of_its_rollouts_is_pulled_towards():
    group = form(PRESENT, [WRONG, SHIFTED])
    assert group.rewards == (4.0, 5.0, 6.0)
    assert group.advantages == pytest.approx((-1.0, 0.0, 1.0))
    assert not group.smoothed


@pytest.mark.parametrize("count", [1, 2, 8])
def test_an_all_hallucinating_group_is_taught_the_empty_list(count):
    """Under `sound` the label's advantage is positive; under `published` it ties, is smoothed and teaches nothing."""
    sound = form(ABSENT, [WRONG] * count)
    assert of_label(sound) > 0
    assert not sound.smoothed
    assert all(a < 0 for a in sound.advantages[:-1])
    published = form(ABSENT, [WRONG] * count, variant="published")
    assert published.smoothed
    assert of_label(published) == 0.0


def test_a_rollout_that_says_nothing_rightly_switches_the_label_off():
    group = form(ABSENT, [NOTHING, WRONG])
    assert group.rewards == (7.0, 4.0, 5.5)
    assert group.smoothed
    assert of_label(group) == 0.0


def test_saying_nothing_about_what_is_there_earns_neither_format_nor_accuracy():
    group = form(PRESENT, [NOTHING], paradigm=RLVR)
    assert group.scores[0].parts == {"thinking_format": 1.0, "answer_format": 0.0, "accuracy": 0.0, "non_repeat": 1.0}


def test_switching_smoothing_off_keeps_the_label():
    on, off = (form(PRESENT, [RIGHT, WRONG], Controls(smooth=s)) for s in (True, False))
    assert (on.rewards[-1], on.smoothed) == (5.5, True)
    assert (off.rewards[-1], off.smoothed) == (6.0, False)
    assert of_label(on) == 0.0
    assert of_label(off) > 0


def test_switching_eliminate_off_pays_the_label_for_thinking():
    on, off = (form(PRESENT, [SHIFTED], Controls(eliminate=e)) for e in (True, False))
    assert (on.rewards[-1], off.rewards[-1]) == (6.0, 7.0)
    assert on.scores[-1].parts["thinking_format"] == 0.0


def test_switching_align_off_writes_another_label():
    on, off = (form(PRESENT, [SHIFTED], Controls(align=a)) for a in (True, False))
    assert on.completions[-1].text == ANSWER_ONLY
    assert off.completions[-1].text == '<answer>[{"point_2d": [150, 100], "bbox_2d": [100, 50, 200, 150]}]</answer>'
    assert off.rewards[-1] < on.rewards[-1], "the raw label's pixels are read in the model's frame"


def test_comparing_accuracy_smooths_where_totals_differ():
    """The rollout is as accurate as the label but does not think, so its total is below the label's."""
    texts = [ANSWER_ONLY, WRONG]
    label_off = Controls(eliminate=False)
    by_total = form(PRESENT, texts, label_off)
    by_accuracy = form(PRESENT, texts, Controls(eliminate=False, smooth_compare="accuracy"))
    assert by_total.rewards[0] == 6.0
    assert not by_total.smoothed
    assert by_accuracy.smoothed
    assert by_accuracy.rewards[-1] == pytest.approx(sum(by_accuracy.rewards[:-1]) / 2)
    assert of_label(by_accuracy) == 0.0


@pytest.mark.parametrize("rewards", [(0.1, 0.7, 0.3), (1.1, 2.3, 5.7, 0.9), (6.3, 6.1, 4.9, 5.3, 2.2)])
def test_a_smoothed_label_gets_exactly_zero_whatever_the_rounding(rewards):
    members = tuple(Completion("", (), None, None, source=s) for s in ["policy"] * len(rewards) + ["label"])
    group = Group(PRESENT, members, (), (*rewards, sum(rewards) / len(rewards)), smoothed=True)
    (done,) = with_advantages([group], VISURF, eps=0.0)
    assert done.advantages[-1] == 0.0
    assert 0.0 not in done.advantages[:-1]


def test_a_response_with_reasoning_is_paid_like_any_completion():
    sample = Sample("own", IMAGES, "the cup", PRESENT.target, response=RIGHT)
    group = form(sample, [SHIFTED])
    assert group.completions[-1].text == RIGHT
    assert group.rewards[-1] == 7.0


@pytest.mark.parametrize("texts", [[RIGHT, WRONG, BROKEN], [RIGHT, RIGHT], [WRONG, SHIFTED, SHIFTED, NOTHING]])
@pytest.mark.parametrize("sample", [PRESENT, ABSENT])
def test_advantages_sum_to_zero_with_the_label_in(sample, texts):
    group = form(sample, texts)
    assert sum(group.advantages) == pytest.approx(0, abs=1e-9)


def test_permuting_rollouts_permutes_advantages():
    texts = [RIGHT, WRONG, BROKEN, SHIFTED]
    order = [2, 0, 3, 1]
    group, other = form(PRESENT, texts), form(PRESENT, [texts[i] for i in order])
    assert other.advantages[:-1] == pytest.approx([group.advantages[i] for i in order])
    assert of_label(other) == of_label(group)


def test_smoothing_stretches_rlvr_by_the_known_factor():
    texts = [RIGHT, WRONG, BROKEN, SHIFTED]
    rlvr, visurf = form(PRESENT, texts, paradigm=RLVR), form(PRESENT, texts)
    assert len(rlvr.completions) == 4
    assert visurf.smoothed
    expected = [a * math.sqrt(4 / 3) for a in rlvr.advantages]
    assert visurf.advantages[:-1] == pytest.approx(expected)


def test_what_is_right_is_measured_by_the_label():
    """Accuracy is 3 for the label: IoU, L1 and point. The shifted box has the point alone."""
    assert form(PRESENT, [RIGHT, SHIFTED, WRONG, BROKEN]).reached == pytest.approx((1.0, 1 / 3, 0.0, 0.0))
    assert form(ABSENT, [NOTHING, WRONG]).reached == (1.0, 0.0)
    # A label that earns no accuracy itself: whatever earns as much is right.
    assert form(ABSENT, [NOTHING, WRONG], variant="published").reached == (1.0, 1.0)
    assert form(PRESENT, [RIGHT], paradigm=RLVR).reached == ()


def test_a_flat_group_has_no_advantage_and_says_so():
    flat = form(PRESENT, [WRONG, WRONG], paradigm=RLVR)
    assert flat.advantages == (0.0, 0.0)
    assert flat.zero_variance
    rescued = form(PRESENT, [WRONG, WRONG])
    assert not rescued.zero_variance
    assert of_label(rescued) > 0


def test_sft_counts_every_member_once():
    group = form(PRESENT, [], paradigm=SFT)
    assert (group.advantages, group.supervision) == ((0.0,), (1.0,))
    assert [c.source for c in group.completions] == ["label"]


def test_the_batch_deviation_is_over_all_rewards():
    members = (Completion("", (), None, None),) * 2
    groups = [Group(PRESENT, members, (), rewards) for rewards in ((0.0, 1.0), (4.0, 4.0), (2.0, 6.0))]
    done = with_advantages(groups, RLVR, eps=0.0, scale="batch")
    spread = group_advantages((0.0, 1.0, 4.0, 4.0, 2.0, 6.0), eps=0.0)
    assert done[0].advantages[1] - done[0].advantages[0] == pytest.approx(spread[1] - spread[0])
    assert done[1].advantages == (0.0, 0.0)
    assert with_advantages(groups, RLVR, scale="none")[2].advantages == (-2.0, 2.0)


def test_metrics_of_groups_by_hand():
    groups = [form(PRESENT, [WRONG, WRONG]), form(PRESENT, [RIGHT, BROKEN]), form(ABSENT, [WRONG, NOTHING])]
    found = tally(groups).metrics()
    assert found["group/zero_variance"] == 0
    assert found["group/rescued"] == pytest.approx(1 / 3)
    assert found["label/smoothed"] == pytest.approx(2 / 3)
    assert found["label/advantage"] == pytest.approx(of_label(groups[0]) / 3)
    assert found["parse/failed"] == found["parse/not_json"] == pytest.approx(1 / 6)
    assert "label/advantage" not in tally([form(PRESENT, [RIGHT], paradigm=RLVR)]).metrics()


def test_tallies_of_several_processes_give_the_metrics_of_all_groups():
    """Also of what one of them never saw, and where one has no group at all."""
    groups = [form(PRESENT, [WRONG, WRONG]), form(PRESENT, [RIGHT, BROKEN]), form(ABSENT, [WRONG, NOTHING])]
    whole = Tally()
    for part in (groups[:1], [], groups[1:]):
        whole.merge(tally(part))
    found, expected = whole.metrics(), tally(groups).metrics()
    assert "parse/not_json" in expected
    assert "parse/not_json" not in tally(groups[:1]).metrics()
    assert found == pytest.approx(expected)


def test_a_failing_reward_stops_and_names_sample_and_text():
    def bad(completion, sample):
        raise KeyError("nope")

    task = TASKS["referring"]
    broken = Scorer(task, {"mine": Part(bad, 1.0, "accuracy")})
    with pytest.raises(RewardError, match=r"'mine' raised KeyError.*'present'.*hello"):
        broken.score(Completion("hello", (), None, None), PRESENT)
    nan = Scorer(task, {"mine": Part(lambda c, s: math.nan, 1.0, "accuracy")})
    with pytest.raises(RewardError, match="returned nan"):
        nan.score(Completion("hello", (), None, None), PRESENT)


def test_a_part_that_abstains_is_counted_and_not_zero():
    task = TASKS["referring"]
    parts = {"none": Part(lambda c, s: None, 1.0, "accuracy"), "bad": Part(lambda c, s: 1 / 0, 1.0, "accuracy")}
    rate = Scorer(task, parts | {"one": Part(lambda c, s: 1.0, 1.0, "accuracy")}, on_error="abstain")
    score = rate.score(Completion("hello", (), None, None), PRESENT)
    assert score.parts == {"none": None, "bad": None, "one": 1.0}
    assert score.total == 1.0
    assert rate.failed == {"bad": 1}
    said = Completion("hello", (), None, None)
    other = Score({"none": 3.0, "one": 0.0}, 3.0)
    found = tally([Group(PRESENT, (said, said), (score, other), (1.0, 3.0), (-1.0, 1.0))]).metrics()
    assert {n: v for n, v in found.items() if n.startswith("reward/")} == {
        "reward/none": 3.0,
        "reward/one": 0.5,
        "reward/total": 2.0,
    }
    assert found["abstained/none"] == found["abstained/bad"] == 0.5


def test_weights_of_unknown_parts_are_refused():
    with pytest.raises(ValueError, match="acuracy"):
        scorer(weights={"acuracy": 1.0})


def test_weights_act_on_the_total():
    rate = scorer(weights={"accuracy": 2.0, "thinking_format": 0.0})
    score = rate.score(rate.read(Completion(RIGHT, (), None, None), PRESENT, FRAME), PRESENT)
    assert score.total == 9.0
    assert rate.accuracy(score) == 6.0
