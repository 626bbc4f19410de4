"""Every recipe that ships: it is read, fits a miniature of its data set, and takes a step with a tiny random model."""

import dataclasses
import importlib.util
import inspect
import math
import re
import shlex
from pathlib import Path
from urllib.parse import parse_qsl

import pytest

from recipe_miniatures import MINIATURES, rows_of_numbers
from visurf.benchmarks import get_benchmark, loader_options, read_options
from visurf.cli import build_parser, main
from visurf.config import (
    Config,
    ConfigError,
    build,
    find_recipe,
    load_config,
    merge,
    read_recipe,
    shipped_recipes,
    to_dict,
)
from visurf.config.shipped import FOLDER, header
from visurf.data import load_data
from visurf.models.random_checkpoint import write_checkpoint
from visurf.tasks import TASKS
from visurf.training import train
from visurf.types import DataError

RECIPES = list(shipped_recipes())
WHOLE = [name for name in RECIPES if not name.endswith("-lora-1gpu")]
ADAPTED = [name for name in RECIPES if name.endswith("-lora-1gpu")]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return {f: write_checkpoint(f, tmp_path_factory.mktemp(f), max_pixels=56 * 56) for f in ("qwen2_vl", "qwen2_5_vl")}


def write_miniature(source, root):
    """The data that a recipe names, where it names it; a draw is cut to what the miniature has. Returns the source to load."""
    name, colon, query = source.partition("?")
    if not colon:
        (root / source).parent.mkdir(parents=True)
        rows_of_numbers(root / source)
        return source
    MINIATURES[name.removeprefix("benchmark:")](root / dict(parse_qsl(query))["root"])
    return re.sub(r"draw=\d+", "draw=2", source)


def in_small(name, root, checkpoints, **changes):
    """A recipe's configuration with a tiny model, its miniature, and one short step."""
    config = load_config(name)
    source = write_miniature(config.data.train, root)
    family = "qwen2_5_vl" if "Qwen2.5-VL" in config.model.path else "qwen2_vl"
    small = {
        "model": {"path": str(checkpoints[family]), "min_pixels": 56 * 56, "max_pixels": 56 * 56},
        "data": {"root": str(root), "train": source},
        "rollout": {"group_size": 2, "max_tokens": 8},
        "prompts_per_step": 1,
        "steps": 1,
        "out": str(root / "run"),
        "threads": 1,
    }
    if config.model.lora.rank:
        small = merge(small, {"model": {"lora": {"rank": 2}}})
    return load_config(name, merge(small, changes))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_fits_its_data_set_and_takes_a_step(name, tmp_path, checkpoints):
    pytest.importorskip("pyarrow")
    config = in_small(name, tmp_path, checkpoints)
    data = load_data(config.data.train, config.data, TASKS[config.task.name])
    assert data.samples
    assert not data.skipped
    result = train(config)
    assert all(math.isfinite(v) for v in result.metrics.values() if isinstance(v, float))
    assert result.metrics["rollout/tokens"] > 0
    assert ("label/advantage" in result.metrics) == (config.paradigm == "visurf")
    assert (result.out / "adapter").is_dir() == (name in ADAPTED)


@pytest.mark.parametrize(("right", "wrong"), [("split=train", "split=training"), ("fuiad_0.4", "fuiad_0.5"), ("draw=", "drawn=")])
def test_what_the_data_set_does_not_have_is_noticed(right, wrong, tmp_path, checkpoints):
    config = in_small("visurf/real_iad_7b", tmp_path, checkpoints)
    assert right in config.data.train
    with pytest.raises(DataError):
        load_data(config.data.train.replace(right, wrong), config.data, TASKS[config.task.name])


