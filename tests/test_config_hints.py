"""Names that other libraries use are told ours: those of the page, in sections of theirs too, and none is told a wrong one."""

import re
from pathlib import Path

import pytest

from visurf.config import Config, ConfigError, build, parse_overrides
from visurf.config.hints import ELSEWHERE, NOT_HERE, paths
from visurf.paradigms import PARADIGMS
from visurf.stages import stages

PAGE = (Path(__file__).parents[1] / "docs" / "coming-from.md").read_text()
TABLE = [row.strip("| ").split(" | ", 1) for row in PAGE.partition("## Epochs")[0].splitlines() if row.startswith("| ")]
# Every name of the left column, with what the right one says; `batch` is a value and no name.
THEIRS = [(name, ours) for theirs, ours in TABLE for name in re.findall(r"`([\w.]+)(?::[^`]*)?`", theirs) if name != "batch"]


def refusal(change):
    with pytest.raises(ValueError, match=r".") as caught:
        stages(build(Config, parse_overrides([change])))
    return str(caught.value)


def test_the_page_is_read():
    assert {"clip_ratio_low", "loss_type", "rollout.n", "template", "deepspeed"} <= {name for name, _ in THEIRS}
    assert len(THEIRS) > 50


@pytest.mark.parametrize(("name", "ours"), THEIRS)
def test_every_name_of_the_page_is_told_what_the_page_says(name, ours):
    # In a section that is none of ours, since a few names are ours too, such as `warmup_steps`.
    said = refusal(f"trainer.{name}=1")
    told = re.search(r"is set here with ([\w.]+)|did you mean ([\w.]+)(?: or [\w.]+)*\?$|no setting here stands for", said)
    assert told, said
    if setting := told[1] or told[2]:
        assert f"`{setting}" in ours
    else:
        assert ours.startswith(("none", "flags of the server"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("algorithm.kl_coef=0.1", "unknown key 'algorithm.kl_coef'; what others call 'kl_coef' is set here with objective.kl"),
        ("trainer.total_epochs=3", "is set here with steps: epochs x rows"),
        ("worker.rollout.n=5", "unknown key 'worker.rollout.n'; what others call 'n' is set here with rollout.group_size"),
        ("actor_rollout_ref.rollout.n=8", "is set here with rollout.group_size"),
        ("actor_rollout_ref.actor.optim.lr=1", "unknown key 'actor_rollout_ref.actor.optim.lr'; did you mean optimizer.lr?"),
        ("optimiser.lr=1", "did you mean optimizer.lr?"),
        ("algorithm={gamma: 1, use_kl_loss: true, adv_estimator: grpo}", "'algorithm.adv_estimator'; what others call"),
        ("rollot={spelt: 1}", "unknown key 'rollot'; did you mean 'rollout'?"),
        ("deepspeed=ds.json", "is set here with parallel=fsdp2"),
        ("logging_steps=1", "no setting here stands for 'logging_steps': metrics.jsonl has a line for every step"),
        ("stage=sft", "what others call 'stage' is set here with paradigm"),
        ("finetuning_type=lora", "is set here with model.lora.rank"),
        ("flavour=1", "(names of other libraries: docs/coming-from.md)"),
    ],
)
def test_spellings_of_other_libraries_are_told_ours(change, said):
    assert said in refusal(change)


@pytest.mark.parametrize("change", ["trainer.critic_warmup=0", "trainer={}", "trainer={a: {b: 1}}"])
def test_a_section_of_another_library_is_not_taken_for_a_misspelt_value(change):
    said = refusal(change)
    assert said.startswith("unknown key 'trainer")
    assert "did you mean" not in said


def test_a_name_is_in_one_table_only_and_is_none_of_ours():
    assert not set(NOT_HERE) & {*ELSEWHERE, *paths()}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ppo", "nearest is rlvr: the mean of the group takes the critic's place. Known: "),
        ("DPO", "nearest is rlvr: rewards of the model's own answers"),
        ("lora", "nearest is visurf model.lora.rank=64: adapters are a setting of every paradigm"),
    ],
)
def test_what_is_no_paradigm_is_told_the_nearest(name, said):
    assert f"unknown paradigm {name!r}; {said}" in refusal(f"paradigm={name}")
    assert re.match(r"nearest is (\w+)", said)[1] in PARADIGMS


def test_an_unknown_key_within_a_section_of_ours_is_not_sent_to_the_page():
    with pytest.raises(ConfigError) as caught:
        build(Config, {"optimizer": {"learning": 1}})
    assert "docs/coming-from.md" not in str(caught.value)
