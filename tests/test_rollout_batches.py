"""Which rollouts are decoded together changes nothing: prompts join, rows leave, the budget holds, the host does not wait."""

import itertools
import logging

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from drawing import bias_head, close, draw, policy_of, prompts_of
from tiny import load_random
from visurf.models import FAMILIES
from visurf.packing import Bundle, Scored, build_row
from visurf.rollout import fixed, local
from visurf.rollout.batch import Batch
from visurf.rollout.graphs import FURTHER, TRIAL, Recorder
from visurf.rollout.local import Sampling, sample

# Images and words of ten prompts, some of them without an image; lengths from about 10 to 40 tokens.
MANY = ((1, 3), (0, 1), (2, 5), (1, 4), (0, 9), (1, 1), (0, 2), (3, 2), (1, 7), (0, 5))


def watch(monkeypatch, cls, name, look):
    """Call `look(self)` before every call of a method."""
    method = getattr(cls, name)
    monkeypatch.setattr(cls, name, lambda self, *a, **k: (look(self), method(self, *a, **k))[1])


def ending(model, bias):
    """Rollouts that end with about the same chance after every token."""
    return bias_head(model, {model.end_of_turn: bias})


@pytest.mark.parametrize(("bias", "max_tokens"), [(4.0, 40), (-1e4, 9)], ids=["ragged", "all_to_the_limit"])
def test_prompts_that_join_change_nothing(engine, tiny, monkeypatch, bias, max_tokens):
    """Under a small budget prompts join whenever rollouts end; tokens and log-probs are those of each prompt sampled alone."""
    ending(tiny, bias)
    prompts = prompts_of(tiny, MANY)
    joined = []
    watch(monkeypatch, Batch if engine == "changing" else fixed.FixedBatch, "join", lambda b: joined.append((b.clock, len(b.rows))))
    budget = 3 * (max(len(p.token_ids) for p in prompts) + 3 * max_tokens)
    together = draw(tiny, prompts, 3, max_tokens, token_budget=budget)
    assert len(joined) > 3
    if bias > 0:
        assert any(clock > 0 and rows for clock, rows in joined), "none joined while others were decoded"
    for prompt, group in zip(prompts, together, strict=True):
        (alone,) = draw(tiny, [prompt], 3, max_tokens)
        for a, b in zip(group, alone, strict=True):
            close(a, b)


def test_the_ring_comes_round(engine, tiny, monkeypatch):
    """Rows that join late outlive the ring's first columns many times over."""
    ending(tiny, 3.0)
    prompts = prompts_of(tiny, MANY * 2)
    for number, prompt in enumerate(prompts):
        object.__setattr__(prompt.sample, "id", str(number))
    clocks = []
    cls = Batch if engine == "changing" else fixed.FixedBatch
    watch(monkeypatch, cls, "step", lambda b: clocks.append((b.clock, b.room.columns)))
    if engine == "changing":
        monkeypatch.setattr(cls, "_tidy", lambda self: None)
    budget = 4 * (max(len(p.token_ids) for p in prompts) + 2 * 8)
    together = draw(tiny, prompts, 2, 8, token_budget=budget)
    assert any(clock >= columns for clock, columns in clocks)
    for prompt, group in zip(prompts, together, strict=True):
        (alone,) = draw(tiny, [prompt], 2, 8)
        for a, b in zip(group, alone, strict=True):
            close(a, b)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_joins_exactly(engine, family_models, family):
    """The log-probs of rollouts under a small budget are those of the training forward."""
    model, _ = family_models[family]
    prompts = prompts_of(model, MANY[:5])
    policy = policy_of(model, 0.8)
    budget = 2 * (max(len(p.token_ids) for p in prompts) + 2 * 10)
    for prompt, group in zip(prompts, draw(model, prompts, 2, 10, policy=policy, token_budget=budget), strict=True):
        sequences = tuple(Scored(r.token_ids, i) for i, r in enumerate(group))
        with torch.no_grad():
            trained = policy(build_row([Bundle(prompt, sequences)], model.family, "cpu"))
        torch.testing.assert_close(torch.tensor([v for r in group for v in r.logprobs]), trained, atol=3e-5, rtol=1e-5)


