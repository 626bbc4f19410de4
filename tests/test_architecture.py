"""The map of the package: which module may import which, and that importing does nothing else."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import visurf

ROOT = Path(visurf.__file__).parent
MODULES = {
    ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p
    for p in sorted(ROOT.rglob("*.py"))
    if p != ROOT / "__init__.py"
}
# Rules on what completions are worth import no torch, so that they test in seconds and run anywhere.
TORCH_FREE = ("types", "geometry", "parsing", "metrics", "advantages", "control", "rewards", "tasks", "benchmarks")
TORCH_FREE += ("groups", "scoring", "paradigms", "mixing", "naming", "config", "data", "segmenter", "sam2", "mask_reward", "cli")
TORCH_FREE += ("judging", "predictions", "detection_scores", "demonstrations", "row_file", "picture_files", "accounting")
TORCH_FREE += ("checksums", "score_file", "score_rewards", "score_rows", "fixtures.agreement", "fixtures.texts", "fixtures.metrics")
TORCH_FREE += ("alarms", "curves", "studies", "mini.questions")
TORCH_FREE += tuple(
    f"doctor.{n}"
    for n in (
        "findings",
        "pictures",
        "data",
        "labels",
        "attempts",
        "probes",
        "rewards",
        "work",
        "memory",
        "disk",
        "remedies",
        "shares",
        "report",
        "page",
    )
)
TORCH_FREE += ("serving", "eligibility", "orientation", "mask_pictures")
TORCH_FREE += ("small_pictures", "group_rows", "provenance", "drawing", "reporting")
HEAVY = {"torch", "transformers", "peft", "tokenizers", "safetensors"}
# Who may import whom inside the package; a module that is not named here is free.
MAY_IMPORT = {
    "orientation": (),
    "types": ("orientation",),
    "geometry": ("types",),
    "advantages": (),
    "mixing": (),
    "paradigms": ("mixing",),
    "control": ("types",),
    "tags": ("types",),
    "parsing": ("types", "geometry", "tags"),
    "metrics": ("types", "geometry", "parsing", "metrics"),
    "rewards": ("types", "geometry", "tags", "parsing", "metrics", "advantages", "control", "rewards"),
    "tasks": ("types", "geometry", "tags", "parsing", "metrics", "advantages", "control", "rewards", "tasks"),
    "shaping": (),
    "objective": ("config", "shaping"),
    "attention": ("attention",),
}
MUST_NOT_IMPORT = {
    "models": ("tasks", "rewards", "scoring", "groups", "loop", "training", "benchmarks"),
    "packing": ("tasks", "rewards", "scoring", "groups", "loop"),
    "attention": ("models", "tasks"),
    "policy": ("tasks", "rewards", "models", "loop"),
    "rollout": ("tasks", "rewards", "scoring", "loop"),
    "hinting": ("tasks", "rewards", "scoring", "loop", "paradigms"),
    "loop": ("tasks", "models.qwen", "models.loading", "rewards"),
    "evaluation": ("reporting", "cli"),
    "demonstrations": ("models", "policy", "scoring", "data", "training", "cli"),
    "distillation": ("training", "evaluation", "cli"),
    "judging": ("models", "policy", "evaluation", "predictions", "training", "cli"),
    "predictions": ("models", "policy", "evaluation", "training", "cli"),
    "tasks": ("benchmarks", "models", "loop"),
    "fixtures": ("cli", "training", "loop"),
    "alarms": ("cli", "training", "studies"),
    "probing": ("cli", "training", "studies"),
    "side_tasks": ("cli", "training", "studies"),
    "score_rewards": ("cli", "training", "fixtures"),
    "segmenter": ("tasks", "rewards", "scoring", "models"),
    "doctor": ("cli", "training", "evaluation", "speed"),
}


def within(name, parents):
    return any(name == p or name.startswith(f"{p}.") for p in parents)


def is_type_checking(node):
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imported(path, *, everywhere=True):
    """Absolute names a file imports; those inside functions count unless only the import of the file itself matters."""
    found, left = set(), list(ast.parse(path.read_text()).body)
    while left:
        node = left.pop()
        if is_type_checking(node):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from visurf import parallel` names a module, `from visurf.types import Box` does not.
            package = node.module == "visurf" or ROOT.joinpath(*node.module.split(".")[1:]).is_dir()
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {n for n in names if n.removeprefix("visurf.") in MODULES} or {node.module} if package else {node.module}
        elif everywhere or not isinstance(node, ast.FunctionDef):
            left += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt | ast.ExceptHandler)]
    return found


def own(path):
    return {name.removeprefix("visurf.") for name in imported(path) if name.startswith("visurf.")}


def test_the_reader_sees_imports(tmp_path):
    source = (
        "import a\nfrom b.c import d\nif TYPE_CHECKING:\n    import e\ndef f():\n    import g\n"
        "try:\n    import h\nexcept I:\n    import j\n"
    )
    (tmp_path / "m.py").write_text(source)
    assert imported(tmp_path / "m.py") == {"a", "b.c", "g", "h", "j"}
    assert imported(tmp_path / "m.py", everywhere=False) == {"a", "b.c", "h", "j"}
    assert "visurf.parallel" in imported(ROOT / "loop.py")
    assert "types" in own(ROOT / "geometry.py")


@pytest.mark.parametrize("name", [m for m in MODULES if within(m, MAY_IMPORT)])
def test_dependencies_run_one_way(name):
    (rule,) = [r for r in MAY_IMPORT if within(name, [r])]
    wrong = {n for n in own(MODULES[name]) if not within(n, MAY_IMPORT[rule])}
    assert not wrong, f"{name} may import {MAY_IMPORT[rule]}"


@pytest.mark.parametrize("name", [m for m in MODULES if within(m, MUST_NOT_IMPORT)])
def test_what_a_module_must_not_know(name):
    (rule,) = [r for r in MUST_NOT_IMPORT if within(name, [r])]
    wrong = {n for n in own(MODULES[name]) if within(n, MUST_NOT_IMPORT[rule])}
    assert not wrong


@pytest.mark.parametrize("name", [m for m in MODULES if within(m, TORCH_FREE)])
def test_the_light_side_imports_nothing_heavy(name):
    assert not {n.partition(".")[0] for n in imported(MODULES[name], everywhere=False)} & HEAVY


def test_the_loop_names_no_task_no_family_and_no_paradigm():
    from visurf.models import FAMILIES
    from visurf.paradigms import PARADIGMS
    from visurf.tasks import TASKS

    text = (ROOT / "loop.py").read_text()
    tensors = ("pixel_values", "grid_thw", "<|")
    for word in (*TASKS, *FAMILIES, "qwen", "bbox", *tensors):
        assert word not in text.lower(), word
    tree = ast.parse(text)
    assert not {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)} & set(PARADIGMS)
    taken = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module == "visurf.paradigms"]
    assert [alias.name for node in taken for alias in node.names] == ["Paradigm"]


def test_no_module_is_called_like_a_public_function():
    assert not {"train", "evaluate", "predict", "score"} & set(MODULES)
    assert not {"utils", "helpers", "common", "misc"} & {part for m in MODULES for part in m.split(".")}


SIDE_EFFECTS = """
import json, logging, os, random, sys, threading, warnings
import numpy as np
import PIL.Image, scipy.ndimage, scipy.optimize, scipy.stats, yaml
def state():
    return [
        dict(os.environ), len(warnings.filters), len(logging.getLogger().handlers), threading.active_count(),
        random.getstate(), str(np.random.get_state()), sorted(os.listdir(".")), os.getcwd(), np.geterr(),
        sys.getrecursionlimit(), len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0,
    ]
