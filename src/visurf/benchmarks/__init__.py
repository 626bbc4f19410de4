"""Data sets in their original layout, one file each; importing this package reads none of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from visurf.plain_yaml import read_yaml
from visurf.types import DataError, Sample


@dataclass(frozen=True)
class Benchmark:
    """A data set as it is distributed.

    Attributes:
        name: As one writes it on the command line.
        task: The name of the task its samples belong to.
        splits: What `load` takes.
        load: `load(root, split, *, report=None, ...) -> list[Sample]`; decodes no image.
        metrics: Names of the metrics it is reported with, the main one first.
        source: Where to get it.
        licence: Terms of annotations and images.
        notes: What one must know before comparing a number.
        annotations: (root, split) -> the annotation file in COCO's layout that AP is computed on, where there is one.
        federated: AP follows LVIS's rules.
    """

    name: str
    task: str
    splits: tuple[str, ...]
    load: Callable[..., list[Sample]]
    metrics: tuple[str, ...]
    source: str
    licence: str
    notes: str = ""
    annotations: Callable[[Path, str], Path] | None = None
    federated: bool = False


BENCHMARKS = {
    "aircraft": "visurf.benchmarks.aircraft:BENCHMARK",
    "cars": "visurf.benchmarks.cars:BENCHMARK",
    "chartqa": "visurf.benchmarks.chartqa:BENCHMARK",
    "coco": "visurf.benchmarks.coco:BENCHMARK",
    "docvqa": "visurf.benchmarks.docvqa:BENCHMARK",
    "flowers102": "visurf.benchmarks.flowers102:BENCHMARK",
    "grefcoco": "visurf.benchmarks.grefcoco:BENCHMARK",
    "isic2018": "visurf.benchmarks.isic2018:BENCHMARK",
    "lisa_grounding": "visurf.benchmarks.lisa_grounding:BENCHMARK",
    "lmms_refcoco": "visurf.benchmarks.lmms_refcoco:BENCHMARK",
    "lvis": "visurf.benchmarks.lvis:BENCHMARK",
    "mathvista": "visurf.benchmarks.mathvista:BENCHMARK",
    "omniact": "visurf.benchmarks.omniact:BENCHMARK",
    "pets": "visurf.benchmarks.pets:BENCHMARK",
    "real_iad": "visurf.benchmarks.real_iad:BENCHMARK",
    "real_iad_yes_no": "visurf.benchmarks.real_iad:YES_NO",
    "reasonseg": "visurf.benchmarks.reasonseg:BENCHMARK",
    "refcoco": "visurf.benchmarks.refcoco:REFCOCO",
    "refcoco+": "visurf.benchmarks.refcoco:REFCOCO_PLUS",
    "refcocog": "visurf.benchmarks.refcoco:REFCOCOG",
    "virft_classification": "visurf.benchmarks.virft:CLASSIFICATION",
    "virft_detection": "visurf.benchmarks.virft:DETECTION",
    "visionreasoner_test": "visurf.benchmarks.visionreasoner:TEST",
    "visionreasoner_train": "visurf.benchmarks.visionreasoner:TRAIN",
    "vlm_r1": "visurf.benchmarks.vlm_r1:BENCHMARK",
}


# Options that name folders, files or splits, and those that name classes: YAML would read some names as other values.
_NAMES = ("root", "split", "images", "test_list", "json_folder")
_CLASSES = ("classes", "categories")


def read_option(name: str, text: str) -> Any:
    """The value of an option: YAML, but names are texts, those of classes where they are no list in brackets.

    Raises:
        ValueError: Not YAML.

    >>> read_option("categories", "yes, no"), read_option("classes", "[cat]"), read_option("all_absent", "yes")
    ('yes, no', ['cat'], True)
    """
    if name in _NAMES or (name in _CLASSES and not text.lstrip().startswith("[")):
        return text
    return int(text) if text.isdecimal() else read_yaml(text)


def read_options(arguments: Sequence[str]) -> dict[str, Any]:
    """``["absent=2"]`` -> options of a loader, each read by `read_option`.

    Raises:
        DataError: An argument is not ``key=value``, or its value cannot be read.
    """
    found = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals or not name:
            raise DataError(f"an option: expected key=value, got {argument!r}")
        try:
            found[name] = read_option(name, text)
        except ValueError as error:
            raise DataError(f"option {argument!r}: the value is not valid YAML ({error})") from error
    return found


def loader_options(options: Mapping[str, Any], root: Path | str = "") -> dict[str, Any]:
    """Arguments of a loader from texts: names of class lists become the lists, paths become paths below `root`.

    `classes` and `categories` may also be names with commas between them.

    Raises:
        DataError: There is no such class list.
    """
    from visurf.benchmarks.class_lists import class_list

    found = dict(options)
    for name in ("classes", "categories"):
        if isinstance(text := found.get(name), str):
            listed = tuple(part.strip() for part in text.split(",") if part.strip())
            found[name] = class_list(text) if name == "classes" and "," not in text else listed
    return found | {name: Path(root, str(found[name])) for name in ("images", "test_list") if name in found}


def get_benchmark(name: str) -> Benchmark:
    """A data set by its name, or an outside one by `pkg.module:NAME`.

    Raises:
        DataError: Unknown name, or no Benchmark at that place.
    """
    place = BENCHMARKS.get(name, name)
    module, separator, attribute = place.partition(":")
    if not separator:
        hint = get_close_matches(name, BENCHMARKS, n=1)
        raise DataError(
            f"unknown benchmark {name!r}" + (f"; did you mean {hint[0]!r}?" if hint else f"; known: {sorted(BENCHMARKS)}")
        )
    try:
        value = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise DataError(f"benchmark {name!r}: {place} cannot be imported ({error})") from error
    if not isinstance(value, Benchmark):
        raise DataError(f"benchmark {name!r}: {place} is a {type(value).__name__}, expected a Benchmark")
    return value
