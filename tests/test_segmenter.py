"""Both segmenters on odd prompts, SAM 2 against plain transformers, and the mask reward with a segmenter in the loop."""

import io
import json
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tiny_sam2 import MEAN, STD, save_sam2
from visurf.mask_reward import mask_part, true_mask
from visurf.mini import world
from visurf.sam2 import Sam2
from visurf.segmenter import AT_ONCE, GrabCut, load_segmenter, union_mask, usable_prompts
from visurf.tasks import TASKS, with_segmenter
from visurf.types import Completion, DataError, Detections, ImageRef, Masks, Objects, ParseError, Points, Sample

SIZE = (80, 60)


@pytest.fixture(scope="module")
def disc():
    """A red disc on grey, and its mask."""
    image, mask = Image.new("RGB", SIZE, (120, 120, 120)), Image.new("L", SIZE)
    for canvas, fill in ((image, (220, 30, 30)), (mask, 1)):
        ImageDraw.Draw(canvas).ellipse((20, 10, 59, 49), fill=fill)
    return ImageRef(image), np.asarray(mask)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_sam2(tmp_path_factory.mktemp("sam2"))


@pytest.fixture(scope="module")
def sam2(checkpoint):
    return Sam2(checkpoint)


@pytest.fixture(params=["classical", "sam2"])
def segmenter(request):
    if request.param == "classical":
        pytest.importorskip("cv2")
        return GrabCut()
    return request.getfixturevalue("sam2")


def iou(mask, other):
    return (mask & other).sum() / (mask | other).sum()


def test_no_boxes_give_no_masks(segmenter, disc):
    assert segmenter.segment(disc[0], []) == []
    assert segmenter.segment(disc[0], [], []) == []


@pytest.mark.parametrize(
    "box",
    [(30, 30, 30, 40), (40, 30, 30, 40), (90, 0, 99, 9), (-9, -9, 0, 0), (math.nan, 0, 9, 9), (0, 0, math.inf, 9), (0, 0, 1)],
)
def test_an_empty_box_gives_an_empty_mask(segmenter, disc, box):
    (mask,) = segmenter.segment(disc[0], [box], [(30, 30)])
    assert mask.shape == SIZE[::-1]
    assert mask.dtype == np.uint8
    assert not mask.any()


def test_a_point_outside_its_box_is_left_out(segmenter, disc):
    box = (20, 10, 60, 50)
    (plain,) = segmenter.segment(disc[0], [box])
    for point in [(70, 30), (-5, 30), (30, 400), (math.nan, 30), None]:
        assert np.array_equal(segmenter.segment(disc[0], [box], [point])[0], plain)


def test_a_box_beyond_the_picture_is_clipped(segmenter, disc):
    inside, beyond = segmenter.segment(disc[0], [(20, 0, 80, 50), (20, -30, 300, 50)])
    assert np.array_equal(inside, beyond)


def test_a_box_over_the_whole_picture_is_allowed(segmenter, disc):
    masks = segmenter.segment(disc[0], [(0, 0, *SIZE), (-1, -1, 999, 999)], [(40, 30), None])
    assert [mask.shape for mask in masks] == [SIZE[::-1]] * 2
    assert set(np.unique(masks)) <= {0, 1}


def test_boxes_and_points_must_pair_up(segmenter, disc):
    with pytest.raises(ValueError, match="1 boxes but 2 points"):
        segmenter.segment(disc[0], [(0, 0, 9, 9)], [(1, 1), (2, 2)])


def test_a_picture_that_cannot_be_decoded_is_a_data_error(segmenter, tmp_path):
    with pytest.raises(DataError, match="no such file"):
        segmenter.segment(ImageRef(tmp_path / "none.png"), [(0, 0, 9, 9)])


def test_order_and_company_do_not_matter(segmenter, disc):
    boxes, points = [(20, 10, 60, 50), (5, 5, 30, 30), (90, 90, 99, 99), (10, 5, 70, 55)], [(40, 30), None, (1, 1), None]
    together = segmenter.segment(disc[0], boxes, points)
    apart = [segmenter.segment(disc[0], [box], [point])[0] for box, point in zip(boxes, points, strict=True)]
    assert np.array_equal(together, apart)
    assert np.array_equal(segmenter.segment(disc[0], boxes[::-1], points[::-1])[::-1], together)


