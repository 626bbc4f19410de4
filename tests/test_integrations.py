"""Functions for TRL and verl: the label joins, the controls act, the advantages are Eq. 6 and 7. Neither library is needed."""

import importlib.util
import inspect
import sys
import types
from pathlib import Path

import pytest
import torch
from PIL import Image

from visurf import TASKS, Controls, Frame, ImageRef, Objects, Sample, Scorer, form_group, group_advantages
from visurf.integrations import trl, verl
from visurf.scoring import label_completion
from visurf.tasks import RewardSettings
from visurf.types import Completion

EXAMPLES = Path(__file__).parents[1] / "examples"
TASK = TASKS["referring"]
SIZE = (640, 480)
FRAME = Frame((1000.0, 1000.0), SIZE)
SAMPLE = Sample("1", (ImageRef(Image.new("1", SIZE)),), "the dog", Objects(((64.0, 48.0, 320.0, 240.0),), ((200.0, 150.0),)))
RIGHT = '<think>a</think><answer>[{"bbox_2d": [100,100,500,500], "point_2d": [312,312]}]</answer>'
NEAR = '<think>a</think><answer>[{"bbox_2d": [100,100,900,900], "point_2d": [500,500]}]</answer>'
EMPTY = "<think>a</think><answer>[]</answer>"
LABEL = label_completion(TASK, SAMPLE, FRAME, Controls()).text


def scorer():
    return Scorer(TASK, TASK.parts(RewardSettings()))


def expected(rollouts, controls):
    """The group as visurf's own loop forms it."""
    rate = scorer()
    read = [rate.read(Completion(text, (), None, None), SAMPLE, FRAME) for text in rollouts]
    label = rate.read(label_completion(TASK, SAMPLE, FRAME, controls), SAMPLE, FRAME)
    return form_group(SAMPLE, read, label, rate, controls).rewards


# --- TRL ------------------------------------------------------------------------------------------------------------------------


def trl_reward(controls=None):
    return trl.reward_function(scorer(), lambda row: SAMPLE, controls=controls)


@pytest.mark.parametrize("controls", [Controls(), Controls(eliminate=False), Controls(smooth=False)])
@pytest.mark.parametrize("rollouts", [[NEAR, EMPTY], [RIGHT, EMPTY], [EMPTY, EMPTY]])
def test_trl_groups_earn_what_visurf_gives_them(rollouts, controls):
    reward = trl_reward(controls)
    texts = [*rollouts, LABEL, *rollouts, LABEL]
    marks = [False, False, True] * 2
    chat = [[{"role": "assistant", "content": text}] for text in texts]
    want = list(expected(rollouts, controls)) * 2
    assert reward(prompts=[""] * 6, completions=texts, is_label=marks, trainer_state=object()) == want
    assert reward(prompts=[""] * 6, completions=chat, is_label=marks, boxes=[[]] * 6) == want


def test_the_controls_change_what_a_label_earns_in_trl():
    marks = [False, False, True]
    plain, smoothed = ([RIGHT, EMPTY, LABEL], [NEAR, EMPTY, LABEL])
    on, unsmoothed = trl_reward(), trl_reward(Controls(smooth=False))
    assert on(completions=plain, is_label=marks)[2] == pytest.approx(sum(on(completions=plain, is_label=marks)[:2]) / 2)
    assert on(completions=plain, is_label=marks)[2] != unsmoothed(completions=plain, is_label=marks)[2]
    assert (
        on(completions=smoothed, is_label=marks)[2]
        == 6
        == trl_reward(Controls(eliminate=False))(completions=smoothed, is_label=marks)[2] - 1
    )


def test_without_labels_trl_gets_the_plain_totals():
    rate = scorer()
    want = [rate.score(rate.read(Completion(t, (), None, None), SAMPLE, FRAME), SAMPLE).total for t in (RIGHT, EMPTY)]
    assert trl_reward()(completions=[RIGHT, EMPTY]) == want == [7, 2]
    assert trl_reward().__name__ == "visurf"


def test_a_group_without_its_end_is_refused():
    with pytest.raises(ValueError, match="multiple of num_generations"):
        trl_reward()(completions=[NEAR, LABEL, NEAR], is_label=[False, True, False])


class Tokenizer:
    eos_token_id = 99

    def __call__(self, text, add_special_tokens):
        assert not add_special_tokens
        return types.SimpleNamespace(input_ids=[ord(c) for c in text])


class Trainer:
    """What TRL's trainer offers to a rollout function."""

    num_generations, num_generations_eval = 3, 1
    processing_class = Tokenizer()

    def __init__(self, logprobs, training=True):
        self.logprobs, self.model = logprobs, types.SimpleNamespace(training=training)

    def _tokenize_prompts(self, prompts):
        self.asked = prompts
        return [[1, len(p)] for p in prompts], None, {}

    def _generate_single_turn(self, ids, images, fields, count):
        self.count = count
        return [[7, i] for i in range(len(ids))], [[-0.5, -0.5]] * len(ids) if self.logprobs else None


@pytest.mark.parametrize("logprobs", [False, True])
def test_the_label_is_the_last_of_its_group_in_trl(logprobs):
    trainer = Trainer(logprobs)
    found = trl.join_labels(lambda prompt: prompt.upper())(["a", "a", "a", "bc", "bc", "bc"], trainer)
    assert trainer.asked == ["a", "a", "bc", "bc"]
    assert trainer.count == 2
    assert found["is_label"] == [False, False, True, False, False, True]
    assert found["completion_ids"] == [[7, 0], [7, 1], [65, 99], [7, 2], [7, 3], [66, 67, 99]]
    assert found["prompt_ids"] == [[1, 1]] * 3 + [[1, 2]] * 3
    if logprobs:
        assert found["logprobs"][5] == [None, None, None]
        assert found["logprobs"][4] == [-0.5, -0.5]
    else:
        assert found["logprobs"] is None


