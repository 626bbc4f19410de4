"""What is fuzzed: every function that reads what a model, a data set or a recipe wrote, with the errors it documents.

A *case* is one call of one function with one input. `tests/test_fuzz.py` runs some ten thousand, `tests/soak/fuzz.py` a million.
"""

import contextlib
import copy
import io
import json
import pickle
import re
import tempfile
import warnings
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from PIL import Image

from hostile import PIECES, REWARDS, hostile, values
from visurf.benchmarks import omniact, rows, virft, visionreasoner
from visurf.benchmarks.coco_layout import load_coco_layout
from visurf.benchmarks.convert_csv import from_csv
from visurf.benchmarks.convert_yolo import read_yolo_names
from visurf.benchmarks.masks import ImageMask, RunLengthMask
from visurf.config import Config, ConfigError, DataConfig, build, nested, parse_overrides, read_recipe, to_dict
from visurf.data import load_data
from visurf.demonstrations import names_coordinates, reasoning_of
from visurf.geometry import Frame
from visurf.metrics import mathvista, text
from visurf.metrics.summary import read_record_values
from visurf.parsing import parse_choice, parse_corners, parse_number, parse_objects, parse_points, parse_text, parse_yes_no
from visurf.predictions import kind_of, read_predictions
from visurf.rewards import shaping
from visurf.score_file import score_file
from visurf.score_rewards import REWARDS as FILE_REWARDS
from visurf.scoring import Scorer
from visurf.tags import first_answer, last_answer, single_line_answer, think_answer_format
from visurf.tasks import TASKS, RewardSettings
from visurf.tasks.task import has_thinking
from visurf.types import Choice, Completion, DataError, Detections, ImageRef, Number, Objects, Points, Sample, Text

SIZE = (64, 48)
BOX = (4.0, 5.0, 30.0, 40.0)


@dataclass(frozen=True)
class Function:
    """One function under test: called with the input alone, allowed to raise nothing but `errors`."""

    call: Any
    errors: tuple[type[Exception], ...] = ()


@cache
def folder() -> Path:
    """A folder of its own for what must be a file, with one picture in it."""
    place = Path(tempfile.mkdtemp(prefix="visurf-fuzz-"))
    Image.new("RGB", SIZE, "red").save(place / "a.png")
    return place


def written(data: str | bytes, name: str = "input.jsonl") -> Path:
    """The input as a file."""
    path = folder() / name
    path.write_bytes(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data)
    return path


# --- texts that a model wrote -------------------------------------------------------------------------------------------------

TARGETS = {
    Objects: Objects((BOX,), ((10.0, 10.0),)),
    Detections: Detections((BOX,), (1.0,)),
    Points: Points(((10.0, 10.0),), (BOX,)),
    Choice: Choice("B", ("a cat", "a dog")),
    Number: Number("12.5"),
    Text: Text("a cat"),
}
# Its symbolic comparison runs in a process with a time limit of its own.
IN_PROCESS = [name for name in TASKS if name != "mathematics"]


@cache
def scorer_of(name: str, variant: str) -> tuple[Scorer, Sample, Frame]:
    task = TASKS[name]
    kind = next(k for k in task.targets if k in TARGETS)
    picture = ImageRef(Image.new("RGB", SIZE))
    meta = {"answers": ["a cat"], "answer_type": "text", "question_type": "free_form"}
    target = Text("yes") if name in ("yes_no", "anomaly_yes_no") else TARGETS[kind]
    sample = Sample("s", (picture,), "the cat", target, meta=meta)
    return Scorer(task, task.parts(RewardSettings(variant))), sample, Frame((1000.0, 1000.0), SIZE)


def task_call(name: str, variant: str, written_text: str) -> None:
    """Everything that a run does with a completion."""
    scorer, sample, frame = scorer_of(name, variant)
    read = scorer.read(Completion(written_text, (), None, None), sample, frame)
    scorer.score(read, sample)
    scorer.task.judge(sample, read.answer)


