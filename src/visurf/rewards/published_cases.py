"""Fixture cases of the published text rewards: per family, a function from a case to values laid out as its ``expected``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from visurf.fixtures import attempt
from visurf.rewards import (
    mathematics,
    segzero,
    visionreasoner,
    visual_rft,
    visual_rft_detection,
    vlm_r1,
    vlm_r1_detection,
    vlm_r1_text,
)

Case = Mapping[str, Any]


def visionreasoner_case(case: Case) -> dict[str, Any]:
    """VisionReasoner: ``format``, ``accuracy``, ``non_repeat`` and ``total``."""
    parts = visionreasoner.score(case["input"]["prediction"], case["input"]["ground_truth"], variant="published")
    return {**parts, "format": parts["thinking_format"] + parts["answer_format"]}


def segzero_case(case: Case) -> dict[str, Any]:
    """Seg-Zero: the parts under ``lenient`` and ``strict``."""
    texts = case["input"]["prediction"], case["input"]["ground_truth"]
    return {name: segzero.score(*texts, strict=name == "strict") for name in ("lenient", "strict")}


def visual_rft_detection_case(case: Case) -> dict[str, Any]:
    """Visual-RFT detection: ``iou`` and ``confidence`` with and without the symbolic stage, and ``format``."""
    texts = _texts(case)
    rewards = {
        name: visual_rft_detection.detection(*texts, symbolic=verdict, variant="published")
        for name, verdict in (("reference", _verdict(case, *texts)), ("without_symbolic_stage", None))
    }
    return {**rewards, "format": rewards["reference"]["format"]}


def visual_rft_lisa_case(case: Case) -> dict[str, Any]:
    """Visual-RFT grounding, with and without the symbolic stage, and ``format``."""
    return _visual_rft_case(case, visual_rft.grounding)


def visual_rft_classification_case(case: Case) -> dict[str, Any]:
    """Visual-RFT classification, with and without the symbolic stage, and ``format``."""
    return _visual_rft_case(case, visual_rft.classification)


def vlm_r1_rec_case(case: Case) -> dict[str, Any]:
    """VLM-R1 referred boxes: ``iou`` and ``format`` per model family, and ``evaluation``."""
    texts, given = _texts(case), case["input"]
    where: dict[str, Any] = {
        "image_size": (given["image_width"], given["image_height"]),
        "grid": (given["grid_w"], given["grid_h"]),
    }
    families: tuple[vlm_r1.Family, ...] = ("qwen", "internvl", "glm")
    values: dict[str, Any] = {
        family: {
            "iou": attempt(vlm_r1.rec_iou, *texts, family=family, **where),
            "format": vlm_r1.rec_format(texts[0], family=family),
        }
        for family in families
    }
    evaluation = attempt(vlm_r1.rec_evaluation, *texts, **where)
    values["evaluation"] = vars(evaluation) if isinstance(evaluation, vlm_r1.Evaluation) else evaluation
    return values


def vlm_r1_detection_case(case: Case) -> dict[str, Any]:
    """VLM-R1 detection: one value per method."""
    texts = _texts(case)
    return {
        "map": attempt(vlm_r1_detection.mean_average_precision, *texts),
        "od_ap": attempt(vlm_r1_detection.od_ap, *texts),
        "od_ap50": attempt(vlm_r1_detection.od_ap, *texts, only_50=True),
        "odLength": attempt(vlm_r1_detection.od_length, *texts),
        "weighted_sum": attempt(vlm_r1_detection.weighted_sum, *texts),
    }


def vlm_r1_text_case(case: Case) -> Any:
    """VLM-R1 text answers: a number, or for ``default`` one with and one without the symbolic stage."""
    texts, method = _texts(case), case["input"]["method"]
    if method == "default":
        verdict = _verdict(case, *vlm_r1_text.default_answers(*texts))
        return {
            "reference": vlm_r1_text.default_accuracy(*texts, symbolic=verdict),
            "without_symbolic_stage": vlm_r1_text.default_accuracy(*texts),
        }
    methods: dict[str, Callable[[str, str], float]] = {
        "mcq": vlm_r1_text.multiple_choice,
        "yes_no": vlm_r1_text.yes_no,
        "all_match": vlm_r1_text.all_match,
        "math": vlm_r1_text.math_accuracy,
    }
    return methods[method](*texts)


def vlm_r1_aux_case(case: Case) -> Any:
    """VLM-R1 length, repetition, cleaning and format."""
    given = case["input"]
    if given["function"] == "cosine_length":
        return vlm_r1_text.cosine_length(given["n_tokens"])
    functions: dict[str, Callable[[str], Any]] = {
        "repetition": vlm_r1_text.repetition,
        "clean_text": vlm_r1_text.clean_text,
        "format": vlm_r1_text.think_format,
    }
    return functions[given["function"]](given["text"])


def r1v_math_case(case: Case) -> dict[str, Any]:
    """Answers in tags and in boxes, graded symbolically."""
    texts = case["input"]["prediction"], case["input"]["ground_truth"]
    tagged = mathematics.answer_score(*texts)
    content = mathematics.boxed_content(texts[0])
    return {
        **{f"r1v_{name}": value for name, value in tagged.items()},
        "boxed_total": attempt(mathematics.boxed_score, *texts),
        "boxed_content": "None" if content is None else content,
    }


def _texts(case: Case) -> tuple[str, str]:
    return case["input"]["prediction"], case["input"]["solution"]


def _verdict(case: Case, text: str, solution: str) -> bool:
    """The recorded verdict of the symbolic stage, or where none was recorded the library's."""
    recorded = case.get("symbolic_match")
    return mathematics.symbolic_match(text, solution) if recorded is None else bool(recorded)


def _visual_rft_case(case: Case, reward: Callable[..., float]) -> dict[str, Any]:
    texts = _texts(case)
    return {
        "reference": reward(*texts, symbolic=_verdict(case, *texts), variant="published"),
        "without_symbolic_stage": reward(*texts, variant="published"),
        "format": visual_rft.thinking_format(texts[0]),
    }