def test_greedy_answers_do_not_depend_on_the_budget(engine, tiny):
    prompts = prompts_of(tiny, MANY)
    policy = policy_of(tiny)
    found = [
        sample(policy, tiny.family, prompts, 1, Sampling(30, greedy=True, token_budget=budget), tiny.eos_ids)
        for budget in (1, 150, 1 << 20)
    ]
    for several in zip(*found, strict=True):
        for a, b in itertools.pairwise(several):
            close(a[0], b[0])
    assert len({r.token_ids for (r,) in found[0]}) > 3


def test_top_p_and_length_limits_hold_under_a_budget(engine, tiny):
    prompts = prompts_of(tiny, MANY)
    for group, others in zip(
        draw(tiny, prompts, 2, 6, top_p=0.7, token_budget=120), draw(tiny, prompts, 2, 6, top_p=0.7), strict=True
    ):
        for a, b in zip(group, others, strict=True):
            close(a, b)
            assert len(a.token_ids) <= 6
            assert a.truncated == (a.token_ids[-1] not in tiny.eos_ids)


@pytest.mark.parametrize("budget", [200, 320, 1000])
def test_the_budget_is_respected(engine, tiny, monkeypatch, budget):
    """What is reserved, and what lies in memory, never exceeds it."""
    ending(tiny, 3.5)
    prompts = prompts_of(tiny, MANY)
    limit, members = 20, 2
    assert max(len(p.token_ids) for p in prompts) + members * limit <= budget
    held = []

    def look(batch):
        room = batch.room
        places = {row.prompt for row in batch.rows}
        reserved = len(places) * max(batch.lengths[p] for p in places) + len(batch.rows) * limit
        held.append((reserved, room.prompts * room.reach + room.slots * (room.columns + 1)))
        key = batch.layers[0].own[0]
        assert key.shape[0] * key.shape[1] == room.slots * batch.layers[0].heads * room.columns

    watch(monkeypatch, Batch if engine == "changing" else fixed.FixedBatch, "step", look)
    draw(tiny, prompts, members, limit, token_budget=budget)
    reserved, real = (max(values) for values in zip(*held, strict=True))
    assert reserved <= budget
    assert real <= budget
    assert reserved > budget / 3, "room that is there is used"


def test_a_prompt_above_the_budget_runs_alone(engine, tiny):
    prompts = prompts_of(tiny)
    for a, b in zip(draw(tiny, prompts, 2, token_budget=1), draw(tiny, prompts, 2), strict=True):
        close(a[0], b[0])
        close(a[1], b[1])


def decoded(model, monkeypatch):
    """Rows of every decode step."""
    seen = []
    forward = model.network.model.forward
    monkeypatch.setattr(
        model.network.model,
        "forward",
        lambda *a, **k: (
            k["visurf_layout"].__class__.__name__ == "DecodeLayout" and seen.append(len(k["input_ids"])),
            forward(*a, **k),
        )[1],
    )
    return seen


@pytest.mark.parametrize("budget", [1 << 20, 200])
def test_rows_leave_when_they_end(tiny, monkeypatch, budget):
    """Not one token is decoded for a rollout that has ended, on a device where asking costs nothing."""
    ending(tiny, 4.0)
    seen = decoded(tiny, monkeypatch)
    rollouts = [r for group in draw(tiny, prompts_of(tiny, MANY), 5, 40, token_budget=budget) for r in group]
    assert sum(seen) == sum(len(r.token_ids) - 1 for r in rollouts)
    assert len({len(r.token_ids) for r in rollouts}) > 5


@pytest.mark.parametrize("wait", [2, 16])
def test_rows_that_end_between_two_questions_are_bounded_and_change_nothing(tiny, monkeypatch, wait):
    """Where the host asks every few tokens, a row is decoded for that long at most after its end."""
    ending(tiny, 4.0)
    prompts = prompts_of(tiny, MANY)
    often = draw(tiny, prompts, 3, 40)
    seen = decoded(tiny, monkeypatch)
    init = local._Scheduler.__init__

    def patient(self, *arguments):
        init(self, *arguments)
        self.longest_wait = wait

    monkeypatch.setattr(local._Scheduler, "__init__", patient)
    seldom = draw(tiny, prompts, 3, 40)
    for group, other in zip(often, seldom, strict=True):
        for a, b in zip(group, other, strict=True):
            close(a, b)
    needed = sum(len(r.token_ids) - 1 for group in often for r in group)
    assert needed < sum(seen) <= needed + wait * sum(len(group) for group in often)