FRAME = Frame((1000.0, 1000.0), SIZE)
FREE = {"question_type": "free_form", "answer_type": "float"}
TEXTS: dict[str, Function] = {
    **{f"reward {n}": Function(lambda t, f=f, label=label: f(t, label), (DataError,)) for n, (f, label) in REWARDS.items()},
    **{f"label of {n}": Function(lambda t, f=f, good=good: f(good, t), (DataError,)) for n, (f, good) in REWARDS.items()},
    **{f"task {n} {v}": Function(partial(task_call, n, v)) for n in IN_PROCESS for v in ("sound", "published")},
    "parse_objects": Function(lambda t: parse_objects(t, FRAME)),
    "parse_points": Function(lambda t: parse_points(t, FRAME)),
    "parse_corners": Function(lambda t: parse_corners(t, FRAME)),
    "parse_choice": Function(lambda t: parse_choice(t, ("a cat", "a dog"))),
    "parse_text": Function(parse_text),
    "parse_number": Function(parse_number),
    "parse_yes_no": Function(parse_yes_no),
    "answers": Function(lambda t: (first_answer(t), last_answer(t), single_line_answer(t), think_answer_format(t))),
    "has_thinking": Function(has_thinking),
    "reasoning_of": Function(reasoning_of),
    "names_coordinates": Function(names_coordinates),
    "repetition_penalty": Function(shaping.repetition_penalty),
    "extract_mathvista": Function(lambda t: mathvista.extract_mathvista(t, quick=True, **FREE)),
    "normalise_mathvista": Function(lambda t: mathvista.normalise_mathvista(t, precision=2, **FREE)),
    "anls_score": Function(lambda t: text.anls_score(t, ("a cat",))),
    "relaxed_correct": Function(lambda t: text.relaxed_correct(t, "12.5")),
    "omniact script": Function(lambda t: omniact.parse_script(t, "row"), (DataError,)),
}

# --- rows and documents of data sets ------------------------------------------------------------------------------------------

ROWS = [
    {"id": 1, "image": "a.png", "question": "a cat", "target": {"boxes": [list(BOX)], "points": [[10, 10]]}},
    {"id": "2", "image": ["a.png"], "question": "a cat", "target": []},
    {"id": 3, "image": "a.png", "question": "a cat", "target": {"masks": ["a.png"]}, "meta": {"a": 1}},
    {
        "id": 4,
        "image": "a.png",
        "question": "?",
        "target": {"boxes": [list(BOX)]},
        "response": {"thinking": "t", "answer": [], "frame": [1, 2]},
    },
    {"id": 5, "question": "?", "target": {"number": 12}},
    {"id": 6, "question": "?", "target": {"choice": "A", "options": ["x", "y"]}},
    {"id": 7, "question": "?", "target": {"class": "cat"}, "response": "<answer>cat</answer>"},
]
SCORED = {
    "id": 1,
    "completion": "<think>a</think><answer>[]</answer>",
    "target": {"boxes": [[1, 2, 3, 4]], "points": [[1, 2]]},
    "family": "qwen",
    "method": "map",
    "image_width": 64,
    "image_height": 48,
    "grid_w": 2,
    "grid_h": 2,
    "n_tokens": 5,
    "free": 1,
    "limit": 9,
    "scale": 10,
    "symbolic_match": False,
}
ANNOTATION = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "area": 9}
COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
    "categories": [{"id": 1, "name": "cat"}],
    "annotations": [
        {**ANNOTATION, "id": 1, "iscrowd": 0, "segmentation": [[1, 1, 9, 1, 9, 9]]},
        {**ANNOTATION, "id": 2, "iscrowd": 1, "segmentation": {"counts": [3, 4], "size": [48, 64]}},
    ],
}
PREDICTIONS = [
    {"id": 1, "completion": "<answer>[]</answer>", "score": 0.5},
    {"pid": 1, "extraction": "5"},
    {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5},
]
TASKS_OF_ROWS = ("referring", "detection", "grounding", "gui", "classification", "multiple_choice", "counting")


def load_rows(task: str, data: str, **settings: Any) -> None:
    config = DataConfig(root=str(folder()), on_bad_sample="skip", **settings)
    for sample in load_data(written(data).name, config, TASKS[task]).samples:
        TASKS[task].prompt(sample)


def score_rows(reward: str, variant: Any, data: str) -> None:
    score_file(reward, written(data), json.dumps, variant=variant, on_bad_row="skip", symbolic=False)