def test_usable_prompts_of_borders():
    assert usable_prompts([(0, 0, 20, 20)], [(20, 20)], (20, 20))[0].point == (20, 20)
    assert usable_prompts([(19.9, 0, 30, 20)], None, (20, 20))[0].box == (19.9, 0.0, 20.0, 20.0)


def test_grabcut_finds_a_disc_and_respects_its_box(disc):
    pytest.importorskip("cv2")
    image, true = disc
    for box, point in (((20, 10, 60, 50), None), ((17, 8, 64, 52), (40, 30))):
        (mask,) = GrabCut().segment(image, [box], [point])
        assert iou(mask, true) > 0.95
    (half,) = GrabCut().segment(image, [(40, 5, 65, 55)])
    assert not half[:, :40].any()
    assert half.any()


def test_grabcut_of_a_large_picture_is_cut_at_a_bounded_size():
    pytest.importorskip("cv2")
    image, true = Image.new("RGB", (900, 700), (120, 120, 120)), Image.new("L", (900, 700))
    for canvas, fill in ((image, (220, 30, 30)), (true, 1)):
        ImageDraw.Draw(canvas).ellipse((200, 100, 699, 599), fill=fill)
    (mask,) = GrabCut().segment(ImageRef(image), [(200, 100, 700, 600)], [(450, 350)])
    assert iou(mask, np.asarray(true)) > 0.95


def test_grabcut_falls_back_to_the_box():
    pytest.importorskip("cv2")
    image = ImageRef(Image.new("RGB", SIZE, (120, 120, 120)))
    for box, area in (((10, 10, 12, 13), 6), ((0, 0, *SIZE), 80 * 60), ((5.6, 5.2, 5.9, 5.3), 1), ((79.7, 59.8, 80, 60), 1)):
        assert GrabCut().segment(image, [box])[0].sum() == area


@pytest.mark.parametrize(("domain", "least"), [("clean", 0.93), ("shifted", 0.75)])
def test_grabcut_on_the_rendered_world(domain, least):
    pytest.importorskip("cv2")
    samples = [s for s in world.referring_samples(world.DOMAINS[domain], 60, 0, masks=True) if s.target.boxes]
    found = [GrabCut().segment(s.images[0], s.target.boxes, s.target.points)[0] for s in samples]
    truth = [true_mask(s) for s in samples]
    assert np.mean([iou(mask, true) for mask, true in zip(found, truth, strict=True)]) > least


def test_masks_of_the_rendered_world_fill_their_boxes():
    for sample in world.referring_samples(world.CLEAN, 20, 1, masks=True):
        mask = true_mask(sample)
        assert mask.shape == (world.SIZE, world.SIZE)
        if not sample.target.boxes:
            assert not mask.any()
            continue
        rows, columns = np.nonzero(mask)
        got = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert np.abs(np.subtract(got, sample.target.boxes[0])).max() <= 1.5


def test_sam2_is_what_plain_transformers_computes(sam2, checkpoint, disc):
    import torch
    from transformers import Sam2Model

    image = disc[0].load()
    pixels = np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR), np.float32) / 255
    pixels = torch.tensor(((pixels - MEAN) / STD).transpose(2, 0, 1)[None], dtype=torch.float32)
    box, point = [20 * 64 / 80, 10 * 64 / 60, 60 * 64 / 80, 50 * 64 / 60], [40 * 64 / 80, 30 * 64 / 60]
    model = Sam2Model.from_pretrained(checkpoint).eval()
    with torch.no_grad():
        given = {"input_points": torch.tensor([[[point]]]), "input_labels": torch.tensor([[[1]]])}
        logits = model(pixels, input_boxes=torch.tensor([[box]]), **given, multimask_output=False).pred_masks[0]
        full = torch.nn.functional.interpolate(logits, SIZE[::-1], mode="bilinear")[0, 0] > 0
    (mask,) = sam2.segment(disc[0], [(20, 10, 60, 50)], [(40, 30)])
    assert 0 < mask.sum() < mask.size
    assert (mask != full.numpy()).sum() <= 2
    (other,) = sam2.segment(disc[0], [(20, 10, 60, 50)], [(25, 45)])
    assert not np.array_equal(mask, other), "the point matters"