before = state()
import importlib
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
after = state()
print(json.dumps({"changed": [i for i, (a, b) in enumerate(zip(before, after)) if a != b],
                  "heavy": sorted({m.partition(".")[0] for m in sys.modules} & set(json.loads(sys.argv[2])))}))
"""


def test_importing_the_light_side_has_no_side_effects_and_brings_no_torch(tmp_path):
    import json

    names = ["visurf", *(f"visurf.{m}" for m in MODULES if within(m, TORCH_FREE))]
    command = [sys.executable, "-c", SIDE_EFFECTS, json.dumps(names), json.dumps(sorted(HEAVY))]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, env=_environment())
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    assert json.loads(ran.stdout) == {"changed": [], "heavy": []}


def test_importing_the_heavy_side_registers_and_seeds_nothing(tmp_path):
    code = (
        "import torch, transformers; from transformers import AttentionInterface\n"
        "before = torch.get_rng_state(), torch.get_num_threads(), torch.get_default_dtype()\n"
        "import visurf.training, visurf.rollout.local, visurf.checkpoint\n"
        "after = torch.get_rng_state(), torch.get_num_threads(), torch.get_default_dtype()\n"
        "assert torch.equal(before[0], after[0]) and before[1:] == after[1:]\n"
        "assert 'visurf' not in AttentionInterface().valid_keys()\n"
        "assert not torch.distributed.is_initialized()\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, env=_environment()
    )
    assert ran.returncode == 0, ran.stderr
    assert list(tmp_path.iterdir()) == []


def _environment():
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT.parent), "PYTHONDONTWRITEBYTECODE": "1"}
