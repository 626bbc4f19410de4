"""Every paradigm's coefficients on a hand-made step, and its gradient against its own equation through plain transformers."""

import dataclasses
import inspect
import json
import math

import numpy as np
import pytest
import torch

from naive import gradients, load_plain, naive_logprobs, worst
from replay import make_loop, optimise
from tiny import make_prompt, make_tokens
from visurf.config import AdvantageConfig, ConfigError, ObjectiveConfig, load_config
from visurf.diagnostics import Diagnostics
from visurf.groups import with_advantages
from visurf.mini.demo import RECIPE
from visurf.mixing import Moment
from visurf.objective import Objective, token_terms, weighted_loss
from visurf.paradigms import LUFFY, PARADIGMS, Paradigm
from visurf.shaping import Shaping
from visurf.stages import stages
from visurf.training import train
from visurf.types import Completion, Group, Score

SINGLE = sorted(name for name, paradigm in PARADIGMS.items() if not paradigm.stages)
STEP, STEPS = 30, 100
# Two prompts with three rollouts and a label each: (images, words), lengths, rewards, reached, hints.
FIRST = ((1, 3), (5, 9, 4, 6), (4.0, 5.0, 2.0, 6.0), (0.6, 0.9, 0.0), (0, 2, 4))
SECOND = ((0, 2), (7, 3, 8, 5), (2.0, 3.0, 2.5, 6.0), (0.0, 0.1, 0.2), (0, 3, 3))


def make_step(model, paradigm, shapes=(FIRST, SECOND), **settings):
    """Prompts and groups of a step, with coefficients; labels stand in their groups unless they only give hints."""
    prompts, groups = [], []
    for seed, ((images, words), lengths, rewards, reached, hints) in enumerate(shapes):
        members = []
        for i, length in enumerate(lengths):
            is_label = i == len(lengths) - 1
            if is_label and paradigm.label in (None, "hint"):
                continue
            if not is_label and not paradigm.rollouts:
                continue
            hint = hints[i] if paradigm.label == "hint" and not is_label else 0
            logprobs = None if is_label else tuple(-0.1 * (k + i + 1) for k in range(length - hint))
            ids = make_tokens(model, length, 10 * seed + i)
            source = "label" if is_label else "policy"
            members.append((Completion("", ids, None, None, source=source, logprobs=logprobs, hint=hint), rewards[i]))
        prompts.append(make_prompt(model, seed, images, words))
        scores = (Score({}, 0.0),) * len(members)
        kept = reached if paradigm.rollouts and paradigm.label not in (None, "hint") else ()
        groups.append(Group(prompts[-1].sample, tuple(c for c, _ in members), scores, tuple(r for _, r in members), reached=kept))
    moment = Moment(STEP, STEPS, {**paradigm.mixing, **settings})
    return prompts, with_advantages(groups, paradigm, moment=moment)


def standardised(rewards):
    values = np.array(rewards, dtype=float)
    return (values - values.mean()) / (values.std(ddof=1) + 1e-6)


OWN = [standardised(shape[2][:3]) for shape in (FIRST, SECOND)]
ALL = [standardised(shape[2]) for shape in (FIRST, SECOND)]
# The mean of -log p over the sampled tokens of a group, see `make_step`.
ENTROPY = [np.mean([0.1 * (k + i + 1) for i, n in enumerate(s[1][:3]) for k in range(n)]) for s in (FIRST, SECOND)]
MU = 0.05 + 0.85 * 0.5 * (1 + math.cos(math.pi * STEP / 200))


def beside(advantages, labels):
    """Coefficients of two groups whose labels have no advantage."""
    return [((*a, 0.0), (0.0, 0.0, 0.0, s)) for a, s in zip(advantages, labels, strict=True)]


