"""Run one reference case of a family of group and loss mathematics and compare with what the published code gave.

Every number comes from the library's own functions; what stands here are the settings under which they coincide with TRL, verl
and LUFFY.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from visurf.advantages import Scale, group_advantages, is_flat, normalise_then_sum, split_advantages, spread
from visurf.control import smooth
from visurf.fixtures_metrics import agrees
from visurf.objective import (
    KL,
    Objective,
    TokenTerms,
    is_clipped,
    kl_estimate,
    log_ratio,
    surrogate_loss,
    token_terms,
    token_weights,
    weighted_loss,
)
from visurf.shaping import Shaping, off_policy_ratio, on_policy_ratio

Runner = Callable[[Mapping[str, Any]], tuple[bool, object]]

_FAILURES = (ValueError, TypeError, KeyError, IndexError, ZeroDivisionError, OverflowError)
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
# Where verl and LUFFY take 1 for a deviation, it is a single-precision 1, and so is its sum with their constant.
_EPS_OF_ONE = float(torch.tensor(1.0) + 1e-6) - 1
_VERL_KL: dict[str, KL] = {"kl": "k1", "abs": "abs", "mse": "mse", "low_var_kl": "k3_clamped"}
_LUFFY_SHAPES: dict[str, Shaping] = {
    "no_reshape": Shaping(),
    "logp": Shaping("log"),
    "p_logp": Shaping("ratio_log"),
    "square_root": Shaping("square_root"),
    "pow": Shaping("power"),
    "p_div_p_0.1": Shaping("saturating", constant=0.1),
    "p_div_p_0.3": Shaping("saturating", constant=0.3),
    "p_div_p_0.5": Shaping("saturating", constant=0.5),
}


def _matrix(rows: Any) -> Tensor:
    return torch.tensor([[_NON_FINITE.get(v, v) if isinstance(v, str) else v for v in row] for row in rows], dtype=torch.float64)


def _attempt(function: Callable[[Mapping[str, Any]], Any], data: Mapping[str, Any]) -> Any:
    try:
        return function(data)
    except _FAILURES as error:
        return {"raises": type(error).__name__}


def _close(expected: Any, got: Any, tolerance: float) -> bool:
    """`agrees`, with the tolerance relative for large numbers."""
    if isinstance(expected, list) and isinstance(got, list):
        return len(expected) == len(got) and all(_close(e, g, tolerance) for e, g in zip(expected, got, strict=True))
    large = abs(expected) if isinstance(expected, int | float) and math.isfinite(expected) else 1.0
    return agrees(expected, got, tolerance * max(1.0, large))


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean over masked entries; NaN without any."""
    return (values * mask).sum() / mask.sum()


def run_visurf(case: Mapping[str, Any]) -> tuple[bool, object]:
    """Advantages of a group with its label, plain and smoothed, for both deviations."""
    data, expected = case["input"], case["expected"]
    rollouts, label = data["rollout_rewards"], data["label_reward"]
    got: dict[str, Any] = {}
    smoothed, fired = smooth(rollouts, label)
    for name, reward in (("plain", label), ("smoothed", smoothed)):
        rewards = [*rollouts, reward]
        for ddof in (0, 1):
            advantages = group_advantages(rewards, ddof=ddof, eps=0)
            of_label = 0.0 if name == "smoothed" and fired else advantages[-1]
            got[f"{name}_ddof{ddof}"] = {
                "mean": sum(rewards) / len(rewards),
                "std": 0.0 if is_flat(rewards) else spread(rewards, ddof),
                "advantages_rollouts": list(advantages[:-1]),
                "advantage_label": of_label,
            }
    got |= {"smoothing_applied": fired, "label_reward_used": smoothed}
    values = [*rollouts, label]
    # With next to no spread, the quotient of two rounding errors is all that there is.
    tolerance = 1e-6 if spread(values) < 1e-6 * max(1.0, abs(sum(values) / len(values))) else 1e-9
    return all(agrees(value, got.get(key), tolerance) for key, value in expected.items()), got