def pictures(count):
    rng = np.random.default_rng(5)
    return [ImageRef(Image.fromarray(rng.integers(0, 255, (30 + 5 * i, 40, 3), dtype=np.uint8))) for i in range(count)]


def test_sam2_embeds_each_picture_once_and_batches_change_nothing(checkpoint, tmp_path):
    images = pictures(3)
    images[1].load().save(tmp_path / "a.png")
    encoded = io.BytesIO()
    images[1].load().save(encoded, "PNG")
    images += [ImageRef(tmp_path / "a.png"), ImageRef(str(tmp_path / "a.png")), ImageRef(encoded.getvalue())]
    boxes = [[(2, 3, 30, 25)], [], [(5, 5, 20, 20), (1, 1, 39, 29)], [(0, 0, 40, 30)], [(1, 1, 9, 9)], [(90, 90, 99, 99)]]
    together, apart = Sam2(checkpoint, batch=2), Sam2(checkpoint, batch=1)
    found = together.segment_batch(images, boxes)
    for image, asked, masks in zip(images, boxes, found, strict=True):
        alone = apart.segment(image, asked)
        assert len(masks) == len(asked)
        assert all(mask.shape == image.size[::-1] for mask in masks)
        assert all((a != b).sum() <= 2 for a, b in zip(alone, masks, strict=True))
    # Without a usable box nothing is embedded; one file by two names of its path is one picture.
    assert together.embedded == apart.embedded == 3
    for _ in range(3):
        together.segment(images[0], [(1, 2, 20, 20)])
    assert together.embedded == 3


def test_sam2_keeps_embeddings_up_to_its_limit(checkpoint):
    images = pictures(4)
    one = Sam2(checkpoint)
    one.segment(images[0], [(1, 1, 20, 20)])
    each = one.cached_bytes
    assert each > 0
    small = Sam2(checkpoint, cache_bytes=2 * each)
    for image in (*images, images[3], images[2], images[0]):
        small.segment(image, [(1, 1, 20, 20)])
        assert small.cached_bytes <= 2 * each
    assert small.embedded == 5
    none = Sam2(checkpoint, cache_bytes=0)
    expected = one.segment(images[0], [(1, 1, 20, 20)])[0]
    assert np.array_equal(none.segment(images[0], [(1, 1, 20, 20)])[0], expected)
    assert none.cached_bytes == 0


def test_load_segmenter(checkpoint, monkeypatch):
    pytest.importorskip("cv2")
    assert isinstance(load_segmenter("classical"), GrabCut)
    assert isinstance(load_segmenter(str(checkpoint)), Sam2)
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(ImportError, match=r"\.\[segment\]"):
        load_segmenter("classical")


class Boxes:
    """A segmenter whose masks are the boxes; counts its calls."""

    calls = 0

    def segment(self, image, boxes, points=None):
        self.calls += 1
        masks = []
        for x1, y1, x2, y2 in boxes:
            mask = np.zeros(image.size[::-1], np.uint8)
            mask[int(y1) : int(y2), int(x1) : int(x2)] = 1
            masks.append(mask)
        return masks


def said(answer):
    return Completion("", (), None, answer) if isinstance(answer, ParseError) else Completion("", (), answer, None)


def sample(target, **meta):
    return Sample("s", (ImageRef(Image.new("RGB", (20, 10))),), "?", target, meta=meta)


