"""The rendered worlds: the same seed gives the same picture, targets are where the pixels are, what is held out stays out."""

import collections
from pathlib import Path

import numpy as np
import pytest

from visurf.config import DataConfig
from visurf.data import load_data
from visurf.geometry import Frame, mask_box
from visurf.mini import world
from visurf.mini.worlds import WORLDS, detection, reasoning
from visurf.mini.worlds.kinds import ALL_PAIRS, HELD_OUT, KINDS, KNOWN_PAIRS
from visurf.mini.worlds.naming import CLASSES
from visurf.tasks import TASKS
from visurf.types import DataError, Demonstration, Detections, Objects, ParseError, Points

ROOT = Path(__file__).parents[1]

EVERY = [(name, domain) for name, family in WORLDS.items() for domain in family.domains]
FRAME = Frame((64, 64), (64, 64))


def pixels(sample):
    return [np.asarray(image.load()) for image in sample.images]


@pytest.mark.parametrize(("name", "domain"), EVERY)
def test_a_longer_list_of_a_seed_begins_with_the_shorter_one(name, domain):
    family = WORLDS[name]
    short, long = family.samples(domain, 4, 5, {}), family.samples(domain, 7, 5, {})
    for one, other in zip(short, long, strict=False):
        assert (one.id, one.question, one.target) == (other.id, other.question, other.target)
        assert all((a == b).all() for a, b in zip(pixels(one), pixels(other), strict=True))
    assert len(long) == 7
    others = family.samples(domain, 4, 6, {})
    assert any(
        a.question != b.question or any((p != q).any() for p, q in zip(pixels(a), pixels(b), strict=True))
        for a, b in zip(short, others, strict=True)
    )


@pytest.mark.parametrize(("name", "domain"), EVERY)
def test_every_label_is_read_back_by_its_task(name, domain):
    family = WORLDS[name]
    for sample in family.samples(domain, 30, 8, {}, traces=True):
        assert isinstance(sample.response, Demonstration)
        for task in (TASKS[t] for t in family.tasks):
            assert isinstance(sample.target, task.targets)
            if name == "referring" and task.name == "grounding":
                continue
            answer = task.parse(task.label_text(sample.target, FRAME, True), sample, FRAME)
            assert not isinstance(answer, ParseError)
            measured = task.judge(sample, answer)
            # Rounding to whole pixels costs a small box this much at most.
            headline = {"right", "hit", "iou", "box_iou", "n_hit"} & set(measured)
            assert all(measured[key] is None or measured[key] > 0.7 for key in headline), (measured, sample)


@pytest.mark.parametrize(("name", "domain"), EVERY)
def test_targets_lie_inside_the_picture(name, domain):
    for sample in WORLDS[name].samples(domain, 30, 9, {}):
        if isinstance(sample.target, Objects | Detections | Points):
            for x1, y1, x2, y2 in sample.target.boxes or ():
                assert 0 <= x1 < x2 <= world.SIZE
                assert 0 <= y1 < y2 <= world.SIZE


@pytest.mark.parametrize("kind", KINDS)
def test_the_drawn_pixels_of_a_shape_fill_its_box(kind):
    for centre, radius in (((30.0, 25.0), 8.0), ((20.5, 40.25), 5.5), ((40.0, 33.0), 14.0)):
        covered = world.draw_mask(kind, centre, radius) >= 0.3
        found = mask_box(covered.astype(np.uint8))
        x, y = centre
        assert np.allclose(found, (x - radius, y - radius, x + radius, y + radius), atol=1.7), (kind, centre, found)


@pytest.mark.parametrize("domain", ["clean", "shifted"])
def test_buttons_and_their_icons_are_where_the_target_says(domain):
    for sample in WORLDS["gui"].samples(domain, 20, 3, {}):
        picture = pixels(sample)[0].astype(float).mean(axis=2)
        x1, y1, x2, y2 = (int(v) for v in sample.target.boxes[0])
        inside, rim = picture[y1:y2, x1:x2], picture[y1 - 1 : y2 + 1, x1 - 1 : x2 + 1].copy()
        rim[1:-1, 1:-1] = np.nan
        core = picture[(y1 + y2) // 2 - 1 : (y1 + y2) // 2 + 1, (x1 + x2) // 2 - 1 : (x1 + x2) // 2 + 1].mean()
        edge = np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]]).mean()
        bright = domain == "shifted"
        assert (core > edge + 20) if bright else (core < edge - 20)
        assert (edge > np.nanmean(rim)) if bright else (edge < np.nanmean(rim))


@pytest.mark.parametrize("domain", ["clean", "shifted"])
def test_a_lesion_is_darker_than_its_skin_and_fills_its_box(domain):
    for sample in WORLDS["lesion"].samples(domain, 20, 3, {}):
        mask = sample.meta["mask"].astype(bool)
        assert mask_box(sample.meta["mask"]) == sample.target.boxes[0]
        picture = pixels(sample)[0].astype(float).mean(axis=2)
        assert picture[mask].mean() < picture[~mask].mean() - 5