def test_no_label_joins_in_evaluation():
    trainer = Trainer(logprobs=False, training=False)
    found = trl.join_labels(lambda prompt: prompt)(["a", "b"], trainer)
    assert (found["is_label"], trainer.count, len(found["completion_ids"])) == ([False, False], 1, 2)
    with pytest.raises(ValueError, match="whole groups"):
        trl.join_labels(str)(["a", "a"], Trainer(logprobs=False))


def test_prompts_are_told_by_text_and_picture():
    red, blue = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    plain = [{"role": "user", "content": "q"}]
    merged = [{"role": "user", "content": [{"type": "image", "image": red}, {"type": "text", "text": "q"}]}]
    assert trl.prompt_key(plain, [red]) == trl.prompt_key(merged)
    assert len({trl.prompt_key(plain, [red]), trl.prompt_key(plain, [blue]), trl.prompt_key(plain), trl.prompt_key("r")}) == 4
    assert trl.prompt_key("q") == trl.prompt_key(plain)


# --- verl -----------------------------------------------------------------------------------------------------------------------


def rows(rewards, width=3):
    mask = torch.zeros(len(rewards), width)
    for i in range(len(rewards)):
        mask[i, : 1 + i % width] = 1
    token_rewards = torch.zeros(len(rewards), width)
    token_rewards[torch.arange(len(rewards)), mask.sum(1).long() - 1] = torch.tensor(rewards)
    return token_rewards, mask


def test_verl_gets_the_group_advantages_wherever_a_row_stands():
    rewards, index = [1.0, 5.0, 2.0, 5.0, 6.0], ["a", "b", "a", "b", "a"]
    token_rewards, mask = rows(rewards)
    found, returns = verl.visurf_advantage(token_level_rewards=token_rewards, response_mask=mask, index=index, config=None)
    first = group_advantages([1.0, 2.0, 6.0])
    want = torch.tensor([first[0], 0, first[1], 0, first[2]])
    torch.testing.assert_close(found, want.unsqueeze(1) * mask)
    assert torch.equal(found, returns)
    plain, _ = verl.visurf_advantage(token_rewards, mask, index, config={"norm_adv_by_std_in_grpo": False})
    torch.testing.assert_close(plain[:, 0], torch.tensor([-2.0, 0, -1.0, 0, 3.0]))


def test_verl_labels_join_and_are_smoothed():
    token_rewards, mask = rows([1.0, 6.0, 6.0, 2.0, 3.0, 6.0])
    index, marks = [0, 0, 0, 1, 1, 1], [False, False, True, False, False, True]
    found, _ = verl.visurf_advantage(token_rewards, mask, index, is_label=marks)
    assert found[2].eq(0).all()
    torch.testing.assert_close(found[3:, 0], torch.tensor(group_advantages([2.0, 3.0, 6.0])))
    torch.testing.assert_close(found[:2, 0], torch.tensor(group_advantages([1.0, 6.0, 3.5])[:2]))
    unsmoothed, _ = verl.visurf_advantage(token_rewards, mask, index, is_label=marks, smoothing=False)
    assert unsmoothed[2, 0] > 0
    with pytest.raises(ValueError, match="2 labels"):
        verl.visurf_advantage(token_rewards, mask, index, is_label=[True, False, True, False, False, True])
    with pytest.raises(ValueError, match="6 responses"):
        verl.visurf_advantage(token_rewards, mask, index[:-1])


def test_verl_is_registered_when_asked_and_takes_what_verl_passes(monkeypatch):
    assert not [m for m in sys.modules if m.partition(".")[0] == "verl"]
    with pytest.raises(ImportError):
        verl.register()
    registry = {}
    core = types.ModuleType("verl.trainer.ppo.core_algos")
    core.register_adv_est = lambda name: lambda function: registry.setdefault(name, function)
    for name in ("verl", "verl.trainer", "verl.trainer.ppo"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, core.__name__, core)
    verl.register()
    assert registry == {"visurf": verl.visurf_advantage}
    # As verl 0.9.1 declares its own group estimators, and as it calls them.
    names = ["token_level_rewards", "response_mask", "index", "epsilon", "norm_adv_by_std_in_grpo", "config"]
    parameters = inspect.signature(registry["visurf"]).parameters
    assert list(parameters)[: len(names)] == names
    assert all(p.default is not p.empty for name, p in parameters.items() if name not in names[:3])


def test_a_verl_score_is_the_tasks_total_with_its_parts():
    compute = verl.score_function(scorer(), lambda truth, extra: SAMPLE)
    found = compute(data_source="x", solution_str=RIGHT, ground_truth="{}", extra_info={"num_turns": 1}, reward_router_address=None)
    assert found["score"] == 7
    assert found["accuracy"] == 3


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_verl_example_runs(capsys):
    load("verl_visurf").main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert sum(float(line.split()[1]) for line in lines) == pytest.approx(0, abs=0.01)


def test_the_trl_example_runs_where_trl_is_installed(tmp_path, monkeypatch, capsys):
    pytest.importorskip("trl")
    monkeypatch.setattr(sys, "argv", ["trl_visurf.py", "--steps", "1", "--out", str(tmp_path)])
    load("trl_visurf").main()
    assert "reward" in capsys.readouterr().out
