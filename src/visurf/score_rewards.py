"""Every reward as a function of one row of a file; see `visurf.score_file`, which reads and writes the files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from visurf.geometry import Frame
from visurf.parsing import parse_objects, parse_points
from visurf.rewards import (
    Variant,
    mathematics,
    segzero,
    shaping,
    visionreasoner,
    visual_rft,
    visual_rft_detection,
    vlm_r1,
    vlm_r1_detection,
    vlm_r1_text,
)
from visurf.score_rows import (
    Row,
    detection_label,
    fenced_label,
    grounding_label,
    plain_label,
    referred_label,
    segzero_label,
    visionreasoner_label,
)
from visurf.types import DataError, ParseError, Point, Points

Parts = dict[str, float]
_PLAIN_FRAME = Frame((1.0, 1.0), (1, 1))


@dataclass(frozen=True)
class Options:
    """What holds for every row of a file.

    Attributes:
        variant: Of the reward.
        symbolic: Whether published rewards with a symbolic first stage ask its library where a row has no ``symbolic_match``.
        limit_s: Seconds one row may take in a symbolic library.
    """

    variant: Variant = "sound"
    symbolic: bool = True
    limit_s: float = 10.0


@dataclass(frozen=True)
class FileReward:
    """A reward over rows.

    Attributes:
        rate: (row, options) -> named parts and ``total``. DataError for a bad row.
        fields: What a row has besides ``id`` and ``completion``; optional ones in brackets.
        variants: The variants it has, the default first.
    """

    rate: Callable[[Row, Options], Parts]
    fields: tuple[str, ...] = ("target",)
    variants: tuple[Variant, ...] = ("published",)


ALL_VARIANTS: tuple[Variant, ...] = ("sound", "published", "paper")


def _verdict(row: Row, options: Options, text: str, solution: str) -> bool | None:
    """The symbolic stage of a published reward: the row's own verdict, else the library's, else None."""
    if row.values.get("symbolic_match") is not None:
        return cast(bool, row.field("symbolic_match", bool, "true or false"))
    if not options.symbolic or options.variant != "published":
        return None
    return mathematics.symbolic_match(text, solution, limit_s=options.limit_s)


def _totalled(parts: Parts) -> Parts:
    return {**parts, "total": sum(parts.values())}


def _visionreasoner(row: Row, options: Options) -> Parts:
    truth = row.text_target(visionreasoner_label)
    if options.variant == "sound" and not visionreasoner.is_truth(truth):
        raise DataError(f"field 'target': expected a JSON list of objects with bbox_2d and point_2d, got {truth!r:.100}")
    return visionreasoner.score(row.completion, truth, variant=options.variant)


def _segzero(strict: bool) -> FileReward:
    return FileReward(lambda row, _: segzero.score(row.completion, row.text_target(segzero_label), strict=strict))


def _detection(row: Row, options: Options) -> Parts:
    texts = row.completion, row.text_target(detection_label)
    return visual_rft_detection.detection(*texts, symbolic=_verdict(row, options, *texts), variant=options.variant)


def _visual_rft(reward: Callable[..., float], write: Callable[[Any], str]) -> FileReward:
    def rate(row: Row, options: Options) -> Parts:
        texts = row.completion, row.text_target(write)
        accuracy = reward(*texts, symbolic=_verdict(row, options, *texts), variant=options.variant)
        return _totalled({"accuracy": accuracy, "format": visual_rft.thinking_format(texts[0])})

    return FileReward(rate, ("target", "[symbolic_match]"), ALL_VARIANTS)


def _referred(family: vlm_r1.Family | None) -> FileReward:
    def rate(row: Row, _: Options) -> Parts:
        name = row.values.get("family", "qwen") if family is None else family
        if name not in ("qwen", "internvl", "glm"):
            raise DataError(f"field 'family': expected qwen, internvl or glm, got {name!r:.100}")
        size, grid = (1, 1), (1, 1)
        if name == "qwen":
            size = int(row.number("image_width", least=1)), int(row.number("image_height", least=1))
            grid = int(row.number("grid_w")), int(row.number("grid_h"))
        label = row.text_target(referred_label)
        iou = vlm_r1.rec_iou(row.completion, label, family=name, image_size=size, grid=grid)
        return _totalled({"iou": iou, "format": vlm_r1.rec_format(row.completion, family=name)})

    where = ("image_width", "image_height", "grid_w", "grid_h") if family in (None, "qwen") else ()
    return FileReward(rate, ("target", *where, *(("[family]",) if family is None else ())))


DETECTION_METHODS: dict[str, Callable[[str, str], float]] = {
    "map": vlm_r1_detection.mean_average_precision,
    "od_ap": vlm_r1_detection.od_ap,
    "od_ap50": lambda text, solution: vlm_r1_detection.od_ap(text, solution, only_50=True),
    "odLength": vlm_r1_detection.od_length,
    "weighted_sum": vlm_r1_detection.weighted_sum,
}
TEXT_METHODS: dict[str, Callable[[str, str], float]] = {
    "mcq": vlm_r1_text.multiple_choice,
    "yes_no": vlm_r1_text.yes_no,
    "all_match": vlm_r1_text.all_match,
    "math": vlm_r1_text.math_accuracy,
    "default": vlm_r1_text.default_accuracy,
}


def _by_method(methods: Mapping[str, Callable[[str, str], float]], write: Callable[[Any], str], name: str = "") -> FileReward:
    """One method, or without a name the one that each row's field ``method`` says."""

    def rate(row: Row, options: Options) -> Parts:
        method = name or row.field("method", str, "the method's name")
        if method not in methods:
            raise DataError(f"field 'method': expected one of {', '.join(methods)}, got {method!r:.100}")
        text, label = row.completion, row.text_target(write)
        if method == "default":
            verdict = _verdict(row, options, *vlm_r1_text.default_answers(text, label))
            return _totalled({"accuracy": vlm_r1_text.default_accuracy(text, label, symbolic=verdict)})
        if method == "math":
            return _totalled({"accuracy": vlm_r1_text.math_accuracy(text, label, limit_s=options.limit_s)})
        return _totalled({"accuracy": methods[method](text, label)})

    method = () if name else ("method",)
    return FileReward(rate, ("target", *method, *(("[symbolic_match]",) if "default" in (name or methods) else ())))


