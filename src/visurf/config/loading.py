"""From YAML and ``key=value`` arguments to settings; what cannot be used is an error that names its key."""

from __future__ import annotations

import dataclasses
import json
import shlex
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from visurf.config.hints import unknown_key
from visurf.config.limits import ConfigError
from visurf.config.settings import Config
from visurf.config.shipped import find_recipe
from visurf.naming import suggestion
from visurf.plain_yaml import read_yaml

C = TypeVar("C")
_OF_RECIPES = ("visurf.config.settings", "visurf.control")


def build(cls: type[C], values: Mapping[str, Any], where: str = "") -> C:
    """Fill a configuration dataclass from plain values.

    Raises:
        ConfigError: Unknown key (with a suggestion), wrong type or value.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where or 'the recipe'}: expected keys and values, got {values!r}")
    hints = typing.get_type_hints(cls)
    known = {f.name: hints[f.name] for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    arguments = {}
    for key, value in values.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in known:
            # Other files that are built so, such as a study's, have keys of their own.
            if cls.__module__ in _OF_RECIPES:
                raise ConfigError(unknown_key(path, value, known))
            raise ConfigError(f"unknown key {path!r}{suggestion(str(key), dict(known))}")
        arguments[key] = _convert(known[key], value, path)
    return cls(**arguments)


def _convert(kind: Any, value: Any, path: str) -> Any:
    if kind is Any:
        return value
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return value if isinstance(value, kind) else build(kind, value, path)  # type: ignore[arg-type]
    if origin is Literal:
        # YAML reads on and off as booleans.
        value = {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) and "on" in inner else value
        if value in inner or str(value) in inner:
            return value if value in inner else str(value)
        raise ConfigError(f"{path}: expected one of {', '.join(map(str, inner))}, got {value!r}")
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in inner:
            return None
        return _convert(next(i for i in inner if i is not type(None)), value, path)
    if origin is tuple:
        # One name of a few needs no brackets.
        if isinstance(value, str) and value and typing.get_origin(inner[0]) is Literal:
            value = [value]
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise ConfigError(f"{path}: expected a list, got {value!r}")
        if len(inner) == 2 and inner[1] is Ellipsis:
            return tuple(_convert(inner[0], v, f"{path}[{i}]") for i, v in enumerate(value))
        if len(value) != len(inner):
            raise ConfigError(f"{path}: expected {len(inner)} values, got {value!r}")
        return tuple(_convert(i, v, path) for i, v in zip(inner, value, strict=True))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}: expected keys and values, got {value!r}")
        return {str(k): _convert(inner[1], v, f"{path}.{k}") for k, v in value.items()}
    return _scalar(kind, value, path)


def _scalar(kind: Any, value: Any, path: str) -> Any:
    if kind is float and not isinstance(value, bool):
        # YAML reads 1e-6 as text; the number is what was meant.
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            pass
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind is str and value is None:
        # `key=` on the command line, and a key without value in YAML.
        return ""
    if kind is str and isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    raise ConfigError(f"{path}: expected {kind.__name__}, got {value!r}")


def merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries, the second over the first."""
    merged = dict(base)
    for key, value in override.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """``{"a.b": 1}`` -> ``{"a": {"b": 1}}``."""
    result: dict[str, Any] = {}
    for key, value in dotted.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        result = merge(result, value)
    return result


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """``["optimizer.lr=1e-5"]`` -> nested values, each read as YAML.

    Raises:
        ConfigError: An argument is not ``key=value``.
    """
    dotted = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not key:
            raise ConfigError(f"expected key=value, got {argument!r}")
        try:
            dotted[key] = read_yaml(value)
        except ValueError as error:
            raise ConfigError(f"{argument!r}: the value is not valid YAML ({error})") from error
    return nested(dotted)


def read_recipe(path: Path | str) -> dict[str, Any]:
    """The plain values of a YAML recipe over those of its bases.

    Args:
        path: A file, or the name of a shipped recipe. Its key ``base`` names one recipe or several to begin with, by name or
            relative to its folder; of several the later wins.

    Raises:
        ConfigError: No such recipe, not a YAML mapping, or a recipe that is its own base.
    """
    return _with_bases(find_recipe(path), ())


def _with_bases(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    chain = (*above, path.resolve())
    if path.resolve() in above:
        raise ConfigError(f"a recipe is its own base: {' -> '.join(p.name for p in chain)}")
    if _is_data(path):
        raise ConfigError(f"{path}: this is data, no recipe; `visurf init {shlex.quote(str(path))}` writes a recipe for it")
    try:
        values = read_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: not valid YAML ({error})") from error
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path}: expected keys and values, got {type(values).__name__}")
    own = dict(values)
    names = own.pop("base", [])
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(f"{path}: base: expected the name of a recipe or a list of names, got {names!r}")
    merged: dict[str, Any] = {}
    for name in names:
        merged = merge(merged, _with_bases(find_recipe(name, path.parent), chain))
    return merge(merged, own)


def _is_data(path: Path) -> bool:
    """Whether a file holds samples by its name; one of JSON does where none of its keys is a recipe's."""
    suffix = path.suffix.casefold()
    if suffix != ".json":
        return suffix in (".jsonl", ".csv", ".tsv")
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        # YAML allows more than JSON.
        return False
    return not isinstance(values, Mapping) or values.keys().isdisjoint({"base", *(f.name for f in dataclasses.fields(Config))})


def load_config(recipe: Path | str | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Defaults, then the recipe, then the overrides (nested).

    Raises:
        ConfigError: See `build` and `read_recipe`.
    """
    return build(Config, merge(read_recipe(recipe) if recipe else {}, overrides or {}))


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested values of a configuration, fit for YAML."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return value