EXPECTED = {
    "sft": [((0.0,), (1.0,))] * 2,
    "pear": [((0.0,), (1.0,))] * 2,
    "rlvr": [(tuple(a), ()) for a in OWN],
    "visurf": [(tuple(a), ()) for a in ALL],
    "luffy": [(tuple(a), ()) for a in ALL],
    "chord": beside([0.9 * a for a in OWN], (0.1, 0.1)),
    "chord_mu": beside([(1 - MU) * a for a in OWN], (MU, MU)),
    "hpt": beside([OWN[0], (0.0, 0.0, 0.0)], (0.0, 1.0)),
    "mifo": beside(OWN, (0.0, 1.0)),
    "self_sft": beside([(1.0, 1.0, 0.0), (0.0, 0.0, 0.0)], (0.0, 0.0)),
    "srft": [
        (
            (*(0.1 * math.exp(h) if ok else -1.0 for ok in right), a[3]),
            (0.0, 0.0, 0.0, 0.5 * math.exp(-h)),
        )
        for a, h, right in zip(ALL, ENTROPY, ((True, True, False), (False,) * 3), strict=True)
    ],
    "trapo": [(tuple(OWN[0]), (0.0, 1.0, 1.0)), (tuple(OWN[1]), (0.0, 0.5, 0.5))],
    "uft": [(tuple(a), (0.0, 0.001, 0.001)) for a in OWN],
}
EXPECTED |= {f"visurf_no_{name}": EXPECTED["visurf"] for name in ("align", "eliminate", "smooth")}


@pytest.mark.parametrize("name", SINGLE)
def test_coefficients_by_hand(tiny, name):
    _, groups = make_step(tiny, PARADIGMS[name])
    for group, (advantages, supervision) in zip(groups, EXPECTED[name], strict=True):
        assert group.advantages == pytest.approx(advantages)
        assert group.supervision == pytest.approx(supervision)


def distributions(plain, model, pairs):
    """Log-softmax over the vocabulary at every completion token, plain forward."""
    found = []
    for prompt, tokens in pairs:
        ids = torch.tensor([(*prompt.token_ids, *tokens)])
        logits = plain(input_ids=ids, mm_token_type_ids=ids.eq(plain.config.image_token_id).int(), **prompt.tensors).logits[0]
        logits = logits.float().index_fill(-1, torch.tensor(model.banned_ids), float("-inf"))
        start = len(prompt.token_ids) - 1
        found.append(torch.log_softmax(logits[start : start + len(tokens)], dim=-1))
    return found


def saturated(p):
    return p / (p + 0.1)


def followed(lp):
    """PEAR's weights, token by token."""
    later = [sum(0.9 ** (k - t) * float(lp[k]) for k in range(t + 1, len(lp))) for t in range(len(lp))]
    return torch.tensor([max(math.exp(v), 0.1) for v in later])


def highest(entropy, share=0.2):
    kept = math.ceil(share * len(entropy))
    weights = torch.zeros(len(entropy))
    weights[entropy.argsort(descending=True)[:kept]] = len(entropy) / kept
    return weights


