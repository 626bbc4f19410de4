"""The last layer's feed-forward part is computed only where it is read.

Of the last layer's output only the completions' tokens and each prompt's last one reach the head. What the other tokens of a prompt
have to say there, they say through their keys and values; the feed-forward part after the attention, most of a layer's work, nobody
reads.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def skip_unread(network: Any) -> None:
    """Let a network's last text layer leave out what a layout's `read_at` does not name; without a layout nothing changes.

    The hidden states of all other positions are then meaningless. Feed-forward parts that do not treat each token by itself with
    linear layers alone, such as mixtures of experts, are left as they are.
    """
    layer = network.get_decoder().layers[-1]
    feed_forward = getattr(layer, "mlp", None)
    if feed_forward is None or not all(isinstance(m, nn.Linear) for m in feed_forward.modules() if [*m.parameters(recurse=False)]):
        return
    unread = _Unread()
    # The attention is told the layout within the layer's forward pass, which gradient checkpointing runs once more.
    layer.self_attn.register_forward_pre_hook(unread.note, with_kwargs=True)
    feed_forward.register_forward_pre_hook(unread.take)
    feed_forward.register_forward_hook(unread.put)


def part_left_out(network: Any) -> nn.Module | None:
    """The feed-forward part that `skip_unread` has prepared; None where it has prepared none."""
    part: nn.Module | None = getattr(network.get_decoder().layers[-1], "mlp", None)
    hooks = () if part is None else part._forward_pre_hooks.values()
    return part if any(isinstance(getattr(hook, "__self__", None), _Unread) for hook in hooks) else None


class _Unread:
    """The hooks of one network; a copy of the network gets a copy of this, too.

    Attributes:
        at: (R,) positions that are read in the forward pass under way; None for all.
        length: T, the row's tokens.
    """

    def __init__(self) -> None:
        self.at: Tensor | None = None
        self.length = 0

    def note(self, module: nn.Module, arguments: Any, options: dict[str, Any]) -> None:
        """Before the layer's attention: which positions are read."""
        self.at = getattr(options.get("visurf_layout"), "read_at", None)

    def take(self, module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Before the feed-forward part: (1, T, hidden) -> (1, R, hidden)."""
        if self.at is None:
            return None
        (hidden,) = arguments
        self.length = hidden.shape[1]
        return (hidden.index_select(1, self.at),)

    def put(self, module: nn.Module, arguments: Any, found: Tensor) -> Tensor | None:
        """After it: (1, R, hidden) -> (1, T, hidden), zero where nobody reads."""
        if self.at is None:
            return None
        at, self.at = self.at, None
        return found.new_zeros(len(found), self.length, found.shape[2]).index_copy(1, at, found)
