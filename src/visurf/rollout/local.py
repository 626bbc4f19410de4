"""Rollouts in process: a prompt and its image run through the model once, whatever the number of rollouts.

The prompt's keys and values are kept once per prompt and never copied per rollout: the rollouts of a prompt are folded into the
query. Every rollout draws from its own random stream, so order and batch size change nothing but kernel rounding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from visurf.attention import PackedLayout, dummy_mask
from visurf.models.family import Family, Prompt
from visurf.packing import Bundle, axes_first, build_row
from visurf.policy import Policy


@dataclass(frozen=True)
class Rollout:
    """Sampled tokens, ended by an end-of-turn token unless truncated, and their log-probs under the sampled distribution."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    truncated: bool


@dataclass(frozen=True)
class Sampling:
    """How to sample.

    Attributes:
        max_tokens: Longest completion.
        greedy: Take the likeliest token instead of sampling.
        top_p: Keep the smallest set of tokens with this probability; below 1 the log-probs are no longer exactly those
            of the distribution that was sampled.
        token_budget: Prompt tokens decoded at once, all rollouts' own tokens included.
    """

    max_tokens: int = 512
    greedy: bool = False
    top_p: float = 1.0
    token_budget: int = 65536


class _PrefixLayer(CacheLayerMixin):
    """Keys and values of one layer: those of the prompts once, and each rollout's own."""

    is_sliding = False

    def __init__(self) -> None:
        super().__init__()
        self.prompt: tuple[Tensor, Tensor] | None = None
        self.own: tuple[Tensor, Tensor] | None = None
        self.filled = 0
        self.layout: PackedLayout | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor | None = None) -> None:
        """Nothing to prepare."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Store the prompts' keys (first call) or append one token per rollout."""
        if self.prompt is None:
            assert self.layout is not None
            groups, longest = self.layout.prompt_index.shape
            flat = self.layout.prompt_index.reshape(-1)
            key, value = (
                t[0].transpose(0, 1).index_select(0, flat).view(groups, longest, *t.shape[1:2], t.shape[3]).transpose(1, 2)
                for t in (key_states, value_states)
            )
            self.prompt = (key.contiguous(), value.contiguous())
            return key_states, value_states
        self._append(key_states, value_states)
        return key_states, value_states

    def _append(self, key: Tensor, value: Tensor) -> None:
        if self.own is None or self.filled == self.own[0].shape[2]:
            # Grow by half, so that the copies cost a constant share.
            room = 32 if self.own is None else self.own[0].shape[2] // 2
            empty = key.new_zeros(key.shape[0], key.shape[1], room, key.shape[3])
            self.own = (empty, empty.clone()) if self.own is None else tuple(torch.cat([t, empty], 2) for t in self.own)  # type: ignore[assignment]
        assert self.own is not None
        self.own[0][:, :, self.filled] = key[:, :, 0]
        self.own[1][:, :, self.filled] = value[:, :, 0]
        self.filled += 1

    def keep(self, rows: Tensor, prompts: Tensor | None) -> None:
        """Keep only some rollout rows and, where given, some prompts."""
        if self.own is not None:
            self.own = (self.own[0].index_select(0, rows), self.own[1].index_select(0, rows))
        if prompts is not None and self.prompt is not None:
            self.prompt = (self.prompt[0].index_select(0, prompts), self.prompt[1].index_select(0, prompts))

    def get_seq_length(self) -> int:
        """Own tokens so far; positions are always passed explicitly."""
        return self.filled

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Unused: the mask is handed through."""
        return self.filled + query_length, 0

    def get_max_length(self) -> int:
        """No limit."""
        return -1

    def get_max_cache_shape(self) -> int:
        """No limit."""
        return -1


@dataclass
class _DecodeLayout:
    """One new token per rollout: prompts' keys unexpanded, own keys by slot."""

    cache: Cache
    bias: Tensor
    members: int
    calls: int = field(default=0)

    def attend(self, module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float, kernel: str) -> Tensor:
        """See `visurf.attention.Layout.attend`; queries are (B * members, heads, 1, D)."""
        layer: Any = self.cache.layers[module.layer_idx]  # type: ignore[index]
        prompt_key, prompt_value = layer.prompt
        own_key, own_value = (t[:, :, : layer.filled] for t in layer.own)
        rows, heads, _, size = query.shape
        kv_heads = prompt_key.shape[1]
        groups, share = rows // self.members, heads // kv_heads
        q = (query * scaling).view(rows, kv_heads, share, size)
        folded = q.view(groups, self.members, kv_heads, share, size).transpose(1, 2)
        folded = folded.reshape(groups, kv_heads, self.members * share, size)
        to_prompt = folded @ prompt_key.transpose(-1, -2) + self.bias.to(q.dtype)
        to_prompt = to_prompt.view(groups, kv_heads, self.members, share, -1).transpose(1, 2).reshape(rows, kv_heads, share, -1)
        scores = torch.cat([to_prompt, q @ own_key.transpose(-1, -2)], dim=-1)
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
        extent = prompt_key.shape[2]
        on_prompt = weights[..., :extent].view(groups, self.members, kv_heads, share, extent).transpose(1, 2)
        out = on_prompt.reshape(groups, kv_heads, self.members * share, extent) @ prompt_value
        out = out.view(groups, kv_heads, self.members, share, size).transpose(1, 2).reshape(rows, kv_heads, share, size)
        out = out + weights[..., extent:] @ own_value
        return out.reshape(rows, 1, heads, size)