def test_defects_are_in_half_of_the_surfaces_and_nothing_else_tells_them():
    family = WORLDS["anomaly"]
    for domain, surface in family.domains.items():
        answers = [s.target.text for s in family.samples(domain, 40, 2, {})]
        assert answers.count("yes") == 20
        for seed in range(5):
            yes, no = (family.draw(surface, np.random.default_rng(seed), 1, {"index": i}) for i in ("0", "1"))
            assert (yes.asked[0].question, yes.asked[0].target.text, no.asked[0].target.text) == (no.asked[0].question, "yes", "no")
            differ = (np.asarray(yes.picture) != np.asarray(no.picture)).any(axis=2)
            assert 20 < differ.sum() < differ.size / 3


def test_counts_are_spread_and_told_scenes_have_no_picture():
    for domain in WORLDS["counting"].domains:
        samples = WORLDS["counting"].samples(domain, 300, 4, {})
        share = collections.Counter(s.target.text for s in samples).most_common(1)[0][1] / 300
        assert share < 0.55
        for sample in samples:
            assert bool(sample.images) != domain.startswith("told")
    told = WORLDS["counting"].samples("told", 100, 4, {})
    for sample in told:
        scene, what = sample.question.removeprefix("scene : how many ").split(" . how many ")
        words = what.removesuffix(" are there ?").replace(" shapes", "").replace("crosses", "cross").split(" and ")
        wanted = {w.removesuffix("s") if w.removesuffix("s") in world.SHAPES else w for w in words}
        there = [set(s.split()) for s in scene.removeprefix("scene : ").split(" , ")]
        assert sum(bool(wanted & one) for one in there) == int(sample.target.text), sample.question


def test_what_a_place_or_a_size_points_at_is_alone():
    for sample in WORLDS["reasoning"].samples("shifted", 200, 4, {}):
        assert len(sample.target.boxes) == 1
    places = (("red", "circle", (20, 20), 5), ("red", "square", (40, 22), 8), ("blue", "circle", (30, 50), 6))
    shapes = tuple(world.Shape(*place) for place in places)
    found = dict(pair for pool in reasoning.questions(world.Scene(shapes, 0.5, 0.0, 0)) for pair in pool)
    assert found["find the largest red one"] is shapes[1]
    assert found["find the smallest red one"] is shapes[0]
    assert found["find the left circle"] is shapes[0]
    assert found["find the bottom circle"] is shapes[2]
    assert found["find the one right of the red circle"] is shapes[1]
    assert "find the one left of the red circle" not in found


def test_few_shot_classes_take_turns():
    samples = WORLDS["naming"].samples("shifted", 3 * len(CLASSES), 1, {"classes": "few"})
    assert set(collections.Counter(s.target.text for s in samples).values()) == {3}
    assert all((colour, kind) in KNOWN_PAIRS for _, colour, kind in CLASSES)


def test_held_out_pairs_are_in_no_known_scene(monkeypatch):
    assert set(KNOWN_PAIRS) | set(HELD_OUT) == set(ALL_PAIRS)
    assert not set(KNOWN_PAIRS) & set(HELD_OUT)
    scenes = []
    scene = detection.Scene
    monkeypatch.setattr(detection, "Scene", lambda *parts: scenes.append(scene(*parts)) or scenes[-1])
    known = WORLDS["detection"].samples("shifted", 200, 3, {})
    assert not {(s.colour, s.kind) for one in scenes for s in one.shapes} & set(HELD_OUT)
    assert not {tuple(s.question.split()) for s in known} & set(HELD_OUT)
    novel = WORLDS["detection"].samples("shifted", 200, 3, {"pairs": "novel"})
    assert {tuple(s.question.split()) for s in novel} == set(HELD_OUT)
    shapes = {name.split()[-1] for name in (s.target.text for s in WORLDS["naming"].samples("clean", 300, 3, {}))}
    assert shapes == set(KINDS)
    named = {tuple(s.target.text.split()[1:]) for s in WORLDS["naming"].samples("clean", 300, 3, {})}
    assert not named & set(HELD_OUT)


def test_detections_are_on_coordinates_that_the_tokenizer_knows():
    for sample in WORLDS["detection"].samples("shifted", 100, 3, {"pairs": "all"}):
        text = TASKS["detection"].label_text(sample.target, FRAME, True)
        answer = TASKS["detection"].parse(text, sample, FRAME)
        assert np.allclose(np.reshape(answer.boxes, (-1, 4)), np.reshape(sample.target.boxes, (-1, 4)), atol=0.04)


