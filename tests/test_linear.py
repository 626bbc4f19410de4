"""Products through oneDNN, and patch embeddings as products, against PyTorch's own layers."""

import copy

import pytest
import torch
from torch import Tensor, nn

from visurf import linear
from visurf.linear import Linear, frozen_weights, use_onednn, use_plain
from visurf.patches import PatchProjection, use_convolutions, use_products


def _gradients(module: nn.Module, rows: Tensor) -> list[Tensor]:
    """What came out and the gradients of input and parameters."""
    rows = rows.clone().requires_grad_()
    out = module(rows)
    (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    gradients = [rows.grad, *(p.grad for p in module.parameters())]
    return [out.detach(), *(g for g in gradients if g is not None)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [3, 9, 61, 700])
@pytest.mark.parametrize("maker", [True, False])
def test_linear_layers_compute_and_differentiate_what_torch_does(
    monkeypatch: pytest.MonkeyPatch, maker: bool, rows: int, bias: bool
) -> None:
    monkeypatch.setattr(linear, "intel", lambda: maker)
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(256, 640, bias=bias), nn.Tanh())
    ours = copy.deepcopy(plain)
    use_onednn(ours)
    assert isinstance(ours[0], Linear)
    data = torch.randn(rows, 256)
    for found, expected in zip(_gradients(ours, data), _gradients(plain, data), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad(), frozen_weights(ours):
        torch.testing.assert_close(ours(data), plain(data), rtol=1e-5, atol=1e-5)
    use_plain(ours)
    assert type(ours[0]) is nn.Linear


@pytest.mark.parametrize("bias", [True, False])
def test_patch_embeddings_are_the_convolution(bias: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv3d(3, 32, (2, 8, 8), (2, 8, 8), bias=bias))
    ours = copy.deepcopy(plain)
    use_products(ours)
    assert isinstance(ours[0], PatchProjection)
    patches = torch.randn(300, 3, 2, 8, 8)
    for found, expected in zip(_gradients(ours, patches), _gradients(plain, patches), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    use_convolutions(ours)
    assert type(ours[0]) is nn.Conv3d


def test_whole_pictures_and_padded_kernels_are_still_convolved() -> None:
    plain = nn.Sequential(nn.Conv3d(3, 4, (2, 4, 4), (2, 4, 4)))
    ours = copy.deepcopy(plain)
    use_products(ours)
    picture = torch.randn(1, 3, 2, 16, 12)
    torch.testing.assert_close(ours(picture), plain(picture))
    padded = nn.Sequential(nn.Conv3d(3, 4, (2, 4, 4), padding=(0, 1, 1)))
    use_products(padded)
    assert type(padded[0]) is nn.Conv3d
