"""Every command of the documentation: parsed by the real parser, and run here, by another test, or marked with what it needs."""

import json
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from visurf.benchmarks import BENCHMARKS, get_benchmark
from visurf.cli import build_parser, main
from visurf.config import load_config, parse_overrides
from visurf.config.shipped import shipped_recipes

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "bench" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAMS = ("visurf", "python", "torchrun", "make")
# Beginnings of commands -> who runs them, or what they need. The longest that fits counts.
ELSEWHERE = {
    "make demo": "test_cli.py",
    "make install": "what runs this",
    "make test": "what runs this",
    "make reproduce": "minutes",
    "visurf train recipe.yaml paradigm=": "test_docs_paradigms.py",
    "visurf train recipe.yaml": "test_cli.py",
    "visurf train visual_rft/": "download",
    "visurf train visurf/": "download",
    "visurf data show coco /data": "download",
    "visurf data distil Qwen/": "download",
    "visurf init data.jsonl --images photos --model Qwen/": "test_cli.py",
    "visurf init rows.jsonl": "test_cli.py",
    "python examples/convert_rows.py": "test_examples.py",
    "visurf train data.yaml": "test_cli.py",
    "visurf train data.yaml model.lora.rank=64 model.lora.quantize=4bit": "GPU",
    "visurf eval runs/data/model": "test_cli.py",
    "visurf bench": "test_speed.py",
    "visurf demo": "test_cli.py",
    "visurf eval demo-short/runs/visurf-seed0/model": "test_cli.py",
    "visurf check": "test_doctor_examination.py",
    "visurf predict": "test_answering.py",
    "visurf report --compare": "test_reporting.py",
    "visurf report": "test_browser.py",
    "visurf eval runs/": "test_cli.py",
    "visurf eval Qwen/": "download",
    "visurf eval MODEL --benchmark": "download",
    "visurf eval --benchmark": "test_cli_commands.py",
    "visurf serve": "test_serving.py",
    "visurf probe": "test_probing.py",
    "visurf alarms": "test_alarms.py",
    "visurf study": "test_studies_run.py",
    "visurf export demo-short/runs/visurf-seed0": "test_publishing.py",
    "visurf export runs/train --push": "test_publishing.py",
    "visurf score --reward visual_rft_detection": "test_cli_commands.py",
    "visurf score --reward my_rewards.py:brevity": "test_score_file.py",
    "python studies/": "minutes",
    "python -m visurf.models.random_checkpoint": "test_families.py",
    "torchrun --nproc": "GPU",
    "torchrun --nnodes": "several machines",
    "torchrun --nnodes 2 --node_rank 0 --nproc_per_node 1": "test_parallel.py",
    "torchrun --nnodes 2 --node_rank 1 --nproc_per_node 1": "test_parallel.py",
}
NEEDS = ("GPU", "download", "several machines", "minutes", "what runs this")


def commands(text):
    """Commands in the shell blocks of a page, without prompts and comments; lines that go on are joined."""
    for block in re.findall(r"^```(?:console|sh|bash)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words and words[0] in PROGRAMS:
                yield shlex.join(words)


FOUND = sorted({(page.relative_to(ROOT).as_posix(), c) for page in PAGES for c in commands(page.read_text())})


def test_commands_are_found():
    text = "```console\n$ visurf a \\\n  b=c   # why\nresult\n```\n```python\nvisurf x\n```\n```sh\nmake y\nls\n```\n"
    assert list(commands(text)) == ["visurf a b=c", "make y"]
    assert len(FOUND) > 50


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder in which what the pages talk about is there, in miniature."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 64), "white").save(tmp_path / "photos" / "a.png")
    row = {"id": 1, "image": "a.png", "question": "the dog", "target": [[1, 2, 30, 40]]}
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
        (tmp_path / "a.png").write_bytes((tmp_path / "photos" / "a.png").read_bytes())
    completion = {"id": "a", "completion": "<think>I see</think><answer>[]</answer>", "target": "[]"}
    (tmp_path / "completions.jsonl").write_text(json.dumps(completion) + "\n")
    truth = {
        "images": [{"id": 0, "file_name": "a.png", "width": 64, "height": 64}],
        "categories": [{"id": 1, "name": "mug"}, {"id": 2, "name": "cup"}],
        "annotations": [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 2, 10, 20], "area": 200, "iscrowd": 0}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(truth))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "names.txt").write_text("mug\n")
    (tmp_path / "table.csv").write_text("image,question,x1,y1,x2,y2\na.png,mug,1,2,10,20\n")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


# What makes a command tiny; everything else of it is as on the page.
TINY = ["model.path=mini", "steps=1", "prompts_per_step=1", "rollout.group_size=2", "rollout.max_tokens=4", "threads=1"]
TINY += ["data.root=", "task.prompt=bare", "model.lora.rank=2", "data.validation=test.jsonl", "evaluation.every=1"]
PATH = {
    "own-data.md": [
        "visurf data convert yolo",
        "visurf data convert csv",
        "visurf data convert coco",
        "visurf init train.jsonl",
        "visurf check train.yaml",
        "visurf train train.yaml",
        "visurf eval runs/train/model",
        "visurf export runs/train --records",
    ],
    "exporting.md": [
        "visurf export runs/train",
        "visurf export runs/train --step best",
        "visurf export runs/train --adapter",
        "visurf export runs/train --records",
    ],
    "extending.md": ["visurf score"],
    "rewards.md": ["visurf score --reward visionreasoner"],
    "command-line.md": ["visurf env", "visurf completion"],
    "curves.md": ["python -c"],
}
HERE = {f"docs/{page}": tuple(begins) for page, begins in PATH.items()}


