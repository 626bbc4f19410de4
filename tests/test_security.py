"""Nobody gets in: no code from data, no network that was not asked for, no file outside its folder, no bomb."""

import ast
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image

import visurf
from visurf.benchmarks.rows import image_path, read_pickle
from visurf.config import ConfigError, parse_overrides, read_recipe
from visurf.plain_yaml import read_yaml
from visurf.targets import image_refs
from visurf.types import MAX_IMAGE_PIXELS, DataError, ImageRef

ROOT = Path(visurf.__file__).parent
# Dotted names that must not be called at all; a name without a dot is the builtin.
FORBIDDEN = {
    *("eval", "exec", "compile", "__import__"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open", "dill.load", "dill.loads"),
    *("joblib.load", "pandas.read_pickle", "pd.read_pickle", "cloudpickle.load", "cloudpickle.loads"),
    *("os.system", "os.popen", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "torch.hub.load"),
    # Nothing is unpacked, so no archive can write outside its folder.
    *("zipfile.ZipFile", "tarfile.open", "tarfile.TarFile", "shutil.unpack_archive"),
}
# Where a rule is kept in another way, which a test below shows.
ALLOWED = {("plain_yaml.py", "yaml.load"), ("benchmarks/rows.py", "pickle._Unpickler")}


def dotted(node):
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else None


def findings(source, name="x.py"):
    """What a file does that it must not, as (line, what)."""
    tree = ast.parse(source)
    full = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            full |= {a.asname or a.name.partition(".")[0]: a.name if a.asname else a.name.partition(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            full |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    found = []
    for node in ast.walk(tree):
        # A name counts wherever it stands: passing a function on is as good as calling it.
        called = dotted(node) if isinstance(node, ast.Attribute | ast.Name) else None
        if called is not None:
            head, _, rest = called.partition(".")
            called = ".".join(filter(None, (full.get(head, head), rest)))
            if called in FORBIDDEN or (called in ("yaml.load", "pickle._Unpickler") and (name, called) not in ALLOWED):
                found.append((node.lineno, called))
        if not isinstance(node, ast.Call):
            continue
        given = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
        target = dotted(node.func) or ""
        if target == "torch.load" and given.get("weights_only") is not True:
            found.append((node.lineno, "torch.load without weights_only=True"))
        if given.get("trust_remote_code") or given.get("shell") or given.get("allow_pickle"):
            found.append((node.lineno, "trust_remote_code, shell or allow_pickle"))
        if target.endswith("from_pretrained") and target.startswith(("Auto", "transformers.Auto")):
            if given.get("trust_remote_code") is not False:
                found.append((node.lineno, f"{target} without trust_remote_code=False"))
            if "Model" in target and given.get("use_safetensors") is not True:
                found.append((node.lineno, f"{target} without use_safetensors=True"))
    return found


@pytest.mark.parametrize(
    "source",
    [
        "eval(x)",
        "import pickle as p\np.load(f)",
        "from pickle import loads\nloads(b)",
        "import torch\ntorch.load(f)",
        "import torch\ntorch.load(f, weights_only=False)",
        "AutoModel.from_pretrained(x, trust_remote_code=True, use_safetensors=True)",
        "AutoModel.from_pretrained(x, trust_remote_code=False)",
        "AutoConfig.from_pretrained(x)",
        "subprocess.run(x, shell=True)",
        "import yaml\nyaml.load(x, Loader=yaml.Loader)",
        "import tarfile\ntarfile.open(x)",
        "call = exec",
        "np.load(f, allow_pickle=True)",
    ],
)
def test_the_search_sees(source):
    assert findings(source)


def test_the_search_lets_the_rest_be():
    good = ["import torch, re", "torch.load(f, weights_only=True)", "re.compile('a')", "model.eval()"]
    assert findings("\n".join([*good, "AutoConfig.from_pretrained(x, trust_remote_code=False)"])) == []


def test_nothing_in_the_package_runs_code_from_data():
    found = {str(p.relative_to(ROOT)): findings(p.read_text(), p.relative_to(ROOT).as_posix()) for p in ROOT.rglob("*.py")}
    assert {name: what for name, what in found.items() if what} == {}


# Runs with an audit hook that writes down what the package's own frames do, and refuses every connection.
AUDITED = """
import json, sys
from pathlib import Path
ROOT = str(Path(sys.argv[1]))
CODE = {"exec", "compile", "os.system", "os.exec", "os.posix_spawn", "marshal.loads", "subprocess.Popen"}
found, connections = [], []

def frames():
    frame = sys._getframe(2)
    while frame is not None:
        yield frame.f_code.co_filename
        frame = frame.f_back

def hook(event, arguments):
    if event in CODE and next(frames()).startswith(ROOT):
        found.append([event, repr(arguments)[:200]])
    elif event == "pickle.find_class" and any(name.startswith(ROOT) for name in frames()):
        found.append([event, repr(arguments)[:200]])
    elif event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        connections.append([event, repr(arguments)[:200]])
        raise OSError("no network in this test")

sys.addaudithook(hook)
"""
PLANTED = """
planted = "compile('1', 'x', 'eval'); import pickle, decimal; pickle.loads(pickle.dumps(decimal.Decimal(1)))"
exec(compile(planted, ROOT + "/planted.py", "exec"))
import socket
try:
    socket.create_connection(("127.0.0.1", 9))
except OSError:
    pass
print(json.dumps([sorted({e for e, _ in found}), len(connections) > 0]))
"""
RUNS = """
from visurf.cli import main
folder = Path(sys.argv[2])
(folder / "recipe.yaml").write_text(json.dumps({
    "model": {"path": "mini"}, "task": {"name": "referring", "prompt": "bare"}, "paradigm": "visurf",
    "data": {"train": "world:shifted?count=8&seed=1", "validation": "world:shifted?count=4&seed=2"},
    "rollout": {"group_size": 2, "max_tokens": 24}, "checkpoint": {"every": 1}, "prompts_per_step": 2, "steps": 3,
}))
recipe, out = str(folder / "recipe.yaml"), f"out={folder / 'run'}"
from PIL import Image
Image.new("RGB", (64, 64)).save(folder / "a.png")
row = {"id": 1, "image": "a.png", "question": "a cat", "target": [[1, 2, 30, 40]]}
(folder / "test.jsonl").write_text(json.dumps(row) + chr(10))
# A run that stops and is gone on with, so that a checkpoint is read.
codes = [main(["train", recipe, out])]
for step in (folder / "run" / "checkpoints").glob("step-000003"):
    import shutil
    shutil.rmtree(step)
codes.append(main(["train", recipe, out]))
tested = ["eval", str(folder / "run" / "model"), str(folder / "test.jsonl"), "--recipe", recipe]
codes.append(main([*tested, "--out", str(folder / "eval")]))
rows = folder / "rows.jsonl"
rows.write_text(json.dumps({"id": 1, "completion": "<think>a</think><answer>[]</answer>", "target": []}) + chr(10))
codes.append(main(["score", "--reward", "visionreasoner", "--in", str(rows), "--out", str(folder / "scores.jsonl")]))
print()
print(json.dumps([codes, found, connections]))
"""


def audited(code, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", AUDITED + code, str(ROOT), *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout.splitlines()[-1]), ran


def test_the_audit_sees_what_is_planted():
    (events, connected), _ = audited(PLANTED)
    assert events == ["compile", "pickle.find_class"]
    assert connected


def test_training_evaluating_and_scoring_run_no_code_from_data_and_connect_to_nothing(tmp_path):
    (codes, found, connections), ran = audited(RUNS, tmp_path)
    assert codes == [0, 0, 0, 0], ran.stderr[-3000:]
    assert (found, connections) == ([], [])
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    assert not [p for p in (tmp_path / "run").rglob("*") if p.suffix in (".bin", ".pkl", ".pickle")]
    assert "going on after step 2" in ran.stderr + ran.stdout


# --- checkpoints ----------------------------------------------------------------------------------------------------------------


def with_code(folder, checkpoint):
    """A checkpoint that wants its own Python files to be imported."""
    import shutil

    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForImageTextToText": "own.OwnModel"}
    config["model_type"] = "own"
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\n")
    return folder


def test_a_checkpoint_with_code_is_refused_and_its_code_does_not_run(tmp_path, checkpoints, monkeypatch):
    from visurf.models import load_model

    # Without a word about remote code, transformers would ask at the terminal.
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    folder = with_code(tmp_path / "own", checkpoints["qwen2_5_vl"])
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_model(folder)
    assert not (folder / "ran").exists()


def test_pickled_weights_are_not_read(tmp_path, checkpoints):
    import shutil

    import torch
    from safetensors.torch import load_file

    from visurf.models import load_model

    folder = tmp_path / "pickled"
    shutil.copytree(checkpoints["qwen2_5_vl"], folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        load_model(folder)


def test_a_state_that_names_code_is_not_read(tmp_path):
    import torch

    from visurf import checkpoint

    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"cpu": Attack()}, tmp_path / "state.pt")
    (tmp_path / "progress.json").write_text("{}")
    with pytest.raises(pickle.UnpicklingError):
        checkpoint.read(tmp_path)
    assert not (tmp_path / "ran").exists()


# --- files of data sets ---------------------------------------------------------------------------------------------------------

OUTSIDE = ["../a.png", "a/../../b.png", "/etc/passwd", "..\\a.png", "C:\\a.png", "\\\\server\\a.png", "a/../b.png"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_row_cannot_name_a_picture_outside_its_folder(name, tmp_path):
    with pytest.raises(DataError, match=r"folder|relative"):
        image_refs(name, tmp_path, "row")
    with pytest.raises(DataError):
        image_path(tmp_path, name, "row")


def test_a_pickle_that_names_code_or_much_memory_is_refused(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    # The second stores a value at place 2^31 of its memory, the third promises a text of 2^40 bytes.
    path, before = tmp_path / "refs.p", resident()
    for data in (pickle.dumps([Attack()]), b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"a."):
        path.write_bytes(data)
        with pytest.raises(DataError, match="refused"):
            read_pickle(path)
    path.write_bytes(b"\x80\x02]r\xff\xff\xff\x7f.")
    assert read_pickle(path) == []
    assert resident() - before < 100
    assert not (tmp_path / "ran").exists()


def resident():
    """Peak memory in MiB; kilobytes on Linux, bytes on macOS."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1 << 20)


def png_of(width, height):
    """A PNG that says it is so large, and holds nothing to speak of."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(60_000, 60_000), (MAX_IMAGE_PIXELS + 1, 1)])
def test_a_decompression_bomb_is_a_data_error(size, tmp_path):
    from visurf.benchmarks.masks import ImageMask

    (tmp_path / "bomb.png").write_bytes(png_of(*size))
    for read in (lambda: ImageRef(png_of(*size)).size, ImageRef(tmp_path / "bomb.png").load, ImageMask(tmp_path / "bomb.png").load):
        with pytest.raises(DataError, match=r"limit|exceeds"):
            read()


def test_text_that_unpacks_to_much_inside_a_picture_is_a_data_error():
    stream = io.BytesIO()
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("a", "b" * 100_000_000, zip=True)
    Image.new("L", (4, 4)).save(stream, "PNG", pnginfo=info)
    assert len(stream.getvalue()) < 200_000
    with pytest.raises(DataError):
        ImageRef(stream.getvalue()).load()


def test_formats_that_start_a_program_are_not_opened():
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"
    assert Image.open(io.BytesIO(eps)).format == "EPS"
    with pytest.raises(DataError, match="cannot be read as an image"):
        ImageRef(eps).load()


# --- recipes --------------------------------------------------------------------------------------------------------------------

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [LAUGHS, "&a [*a]", "[" * 50_000, "!!python/object/apply:os.getcwd []", "2001-99-99", "!!float x", "!!bool x", "a: [", "\0"],
)
def test_yaml_that_bites_is_refused(text, tmp_path):
    with pytest.raises(ValueError):  # noqa: PT011 - the reasons differ
        read_yaml(text)
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(ConfigError):
        read_recipe(tmp_path / "recipe.yaml")
    with pytest.raises(ConfigError):
        parse_overrides([f"steps={text}"])


def test_yaml_keeps_its_plain_values():
    assert read_yaml("a: &x [1, 2.5, on, null, text]\nb: *x") == {
        "a": [1, 2.5, True, None, "text"],
        "b": [1, 2.5, True, None, "text"],
    }


# --- without the heavy libraries --------------------------------------------------------------------------------------------------

HEAVY = ("torch", "transformers", "peft", "safetensors", "tokenizers", "accelerate", "datasets", "pyarrow", "pandas", "cv2")
HEAVY += ("matplotlib", "tensorboard", "wandb", "pycocotools", "math_verify", "mathruler", "httpx", "huggingface_hub")
LIGHT = (
    f"""
HEAVY = {HEAVY}
"""
    + """
import json, sys
from pathlib import Path

for name in HEAVY:
    sys.modules[name] = None  # as if it were not installed
from visurf.cli import main
folder = Path(sys.argv[1])
codes = {}
for name, arguments in json.loads(sys.argv[2]).items():
    codes[name] = main([a.replace("FOLDER", str(folder)) for a in arguments])
print()
print(json.dumps(codes))
"""
)
COMMANDS = {
    "env": ["env"],
    "recipes": ["recipes"],
    "score": ["score", "--reward", "visionreasoner", "--in", "FOLDER/rows.jsonl", "--out", "FOLDER/scores.jsonl"],
    "init": ["init", "FOLDER/data.jsonl", "--images", "FOLDER", "--model", "some/model", "--out", "FOLDER/data.yaml"],
    "convert": ["data", "convert", "csv", "FOLDER/t.csv", "--images", "FOLDER", "FOLDER/converted.jsonl"],
    "show": ["data", "show", "mathvista", "FOLDER"],
    "eval": ["eval", "--benchmark", "mathvista", "--data", "FOLDER", "--predictions", "FOLDER/p.jsonl"],
    "train": ["train", "FOLDER/data.yaml", "model.path=mini", "out=FOLDER/run"],
}


def test_scores_data_and_reports_need_the_base_install_only(tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    (tmp_path / "rows.jsonl").write_text(
        json.dumps({"id": 1, "completion": "<think>a</think><answer>[]</answer>", "target": []}) + "\n"
    )
    (tmp_path / "data.jsonl").write_text(
        json.dumps({"id": 1, "image": "a.png", "question": "a cat", "target": [[1, 2, 30, 40]]}) + "\n"
    )
    (tmp_path / "t.csv").write_text("image,question,x1,y1,x2,y2\na.png,a cat,1,2,30,40\n")
    problem = {"question": "How many?", "image": "a.png", "question_type": "free_form", "answer_type": "integer", "answer": "2"}
    problem |= {"choices": None, "precision": None, "unit": None, "metadata": {}}
    (tmp_path / "testmini.json").write_text(json.dumps({"1": problem}))
    (tmp_path / "p.jsonl").write_text(json.dumps({"pid": "1", "extraction": "2"}) + "\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT.parent)}
    command = [sys.executable, "-c", LIGHT, str(tmp_path), json.dumps(COMMANDS)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert ran.returncode == 0, ran.stderr[-3000:]
    codes = json.loads(ran.stdout.splitlines()[-1])
    # What does need them says what to install.
    assert codes.pop("train") == 1
    assert "pip install -e '.[train]' in a clone" in ran.stderr
    assert codes == dict.fromkeys(codes, 0), ran.stderr[-3000:]
    assert json.loads((tmp_path / "scores.jsonl").read_text())["total"] == 7
