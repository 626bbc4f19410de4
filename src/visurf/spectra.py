"""How the weights of one checkpoint differ from another's: size of the change, singular values, turned singular vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Above this side a matrix is decomposed by a randomised method; its leading vectors are the same to a few digits.
_EXACT = 2048


@dataclass(frozen=True)
class Change:
    """One matrix, before and after.

    Attributes:
        relative: Frobenius norm of the difference over that of the first.
        spectrum: Norm of the difference of the sorted leading singular values over that of the first's.
        rotation: Mean angle, in degrees, between the subspaces of leading singular vectors, left and right together.
        rank: Singular values that are looked at.
    """

    relative: float
    spectrum: float
    rotation: float
    rank: int


def compare_matrices(first: Tensor, second: Tensor, rank: int = 16) -> Change:
    """Compare two matrices of the same shape.

    Args:
        first: (m, n), any float type.
        second: (m, n).
        rank: Leading singular values and vectors, at most min(m, n).

    Raises:
        ValueError: They are no matrices of one shape.
    """
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(f"expected two matrices of one shape, got {tuple(first.shape)} and {tuple(second.shape)}")
    a, b = first.detach().float(), second.detach().float()
    rank = min(rank, *a.shape)
    if torch.equal(a, b):
        # A decomposition of equal singular values may turn them; nothing has turned here.
        return Change(0.0, 0.0, 0.0, rank)
    (left_a, values_a, right_a), (left_b, values_b, right_b) = (_leading(m, rank) for m in (a, b))
    angles = torch.cat([_angles(left_a, left_b), _angles(right_a, right_b)])
    return Change(
        float((b - a).norm() / a.norm().clamp_min(1e-30)),
        float((values_b - values_a).norm() / values_a.norm().clamp_min(1e-30)),
        float(torch.rad2deg(angles).mean()),
        rank,
    )


def _leading(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    if min(matrix.shape) <= _EXACT:
        left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
        return left[:, :rank], values[:rank], right[:rank].T
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        left, values, right = torch.svd_lowrank(matrix, q=rank + 8, niter=4)
    return left[:, :rank].double(), values[:rank].double(), right[:, :rank].double()


def _angles(first: Tensor, second: Tensor) -> Tensor:
    """Principal angles between two subspaces with orthonormal bases, in radians; by sines where they are small."""
    product = first.T @ second
    cosines = torch.linalg.svdvals(product).clamp(-1, 1)
    sines = torch.linalg.svdvals(second - first @ product).clamp(-1, 1).flip(0)
    return torch.where(cosines**2 > 0.5, torch.asin(sines), torch.acos(cosines))


def compare_networks(first: nn.Module, second: nn.Module, rank: int = 16) -> dict[str, Change]:
    """Every weight matrix of the layers that both networks have, embeddings left out.

    Raises:
        ValueError: The networks share no matrix of one shape.
    """
    known: Mapping[str, Tensor] = dict(second.named_parameters())
    found = {
        name: compare_matrices(weight, known[name].to(weight.device), rank)
        for name, weight in first.named_parameters()
        if weight.ndim == 2 and "embed" not in name and name in known and known[name].shape == weight.shape
    }
    if not found:
        raise ValueError("the two checkpoints share no weight matrix; compare two of the same architecture")
    return found