def run_grpo_advantages(case: Mapping[str, Any]) -> tuple[bool, object]:
    """TRL's advantages of a batch of groups with several reward functions."""
    data = case["input"]
    size, eps = data["group_size"], 1e-4
    rows = [[None if v is None or v == "NaN" else float(_NON_FINITE.get(v, v)) for v in row] for row in data["rewards"]]
    if data["aggregation"] == "normalize_then_sum":
        got = normalise_then_sum(rows, data["weights"], size, eps=eps)
    else:
        totals = [_total(row, data["weights"]) for row in rows]
        usable = [t for t in totals if t is not None]
        scale, batch_std = cast(Scale, data["scale_rewards"]), spread(usable)
        got = [0.0] * len(rows)
        for start in range(0, len(rows), size):
            present = [i for i in range(start, min(start + size, len(rows))) if totals[i] is not None]
            rewards = [t for i in present if (t := totals[i]) is not None]
            found = group_advantages(rewards, eps=eps, scale=scale, batch_std=batch_std) if rewards else ()
            for i, advantage in zip(present, found, strict=True):
                got[i] = advantage
    columns = [[_total(row, data["weights"]) for row in rows], *zip(*rows, strict=True)]
    groups = [[v for v in column[i : i + size] if v is not None] for column in columns for i in range(0, len(rows), size)]
    # The published code works in single precision: what its rounding makes of the spread bounds the agreement.
    rounding = max((2**-23 * max(map(abs, g)) / (spread(g) + eps) for g in groups if len(g) > 1), default=0.0)
    return _close(case["expected"], got, min(max(2e-5, rounding), 1e-3)), got


def _total(row: list[float | None], weights: list[float]) -> float | None:
    """The weighted sum of what did not abstain, None if all did."""
    values = [w * v for w, v in zip(weights, row, strict=True) if v is not None]
    return sum(values) if values else None


def _grpo_loss(data: Mapping[str, Any]) -> dict[str, Any]:
    mask = torch.tensor(data["mask"], dtype=torch.bool)
    rows, lengths, kind = mask.shape[0], mask.sum(1), data["loss_type"]
    logprobs = _matrix(data["logps"]).requires_grad_()
    old, ref = (None if data[k] is None else _matrix(data[k])[mask] for k in ("old_logps", "ref_logps"))
    member = torch.arange(rows).unsqueeze(1).expand_as(mask)[mask]
    advantages = torch.tensor(data["advantages"], dtype=torch.float64)
    cispo = kind == "cispo"
    settings = Objective(
        clip_low=data["epsilon_low"],
        clip_high=data["epsilon_high"] - 1 if cispo else data["epsilon_high"],
        ratio=data["importance_sampling_level"],
        ratio_cap=data["delta"],
        surrogate="cispo" if cispo else "clip",
    )
    new = logprobs[mask]
    terms = token_terms(new, old, advantages[member], settings, member=member, members=rows)
    kl = None
    if data["beta"]:
        ratio = None
        if data["bias_corrected_kl"]:
            ratio = torch.exp(log_ratio(new, old, settings.ratio, member=member, members=rows))
        kl = kl_estimate(new, cast(Tensor, ref), ratio=ratio)
    steps = data["gradient_accumulation_steps"]
    generated = (float(data["num_items_in_batch"]), "token")
    tokens, average = {
        "grpo": (0.0, "sequence"),
        "bnpo": (float(mask.sum()), "token"),
        "dr_grpo": (float(rows * data["max_completion_length"]), "token"),
        "dapo": generated,
        "cispo": generated,
    }[kind]
    share = data["steps_per_generation"] / steps if kind in ("dapo", "cispo") else 1 / steps
    weights = token_weights(lengths, average, tokens, rows) * share
    loss = weighted_loss(terms, weights, kl, kl_coefficient=data["beta"])
    loss.backward()
    below, above = is_clipped(terms.ratio, advantages[member], settings)
    if settings.ratio == "sequence":
        shares = [float(torch.unique(member[held]).numel()) / rows for held in (below, above)]
    else:
        shares = [float(held.sum()) / max(int(mask.sum()), 1) for held in (below, above)]
    return {
        "loss": float(loss.detach()),
        "grad": cast(Tensor, logprobs.grad).tolist(),
        "kl": None if kl is None else float(kl.detach().sum()) / max(int(mask.sum()), 1),
        "clip_low": None if cispo else shares[0],
        "clip_high": None if cispo else shares[1],
    }