class Papers:
    """The losses of two groups as the paradigms' papers write them, tokens averaged.

    Attributes:
        rollouts: Per group, the log-probs of each rollout, with gradient.
        labels: The log-probs of each group's label.
        entropies: At the labels' tokens.
        hints: Per group, the tokens that each rollout was given.
        own: Per group, the advantages of the rollouts among themselves.
        every: Per group, those of rollouts and label together.
    """

    def __init__(self, shapes, rollouts, labels, entropies, hints):
        self.rollouts, self.labels, self.entropies, self.hints = rollouts, labels, entropies, hints
        self.own, self.every = [standardised(s[2][:3]) for s in shapes], [standardised(s[2]) for s in shapes]
        self.n_own = sum(len(o) for g in rollouts for o in g)
        self.n_label = sum(len(y) for y in labels)

    def policy(self, coefficients, scale=None):
        pairs = [(a, o) for g, c in zip(self.rollouts, coefficients, strict=True) for o, a in zip(g, c, strict=True)]
        return -sum(a * o.sum() for a, o in pairs) / (scale or self.n_own)

    def nll(self, coefficients, weight=lambda y, entropy: torch.ones(len(y))):
        rows = zip(self.labels, self.entropies, coefficients, strict=True)
        return -sum(s * (weight(y.detach(), h) * y).sum() for y, h, s in rows) / self.n_label

    def member(self, ratio, coefficients=None):
        """Rollouts and label in one group; `ratio` of the label's log-probs."""
        scale = self.n_own + self.n_label
        of_label = sum(a[3] * ratio(y).sum() for a, y in zip(self.every, self.labels, strict=True))
        return self.policy(coefficients or [a[:3] for a in self.every], scale) - of_label / scale

    def hinted(self, n_own, n_hint, weight, coefficient):
        loss = 0.0
        for group, lengths, advantages in zip(self.rollouts, self.hints, self.own, strict=True):
            for o, h, a in zip(group, lengths, advantages, strict=True):
                taught = coefficient(lengths, h) * (weight(o[:h].detach().exp()) * o[:h]).sum()
                loss = loss - a * o[h:].sum() / n_own - taught / n_hint
        return loss

    def sft(self):
        return self.nll((1, 1))

    def rlvr(self):
        return self.policy(self.own)

    def visurf(self):
        return self.member(lambda y: y)

    visurf_no_align = visurf_no_eliminate = visurf_no_smooth = visurf

    def luffy(self):
        return self.member(lambda y: saturated(y.exp()))

    def chord(self):
        return 0.9 * self.policy(self.own) + 0.1 * self.nll((1, 1), lambda y, _: y.exp() * (1 - y.exp()))

    def chord_mu(self):
        return (1 - MU) * self.policy(self.own) + MU * self.nll((1, 1))

    def srft(self):
        right = 0.1 * math.exp(ENTROPY[0])
        reinforced = self.member(lambda y: saturated(y.exp()), [(right, right, -1.0), (-1.0,) * 3])
        return reinforced + self.nll([0.5 * math.exp(-h) for h in ENTROPY])

    def hpt(self):
        return self.policy([self.own[0], (0, 0, 0)]) + self.nll((0, 1))

    def mifo(self):
        return self.policy(self.own) + self.nll((0, 1), lambda _, entropy: highest(entropy))

    def pear(self):
        return self.nll((1, 1), lambda y, _: followed(y))

    def self_sft(self):
        return self.policy([(1, 1, 0), (0, 0, 0)])

    def trapo(self):
        both = self.n_own
        return self.hinted(both, both, lambda p: (p / 0.1).clamp(max=1), lambda g, h: 1 / g.count(h) if h else 0)

    def uft(self):
        n_hint = sum(h for g in self.hints for h in g)
        return self.hinted(self.n_own - n_hint, n_hint, lambda p: 1.0, lambda g, h: 0.001)


# How many of the step's sequences have a coefficient that is not 0; 8 where the label is a member.
CARRIED = {"sft": 2, "pear": 2, "rlvr": 5, "hpt": 4, "mifo": 6, "self_sft": 2, "trapo": 6, "uft": 6, "chord": 7, "chord_mu": 7}


