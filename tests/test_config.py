"""Configuration: what a recipe may say, and how it is told when it cannot."""

import re
import shlex

import pytest
import yaml

from visurf.config import (
    Config,
    ConfigError,
    build,
    load_config,
    merge,
    nested,
    parse_overrides,
    to_dict,
)
from visurf.stages import stages


def from_text(text, *overrides):
    return build(Config, merge(yaml.safe_load(text) or {}, parse_overrides(overrides)))


def test_the_defaults_are_those_of_the_method():
    config = Config()
    assert (config.objective.clip_low, config.objective.clip_high, config.objective.kl) == (0.2, 0.2, 0.0)
    assert (config.objective.ratio, config.objective.average, config.inner_steps) == ("token", "token", 1)
    assert (config.advantage.ddof, config.advantage.eps, config.advantage.scale) == (1, 1e-6, "group")
    assert (config.controls.align, config.controls.eliminate, config.controls.smooth) == (True, True, True)
    assert (config.controls.smooth_compare, config.reward.variant, config.rollout.top_p) == ("total", "sound", 1.0)


@pytest.mark.parametrize(
    ("values", "path", "near"),
    [
        ({"paradgim": "visurf"}, "paradgim", "paradigm"),
        ({"optimizer": {"learning": 1, "lr": 1}}, "optimizer.learning", None),
        ({"objective": {"clip_hi": 0.3}}, "objective.clip_hi", "clip_high"),
        ({"model": {"lora": {"rnk": 8}}}, "model.lora.rnk", "rank"),
        ({"controls": {"smoth": False}}, "controls.smoth", "smooth"),
        ({"stages": [{"paradigm": "sft", "step": 3}]}, "stages[0].step", "steps"),
    ],
)
def test_an_unknown_key_names_itself_and_the_nearest(values, path, near):
    with pytest.raises(ConfigError) as caught:
        build(Config, values)
    message = str(caught.value)
    assert f"unknown key {path!r}" in message
    assert "Known: " in message
    if near:
        assert f"did you mean {near!r}?" in message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": "many"}, "steps: expected int, got 'many'"),
        ({"steps": 1.5}, "steps: expected int, got 1.5"),
        ({"steps": True}, "steps: expected int, got True"),
        ({"steps": None}, "steps: expected int, got None"),
        ({"optimizer": {"lr": "fast"}}, "optimizer.lr: expected float, got 'fast'"),
        ({"optimizer": {"lr": True}}, "optimizer.lr: expected float, got True"),
        ({"controls": {"smooth": "no"}}, "controls.smooth: expected bool, got 'no'"),
        ({"controls": {"smooth": 0}}, "controls.smooth: expected bool, got 0"),
        ({"out": True}, "out: expected str, got True"),
        ({"optimizer": {"betas": [0.9]}}, "optimizer.betas: expected 2 values"),
        ({"optimizer": {"betas": 0.9}}, "optimizer.betas: expected a list"),
        ({"model": {"lora": {"targets": "q_proj"}}}, "model.lora.targets: expected a list"),
        ({"reward": {"weights": [1]}}, "reward.weights: expected keys and values"),
        ({"reward": {"weights": {"accuracy": "x"}}}, "reward.weights.accuracy: expected float"),
        ({"objective": {"ratio": "tokens"}}, "objective.ratio: expected one of token, sequence, got 'tokens'"),
        ({"optimizer": 3}, "optimizer: expected keys and values, got 3"),
        ({"trackers": ["mlflow"]}, "expected one of tensorboard, wandb"),
    ],
)
def test_a_wrong_type_says_what_was_expected_and_what_came(values, message):
    with pytest.raises(ConfigError) as caught:
        build(Config, values)
    assert message in str(caught.value)


@pytest.mark.parametrize("value", ["nan", "inf", "-.inf"])
@pytest.mark.parametrize("key", ["reward.weights.accuracy", "mixing.success"])
def test_weights_are_finite(key, value):
    with pytest.raises(ConfigError, match=f"{key}: expected a finite number"):
        build(Config, merge({}, parse_overrides([f"{key}={value}"])))


@pytest.mark.parametrize("text", ["1e-6", "1E-6", "0.000001", "1.0e-6", "'1e-6'"])
def test_a_small_number_is_a_number_however_it_is_written(text):
    assert from_text(f"optimizer: {{lr: {text}}}").optimizer.lr == 1e-6
    assert from_text("", f"optimizer.lr={text}").optimizer.lr == 1e-6