def run_grpo_loss(case: Mapping[str, Any]) -> tuple[bool, object]:
    """TRL's loss with its gradient, KL and clip fractions."""
    got, expected = _attempt(_grpo_loss, case["input"]), case["expected"]
    if "raises" in got or "raises" in expected:
        return agrees(expected, got, 0), got
    exact = all(_close(expected[k], got[k], 1e-9) for k in ("loss", "grad"))
    return exact and all(_close(expected[k], got[k], 1e-6) for k in ("kl", "clip_low", "clip_high")), got


def _by_group(data: Mapping[str, Any], compute: Callable[[list[int], list[float]], tuple[float, ...]]) -> dict[str, Any]:
    """Advantages of rows that belong to groups by name, spread over each row's mask."""
    scores = [sum(row) for row in data["token_rewards"]]
    mask = _matrix(data["mask"])
    values = torch.zeros(len(scores), dtype=torch.float64)
    for name in dict.fromkeys(data["group"]):
        rows = [i for i, group in enumerate(data["group"]) if group == name]
        values[rows] = torch.tensor(compute(rows, [scores[i] for i in rows]), dtype=torch.float64)
    return {"advantages": (values.unsqueeze(1) * mask).tolist()}


def _verl(data: Mapping[str, Any]) -> dict[str, Any]:
    if data["function"] == "advantage":
        return _by_group(
            data, lambda rows, scores: group_advantages(scores, eps=_EPS_OF_ONE if len(rows) == 1 else 1e-6, single="reward")
        )
    logprobs, mask = _matrix(data["logps"]).requires_grad_(), _matrix(data["mask"])
    if data["function"] == "kl":
        estimate = kl_estimate(logprobs, _matrix(data["ref_logps"]), _VERL_KL[data["kind"]])
        loss = _mean(estimate, mask)
        got: dict[str, Any] = {"per_token": estimate.detach().tolist(), "masked_mean": float(loss.detach())}
    else:
        settings = Objective(clip_low=data["cliprange"], clip_high=data["cliprange"])
        terms = token_terms(logprobs, _matrix(data["old_logps"]), _matrix(data["advantages"]), settings)
        loss = weighted_loss(terms, mask / mask.sum())
        averages = {"clip_fraction": terms.clipped, "approx_kl": terms.kl}
        got = {"loss": float(loss.detach())} | {name: float(_mean(v, mask)) for name, v in averages.items()}
    loss.backward()
    return got | {"grad": cast(Tensor, logprobs.grad).tolist()}


def run_verl_grpo(case: Mapping[str, Any]) -> tuple[bool, object]:
    """The optimiser mathematics of Seg-Zero and VisionReasoner: advantages, clipped loss, KL estimates."""
    got = _attempt(_verl, case["input"])
    return agrees(case["expected"], got, 1e-9), got


def _luffy_shaping(options: Mapping[str, Any], side: str) -> Shaping:
    shaping = _LUFFY_SHAPES[options[f"{side}_policy_reshape"]]
    weight, exponent = (options[f"{side}_policy_reshape_{name}"] for name in ("weight", "pow_exp"))
    return Shaping(shaping.shape, weight, exponent, shaping.constant)