@pytest.mark.parametrize("name", ADAPTED)
def test_the_variant_with_adapters_changes_nothing_else(name):
    config, whole = load_config(name), load_config(name.removesuffix("-lora-1gpu"))
    assert (config.model.lora.rank, config.model.lora.alpha, config.optimizer.lr) == (64, 128, 1e-5)
    assert config.out == f"runs/{name}"
    plain = dataclasses.replace(config.model, lora=whole.model.lora, freeze_vision=whole.model.freeze_vision)
    same = {
        "model": plain,
        "optimizer": dataclasses.replace(config.optimizer, lr=whole.optimizer.lr),
        "rollout": dataclasses.replace(config.rollout, token_budget=whole.rollout.token_budget),
        "tokens_per_microbatch": whole.tokens_per_microbatch,
        "parallel": whole.parallel,
        "out": whole.out,
    }
    assert dataclasses.replace(config, **same) == whole


def test_every_recipe_has_its_variant():
    assert [f"{name}-lora-1gpu" for name in WHOLE] == ADAPTED


@pytest.mark.parametrize("paradigm", ["sft", "rlvr", "sft_then_rlvr", "visurf"])
@pytest.mark.parametrize("name", ["visurf/reasonseg_7b", "visual_rft/lisa_2b"])
def test_one_recipe_serves_every_paradigm(name, paradigm, tmp_path, checkpoints):
    config = in_small(name, tmp_path, checkpoints, paradigm=paradigm, steps=2)
    metrics = train(config).metrics
    assert ("rollout/tokens" in metrics) == (paradigm != "sft")
    assert ("label/nll" in metrics) == (paradigm in ("sft", "visurf"))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_what_it_is(name):
    said = header(shipped_recipes()[name])
    assert {"about", "run", "measure", "source", "published"} <= set(said)
    assert all(said.values())
    assert said["run"] == f"visurf train {name} data.root=DATA"
    config = load_config(name)
    assert config.out == f"runs/{name}"
    size = config.model.path.removeprefix("Qwen/").removesuffix("-Instruct")
    assert size in said["about"]


@pytest.mark.parametrize("name", WHOLE)
def test_the_commands_of_a_recipe_are_commands(name):
    said = header(shipped_recipes()[name])
    asked = build_parser().parse_args(shlex.split(said["run"])[1:])
    assert (asked.command, asked.recipe, asked.override) == ("train", name, ["data.root=DATA"])
    asked = build_parser().parse_args(shlex.split(said["measure"])[1:])
    assert (asked.command, asked.recipe, asked.model) == ("eval", name, f"runs/{name}/model")
    benchmark = get_benchmark(asked.benchmark)
    assert asked.split in benchmark.splits
    known = inspect.signature(benchmark.load).parameters
    assert set(loader_options(read_options(asked.option))) <= set(known)
    assert benchmark.task == load_config(name).task.name


PUBLISHED = {
    # Both sets have what the other has not; see the scripts that the recipes name.
    "visurf/": {
        "model": {"min_pixels": 840 * 840, "max_pixels": 840 * 840},
        "optimizer": {"lr": 1e-6, "weight_decay": 0.01, "schedule": "constant"},
        "objective": {"kl": 0.0, "average": "token"},
        "advantage": {"eps": 1e-6},
        "rollout": {"group_size": 8, "max_tokens": 2000},
        "prompts_per_step": 16,
        "paradigm": "visurf",
    },
    "visual_rft/": {
        "model": {"min_pixels": 3136, "max_pixels": 401408},
        "optimizer": {"lr": 1e-6, "weight_decay": 0.0, "schedule": "linear"},
        "objective": {"kl": 0.04, "average": "sequence"},
        "advantage": {"eps": 1e-4},
        "rollout": {"max_tokens": 256},
        "prompts_per_step": 16,
        "paradigm": "rlvr",
    },
}


@pytest.mark.parametrize("name", WHOLE)
def test_the_two_published_sets_are_never_mixed(name):
    config = load_config(name)
    (published,) = [v for start, v in PUBLISHED.items() if name.startswith(start)]
    assert merge(to_dict(config), published) == to_dict(config)
    if name.startswith("visual_rft/"):
        assert config.rollout.group_size == (4 if "7B" in config.model.path else 8)
        assert "Qwen2-VL" in config.model.path


