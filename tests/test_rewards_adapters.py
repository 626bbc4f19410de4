"""Reward functions written for TRL, and users' own: called as their authors expect, and never a silent 0."""

import re
import time

import pytest
from PIL import Image

from visurf.rewards.adapters import RewardTimeout, from_trl, limited, split_prefix, style_of, within
from visurf.scoring import RewardError, Scorer, function_part
from visurf.tasks import TASKS
from visurf.types import Completion, ImageRef, Objects, Sample

SAMPLE = Sample("s1", (), "the red mug", Objects(), meta={"solution": "42", "weights": [1, 2]})


def said(*texts):
    return [Completion(text, (7, 8), None, None) for text in texts]


# Functions as TRL's documentation and its users write them.
def reward_length(completions, **kwargs):
    """Longer is better.

    >>> reward_length(completions=["a", "abc"])
    [1.0, 3.0]
    """
    return [float(len(completion)) for completion in completions]


def reward_format(completions, **kwargs):
    """1.0 where a chat completion thinks before it answers.

    >>> reward_format(completions=[[{"role": "assistant", "content": "<think>a</think><answer>b</answer>"}]])
    [1.0]
    """
    pattern = r"^<think>.*?</think>\s*<answer>.*?</answer>$"
    return [1.0 if re.match(pattern, completion[0]["content"], re.DOTALL) else 0.0 for completion in completions]


def reward_solution(prompts, completions, completion_ids, solution, **kwargs):
    """1.0 where the text is the data set's own column, None where the text says nothing."""
    assert len(prompts) == len(completions) == len(completion_ids) == len(solution)
    return [None if not text else float(text == true) for text, true in zip(completions, solution, strict=True)]


def reward_distinct(completions):
    """Rates a group as a whole: 1.0 where nobody else said the same."""
    return [float(completions.count(text) == 1) for text in completions]


async def reward_awaited(completions, **kwargs):
    return [0.5 for _ in completions]


def test_texts_columns_and_abstentions_reach_the_function():
    assert from_trl(reward_length)(said("a", "abc"), SAMPLE) == [1.0, 3.0]
    assert from_trl(reward_solution)(said("42", "41", ""), SAMPLE) == [1.0, 0.0, None]
    assert from_trl(reward_distinct)(said("a", "b", "a"), SAMPLE) == [0.0, 1.0, 0.0]
    assert from_trl(reward_awaited)(said("a"), SAMPLE) == [0.5]


def test_conversational_functions_get_messages():
    right = "<think>a</think><answer>b</answer>"
    assert from_trl(reward_format, conversational=True)(said(right, "b"), SAMPLE) == [1.0, 0.0]
    with pytest.raises(TypeError, match="trl-chat"):
        from_trl(reward_format)(said(right), SAMPLE)
    seen = []
    from_trl(lambda prompts, completions: seen.extend(prompts) or [0.0], conversational=True, prompt=lambda s: "ask")(
        said("a"), SAMPLE
    )
    assert seen == [[{"role": "user", "content": "ask"}]]


@pytest.mark.parametrize("values", [[1.0], [1.0, 2.0, 3.0], 1.0, None, "ab", {"a": 1}])
def test_a_result_of_another_length_is_an_error(values):
    with pytest.raises(ValueError, match="expected a list of 2 numbers"):
        from_trl(lambda completions: values)(said("a", "b"), SAMPLE)


def test_a_missing_column_is_named():
    with pytest.raises(TypeError, match=r"'answer', which is no column.*solution"):
        from_trl(lambda completions, answer, **kwargs: [0.0])(said("a"), SAMPLE)


def test_the_style_of_a_function_and_its_prefix():
    assert style_of(reward_length) == "trl"
    assert style_of(lambda completion, sample: 0.0) == "plain"
    assert style_of(len) == "plain"
    assert split_prefix("trl-chat:pkg.module:f") == ("trl-chat", "pkg.module:f")
    assert split_prefix("plain:file.py:f") == ("plain", "file.py:f")
    # A module that is called so keeps its name.
    assert split_prefix("trl:f") == (None, "trl:f")
    assert split_prefix("trl.rewards:think_format_reward") == (None, "trl.rewards:think_format_reward")


def forever(completion, sample):
    while True:
        pass


