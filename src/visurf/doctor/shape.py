"""What the estimates need to know of a network: sizes and numbers of parameters, read off the network itself or a hollow one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from visurf.config import LoraConfig


@dataclass(frozen=True)
class Shape:
    """Sizes of a vision-language model.

    Attributes:
        hidden: Of the language model.
        intermediate: Width of its MLPs.
        queries: Heads times their size.
        keys: Heads of keys times their size.
        layers: Of the language model.
        vocabulary: Tokens.
        normed_heads: Whether queries and keys pass a norm of their own.
        vision_hidden: Of the vision tower.
        vision_intermediate: Width of its MLPs.
        vision_layers: Of the vision tower.
        vision_gated: Whether its MLPs have a gate.
        parameters: All of them.
        vision_parameters: Of the tower.
        embedding_parameters: Of the input embeddings.
        head_parameters: Of the output embeddings, which may be the same.
        linear_parameters: In matrices of linear layers of the language model, with the head.
        adapted: Sum of inputs and outputs of every linear layer that adapters of the recipe would be put on.
        adapters: Number of those layers.
    """

    hidden: int
    intermediate: int
    queries: int
    keys: int
    layers: int
    vocabulary: int
    normed_heads: bool
    vision_hidden: int
    vision_intermediate: int
    vision_layers: int
    vision_gated: bool
    parameters: int
    vision_parameters: int
    embedding_parameters: int
    head_parameters: int
    linear_parameters: int
    adapted: int = 0
    adapters: int = 0


def shape_of(network: Any, vision_module: str, lora: LoraConfig) -> Shape:
    """Read the sizes off a transformers network, whose parameters may lie on the meta device.

    Args:
        network: Without adapters.
        vision_module: Dotted path of the tower, as in `visurf.models.Family`.
        lora: Names the layers that adapters go on.
    """
    from torch import nn

    text = network.config.get_text_config()
    heads = text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // heads
    tower = network.get_submodule(vision_module)
    linear = [(name, m) for name, m in network.named_modules() if isinstance(m, nn.Linear)]
    language = [(name, m) for name, m in linear if not name.startswith(f"{vision_module}.")]
    adapted = [m for name, m in language if name.rpartition(".")[2] in lora.targets]
    embeddings, head = network.get_input_embeddings().weight, network.get_output_embeddings().weight
    width, middle, depth, gated = _tower(tower)
    return Shape(
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        queries=heads * size,
        keys=text.num_key_value_heads * size,
        layers=text.num_hidden_layers,
        vocabulary=text.vocab_size,
        normed_heads=any(n.endswith("q_norm") and not n.startswith(f"{vision_module}.") for n, _ in network.named_modules()),
        vision_hidden=width,
        vision_intermediate=middle,
        vision_layers=depth,
        vision_gated=gated,
        parameters=sum(p.numel() for p in network.parameters()),
        vision_parameters=sum(p.numel() for p in tower.parameters()),
        embedding_parameters=embeddings.numel(),
        head_parameters=head.numel(),
        linear_parameters=sum(m.weight.numel() for _, m in language),
        adapted=sum(m.in_features + m.out_features for m in adapted),
        adapters=len(adapted),
    )


def _tower(tower: Any) -> tuple[int, int, int, bool]:
    """Width, MLP width, number of blocks and whether MLPs are gated, from the longest list of blocks in the tower."""
    from torch import nn

    blocks: Any = max((m for m in tower.modules() if isinstance(m, nn.ModuleList)), key=len)
    norms = [p.shape[0] for p in blocks[0].parameters() if p.ndim == 1]
    layers = [m for m in blocks[0].modules() if isinstance(m, nn.Linear)]
    width = min(norms)
    # Attention maps the width to itself or to three times itself; the MLP is the pair of layers from and to another width.
    inward = [m.in_features for m in layers if m.out_features == width and m.in_features != width]
    middle = inward[0] if inward else 4 * width
    gated = sum(m.in_features == width and m.out_features == middle for m in layers) > 1
    return width, middle, len(blocks), gated