def test_steps_of_the_published_runs():
    steps = {name.removeprefix("visual_rft/"): load_config(name).steps for name in WHOLE if name.startswith("visual_rft/")}
    assert {n for n, s in steps.items() if s == 500} == {"lisa_2b", "lisa_7b"}
    assert {n for n, s in steps.items() if s == 200} == {n for n in steps if "shot" in n}
    assert {n for n, s in steps.items() if s == 750} == {"coco_base65_2b", "coco_base65_7b"}


def test_assumed_settings_say_so():
    said = header(FOLDER / "visurf" / "_visionreasoner.yaml")["about"]
    assert "Assumed: the ViSurf talk does not state them" in said


def test_a_recipe_goes_on_from_its_bases(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "first.yaml").write_text("steps: 7\noptimizer: {lr: 3e-6, warmup_steps: 2}\n")
    (tmp_path / "second.yaml").write_text("base: [visual_rft/lisa_2b, mine/first.yaml]\noptimizer: {lr: 5e-6}\n")
    config = load_config(tmp_path / "second.yaml", {"seed": 3})
    assert (config.optimizer.lr, config.optimizer.warmup_steps, config.steps, config.seed) == (5e-6, 2, 7, 3)
    assert (config.objective.kl, config.task.name) == (0.04, "grounding")
    assert "base" not in read_recipe(tmp_path / "second.yaml")
    with pytest.raises(ConfigError, match="unknown key 'base'"):
        build(Config, {"base": "x"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: a.yaml", "a recipe is its own base: a.yaml -> a.yaml"),
        ("base: visual_rft/lisa_2", "no recipe at visual_rft/lisa_2, .*did you mean 'visual_rft/lisa_2b'"),
        ("base: 3", "base: expected the name of a recipe or a list of names, got 3"),
        ("base: [a, '']", "base: expected the name"),
        ("base: visual_rft/lisa_2b\nstep: 3", "unknown key 'step'; did you mean 'steps'"),
    ],
)
def test_bases_that_cannot_be(text, message, tmp_path):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "a.yaml")


def test_a_file_comes_before_a_shipped_recipe_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = find_recipe("visual_rft/lisa_2b")
    assert shipped.is_relative_to(FOLDER)
    (tmp_path / "visual_rft").mkdir()
    (tmp_path / "visual_rft" / "lisa_2b").write_text("steps: 3")
    assert load_config("visual_rft/lisa_2b").steps == 3


def test_the_demos_recipe_goes_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("demo").model.path == "mini"
    (tmp_path / "demo").mkdir()  # a folder, such as one with results, is no recipe
    assert load_config("demo", {"steps": 3}).steps == 3


def test_a_name_like_no_recipe_is_told_where_they_are_listed():
    with pytest.raises(ConfigError, match=r"no recipe at quux, and none of that name ships with visurf \(`visurf recipes` lists"):
        find_recipe("quux")


def test_the_command_line_lists_and_prints(capsys):
    assert main(["recipes"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n{name} " in f"\n{out}" for name in RECIPES)
    assert "/_" not in out
    assert main(["recipes", "visual_rft/coco_base65_2b"]) == 0
    assert capsys.readouterr().out == find_recipe("visual_rft/coco_base65_2b").read_text()
    assert main(["recipes", "visual_rft/coco_base66_2b"]) == 2
    assert "did you mean 'visual_rft/coco_base65_2b'" in capsys.readouterr().err


def test_the_tables_in_the_docs_are_those_of_the_recipes():
    script = Path(__file__).parents[1] / "docs" / "generate_recipe_table.py"
    spec = importlib.util.spec_from_file_location("generate_recipe_table", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.PAGE.read_text().partition(module.BEGIN)[2].partition(module.END)[0].strip()
    assert found == module.tables().strip(), "run: python docs/generate_recipe_table.py --write"