@pytest.mark.parametrize("name", SINGLE)
def test_the_gradient_is_that_of_the_papers_equation(tiny, checkpoints, name):
    paradigm = PARADIGMS[name]
    # The second rollout of the second group has the mean reward: its advantage is 0 where the label is no member.
    shapes = (FIRST, (*SECOND[:2], (2.0, 2.5, 3.0, 6.0), *SECOND[3:]))
    prompts, groups = make_step(tiny, paradigm, shapes)
    plain = load_plain(checkpoints["qwen2_5_vl"])
    rollouts, labels = [
        [
            naive_logprobs(plain, pairs, banned=tiny.banned_ids) if pairs else []
            for p, g in zip(prompts, groups, strict=True)
            for pairs in [[(p, c.token_ids) for c in g.completions if c.source == source]]
        ]
        for source in ("policy", "label")
    ]
    pairs = [(p, c.token_ids) for p, g in zip(prompts, groups, strict=True) for c in g.completions if c.source == "label"]
    with torch.no_grad():
        entropies = [-(d.exp() * d.clamp(min=-1e9)).sum(-1) for d in distributions(plain, tiny, pairs)]
    hints = [[c.hint for c in g.completions if c.source == "policy"] for g in groups]
    getattr(Papers(shapes, rollouts, [y[0] for y in labels if y], entropies, hints), name)().backward()
    loop = make_loop(tiny, paradigm)
    _, carried = loop.learner.update(loop.learner.batch(prompts, groups), *optimise(loop), Diagnostics(tiny.device))
    difference, where = worst(gradients(tiny.network), gradients(plain))
    assert difference < 1e-4, where
    assert carried == CARRIED.get(name, 8)


def split_gradient(model, name, budget, average="token", part=slice(None)):
    loop = make_loop(model, PARADIGMS[name], tokens_per_microbatch=budget, objective=ObjectiveConfig(average=average))
    prompts, groups = make_step(model, PARADIGMS[name])
    batch = loop.learner.batch(prompts[part], groups[part])
    rows = len(loop.learner.planned(batch))
    loss, _ = loop.learner.update(batch, *optimise(loop), Diagnostics(model.device))
    return rows, loss, gradients(model.network)


@pytest.mark.parametrize("average", ["token", "sequence", "constant"])
@pytest.mark.parametrize("name", SINGLE)
def test_any_split_into_microbatches_gives_the_same_gradient(tiny, name, average):
    results = [split_gradient(tiny, name, budget, average) for budget in (1, 100_000)]
    assert results[0][0] > results[1][0] == 1
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-5, abs=1e-7)
    difference, where = worst(results[0][2], results[1][2])
    assert difference < 1e-5, where


@pytest.mark.parametrize("name", SINGLE)
def test_processes_add_up_to_the_gradient_of_one(tiny, name, monkeypatch):
    """Each has one of the two groups; the sums over processes are those of the whole step."""
    seen = []
    with monkeypatch.context() as watched:
        watched.setattr("visurf.weighing.parallel.total", lambda values: seen.append(list(values)) or list(values))
        _, _, whole = split_gradient(tiny, name, 100_000)
    monkeypatch.setattr("visurf.weighing.parallel.total", lambda values: seen[0])
    shares = [split_gradient(tiny, name, 100_000, part=slice(i, i + 1))[2] for i in (0, 1)]
    difference, where = worst({n: shares[0][n] + shares[1][n] for n in whole}, whole)
    assert difference < 1e-5, where


@pytest.mark.parametrize("name", ["luffy", "chord", "trapo", "mifo", "srft"])
def test_several_inner_steps_measure_rollouts_against_the_policy_that_sampled(tiny, name):
    """The first of two inner steps has ratio 1, so its gradient is that of a single step."""
    _, _, once = split_gradient(tiny, name, 100_000)
    loop = make_loop(tiny, PARADIGMS[name], inner_steps=2)
    prompts, groups = make_step(tiny, PARADIGMS[name])
    batch = loop.learner.batch(prompts, groups)
    assert batch.old is not None
    loop.learner.update(batch, *optimise(loop), Diagnostics(tiny.device))
    assert worst(gradients(tiny.network), once)[0] < 1e-4
    with torch.no_grad():
        for parameter in tiny.network.parameters():
            parameter.mul_(1.3)
    seen = Diagnostics(tiny.device)
    loop.learner.update(batch, *optimise(loop), seen)
    assert seen.sums["policy/clip_frac"][0] > 0
    assert seen.sums["label/clip_frac"][0] == 0, "what the policy did not write is never clipped"