def test_numbers_that_yaml_reads_otherwise():
    config = from_text("data: {frame: 1000}\nobjective: {ratio_cap: null, kl: 1}\nreward: {frame: [840, 840]}\nout: 7")
    assert config.data.frame == "1000"
    assert config.objective.ratio_cap is None
    assert (config.objective.kl, type(config.objective.kl)) == (1.0, float)
    assert config.reward.frame == (840.0, 840.0)
    assert config.out == "7"
    assert from_text("", "objective.ratio_cap=3").objective.ratio_cap == 3.0


def test_the_command_line_wins_over_the_recipe(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("paradigm: sft\nsteps: 10\noptimizer:\n  lr: 1e-5\n  warmup_steps: 3\n")
    config = load_config(recipe, parse_overrides(["steps=20", "optimizer.lr=2e-5", "model.lora.targets=[q_proj, v_proj]"]))
    assert (config.paradigm, config.steps) == ("sft", 20)
    assert (config.optimizer.lr, config.optimizer.warmup_steps) == (2e-5, 3)
    assert config.model.lora.targets == ("q_proj", "v_proj")
    assert load_config() == Config()


@pytest.mark.parametrize("argument", ["steps", "=3", "optimizer.lr: 3", "a=[1"])
def test_an_override_that_is_none_is_refused(argument):
    with pytest.raises(ConfigError):
        parse_overrides([argument])


def test_recipes_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="no recipe"):
        load_config(tmp_path / "missing.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [1")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(bad)
    bad.write_text("- 1\n")
    with pytest.raises(ConfigError, match="expected keys and values, got list"):
        load_config(bad)
    bad.write_text("")
    with pytest.raises(ConfigError, match="expected keys and values"):
        load_config(bad)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("train.jsonl", '{"id": 1}'),
        ("my table.csv", "image,question"),
        ("table.TSV", "image"),
        ("coco.json", '{"images": [], "annotations": []}'),
        ("rows.json", "[{}]"),
    ],
)
def test_data_in_place_of_a_recipe_are_told_the_command_for_them(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(
        ConfigError, match=re.escape(f"{path}: this is data, no recipe; `visurf init {shlex.quote(str(path))}` writes")
    ):
        load_config(path)


def test_a_recipe_may_be_of_json(tmp_path):
    path = tmp_path / "recipe.json"
    for text in ('{"steps": 3}', '{"base": [], "steps": 3}', "{steps: 3}"):
        path.write_text(text)
        assert load_config(path).steps == 3
    path.write_text('{"steps": 3, "stps": 4}')
    with pytest.raises(ConfigError, match="did you mean 'steps'"):
        load_config(path)


def test_a_configuration_survives_being_written():
    config = from_text(
        "paradigm: rlvr\nreward: {weights: {accuracy: 2}, functions: {mine: 'a.b:c'}}\ntrackers: [wandb]\n"
        "stages: [{paradigm: sft, steps: 3, override: {optimizer.lr: 1e-4}}]\nmodel: {lora: {rank: 4}}"
    )
    assert build(Config, yaml.safe_load(yaml.safe_dump(to_dict(config)))) == config


def test_nesting_and_merging():
    assert nested({"a.b": 1, "a.c.d": 2, "e": 3}) == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    base = {"a": {"b": 1, "c": 2}}
    assert merge(base, {"a": {"b": 5}, "d": 1}) == {"a": {"b": 5, "c": 2}, "d": 1}
    assert base == {"a": {"b": 1, "c": 2}}


def test_two_stages_share_the_steps():
    (first, second) = stages(from_text("paradigm: sft_then_rlvr\nsteps: 7"))
    assert (first.paradigm.name, first.first, first.end) == ("sft", 0, 4)
    assert (second.paradigm.name, second.first, second.end) == ("rlvr", 4, 7)
    (only,) = stages(from_text("paradigm: visurf\nsteps: 7"))
    assert (only.first, only.end) == (0, 7)


def test_a_stage_may_override_for_itself_alone():
    text = (
        "optimizer: {lr: 1e-6}\nstages: [{paradigm: sft, steps: 3, override: {optimizer.lr: 1e-4}}, {paradigm: visurf, steps: 5}]"
    )
    first, second = stages(from_text(text))
    assert (first.config.optimizer.lr, second.config.optimizer.lr) == (1e-4, 1e-6)
    assert (first.config.steps, second.first, second.end) == (3, 3, 8)
    assert first.config.paradigm == "sft"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages: [{paradigm: sft_then_rlvr, steps: 3}]", r"stages\[0\]"),
        ("stages: [{paradigm: sft, steps: 0}]", r"stages\[0\]"),
        ("stages: [{paradigm: sft, steps: 2, override: {optimizer.lrr: 1}}]", "optimizer.lrr"),
        ("paradigm: visurff", "did you mean 'visurf'"),
    ],
)
def test_stages_that_cannot_work(text, message):
    with pytest.raises(ValueError, match=message):
        stages(from_text(text))