class Waits(TorchDispatchMode):
    """Notes operations that make the host wait for a device: reading a value, or a size that depends on values."""

    KINDS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.partition(".")[0]
        if name.lstrip("_") in {k.lstrip("_") for k in self.KINDS}:
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("settings", [{}, {"top_p": 0.9}, {"greedy": True}], ids=str)
def test_the_host_does_not_wait_within_a_step(engine, family_models, monkeypatch, family, settings):
    model, _ = family_models[family]
    cls = Batch if engine == "changing" else fixed.FixedBatch
    step = cls.step
    waits = Waits()
    steps = []

    def watched(self):
        with waits:
            step(self)
        steps.append(1)

    monkeypatch.setattr(cls, "step", watched)
    draw(model, prompts_of(model, MANY[:3]), 2, 5, **settings)
    assert steps
    assert waits.found == []
    with waits:
        torch.ones(3).nonzero()
        bool(torch.ones(1).sum())
    assert len(waits.found) >= 2, "the watch works"


def test_a_step_is_recorded_once_per_width_and_replayed(tiny, monkeypatch):
    """What a device records, with a stand-in for the recording that runs the step again."""

    class Recorded:
        def __init__(self, step, width):
            self.step, self.width, self.count = step, width, 0

        def replay(self):
            self.count += 1
            self.step(self.width)

    made = {}
    monkeypatch.setattr(local, "new_batch", fixed.FixedBatch)
    monkeypatch.setattr(fixed, "WIDTH", 8)
    monkeypatch.setattr(
        "visurf.rollout.graphs.record", lambda step, width, stream, pool: made.setdefault(width, Recorded(step, width))
    )
    init = Recorder.__init__

    def working(self, device):
        init(self, device)
        self.works = True

    monkeypatch.setattr(Recorder, "__init__", working)
    prompts = prompts_of(tiny)
    ending(tiny, -1e4)
    recorded = draw(tiny, prompts, 2, 40)
    assert {width: r.count for width, r in made.items()} == {8: 8 - TRIAL, 16: 8 - FURTHER, 32: 16 - FURTHER, 39: 7 - FURTHER}
    monkeypatch.undo()
    for group, other in zip(recorded, draw(tiny, prompts, 2, 40), strict=True):
        for a, b in zip(group, other, strict=True):
            close(a, b)


def test_a_step_that_cannot_be_recorded_is_run_as_it_is(tiny, monkeypatch, caplog):
    def fails(*arguments):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(local, "new_batch", fixed.FixedBatch)
    monkeypatch.setattr("visurf.rollout.graphs.record", fails)
    monkeypatch.setattr(Recorder, "failed", False)
    init = Recorder.__init__

    def working(self, device):
        init(self, device)
        self.works = True

    monkeypatch.setattr(Recorder, "__init__", working)
    prompts = prompts_of(tiny)
    with caplog.at_level(logging.WARNING, "visurf"):
        found = draw(tiny, prompts, 2, 20)
    (record,) = caplog.records
    assert "run one kernel at a time: operation not permitted" in record.getMessage()
    monkeypatch.undo()
    for group, other in zip(found, draw(tiny, prompts, 2, 20), strict=True):
        for a, b in zip(group, other, strict=True):
            close(a, b)


def test_a_recording_that_fails_leaves_its_stream_and_is_not_tried_again(monkeypatch):
    class Side:
        device = "cuda:0"

    def fails(step, shape, side, pool):
        current.append(side)
        raise RuntimeError("operation not permitted when stream is capturing")

    main, side, current, ran = object(), Side(), [], []
    monkeypatch.setattr(Recorder, "failed", False)
    monkeypatch.setattr("visurf.rollout.graphs.record", fails)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: main)
    monkeypatch.setattr(torch.cuda, "set_stream", current.append)
    recorder = Recorder(torch.device("cpu"))
    recorder.works, recorder.side, recorder.trials = True, side, {8: TRIAL}
    for shape in (8, 8, 16):
        recorder.run(shape, ran.append)
    assert current == [side, main], "the stream is put back, and nothing is recorded again"
    assert ran == [8, 8, 16]
    assert Recorder.failed
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: side)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    assert not Recorder(torch.device("cuda")).works


def test_another_attention_is_refused(checkpoints):
    """Without the layout every token would see only itself."""
    model = load_random(checkpoints["qwen2_5_vl"])
    model.network.set_attn_implementation("sdpa")
    with pytest.raises(RuntimeError, match="the layout reached 0 of 2 layers"):
        draw(model, prompts_of(model), 1)


def test_no_prompts_give_no_rollouts(tiny):
    assert draw(tiny, [], 2) == []