def test_the_supervised_loss_is_the_weighted_negative_log_likelihood(tiny, checkpoints):
    """Value by value: mu x mean of p (1 - p) (-log p); with one inner step the other half is -(1 - mu) x mean advantage."""
    plain = load_plain(checkpoints["qwen2_5_vl"])
    prompts, groups = make_step(tiny, PARADIGMS["chord"])
    pairs = [(p, g.completions[3].token_ids) for p, g in zip(prompts, groups, strict=True)]
    with torch.no_grad():
        lp = torch.cat(naive_logprobs(plain, pairs, banned=tiny.banned_ids))
    supervised = 0.1 * float((lp.exp() * (1 - lp.exp()) * -lp).mean())
    lengths = [n for s in (FIRST, SECOND) for n in s[1][:3]]
    rest = -0.9 * sum(a * n for a, n in zip(np.concatenate(OWN), lengths, strict=True)) / sum(lengths)
    assert split_gradient(tiny, "chord", 100_000)[1] == pytest.approx(supervised + rest, rel=1e-5)


@pytest.mark.parametrize(("average", "most"), [("sequence", None), ("constant", 16)])
def test_sequences_are_counted_on_each_side_by_itself(tiny, checkpoints, average, most):
    """Six rollouts and two labels for chord; six rollouts of which four have a hint for uft."""
    plain = load_plain(checkpoints["qwen2_5_vl"])
    for name, size in (("chord", 2), ("uft", 4)):
        prompts, groups = make_step(tiny, PARADIGMS[name])
        own, taught, nll = [], [], []
        for prompt, group in zip(prompts, groups, strict=True):
            for completion, advantage in zip(group.completions, group.advantages, strict=True):
                foreign = len(completion.token_ids) if completion.source == "label" else completion.hint
                if completion.source == "policy":
                    written = len(completion.token_ids) - foreign
                    own.append(advantage * written / (most or max(written, 1)))
                if foreign:
                    taught.append((prompt, completion.token_ids))
                    nll.append(foreign)
        with torch.no_grad():
            found = naive_logprobs(plain, taught, banned=tiny.banned_ids)
        weights = [0.1 * v.exp() * (1 - v.exp()) if name == "chord" else 0.001 * torch.ones(len(v)) for v in found]
        sums = [float((-w * v)[:n].sum()) / (most or n) for w, v, n in zip(weights, found, nll, strict=True)]
        assert (len(own), len(sums)) == (6, size)
        expected = -sum(own) / 6 + sum(sums) / size
        assert split_gradient(tiny, name, 100_000, average)[1] == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_entropies_are_computed_for_supervised_sequences_alone(tiny, checkpoints):
    prompts, groups = make_step(tiny, PARADIGMS["mifo"])
    loop = make_loop(tiny, PARADIGMS["mifo"])
    batch = loop.learner.batch(prompts, groups)
    with torch.no_grad():
        (every,) = distributions(load_plain(checkpoints["qwen2_5_vl"]), tiny, [(prompts[1], groups[1].completions[3].token_ids)])
    torch.testing.assert_close(batch.entropies[7], torch.distributions.Categorical(logits=every).entropy(), atol=1e-4, rtol=1e-4)
    assert [bool(h.any()) for h in batch.entropies] == [False] * 7 + [True]
    assert [len(h) for h in batch.entropies] == batch.lengths.tolist()


