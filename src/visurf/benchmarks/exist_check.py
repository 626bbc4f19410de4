"""Which (image, category) pairs a detection evaluation asks about.

The published protocol first asks whether a category is present and detects only those, so an AP means little without the
rule and its rate beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from visurf.benchmarks.rows import read_json
from visurf.benchmarks.selection import is_present
from visurf.types import DataError, Sample

ExistCheck = Literal["model", "map", "oracle", "none"]


@dataclass(frozen=True)
class PairSelection:
    """The pairs that are asked, and those that count as "no detections" unasked.

    Attributes:
        asked: Samples to run detection on.
        unasked: Samples the check said hold nothing; they stay in the score with no boxes.
        rule: Which check chose, for the report beside every AP.
    """

    asked: tuple[Sample, ...]
    unasked: tuple[Sample, ...]
    rule: str

    @property
    def rate(self) -> float:
        """Share of the pairs that are asked."""
        total = len(self.asked) + len(self.unasked)
        return len(self.asked) / total if total else 0.0


def read_exist_map(path: Path) -> dict[int, frozenset[str]]:
    """Image id to the categories a model claimed to exist, from a published map.

    Raises:
        DataError: Not an object of image ids to lists of names.
    """
    data = read_json(path)
    if not isinstance(data, dict):
        raise DataError(f"{path}: expected an object of image id to category names, got {type(data).__name__}")
    claims = {}
    for key, names in data.items():
        if not key.isdigit() or not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise DataError(f"{path}: image {key!r}: expected a numeric image id and a list of names, got {names!r:.100}")
        claims[int(key)] = frozenset(names)
    return claims


def select_pairs(
    samples: Sequence[Sample],
    check: ExistCheck,
    *,
    claims: Mapping[int, frozenset[str]] | None = None,
    ask: Callable[[Sample], bool] | None = None,
) -> PairSelection:
    """Choose the pairs to ask.

    Args:
        samples: Detection samples with `image_id` and `category` in their meta.
        check: `none` asks all, `oracle` those that are truly present, `map` those in `claims`, `model` those `ask` affirms.
        claims: For `map`, from `read_exist_map`.
        ask: For `model`.

    Raises:
        DataError: What the check needs is missing, or the map lacks an image.
    """
    if check == "none":
        return PairSelection(tuple(samples), (), "none: every pair is asked")
    decide: Callable[[Sample], bool]
    if check == "oracle":
        decide, rule = is_present, "oracle: only categories that are truly present"
    elif check == "model":
        if ask is None:
            raise DataError("exist_check 'model': expected a function that asks the model, got none")
        decide, rule = ask, "model: only categories the model itself says are present"
    elif check == "map":
        if claims is None:
            raise DataError("exist_check 'map': expected the claims of a map file, got none")
        known = claims
        if absent := sorted({s.meta["image_id"] for s in samples} - set(known)):
            raise DataError(f"exist_check 'map': the map lacks {len(absent)} images of this split, the first is {absent[0]}")

        def decide(sample: Sample) -> bool:
            return sample.meta["category"] in known[sample.meta["image_id"]]

        rule = "map: only categories another model claimed to exist"
    else:
        raise DataError(f"exist_check: expected model, map, oracle or none, got {check!r}")
    chosen = [decide(sample) for sample in samples]
    return PairSelection(
        tuple(s for s, yes in zip(samples, chosen, strict=True) if yes),
        tuple(s for s, yes in zip(samples, chosen, strict=True) if not yes),
        rule,
    )