def test_the_mask_reward_segments_a_picture_once_for_a_group():
    mask = np.zeros((10, 20), np.uint8)
    mask[0:4, 0:10], mask[4, :] = 1, 255
    box = (0.0, 0.0, 10.0, 4.0)
    answers = [Objects((box,)), Objects((box, (0.0, 0.0, 20.0, 4.0)), ((1.0, 1.0), (2.0, 2.0))), Objects(), ParseError("not_json")]
    answers += [Objects(((0.0, 0.0, 10.0, 5.0),)), Points(((1.0, 1.0),))]
    segmenter = Boxes()
    part = mask_part(segmenter)
    for truth in (sample(Objects((box,)), mask=mask), sample(Masks((mask,)))):
        assert part.batch([said(a) for a in answers], truth) == [1.0, 0.5, 0.0, 0.0, 1.0, 0.0]
    assert segmenter.calls == 2
    assert part.function(said(answers[0]), sample(Masks((mask,)))) == 1.0


def test_the_mask_reward_of_nothing_and_without_a_truth():
    part = mask_part(Boxes())
    answers = [said(Objects()), said(Objects(((0.0, 0.0, 5.0, 5.0),))), said(ParseError("no_answer"))]
    assert part.batch(answers, sample(Objects())) == [1.0, 0.0, 0.0]
    assert part.batch(answers, sample(Objects(((0.0, 0.0, 5.0, 5.0),)))) == [None, None, None]


def test_a_recipe_adds_the_mask_reward():
    pytest.importorskip("cv2")
    from visurf.config import Config, RewardConfig
    from visurf.training import make_scorer

    scorer = make_scorer(Config(reward=RewardConfig(segmenter="classical")), TASKS["referring"])
    found = world.referring_samples(world.CLEAN, 6, 0, absent=0.5, masks=True)
    for one in found:
        (score,) = scorer.score_all([Completion("<answer>x</answer>", (), one.target, None)], one)
        assert score.parts["mask_iou"] > 0.6
    assert json.dumps({"total": score.total})


@dataclass
class Counting:
    """A segmenter of boxes that notes how many masks were asked for together."""

    asked: list = field(default_factory=list)

    def segment(self, image, boxes, points=None):
        self.asked.append(len(boxes))
        return Boxes().segment(image, boxes, points)


def test_no_number_of_boxes_fills_the_memory():
    mask = np.ones((10, 20), np.uint8)
    columns = tuple((float(i), 0.0, float(i + 1), 10.0) for i in range(20))
    full, doubled, hundreds = columns, columns * 6, columns * 7
    segmenter = Counting()
    answers = [said(Objects(boxes)) for boxes in (full, doubled, hundreds, columns[:10])]
    assert mask_part(segmenter).batch(answers, sample(Masks((mask,)))) == [1.0, 1.0, 0.0, 0.5]
    assert segmenter.asked == [AT_ONCE, 20 - AT_ONCE], "every distinct box once, a few together"
    segmenter.asked.clear()
    union = union_mask(segmenter)
    assert union(sample(Masks((mask,))), Objects(doubled)).all()
    assert segmenter.asked == [AT_ONCE, 20 - AT_ONCE]
    assert not union(sample(Masks((mask,))), Objects(hundreds)).any()
    assert not union(sample(Masks((mask,))), Objects()).any()
    assert len(segmenter.asked) == 2


def test_a_right_answer_of_many_boxes_is_drawn():
    """The limit is one of what a model makes up, not of what is true."""
    boxes = tuple((x, y, x + 1.0, y + 1.0) for x in map(float, range(20)) for y in map(float, range(8)))
    assert len(boxes) > 120
    mask = np.zeros((10, 20), np.uint8)
    mask[:8] = 1
    part, made_up = mask_part(Boxes()), boxes * 3
    for truth in (sample(Objects(boxes), mask=mask), sample(Detections(boxes, (1.0,) * len(boxes)), mask=mask)):
        assert part.batch([said(Objects(boxes)), said(Objects(boxes * 2)), said(Objects(made_up))], truth) == [1.0, 1.0, 0.0]
    truth = sample(Objects(boxes), mask=mask)
    segmented = with_segmenter(TASKS["referring"], union_mask(Boxes()))
    assert segmented.judge(truth, truth.target)["giou"] == 1.0
    assert segmented.judge(truth, Objects(made_up))["giou"] == 0.0
    parts = tuple(np.eye(1, 200, k, dtype=np.uint8).reshape(10, 20) for k in range(160))
    assert union_mask(Boxes())(sample(Masks(parts)), Objects(boxes)).sum() == 160