def _luffy_loss(data: Mapping[str, Any]) -> dict[str, Any]:
    options, highest = data["options"], data["options"]["off_max_clip"]
    lowest = options["off_min_clip"]
    logprobs, old = _matrix(data["logps"]).requires_grad_(), _matrix(data["old_logps"])
    mask, advantages, prefix = (_matrix(data[k]) for k in ("mask", "advantages", "prefix_mask"))
    off_mask, on_mask = mask * prefix, mask * (1 - prefix)
    upper = max(options["clip_upper_bound"], 1 + options["cliprange"])
    free = options["loss_remove_clip"]
    settings = Objective(clip_low=options["cliprange"], clip_high=upper - 1, surrogate="free" if free else "clip")
    if options["on_policy_reshape"] == "p_div_p_0.3":
        raise ValueError("the published code has no on-policy p_div_p_0.3")
    on_ratio = on_policy_ratio(logprobs, old, _luffy_shaping(options, "on"))
    on_loss = surrogate_loss(on_ratio, advantages, settings)
    target = None if data["target_probs"] is None else _matrix(data["target_probs"])
    shaping = _luffy_shaping(options, "off")
    raw = off_policy_ratio(logprobs, shaping, written_with=target).detach()
    off_ratio = off_policy_ratio(logprobs, shaping, written_with=target, lowest=lowest, highest=highest)
    off_loss = surrogate_loss(off_ratio, advantages, Objective(surrogate="free"))
    counted, probability = mask, torch.exp(logprobs.detach())
    if options["all_max_clip"] is not None:
        counted = mask * (probability <= options["all_max_clip"])
    scale = torch.tensor(float(mask.shape[1])) if options["loss_remove_token_mean"] else counted.sum()
    whole = TokenTerms(off_loss * prefix + on_loss * (1 - prefix), on_ratio, on_ratio, on_ratio)
    loss = weighted_loss(whole, counted / scale)
    loss.backward()
    below, above = is_clipped(on_ratio.detach(), advantages, settings)

    def off(values: Tensor) -> float:
        return float(torch.nan_to_num(_mean(values, off_mask), nan=0.0))

    with torch.no_grad():
        return {
            "pg_loss": float(loss),
            "off_pg_loss": off(off_loss),
            "on_pg_loss": float(_mean(on_loss, on_mask)),
            "off_pg_clipfrac": 0.0,
            "on_pg_clipfrac": 0.0 if free else float(_mean(below | above, mask)),
            "ppo_kl": float(_mean(old - logprobs, mask)),
            "off_policy_prob": off(probability),
            "on_policy_prob": float(torch.nan_to_num(_mean(torch.exp(old), on_mask), nan=0.0)),
            "off_ratio_mean": off(off_ratio),
            "off_ratio_max_clip_frac": 0.0 if highest is None else off(raw > highest),
            "off_ratio_min_clip_frac": 0.0 if lowest is None else off(raw < lowest),
            "grad": cast(Tensor, logprobs.grad).tolist(),
        }


def _luffy(data: Mapping[str, Any]) -> dict[str, Any]:
    match data["function"]:
        case "advantage_split":
            scale: Scale = "group" if data["use_std"] else "none"

            def compute(rows: list[int], scores: list[float]) -> tuple[float, ...]:
                mine = [bool(data["on_policy"][i]) for i in rows]
                flat = is_flat([s for s, own in zip(scores, mine, strict=True) if own]) if any(mine) else False
                return split_advantages(scores, mine, eps=_EPS_OF_ONE if flat else 1e-6, scale=scale)

            return _by_group(data, compute)
        case "sft":
            logprobs, mask = _matrix(data["logps"]).requires_grad_(), _matrix(data["mask"])
            terms = token_terms(logprobs, None, torch.ones_like(mask), Objective())
            weighted_loss(terms, mask / mask.sum()).backward()
            return {"loss": float(_mean(-logprobs.detach(), mask)), "grad": cast(Tensor, logprobs.grad).tolist()}
        case "mixed_loss":
            return _luffy_loss(data)
    raise ValueError(f"unknown function {data['function']!r}")


def run_luffy(case: Mapping[str, Any]) -> tuple[bool, object]:
    """LUFFY's mixed on- and off-policy loss, its advantages against on-policy rows, and its supervised loss."""
    got = _attempt(_luffy, case["input"])
    return agrees(case["expected"], got, 1e-9), got


GROUP_FAMILIES: dict[str, Runner] = {
    "visurf": run_visurf,
    "grpo_advantages": run_grpo_advantages,
    "grpo_loss": run_grpo_loss,
    "verl_grpo": run_verl_grpo,
    "luffy": run_luffy,
}