def test_schedules_begin_with_their_stage(tmp_path):
    """mu falls from 0.9 over four steps, in the second of two stages."""
    settings = {"mixing.mu_peak": 0.9, "mixing.mu_valley": 0.1, "mixing.mu_decay": 4}
    listed = [{"paradigm": "sft", "steps": 2}, {"paradigm": "chord_mu", "steps": 3, "override": settings}]
    small = {"data": {"train": "world:shifted?count=4&seed=5", "validation": ""}, "prompts_per_step": 1, "threads": 1}
    small |= {"rollout": {"group_size": 2, "max_tokens": 8}, "stages": listed, "out": str(tmp_path / "run")}
    train(load_config(RECIPE, small))
    rows = [json.loads(row) for row in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["label/supervision"] for row in rows] == pytest.approx([1, 1, 0.9, 0.5 + 0.4 * math.sqrt(0.5), 0.5])
    members = json.loads((tmp_path / "run" / "rollouts.jsonl").read_text().splitlines()[-1])["members"]
    assert [m["supervision"] for m in members] == pytest.approx([0, 0, 0.5])


def test_the_sequence_ratio_leaves_hints_out():
    new, old = torch.tensor([0.0, 0.0, -0.3, -0.1]), torch.tensor([5.0, -7.0, -0.5, -0.5])
    member, foreign = torch.tensor([0, 0, 0, 0]), torch.tensor([True, True, False, False])
    found = token_terms(new, old, torch.ones(4), Objective(ratio="sequence"), member=member, members=1, foreign=foreign)
    assert found.ratio[2:].tolist() == pytest.approx([math.exp(0.3)] * 2)


def test_luffys_loss_is_exactly_the_recorded_one(shared):
    """The published setting on every recorded case that has it: f(p) on labels, no clip, divided by the padded length."""
    constant = LUFFY.mixing["constant"]
    assert LUFFY.label_ratio == "saturating"
    published = {"off_policy_reshape": f"p_div_p_{constant}", "on_policy_reshape": "no_reshape", "loss_remove_clip": True}
    published |= {"loss_remove_token_mean": True, "off_max_clip": None, "off_min_clip": None, "all_max_clip": None}
    checked = 0
    for case in json.loads((shared / "fixtures" / "luffy.json").read_text())["cases"]:
        data = case["input"]
        if data["function"] != "mixed_loss" or data["target_probs"] or not published.items() <= data["options"].items():
            continue
        rows = {k: torch.tensor(data[k], dtype=torch.float64) for k in ("logps", "old_logps", "advantages", "mask")}
        rows["logps"].requires_grad_()
        shaping, foreign = Shaping("saturating", constant=constant), torch.tensor(data["prefix_mask"], dtype=torch.bool)
        flat = [rows[k].flatten() for k in ("logps", "old_logps", "advantages")]
        terms = token_terms(*flat, Objective(surrogate="free"), foreign=foreign.flatten(), shaping=shaping)
        loss = weighted_loss(terms, rows["mask"].flatten() / rows["mask"].shape[1])
        loss.backward()
        assert float(loss.detach()) == pytest.approx(case["expected"]["pg_loss"], rel=1e-12, abs=1e-12)
        torch.testing.assert_close(rows["logps"].grad, torch.tensor(case["expected"]["grad"], dtype=torch.float64))
        checked += 1
    assert checked >= 5


def test_leave_one_out_and_constant_length_are_settings(tiny):
    """RLOO's baseline and Dr. GRPO's average, by hand."""
    prompts, groups = make_step(tiny, PARADIGMS["rlvr"])
    rloo = with_advantages(groups, PARADIGMS["rlvr"], scale="none", baseline="others")
    assert rloo[0].advantages == pytest.approx((4 - 3.5, 5 - 3, 2 - 4.5))
    loop = make_loop(tiny, PARADIGMS["rlvr"], objective=ObjectiveConfig(average="constant"))
    loss, _ = loop.learner.update(loop.learner.batch(prompts, rloo), *optimise(loop), Diagnostics(tiny.device))
    lengths = [n for s in (FIRST, SECOND) for n in s[1][:3]]
    advantages = [a for g in rloo for a in g.advantages]
    # 16 is rollout.max_tokens of the test's loop.
    assert loss == pytest.approx(-sum(a * n for a, n in zip(advantages, lengths, strict=True)) / (16 * 6), rel=1e-5)