def published_rows(load: Any, data: str) -> None:
    found = [{**row, "image": {"bytes": png()}} if isinstance(row, dict) else row for row in documents(data)]
    load(found, report=rows.RowReport("skip"))


def documents(data: str) -> list[Any]:
    """The lines that are JSON."""
    found = []
    for each in data.split("\n"):
        with contextlib.suppress(ValueError, RecursionError):
            found.append(json.loads(each))
    return found


@cache
def png() -> bytes:
    return (folder() / "a.png").read_bytes()


def coco(data: str) -> None:
    place = written(data.split("\n")[0], "coco.json")
    samples = load_coco_layout(place, folder(), report=rows.RowReport("skip"))
    for sample in samples:
        assert sample.target is not None


def run_lengths(data: str) -> None:
    for value in documents(data):
        counts = value.get("counts") if isinstance(value, dict) else value
        if isinstance(counts, str) or (isinstance(counts, list) and all(isinstance(c, int) for c in counts)):
            RunLengthMask(counts if isinstance(counts, str) else tuple(counts), SIZE).load()


def predictions(data: str) -> None:
    kind_of(read_predictions(written(data)))


# Mathematical answers are compared in a process with a time limit of its own.
NO_WORKER = [n for n in FILE_REWARDS if n not in ("mathematics", "mathematics_boxed", "vlm_r1_text_math", "vlm_r1_text")]
DOCUMENTS: dict[str, Function] = {
    **{f"rows of {task}": Function(partial(load_rows, task), (DataError,)) for task in TASKS_OF_ROWS},
    "rows in a frame": Function(partial(load_rows, "referring", frame="1000", box_format="xywh"), (DataError,)),
    **{f"score {n} {v}": Function(partial(score_rows, n, v), (DataError,)) for n in NO_WORKER for v in FILE_REWARDS[n].variants},
    "virft detection": Function(partial(published_rows, virft.detection_from_rows), (DataError,)),
    "virft classification": Function(partial(published_rows, virft.classification_from_rows), (DataError,)),
    "visionreasoner": Function(partial(published_rows, visionreasoner.training_from_rows), (DataError,)),
    "read_record_values": Function(lambda d: read_record_values(written(d), "score"), (ValueError,)),
    "predictions": Function(predictions, (DataError,)),
    "coco": Function(coco, (DataError,)),
    "run lengths": Function(run_lengths, (DataError,)),
    "csv": Function(lambda d: list(from_csv(written(d, "t.csv"), folder())), (DataError,)),
    "yolo names": Function(lambda d: read_yolo_names(written(d, "data.yaml")), (DataError,)),
}
VIRFT = {
    "id": 1,
    "problem": "Detect all objects belonging to the category 'cat' in the image.",
    "solution": "<answer>[{'Position': [1, 2, 30, 40], 'Confidence': 1}]</answer>",
}
REASONER = {
    "id": "1",
    "problem": "a cat",
    "solution": '[{"bbox_2d": [1, 2, 30, 40], "point_2d": [10, 20]}]',
    "img_width": 64,
    "img_height": 48,
}
VALID = [*ROWS, SCORED, COCO, *PREDICTIONS, VIRFT, REASONER, {"counts": [3, 5, 3064]}, {"counts": "52203"}]

# --- recipes --------------------------------------------------------------------------------------------------------------------


def flat(settings: Any, prefix: str = "") -> list[str]:
    found = []
    for name, value in settings.items():
        found += [f"{prefix}{name}", *(flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [])]
    return found


KEYS = flat(to_dict(Config()))
RECIPES: dict[str, Function] = {
    "recipe file": Function(lambda r: build(Config, read_recipe(written(r, "recipe.yaml"))), (ConfigError,)),
    "overrides": Function(lambda r: build(Config, parse_overrides(r.split("\n"))), (ConfigError,)),
}

# --- files of other kinds -------------------------------------------------------------------------------------------------------


def open_all(data: bytes) -> None:
    picture = ImageRef(data)
    width, height = picture.size
    if width * height < 1 << 20:
        picture.load()
        ImageMask(written(data, "mask.png")).load()


