"""Alarms on synthetic curves: fire on deception, silent on sound runs; then live in a run."""

import json
import pickle
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from visurf.alarms import Watch, correlations, find_alarms, read_metrics
from visurf.cli import main
from visurf.curves import rank_correlation, read_curve

EVERY, STEPS, SAMPLES = 5, 100, 300


def rows(parts, accuracy, thinking=1.0, seed=0, noise=0.05):
    """A run's metrics: parts and accuracy as functions of the share of the run that is over."""
    generator, found = np.random.default_rng(seed), []
    level = thinking if callable(thinking) else lambda t: thinking
    for step in range(1, STEPS + 1):
        share = step / STEPS
        row = {f"reward/{name}": float(curve(share) + generator.normal(0, noise)) for name, curve in parts.items()}
        row |= {"step": step, "reward/total": sum(row.values())}
        if step % EVERY == 0:
            right = generator.binomial(SAMPLES, min(max(accuracy(share), 0.0), 1.0)) / SAMPLES
            row |= {"validation/accuracy": right, "validation/thinking": level(share), "validation/samples": SAMPLES}
        found.append(row)
    return found


def flat(level):
    return lambda t: level


def rising(start, end):
    return lambda t: start + (end - start) * t


def kinds(found):
    return {alarm.kind for alarm in found}


FORM = ("format",)
SOUND = {
    "learning": ({"accuracy": rising(0.4, 0.7), "format": flat(1.0)}, rising(0.4, 0.7)),
    "nothing happens": ({"accuracy": flat(0.5), "format": flat(1.0)}, flat(0.5)),
    "format first, then accuracy": ({"accuracy": rising(0.2, 0.6), "format": lambda t: min(1.0, 4 * t)}, rising(0.2, 0.6)),
    "reward and accuracy fall": ({"accuracy": rising(0.6, 0.3), "format": flat(1.0)}, rising(0.6, 0.3)),
    "overfitting without harm": ({"accuracy": rising(0.4, 0.9), "format": flat(1.0)}, flat(0.5)),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_runs_raise_no_more_than_one_false_alarm_in_twenty(name):
    false = [seed for seed in range(60) if find_alarms(rows(*SOUND[name], seed=seed), "accuracy", FORM)]
    assert len(false) <= 3, false


@pytest.mark.parametrize("seed", range(10))
def test_a_bonus_that_rises_while_accuracy_falls_is_heard(seed):
    parts = {"accuracy": rising(0.6, 0.35), "bonus": rising(0.1, 0.9), "format": flat(1.0)}
    (alarm,) = find_alarms(rows(parts, rising(0.6, 0.35), seed=seed), "accuracy", FORM)
    assert alarm.kind == "accuracy_falls"
    assert 20 <= alarm.step <= STEPS
    assert "bonus (-" in alarm.message
    assert "accuracy (" not in alarm.message


@pytest.mark.parametrize("seed", range(10))
def test_learning_the_format_only_is_heard(seed):
    parts = {"accuracy": flat(0.2), "format": rising(0.2, 1.0)}
    assert kinds(find_alarms(rows(parts, flat(0.2), seed=seed), "accuracy", FORM)) == {"format_only"}
    # The same rise in a part that pays for being right is no matter of form.
    assert not find_alarms(rows(parts, flat(0.2), seed=seed), "accuracy", ())


def test_thinking_that_stops_is_heard_and_thinking_that_never_was_is_not():
    parts = {"accuracy": rising(0.4, 0.6)}
    found = find_alarms(rows(parts, rising(0.4, 0.6), thinking=lambda t: float(t < 0.5)), "accuracy")
    assert [(a.kind, a.step) for a in found] == [("thinking_collapses", 55)]
    assert not find_alarms(rows(parts, rising(0.4, 0.6), thinking=0.1), "accuracy")
    assert not find_alarms(rows(parts, rising(0.4, 0.6), thinking=lambda t: 1 - 0.4 * t), "accuracy")


def test_too_few_evaluations_and_unmeasured_accuracy_raise_nothing():
    parts, falling = {"bonus": rising(0.0, 1.0)}, rising(0.9, 0.1)
    assert not find_alarms(rows(parts, falling)[: 3 * EVERY], "accuracy")
    assert not find_alarms(rows(parts, falling), "giou")
    assert not find_alarms([], "accuracy")
    assert correlations([], "accuracy") == {}


def test_correlation_of_every_part():
    parts = {"accuracy": rising(0.6, 0.3), "bonus": rising(0.0, 1.0)}
    found = correlations(rows(parts, rising(0.6, 0.3), noise=0.0), "accuracy")
    assert found["accuracy"] > 0.9
    assert found["bonus"] < -0.9
    # By hand: ranks 1 2 3.5 3.5 and 2 1 3 4, less 2.5: products 0.75 + 0.75 + 0.5 + 1.5, squares 4.5 and 5.
    assert rank_correlation([1, 2, 3, 3], [5, 4, 6, 7]) == pytest.approx(3.5 / (4.5 * 5.0) ** 0.5)
    assert np.isnan(rank_correlation([1, 1, 1], [1, 2, 3]))


def test_a_watch_raises_each_kind_once_and_goes_on_after_a_resume(tmp_path):
    whole = rows({"bonus": rising(0.0, 1.0)}, rising(0.7, 0.2))
    watch, heard = Watch("accuracy"), []
    for row in whole:
        heard += watch.see(row["step"], {k: v for k, v in row.items() if k != "step"})
    assert heard == find_alarms(whole, "accuracy")
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in whole) + '{"step": 10')
    assert read_metrics(path) == whole
    first = read_metrics(path, length=len("".join(json.dumps(row) + "\n" for row in whole[:40])))
    assert first == whole[:40]
    for cut in (10, 40):
        again, late = Watch("accuracy"), []
        again.remember(whole[:cut])
        for row in whole[cut:]:
            late += again.see(row["step"], {k: v for k, v in row.items() if k != "step"})
        assert [*again.raised.values()] == heard
        assert len(late) == sum(alarm.step > cut for alarm in heard)