def test_a_label_beside_the_group_does_not_enter_the_deviation(tiny):
    paradigm, none = PARADIGMS["chord"], PARADIGMS["rlvr"]
    chord = with_advantages(make_step(tiny, paradigm)[1], paradigm, scale="batch")
    rlvr = with_advantages(make_step(tiny, none)[1], none, scale="batch")
    for mixed, alone in zip(chord, rlvr, strict=True):
        assert mixed.advantages[:3] == pytest.approx([0.9 * a for a in alone.advantages])


def test_hyperparameters_come_from_the_recipe():
    (stage,) = stages(load_config(None, {"paradigm": "chord", "mixing": {"mu_peak": "0.5"}}))
    assert stage.config.mixing == {**PARADIGMS["chord"].mixing, "mu_peak": 0.5}
    found = stages(load_config(None, {"paradigm": "pear_then_rlvr", "mixing": {"discount": 0.5}}))
    assert [s.config.mixing for s in found] == [{"discount": 0.5, "floor": 0.1}, {}]
    listed = [{"paradigm": "chord", "steps": 2, "override": {"mixing.mu_peak": 0.3}}, {"paradigm": "rlvr", "steps": 1}]
    assert stages(load_config(None, {"stages": listed}))[0].config.mixing["mu_peak"] == 0.3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"paradigm": "chord", "mixing": {"mu_peek": 1}}, r"mixing.mu_peek: no hyperparameter of chord; did you mean 'mu_peak'"),
        ({"paradigm": "rlvr", "mixing": {"gate": 1}}, r"mixing.gate: no hyperparameter of rlvr; it has none"),
        ({"stages": [{"paradigm": "sft", "steps": 1, "override": {"mixing.gate": 1}}]}, r"mixing.gate: no hyperparameter of sft"),
    ],
)
def test_an_unknown_hyperparameter_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        stages(load_config(None, values))


def test_stage_lists_share_the_steps():
    found = stages(load_config(None, {"paradigm": "openvlthinker", "steps": 8}))
    assert [(s.paradigm.name, s.end - s.first) for s in found] == [
        ("sft", 2), ("rlvr", 2), ("self_sft", 1), ("rlvr", 1), ("self_sft", 1), ("rlvr", 1)
    ]  # fmt: skip


def test_only_the_controls_of_a_paradigm_act(tiny):
    switches = {name: make_loop(tiny, PARADIGMS[name]).controls for name in SINGLE}
    assert dataclasses.astuple(switches["visurf"])[:3] == (True, True, True)
    assert dataclasses.astuple(switches["visurf_no_align"])[:3] == (False, True, True)
    assert dataclasses.astuple(switches["visurf_no_eliminate"])[:3] == (True, False, True)
    assert dataclasses.astuple(switches["visurf_no_smooth"])[:3] == (True, True, False)
    rivals = {name for name in SINGLE if not name.startswith("visurf")}
    assert all(dataclasses.astuple(switches[name])[:3] == (True, True, False) for name in rivals)


@pytest.mark.parametrize(
    "parts",
    [{"label": True}, {"label": "hint"}, {"hints": PARADIGMS["uft"].hints}, {"rollouts": False}, {"label_ratio": "saturating"}],
)
def test_a_paradigm_whose_parts_do_not_fit_is_refused(parts):
    with pytest.raises(ValueError, match="paradigm 'mine': .*" + next(iter(parts)).rstrip("s")):
        Paradigm("mine", **parts)


@pytest.mark.parametrize("name", SINGLE)
def test_every_paradigm_names_its_paper(name):
    assert "arXiv " in PARADIGMS[name].source
    assert PARADIGMS[name].name == name


def test_every_setting_of_advantages_reaches_their_function():
    assert {f.name for f in dataclasses.fields(AdvantageConfig)} < set(inspect.signature(with_advantages).parameters)
