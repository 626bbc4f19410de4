"""The policy as one module: packed rows in, log-probs of the sampled distribution out.

Forward and log-probs stand in one `nn.Module` so that wrappers (DDP, FSDP, adapters) see the whole of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from visurf.packing import PackedRow


class Policy(nn.Module):
    """A causal vision-language model as a distribution over completions.

    The distribution is that of logits / temperature with the banned tokens removed, in training exactly as in sampling.
    """

    def __init__(self, network: nn.Module, *, temperature: float, banned: tuple[int, ...], head_bytes: int = 1 << 28) -> None:
        """Wrap a network.

        Args:
            network: A transformers model with `model` (backbone) and `lm_head`.
            temperature: Of the sampled distribution.
            banned: Token ids that are never sampled.
            head_bytes: Float32 logits held at once; bounds memory, changes nothing else.
        """
        super().__init__()
        self.network = network
        self.temperature = temperature
        self.head_bytes = head_bytes
        self.banned: Tensor
        self.register_buffer("banned", torch.tensor(banned, dtype=torch.long), persistent=False)

    def base(self) -> Any:
        """The transformers model, below any adapter wrapper."""
        network: Any = self.network
        return network.get_base_model() if hasattr(network, "get_base_model") else network

    @contextmanager
    def without_adapters(self) -> Iterator[None]:
        """The model below the adapters: what the policy was when its stage began."""
        network: Any = self.network
        if not hasattr(network, "disable_adapter"):
            raise RuntimeError("the policy has no adapters to switch off; give the loop a reference policy")
        with network.disable_adapter():
            yield

    def forward(self, row: PackedRow, *, entropy: bool = False) -> Tensor:
        """Log-prob of every completion token of a packed row, or the entropy of the distribution that it comes from.

        Returns:
            (K,) float32, with gradient, in the order of `row.targets`.

        Raises:
            RuntimeError: The attention layout did not reach every layer, which would silently give another model.
        """
        base = self.base()
        layout: Any = row.inputs.get("visurf_layout")
        if row.shared and layout is None:
            raise RuntimeError("a packed row has no layout: its sequences would see each other")
        if layout is not None:
            layout.calls = 0
        hidden = base.model(**row.inputs).last_hidden_state[0]
        layers = base.config.get_text_config().num_hidden_layers
        if layout is not None and layout.calls < layers:
            raise RuntimeError(f"the packed layout reached {layout.calls} of {layers} layers; is attn_implementation 'visurf'?")
        hidden = hidden.index_select(0, row.predict_at)
        parts = []
        chunk = max(1, self.head_bytes // (4 * base.config.get_text_config().vocab_size))
        # A row without any target still goes through the head, so that its (zero) gradient covers every parameter.
        for start in range(0, max(len(row.targets), 1), chunk):
            piece = slice(start, start + chunk)
            arguments = (hidden[piece], None if entropy else row.targets[piece], base.lm_head)
            if torch.is_grad_enabled() and len(row.targets) > chunk:
                parts.append(checkpoint(self._score, *arguments, use_reentrant=False))
            else:
                parts.append(self._score(*arguments))
        return torch.cat(parts)

    def logits(self, hidden: Tensor, head: nn.Module) -> Tensor:
        """Logits of the sampled distribution, float32: (n, hidden) -> (n, vocabulary)."""
        logits = head(hidden).float()
        if self.temperature != 1:
            logits = logits / self.temperature
        return logits.index_fill(-1, self.banned, float("-inf")) if self.banned.numel() else logits

    def _score(self, hidden: Tensor, targets: Tensor | None, head: nn.Module) -> Tensor:
        logits = self.logits(hidden, head)
        if targets is None:
            return torch.special.entr(torch.softmax(logits, dim=-1)).sum(-1)
        return -cross_entropy(logits, targets, reduction="none")
