"""Shaped ratios by hand."""

import math

import pytest
import torch

from visurf.shaping import Shaping, off_policy_ratio, on_policy_ratio, saturate

NEW, OLD = math.log(0.3), math.log(0.2)


def value(tensor):
    return float(tensor.detach())


@pytest.mark.parametrize(
    ("shaping", "on", "off"),
    [
        (Shaping(), 1.5, 0.3),
        (Shaping("log"), math.log(1.5), 0.1 * NEW),
        (Shaping("ratio_log", weight=0.5), 1.5 + 0.5 * math.log(1.5), 0.3 + 0.5 * NEW),
        (Shaping("square_root"), math.sqrt(1.5), math.sqrt(0.3)),
        (Shaping("power", exponent=2.0), 2.25, 0.09),
        (Shaping("saturating", constant=0.1), (0.3 / 0.4) / (0.2 / 0.3), 0.75),
    ],
)
def test_shapes(shaping, on, off):
    new, old = torch.tensor(NEW, dtype=torch.float64), torch.tensor(OLD, dtype=torch.float64)
    assert value(on_policy_ratio(new, old, shaping)) == pytest.approx(on)
    assert value(off_policy_ratio(new, shaping)) == pytest.approx(off)


def test_bounds_and_known_writers():
    new = torch.tensor([NEW, math.log(0.9)], dtype=torch.float64, requires_grad=True)
    bounded = off_policy_ratio(new, Shaping(), lowest=0.5, highest=0.8)
    assert bounded.tolist() == [0.5, 0.8]
    assert torch.autograd.grad(bounded.sum(), new)[0].tolist() == [0.0, 0.0]
    known = off_policy_ratio(new, Shaping("log"), written_with=torch.tensor([0.6, 0.9], dtype=torch.float64))
    assert known.tolist() == pytest.approx([0.5, 1.0], abs=1e-5)


def test_saturation_lifts_unlikely_tokens():
    """The gradient by log p, c p / (p + c)^2, is largest at p = c instead of at p = 1."""
    p = torch.tensor([0.01, 0.1, 0.9], dtype=torch.float64)
    logprobs = p.log().requires_grad_()
    slope = torch.autograd.grad(saturate(logprobs, 0.1).sum(), logprobs)[0]
    assert slope.tolist() == pytest.approx((0.1 * p / (p + 0.1) ** 2).tolist())
    assert int(slope.argmax()) == 1


def test_an_unknown_shape_is_an_error():
    with pytest.raises(ValueError, match="nonsense"):
        on_policy_ratio(torch.zeros(1), torch.zeros(1), Shaping("nonsense"))