def _answer_score(row: Row, options: Options) -> Parts:
    return mathematics.answer_score(row.completion, row.text_target(plain_label), limit_s=options.limit_s)


def _boxed_score(row: Row, options: Options) -> Parts:
    score = mathematics.boxed_score(row.completion, row.text_target(plain_label), limit_s=options.limit_s)
    return _totalled({"accuracy": score})


def _of_text(part: str, function: Callable[[str], float]) -> FileReward:
    return FileReward(lambda row, _: _totalled({part: function(row.completion)}), (), ("published",))


def _length(row: Row, _: Options) -> Parts:
    return _totalled({"length": vlm_r1_text.cosine_length(int(row.number("n_tokens")))})


def _length_penalty(row: Row, _: Options) -> Parts:
    tokens, free, limit = (int(row.number(name)) for name in ("n_tokens", "free", "limit"))
    try:
        return _totalled({"length": shaping.length_penalty(tokens, free=free, limit=limit)})
    except ValueError as error:
        raise DataError(f"field 'limit': {error}") from error


def _box_overlap(row: Row, _: Options) -> Parts:
    answer, truth = parse_objects(row.completion, _PLAIN_FRAME), row.objects()
    overlap = 0.0 if isinstance(answer, ParseError) else shaping.box_overlap(answer.boxes, truth.boxes)
    return _totalled({"overlap": overlap})


def _point_closeness(row: Row, _: Options) -> Parts:
    answer, truth = parse_points(row.completion, _PLAIN_FRAME), row.objects()
    scale = row.number("scale", least=1e-9)
    points: Sequence[Point] = answer.points if isinstance(answer, Points) else ()
    good = isinstance(answer, Points)
    return _totalled({"closeness": shaping.point_closeness(points, truth.points or (), scale=scale) if good else 0.0})


REWARDS: dict[str, FileReward] = {
    "visionreasoner": FileReward(_visionreasoner, ("target",), ALL_VARIANTS),
    "segzero": _segzero(strict=False),
    "segzero_strict": _segzero(strict=True),
    "visual_rft_detection": FileReward(_detection, ("target", "[symbolic_match]"), ALL_VARIANTS),
    "visual_rft_classification": _visual_rft(visual_rft.classification, plain_label),
    "visual_rft_lisa": _visual_rft(visual_rft.grounding, grounding_label),
    "vlm_r1_rec": _referred(None),
    "vlm_r1_rec_qwen": _referred("qwen"),
    "vlm_r1_rec_internvl": _referred("internvl"),
    "vlm_r1_rec_glm": _referred("glm"),
    "vlm_r1_detection": _by_method(DETECTION_METHODS, fenced_label),
    **{f"vlm_r1_detection_{name}": _by_method(DETECTION_METHODS, fenced_label, name) for name in DETECTION_METHODS},
    "vlm_r1_text": _by_method(TEXT_METHODS, plain_label),
    **{f"vlm_r1_text_{name}": _by_method(TEXT_METHODS, plain_label, name) for name in TEXT_METHODS},
    "vlm_r1_format": _of_text("format", vlm_r1_text.think_format),
    "vlm_r1_length": FileReward(_length, ("n_tokens",)),
    "vlm_r1_repetition": _of_text("repetition", vlm_r1_text.repetition),
    "mathematics": FileReward(_answer_score),
    "mathematics_boxed": FileReward(_boxed_score),
    "box_overlap": FileReward(_box_overlap, ("target",), ("sound",)),
    "point_closeness": FileReward(_point_closeness, ("target", "scale"), ("sound",)),
    "length_penalty": FileReward(_length_penalty, ("n_tokens", "free", "limit"), ("sound",)),
    "repetition_penalty": FileReward(
        lambda row, _: _totalled({"repetition": shaping.repetition_penalty(row.completion)}), (), ("sound",)
    ),
}