def test_a_call_that_runs_over_is_stopped():
    began = time.monotonic()
    with pytest.raises(RewardTimeout, match=r"longer than 0\.2 s"):
        limited(forever, 0.2)(*said("a"), SAMPLE)
    assert time.monotonic() - began < 5
    # The loop was told to stop: what follows is not slowed by it.
    before = time.thread_time()
    time.sleep(0.1)
    assert time.thread_time() - before < 0.09
    assert within(1.0, lambda: 3) == within(0, lambda: 3) == 3
    with pytest.raises(KeyError):
        within(1.0, lambda: {}["a"])
    assert limited(forever, 0) is forever


def scorer(part, on_error="stop"):
    return Scorer(TASKS["referring"], {"own": part}, on_error=on_error)


@pytest.fixture
def module(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import time\n"
        "def trl_nan(completions, **kwargs):\n    return [float('nan'), 1.0]\n"
        "def trl_short(completions, **kwargs):\n    return [1.0]\n"
        "def trl_raises(completions, **kwargs):\n    raise KeyError('x')\n"
        "def trl_slow(completions, **kwargs):\n    time.sleep(30)\n"
        "def trl_words(completions, **kwargs):\n    return ['a', 'b']\n"
        "def chat(completions, **kwargs):\n    return [len(c[0]['content']) for c in completions]\n"
        "def plain(completion, sample):\n    return len(completion.text)\n"
        "number = 3\n"
    )
    return path


def part(module, name, prefix="", limit_s=0.0):
    return function_part(f"{prefix}{module}:{name}", prompt=lambda sample: sample.question, limit_s=limit_s)


def test_functions_of_a_file_by_either_style(module):
    texts = said("a", "abc")
    for function in (part(module, "plain"), part(module, "chat", "trl-chat:"), part(module, "plain", "plain:", 5.0)):
        assert [score.parts["own"] for score in scorer(function).score_all(texts, SAMPLE)] == [1.0, 3.0]
        assert scorer(function).score(texts[1], SAMPLE).total == 3.0
    with pytest.raises(ValueError, match="expected a function"):
        part(module, "number")


@pytest.mark.parametrize(
    ("name", "message", "failed"),
    [
        ("trl_nan", "returned nan", 1),
        ("trl_short", "expected a list of 2", 2),
        ("trl_raises", "KeyError", 2),
        ("trl_slow", "longer than 0.1 s", 2),
        ("trl_words", "could not convert", 2),
    ],
)
def test_what_fails_names_its_sample_or_abstains_counted(module, name, message, failed):
    function, texts = part(module, name, limit_s=0.1), said("a", "b")
    with pytest.raises(RewardError, match=f"(?s)reward 'own'.*{message}.*sample 's1'"):
        scorer(function).score_all(texts, SAMPLE)
    lenient = scorer(function, "abstain")
    scores = lenient.score_all(texts, SAMPLE)
    assert [score.parts["own"] for score in scores].count(None) == failed
    assert lenient.failed == {"own": failed}


def test_a_recipe_names_functions_of_either_style(module):
    from visurf.config import Config, RewardConfig
    from visurf.training import make_scorer

    names = {"words": f"{module}:plain", "chat": f"trl-chat:{module}:chat", "prompted": f"trl:{module}:prompted"}
    module.write_text(
        module.read_text() + "def prompted(prompts, **kw):\n    return [float('red mug' in p and len(p) > 7) for p in prompts]\n"
    )
    reward = RewardConfig(functions=names, time_limit=5.0, weights={"chat": 2.0})
    built = make_scorer(Config(reward=reward), TASKS["referring"])
    sample = Sample("s1", (ImageRef(Image.new("RGB", (8, 8))),), "the red mug", Objects())
    (score,) = built.score_all([Completion("abc", (), Objects(), None)], sample)
    assert (score.parts["words"], score.parts["chat"], score.parts["prompted"]) == (3.0, 3.0, 1.0)


def test_a_group_is_rated_together_and_its_label_alone():
    from visurf.control import Controls
    from visurf.groups import form_group
    from visurf.tasks import Part

    seen = []

    def batch(completions, sample):
        seen.append(len(completions))
        return [float(len(completions))] * len(completions)

    own = Scorer(TASKS["referring"], {"own": Part(lambda c, s: batch([c], s)[0], 9.0, "accuracy", batch)})
    group = form_group(SAMPLE, said("a", "b", "c"), said("d")[0], own, Controls(smooth=False))
    assert seen == [3, 1]
    assert group.rewards == (3.0, 3.0, 3.0, 1.0)