def stream(seed: int, *names: object) -> np.random.Generator:
    """An independent random stream named by a seed and whatever identifies the rollout."""
    digest = hashlib.blake2b("/".join(str(n) for n in (seed, *names)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


@torch.no_grad()
def sample(
    policy: Policy,
    family: Family,
    prompts: Sequence[Prompt],
    members: int,
    settings: Sampling,
    eos: tuple[int, ...],
    streams: Sequence[Sequence[np.random.Generator]] | None = None,
) -> list[list[Rollout]]:
    """Sample completions of prompts.

    Args:
        policy: In eval mode; its temperature and banned tokens define the distribution.
        family: Joins the prompts' tensors.
        prompts: B prompts.
        members: Rollouts of each prompt.
        settings: Length limit, greedy or sampled, top-p, budget.
        eos: Tokens that end a completion.
        streams: One random generator per prompt and rollout; not needed when greedy.

    Returns:
        For each prompt its rollouts, in order.
    """
    if not settings.greedy and streams is None:
        raise ValueError("sampling needs one random stream per prompt and rollout")
    if family.unshared:
        from visurf.rollout.unshared import sample_unshared

        return sample_unshared(policy, family, prompts, members, settings, eos, streams)
    results: list[list[Rollout]] = []
    start = 0
    while start < len(prompts):
        end, used = start, 0
        while end < len(prompts):
            cost = len(prompts[end].token_ids) + members * settings.max_tokens
            if end > start and used + cost > settings.token_budget:
                break
            used += cost
            end += 1
        part = None if streams is None else streams[start:end]
        results += _Decoder(policy, family, prompts[start:end], members, settings, eos, part).run()
        start = end
    return results


class _Decoder:
    """One batch of prompts on its way: state between tokens."""

    def __init__(
        self,
        policy: Policy,
        family: Family,
        prompts: Sequence[Prompt],
        members: int,
        settings: Sampling,
        eos: tuple[int, ...],
        streams: Sequence[Sequence[np.random.Generator]] | None,
    ) -> None:
        self.policy, self.base, self.settings, self.family = policy, policy.base(), settings, family
        self.device = next(policy.parameters()).device
        self.prompts, self.members = prompts, members
        self.eos = torch.tensor(eos, device=self.device)
        count = len(prompts) * members
        self.uniform: Tensor | None = None
        if not settings.greedy:
            assert streams is not None
            draws = np.stack([g.random(settings.max_tokens) for of_prompt in streams for g in of_prompt])
            self.uniform = torch.from_numpy(draws).to(self.device)
        self.tokens = torch.zeros(count, settings.max_tokens, dtype=torch.long, device=self.device)
        self.logprobs = torch.zeros(count, settings.max_tokens, device=self.device)
        self.lengths = torch.full((count,), settings.max_tokens, device=self.device)
        self.ended = torch.zeros(count, dtype=torch.bool, device=self.device)

    def run(self) -> list[list[Rollout]]:
        """Decode to the end."""
        layers = self.base.config.get_text_config().num_hidden_layers
        cache = Cache(layers=[_PrefixLayer() for _ in range(layers)])
        row = build_row([Bundle(p, ()) for p in self.prompts], self.family, self.device)
        layout: Any = row.inputs["visurf_layout"]
        for layer in cache.layers:
            layer.layout = layout  # type: ignore[union-attr]
        row.inputs |= {"past_key_values": cache, "use_cache": True}
        hidden = self.base.model(**row.inputs).last_hidden_state[0]
        last = layout.prompt_index.gather(1, self._prompt_lengths().unsqueeze(1) - 1).squeeze(1)
        hidden = hidden.index_select(0, last).repeat_interleave(self.members, 0)
        position = torch.tensor([p.next_position for p in self.prompts], device=self.device).repeat_interleave(self.members)
        axes = self.prompts[0].position_ids.shape[0]
        decode = _DecodeLayout(cache, layout.prompt_bias, self.members)
        # Slots: rows that are still decoded, `decode.members` for each prompt left; `slots` names each row's rollout.
        slots = torch.arange(len(position), device=self.device)
        for step in range(self.settings.max_tokens):
            chosen = self._choose(hidden, slots, step)
            if step + 1 == self.settings.max_tokens or bool(self.ended.all()):
                break
            slots, keep = self._compact(slots, decode)
            if keep is not None:
                chosen, position = chosen[keep], position[keep]
            inputs = {
                "input_ids": chosen.unsqueeze(1),
                "position_ids": axes_first((position + step).view(1, -1, 1).expand(axes, -1, -1)),
                "attention_mask": dummy_mask(self.device),
                "past_key_values": cache,
                "use_cache": True,
                "visurf_layout": decode,
            }
            hidden = self.base.model(**inputs).last_hidden_state[:, 0]
        return self._collect()

    def _prompt_lengths(self) -> Tensor:
        return torch.tensor([len(p.token_ids) for p in self.prompts], device=self.device)

    def _choose(self, hidden: Tensor, slots: Tensor, step: int) -> Tensor:
        """Pick the next token of every row and record it for those that have not ended."""
        log_p = torch.log_softmax(self.policy.logits(hidden, self.base.lm_head), dim=-1)
        uniform = self.uniform
        chosen = log_p.argmax(-1) if uniform is None else _inverse_cdf(log_p, uniform[slots, step], self.settings.top_p)
        alive = ~self.ended[slots]
        rows = slots[alive]
        self.tokens[rows, step] = chosen[alive]
        self.logprobs[rows, step] = log_p.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)[alive]
        stopped = rows[torch.isin(chosen[alive], self.eos)]
        self.ended[stopped] = True
        self.lengths[stopped] = step + 1
        return chosen

    def _compact(self, slots: Tensor, decode: _DecodeLayout) -> tuple[Tensor, Tensor | None]:
        """Let ended rows leave once a quarter of the slots is idle."""
        alive = ~self.ended[slots].view(-1, decode.members)
        per_prompt = alive.sum(1)
        prompts = torch.nonzero(per_prompt).squeeze(1)
        members = int(per_prompt.max())
        if members * len(prompts) > 0.75 * len(slots):
            return slots, None
        # Living rows of each prompt first, in order; dead ones fill up where prompts differ.
        order = torch.argsort((~alive[prompts]).int(), dim=1, stable=True)[:, :members]
        keep = (prompts.unsqueeze(1) * decode.members + order).reshape(-1)
        dropped = prompts if len(prompts) < len(alive) else None
        for layer in decode.cache.layers:
            layer.keep(keep, dropped)  # type: ignore[union-attr]
        decode.members = members
        if dropped is not None:
            decode.bias = decode.bias.index_select(0, dropped)
        return slots[keep], keep

    def _collect(self) -> list[list[Rollout]]:
        tokens, logprobs, lengths, ended = (t.cpu().tolist() for t in (self.tokens, self.logprobs, self.lengths, self.ended))
        rollouts = [Rollout(tuple(tokens[i][:n]), tuple(logprobs[i][:n]), not ended[i]) for i, n in enumerate(lengths)]
        return [rollouts[i : i + self.members] for i in range(0, len(rollouts), self.members)]


def _inverse_cdf(log_p: Tensor, uniform: Tensor, top_p: float) -> Tensor:
    """Sample by inverting the cumulative distribution in the vocabulary's order: (R, V) and (R,) -> (R,)."""
    p = log_p.double().exp()
    if top_p < 1:
        sorted_p, order = p.sort(dim=-1, descending=True)
        outside = sorted_p.cumsum(-1) - sorted_p >= top_p
        p = p.scatter(-1, order, sorted_p.masked_fill(outside, 0))
    cumulative = p.cumsum(-1)
    total = cumulative[:, -1:]
    # Rounding must not carry the threshold past the last token that has any probability.
    threshold = torch.minimum(uniform.unsqueeze(-1) * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(-1).clamp(max=p.shape[-1] - 1)