def who(page, command):
    """Who runs a command, or what it needs."""
    if any(command.startswith(start) for start in HERE.get(page, ())):
        return "here"
    fits = [start for start in ELSEWHERE if command.startswith(start)]
    return ELSEWHERE[max(fits, key=len)] if fits else None


@pytest.mark.parametrize(("page", "command"), FOUND)
def test_a_command_is_parsed_and_has_somebody_who_runs_it(page, command):
    words = shlex.split(command)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif words[:1] == ["visurf"]:
        check_usage([word for word in words[1 : words.index(">") if ">" in words else None]])
    elif "visurf" in words:
        check_usage(words[words.index("visurf") + 1 :])
    elif words[1].endswith(".py") and not words[1].startswith("studies/"):
        assert (ROOT / words[1]).exists()
    if (
        (words[0] == "visurf" and words[1] in ("--help", "env", "recipes"))
        or words[-1] == "--help"
        or page.startswith("docs/results")
    ):
        return
    runs = who(page, command)
    assert runs is not None, f"{page}: nobody runs `{command}`; run it here, or say in ELSEWHERE who does or what it needs"
    assert runs in ("here", *NEEDS) or (ROOT / "tests" / runs).exists()


def check_usage(words):
    if "--help" in words:
        return
    options, rest = build_parser().parse_known_args(words)
    changes = [*getattr(options, "override", []), *rest]
    assert all("=" in change and not change.startswith("-") for change in changes), rest
    if changes:
        load_config(None, parse_overrides(changes))
    if options.command == "train" and "/" in options.recipe and not options.recipe.endswith(".yaml"):
        assert options.recipe in shipped_recipes()


def run(page, start):
    (command, *_) = [c for p, c in FOUND if p == page and c.startswith(start)]
    words = shlex.split(command)
    if words[0] == "python":
        exec(words[2])
        return 0
    words = words[1 : words.index(">") if ">" in words else None]
    if words[0] == "init":
        words[words.index("--model") + 1] = "mini"
    return main([*words, *(["--quiet", *TINY] if words[0] == "train" else ["rollout.max_tokens=4"] if words[0] == "eval" else [])])


def test_the_path_of_ones_own_data_is_walked_as_written(place, capsys):
    for start in PATH["own-data.md"]:
        assert run("docs/own-data.md", start) == 0, start
    assert "## Measures" in (place / "runs" / "train" / "export" / "README.md").read_text()
    for start in PATH["exporting.md"]:
        assert run("docs/exporting.md", start) == 0, start
    assert (place / "my-adapter" / "adapter_config.json").exists()
    capsys.readouterr()
    assert run("docs/curves.md", "python -c") == 0
    assert len(capsys.readouterr().out.splitlines()) >= 3


@pytest.mark.parametrize("page", ["extending.md", "rewards.md", "command-line.md"])
def test_cheap_commands_run_as_written(page, place):
    pytest.importorskip("shtab")
    for start in PATH[page]:
        assert run(f"docs/{page}", start) == 0, start


def test_reference_bands_are_those_of_the_committed_runs():
    found = json.loads((ROOT / "docs" / "results" / "miniature.json").read_text())["equal_steps"]
    rows = re.findall(r"^\| (\w+) \| ([\d. ±|]+) \|$", (ROOT / "docs" / "curves.md").read_text(), re.MULTILINE)
    assert [name for name, _ in rows] == list(found)
    for name, cells in rows:
        for key, cell in zip(("giou", "n_acc", "box_iou", "thinking", "parse_failed"), cells.split(" | "), strict=True):
            value, *spread = map(float, cell.split(" ± "))
            assert value == pytest.approx(found[name][key], abs=6e-4)
            assert spread == ([pytest.approx(found[name][f"{key}_std"], abs=6e-4)] if spread else [])


def test_every_data_set_says_where_it_is_published_and_how_it_is_measured():
    page = (ROOT / "docs" / "datasets.md").read_text()
    for name in BENCHMARKS:
        source = get_benchmark(name).source.split(" ")[0]
        assert source.split("/VisionReasoner")[0] in page, name
        assert f"visurf eval MODEL --benchmark {name} --data " in page, name


def test_hints_of_what_to_install_work_in_a_clone():
    """The package is on no index: `pip install 'visurf[train]'` would fetch nothing, or what somebody else put there."""
    told = re.compile(r"""pip install (?:-U )?["']?visurf\b""")
    files = [*PAGES, *(ROOT / "src").rglob("*.py"), *(ROOT / "src").rglob("*.yaml"), *(ROOT / "examples").glob("*.py")]
    assert [path.name for path in files if told.search(path.read_text())] == []