def test_worlds_are_sources_of_data():
    data = load_data("world:gui?domain=shifted&count=5&seed=3", DataConfig(), TASKS["gui"])
    assert len(data.samples) == 5
    with_traces = load_data("world:counting?domain=told&count=5&seed=3&traces=1", DataConfig(), TASKS["counting"])
    assert all(isinstance(s.response, Demonstration) for s in with_traces.samples)
    assert all(s.target.boxes for s in load_data("world:referring?absent=0&count=20", DataConfig(), TASKS["referring"]).samples)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("world:gui?domain=mars", "clean|dense|shifted"),
        ("world:gui?count=x", "expected world:gui"),
        ("world:gui?colour=red", "expected world:gui"),
        ("world:anomaly?count=3", "not 'gui'"),
        ("world:detection?pairs=other", "not 'gui'"),
    ],
)
def test_a_wrong_source_says_what_was_expected(source, message):
    with pytest.raises(DataError, match=message.replace("|", r"\|")):
        load_data(source, DataConfig(), TASKS["gui"])


def test_an_unknown_set_of_pairs_is_an_error():
    with pytest.raises(DataError, match="pairs"):
        load_data("world:detection?pairs=other", DataConfig(), TASKS["detection"])


def test_the_study_base_never_saw_what_it_shall_not_know():
    pytest.importorskip("torch")
    from visurf.mini import study_base
    from visurf.mini.model import build_tokenizer
    from visurf.mini.pretrain import Phase, Settings

    tokenizer, settings, phase = build_tokenizer(wide=True), Settings(), Phase(1, 7)
    texts = [
        text for step in range(12) for _, asked in study_base.mixture(settings, phase, step) for pair in asked for text in pair
    ]
    held_out = {" ".join(pair) for pair in HELD_OUT}
    assert not any(pair in text for text in texts for pair in held_out)
    assert not any("[]" in text or "defect" in text for text in texts)
    assert any(text == "<think>nothing</think><answer>no</answer>" for text in texts)
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.unk_token_id not in ids, text
        assert tokenizer.decode(ids) == text


def test_the_wide_vocabulary_leaves_the_embedded_models_ids_as_they_are():
    pytest.importorskip("transformers")
    from visurf.mini.model import build_tokenizer

    narrow, wide = build_tokenizer().get_vocab(), build_tokenizer(wide=True).get_vocab()
    assert all(wide[token] == number for token, number in narrow.items())
    assert sorted(wide.values()) == list(range(len(wide)))


def test_lessons_share_their_picture_and_predict_the_replies():
    pytest.importorskip("torch")
    from visurf.mini import study_base
    from visurf.mini.lessons import batch
    from visurf.mini.model import build_tokenizer
    from visurf.mini.pretrain import Phase, Settings

    tokenizer = build_tokenizer(wide=True)
    scenes = study_base.mixture(Settings(), Phase(1, 7), 3)
    pictures = [picture for picture, _ in scenes if picture is not None]
    assert 0 < len(pictures) < len(scenes)
    row = batch(scenes, tokenizer)
    ids = row["inputs"]["input_ids"][0]
    assert (ids == tokenizer.convert_tokens_to_ids("<|image_pad|>")).sum() == 16 * len(pictures)
    assert len(row["inputs"]["image_grid_thw"]) == len(pictures)
    assert row["inputs"]["position_ids"].shape == (3, 1, len(ids))
    assert (ids[row["at"] + 1] == row["targets"]).all()
    replies = "".join(reply + "<|im_end|>" for _, asked in scenes for _, reply in asked)
    assert tokenizer.decode(row["targets"]) == replies


@pytest.mark.parametrize(("layers", "older"), [(2, False), (1, False), (4, True)])
def test_a_base_of_another_size_or_architecture_begins_with_what_the_first_one_knows(layers, older):
    torch = pytest.importorskip("torch")
    from visurf.mini import pretrain, study_base
    from visurf.mini.lessons import batch
    from visurf.mini.model import build_tokenizer

    settings = pretrain.Settings(layers=layers, older=older)
    phase = pretrain.Phase(1, 7)
    tokenizer = build_tokenizer(wide=True, thousandths=older)
    lesson = batch(study_base.mixture(settings, phase, 3), tokenizer)
    assert (lesson["targets"] != tokenizer.unk_token_id).all()

    def loss(fill):
        torch.manual_seed(0)
        model = pretrain.new_model(settings, tokenizer)
        if fill:
            study_base.start_from(ROOT / "studies" / "base", tokenizer, settings)(model)
        with torch.no_grad():
            hidden = model.model(**lesson["inputs"]).last_hidden_state[0, lesson["at"]]
            return float(torch.nn.functional.cross_entropy(model.lm_head(hidden), lesson["targets"])), model

    fresh, _ = loss(fill=False)
    filled, model = loss(fill=True)
    assert filled < fresh - 0.5
    assert ("Qwen2VL" if older else "Qwen2_5_VL") in type(model).__name__
    if older:
        ids = {n: tokenizer.convert_tokens_to_ids(str(n)) for n in (500, 501, 100)}
        rows = model.get_input_embeddings().weight
        # 500 and 501 thousandths of 64 pixels are both about pixel 32.
        near, far = (torch.linalg.norm(rows[ids[500]] - rows[ids[n]]) for n in (501, 100))
        assert near < far / 4