def test_the_command_prints_alarms_and_says_so_by_its_status(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows({"bonus": rising(0.0, 1.0)}, rising(0.7, 0.2))))
    assert main(["alarms", str(path), "--accuracy", "accuracy"]) == 1
    printed = capsys.readouterr().out
    assert "ALARM accuracy_falls at step" in printed
    assert "20 evaluations" in printed
    assert main(["alarms", str(tmp_path), "--accuracy", "accuracy", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["alarms"][0]["kind"] == "accuracy_falls"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows({"accuracy": flat(0.5)}, flat(0.5))))
    assert main(["alarms", str(path), "--accuracy", "accuracy"]) == 0
    assert "no alarm" in capsys.readouterr().out
    assert main(["alarms", str(tmp_path / "nothing")]) == 2


def test_ranks_are_those_of_scipy():
    from scipy.stats import spearmanr

    generator = np.random.default_rng(3)
    for _ in range(50):
        first, second = generator.integers(0, 6, (2, 12)).tolist()
        expected = spearmanr(first, second).statistic
        assert rank_correlation(first, second) == pytest.approx(expected, nan_ok=True)
    assert np.isnan(rank_correlation([1.0, np.nan, 3.0], [1, 2, 3]))


def test_a_curve_is_what_its_definition_says():
    whole = rows({"accuracy": rising(0.2, 0.8), "form": flat(0.3)}, rising(0.2, 0.8))
    for row in whole[:7]:
        del row["reward/form"]
    whole[12]["reward/form"] = None
    whole[-1]["reward/late"] = 1.0
    whole.append({"step": STEPS + 1, "reward/accuracy": 9.0})
    curve = read_curve(whole, "accuracy")
    windows = [[row["reward/accuracy"] for row in whole[i : i + EVERY]] for i in range(0, STEPS, EVERY)]
    assert curve.steps == tuple(range(EVERY, STEPS + 1, EVERY))
    assert curve.accuracy == tuple(row["validation/accuracy"] for row in whole[EVERY - 1 : STEPS : EVERY])
    assert curve.rewards["accuracy"] == pytest.approx([np.mean(w) for w in windows])
    # Missing up to the first evaluation, or to the last but one: nothing is said of it. Missing at some steps: the others' mean.
    assert [np.isnan(v) for v in curve.rewards["form"]] == [True] + 19 * [False]
    assert [np.isnan(v) for v in curve.rewards["late"]] == 19 * [True] + [False]
    assert set(curve.rewarded(20).rewards) == {"accuracy", "total"}
    squares = [(b - a) ** 2 / 2 / EVERY for w in windows for a, b in pairwise(w)]
    assert curve.noise["accuracy"] == pytest.approx(np.mean(squares) ** 0.5)
    assert curve.error == 0.5 / SAMPLES**0.5
    again = read_curve(whole[EVERY:], "accuracy").rewards["form"]
    assert again[0] == pytest.approx(np.mean([row["reward/form"] for row in whole[7:10]]))
    assert again[1] == pytest.approx(np.mean([row["reward/form"] for row in whole[10:15] if row["reward/form"] is not None]))