BYTES: dict[str, Function] = {
    "picture": Function(open_all, (DataError,)),
    "pickle": Function(lambda b: rows.read_pickle(written(b, "refs.p")), (DataError,)),
    "jsonl": Function(lambda b: list(rows.read_jsonl(written(b))), (DataError,)),
    "data bytes": Function(
        lambda b: load_data(written(b).name, DataConfig(root=str(folder()), on_bad_sample="skip"), TASKS["referring"]), (DataError,)
    ),
}


class Names:
    """What a pickle must not be able to name."""


@cache
def seeds() -> list[bytes]:
    """Small valid files of every kind."""
    found = []
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        stream = io.BytesIO()
        Image.radial_gradient("L").resize((24, 16)).convert("RGB").save(stream, kind)
        found.append(stream.getvalue())
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("JPEG", "PNG", "WEBP"):
        stream = io.BytesIO()
        Image.new("RGB", (9, 7)).save(stream, kind, exif=exif)
        found.append(stream.getvalue())
    found += [pickle.dumps(ROWS, protocol) for protocol in range(5)] + [pickle.dumps(Names)]
    return [*found, json.dumps(ROWS[0]).encode(), b"\xef\xbb\xbf" + json.dumps(ROWS[1]).encode()]


# --- strategies -----------------------------------------------------------------------------------------------------------------


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where anything stands in nested lists and dictionaries."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in inner for found in places(item, (*path, key)))]


PLACES = [(document, path) for document in VALID for path in places(document)]


def replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    document = copy.deepcopy(document)
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return document


hostile_values = st.one_of(
    values, hostile, st.sampled_from(["../a.png", "/etc/passwd", "a\0.png", "C:\\a", [[]], {}, 10**400, 1e308])
)
spoiled = st.builds(lambda place, value: replaced(*place, value), st.sampled_from(PLACES), hostile_values)
# A few lines, of which some are no JSON at all, or nested deeper than a reader can follow.
line = st.one_of(
    spoiled.map(lambda v: json.dumps(v, default=str)),
    hostile.map(lambda t: t.replace("\n", " ") or "[" * 3000),
)
lines = st.lists(line, min_size=1, max_size=4).map("\n".join)
YAML = [
    *PIECES,
    ": ",
    "- ",
    "&a ",
    "*a",
    "!!python/object/apply:os.system [a]",
    "!!float x",
    "2001-99-99",
    "\n  ",
    "base: ",
    "|",
    "? ",
]
recipe_text = st.one_of(
    st.lists(st.tuples(st.sampled_from(KEYS), hostile_values), max_size=3).map(
        lambda pairs: json.dumps(nested(dict(pairs)), default=str)
    ),
    st.lists(st.sampled_from([*YAML, *(f"{key}: " for key in KEYS), *(f"{key}=" for key in KEYS)]), max_size=12).map("".join),
)
spoiled_bytes = st.builds(
    lambda seed, edits, cut: _edited(seed, edits)[: cut or None],
    st.sampled_from(range(18)).map(lambda i: seeds()[i]),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6),
    st.one_of(st.just(0), st.integers(0, 400)),
)
# Inputs of up to 100 kB: a few pieces, each repeated many times.
long_text = st.lists(st.tuples(st.sampled_from(PIECES), st.integers(1, 20_000)), min_size=1, max_size=5).map(
    lambda parts: "".join(piece * count for piece, count in parts)[:100_000]
)
long_answer = long_text.map(lambda t: f"<think>{t[:30_000]}</think><answer>{t[:69_000]}</answer>")


def _edited(seed: bytes, edits: list[tuple[int, int]]) -> bytes:
    data = bytearray(seed)
    for position, byte in edits:
        data[position % len(data)] = byte
    return bytes(data)


KINDS: dict[str, tuple[dict[str, Function], Any]] = {
    "texts": (TEXTS, hostile),
    "documents": (DOCUMENTS, lines),
    "recipes": (RECIPES, recipe_text),
    "bytes": (BYTES, spoiled_bytes),
}


def run(function: Function, data: Any) -> None:
    """One case; warnings are no failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            function.call(data)
        except function.errors:
            pass
        except Exception as error:
            shown = re.sub(r"(.{300}).*", r"\1..", repr(data), flags=re.DOTALL)
            error.add_note(f"input: {shown}")
            raise
