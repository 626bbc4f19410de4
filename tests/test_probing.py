"""Probes: pass@k and spectra by hand, and a probe of the embedded model."""

import json
import math

import pytest
import torch

from visurf.cli import main
from visurf.config import load_config
from visurf.metrics.passing import mean_pass_at, pass_at_k
from visurf.mini.demo import RECIPE
from visurf.probing import probe
from visurf.spectra import compare_matrices

WORDS = "visurf.mini.questions:WORDS"


def test_pass_at_k_is_the_chance_over_all_subsets():
    from itertools import combinations

    for samples, right in ((5, 2), (6, 0), (4, 4)):
        answers = [1] * right + [0] * (samples - right)
        for k in range(1, samples + 1):
            chosen = list(combinations(answers, k))
            assert pass_at_k(samples, right, k) == pytest.approx(sum(map(any, chosen)) / len(chosen))
    assert mean_pass_at(4, [0, 4]) == {1: 0.5, 2: 0.5, 4: 0.5}
    assert pass_at_k(1000, 1, 500) == pytest.approx(0.5)
    for wrong in ((4, 5, 1), (4, 1, 5), (4, 1, 0)):
        with pytest.raises(ValueError, match="expected 0 <= right"):
            pass_at_k(*wrong)


def test_spectra_by_hand():
    first = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.1]))
    assert compare_matrices(first, first, 2).rotation == 0
    scaled = compare_matrices(first, first * 1.5, 2)
    assert scaled.relative == pytest.approx(0.5)
    assert scaled.spectrum == pytest.approx(0.5)
    assert scaled.rotation == pytest.approx(0, abs=1e-4)
    # Rows turned by ten degrees in the plane of the second and third: the second left vector leaves the subspace by as much.
    angle = math.radians(10)
    turn = torch.eye(4)
    turn[1:3, 1:3] = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    turned = compare_matrices(first, turn @ first, 2)
    assert turned.spectrum == pytest.approx(0, abs=1e-6)
    assert turned.rotation == pytest.approx(10 / 4, abs=1e-3)
    with pytest.raises(ValueError, match="one shape"):
        compare_matrices(first, first[:2])


def test_large_matrices_are_compared_alike(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    left, _ = torch.linalg.qr(torch.randn(60, 60, generator=generator))
    first = left @ torch.diag(0.7 ** torch.arange(60.0)) @ left.T
    second = first + 0.01 * torch.randn(60, 60, generator=generator)
    exact = compare_matrices(first, second, 4)
    monkeypatch.setattr("visurf.spectra._EXACT", 10)
    rough = compare_matrices(first, second, 4)
    assert rough.spectrum == pytest.approx(exact.spectrum, rel=1e-3)
    assert rough.rotation == pytest.approx(exact.rotation, rel=1e-2)


def test_the_embedded_model_is_probed(tmp_path, capsys):
    out = tmp_path / "probe.json"
    source = "world:shifted?count=4&seed=3"
    command = [
        "probe",
        "mini",
        source,
        "--recipe",
        str(RECIPE),
        "--samples",
        "4",
        "--against",
        "mini",
        "--out",
        str(out),
        "--quiet",
    ]
    assert main([*command, "threads=1"]) == 0
    assert "pass@4" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert len(found["prompts"]) == 4
    assert found["pass_at"]["4"] == pytest.approx(sum(r["right"] > 0 for r in found["prompts"]) / 4)
    # The same checkpoint on both sides: nothing has changed.
    assert found["summary"]["kl"] == pytest.approx(0, abs=1e-6)
    assert all(change["rotation"] == 0 for change in found["weights"].values())
    assert found["summary"]["label_nll"] > 0
    flat = [r for r in found["prompts"] if r["flat"]]
    assert all(r["reward_variance"] == pytest.approx(0, abs=1e-12) for r in flat)
    assert all(not r["label_rescues"] for r in found["prompts"] if not r["flat"])


def test_label_likelihood_is_that_of_the_label():
    """Existence questions in words: the base says the right word, and its label in tags is less likely."""
    values = {"data": {"validation": "world:existence?count=3&seed=1"}, "task": {"name": WORDS}, "threads": 1}
    found = probe(load_config(None, {**values, "rollout": {"max_tokens": 5}}), 2)
    assert found["summary"]["samples"] == 3
    assert 0 < found["summary"]["label_nll"] < 40
    assert found["measure"] == "right"