def test_equal_rewards_in_another_order_have_equal_means():
    values = [0.1, 0.7, 0.2, 0.3, 1e-9]
    both = [{"reward/total": v} for v in values] + [{"reward/total": v} for v in reversed(values)]
    for step, row in enumerate(both, 1):
        row |= {"step": step} | ({"validation/accuracy": 0.5} if step % len(values) == 0 else {})
    first, second = read_curve(both, "accuracy").rewards["total"]
    assert first == second


def test_what_a_watch_keeps_does_not_grow_with_the_steps():
    sizes = []
    for steps in (100, 5000):
        watch, generator = Watch("accuracy"), np.random.default_rng(0)
        for step in range(1, steps + 1):
            watch.see(step, {"reward/total": float(generator.random()), "reward/format": 1.0, "train/loss": 0.5})
        sizes.append(len(pickle.dumps(watch)))
    assert sizes[1] < sizes[0] + 64


def test_looking_for_alarms_loads_no_other_library():
    # A library that is first imported in the middle of a run makes its memory jump and one step slow.
    program = (
        "import sys; from visurf.alarms import Watch, watched; from visurf.config import Config; watched(Config())\n"
        "before, watch, raised = set(sys.modules), Watch('accuracy'), []\n"
        "for step in range(1, 41):\n"
        "    measured = {} if step % 5 else {'validation/accuracy': 1 - step / 40, 'validation/samples': 300}\n"
        "    raised += watch.see(step, {'reward/bonus': step + step % 2, 'reward/total': step + step % 2, **measured})\n"
        "assert [alarm.kind for alarm in raised] == ['accuracy_falls'], raised\n"
        "sys.exit(' '.join(sorted(set(sys.modules) - before)) or 0)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]


def after_supervision(seed):
    """Twenty evaluations of a deceptive run, behind a supervised stage of four that had no reward."""
    stage = [{"step": n, "loss": 1.0} for n in range(1, 4 * EVERY + 1)]
    for row in stage[EVERY - 1 :: EVERY]:
        row |= {"validation/accuracy": 0.9, "validation/thinking": 1.0, "validation/samples": SAMPLES}
    later = rows({"accuracy": rising(0.6, 0.35), "bonus": rising(0.1, 0.9)}, rising(0.6, 0.35), seed=seed)
    return [*stage, *({**row, "step": row["step"] + 4 * EVERY} for row in later)]


@pytest.mark.parametrize("seed", range(5))
def test_a_stage_without_rewards_before_it_does_not_hide_a_reward_that_deceives(seed):
    alone = find_alarms(rows({"accuracy": rising(0.6, 0.35), "bonus": rising(0.1, 0.9)}, rising(0.6, 0.35), seed=seed), "accuracy")
    staged = find_alarms(after_supervision(seed), "accuracy")
    assert [(a.kind, a.step - 4 * EVERY, a.message) for a in staged] == [(a.kind, a.step, a.message) for a in alone]
    ranks = correlations(after_supervision(seed), "accuracy")
    assert ranks["bonus"] < -0.8 < 0.8 < ranks["accuracy"]


def test_what_a_supervised_stage_costs_is_not_laid_to_the_reward_after_it():
    sound = rows({"accuracy": rising(0.4, 0.5)}, rising(0.4, 0.5))
    stage = [{"step": 0, "validation/accuracy": 0.9, "validation/samples": SAMPLES}] * 6
    assert find_alarms([*stage, *sound], "accuracy") == []
    # Two supervised stages: the second ends what was seen of the first reward.
    assert find_alarms([*sound, *stage, *sound], "accuracy") == []


@pytest.mark.parametrize("every", [1, 2, 10])
def test_a_reward_that_deceives_is_heard_however_often_a_run_is_evaluated(every, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "EVERY", every)
    parts = {"accuracy": rising(0.6, 0.2), "bonus": rising(0.1, 1.5)}
    assert kinds(find_alarms(rows(parts, rising(0.6, 0.2)), "accuracy")) == {"accuracy_falls"}


def test_thinking_lost_before_the_first_evaluation_is_heard_by_what_was_measured_before_the_first_step():
    found = rows({"accuracy": rising(0.4, 0.6)}, rising(0.4, 0.6), thinking=0.0)
    assert not find_alarms(found, "accuracy")
    found[0]["before/thinking"] = 1.0
    assert [(a.kind, a.step) for a in find_alarms(found, "accuracy")] == [("thinking_collapses", 4 * EVERY)]
