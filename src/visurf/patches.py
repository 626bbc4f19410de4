"""Patch embeddings as the matrix products they are.

The Qwen-VL towers embed patches by a convolution whose kernel covers a whole patch: one product per patch. As
a product of matrices it is computed several times faster than by libraries of convolutions.
"""

from __future__ import annotations

from torch import Tensor, nn

from visurf.linear import product


class PatchProjection(nn.Conv3d):
    """`torch.nn.Conv3d`, computed as a product where its kernel covers the whole input."""

    def forward(self, input: Tensor) -> Tensor:
        """See `torch.nn.Conv3d`: (N, C, *kernel) -> (N, E, 1, 1, 1); other inputs are convolved."""
        if tuple(input.shape[2:]) != self.kernel_size or input.ndim != 5:
            return super().forward(input)
        return product(input.flatten(1), self.weight.flatten(1), self.bias)[..., None, None, None]


def use_products(network: nn.Module) -> None:
    """Let a network's patch embeddings compute products; parameters and names stay what they are."""
    for module in network.modules():
        if type(module) is nn.Conv3d and _plain(module):
            module.__class__ = PatchProjection


def use_convolutions(network: nn.Module) -> None:
    """Undo `use_products`."""
    for module in network.modules():
        if type(module) is PatchProjection:
            module.__class__ = nn.Conv3d  # type: ignore[assignment]


def _plain(module: nn.Conv3d) -> bool:
    return not any(map(int, module.padding)) and module.groups == 1 and set(module.dilation) == {1}
