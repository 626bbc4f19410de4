"""Recipes that ship with the package: YAML files in the folder `recipes`, found by name."""

from __future__ import annotations

import difflib
from pathlib import Path

from visurf.config.limits import ConfigError

FOLDER = Path(__file__).parents[1] / "recipes"
# The recipe of `visurf demo`, which lies beside the embedded model.
DEMO = Path(__file__).parents[1] / "mini" / "demo.yaml"


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of every shipped recipe, sorted; files that begin with ``_`` are bases of others and not listed."""
    files = (p for p in FOLDER.rglob("*.yaml") if not p.name.startswith("_"))
    return dict(sorted((p.relative_to(FOLDER).with_suffix("").as_posix(), p) for p in files))


def find_recipe(name: Path | str, beside: Path | None = None) -> Path:
    """The file of a recipe: a path where there is such a file, else the name of a shipped one.

    Args:
        name: ``my.yaml``, ``visual_rft/coco_base65_2b`` or ``demo``.
        beside: The folder that a path is relative to; None for the current one.

    Raises:
        ConfigError: There is neither; suggests the nearest shipped one.
    """
    path = Path(name) if beside is None else beside / name
    if path.is_file():
        return path
    shipped = FOLDER / f"{name}.yaml"
    if shipped.is_file():
        return shipped
    if str(name) == "demo":
        return DEMO
    # All their names would be a page.
    near = difflib.get_close_matches(str(name), [*shipped_recipes(), "demo"], n=1)
    raise ConfigError(
        f"no recipe at {name}, and none of that name ships with visurf{f'; did you mean {near[0]!r}?' if near else ''} "
        "(`visurf recipes` lists those that do, `visurf init DATA.jsonl` writes one)"
    )


def header(path: Path) -> dict[str, str]:
    """What the comment at a recipe's head says.

    Returns:
        The first line as ``about``, then ``Key: text`` by key in lower case; a line that begins with more spaces goes on with the
        text before it.
    """
    found: dict[str, str] = {}
    key = "about"
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        text = line.removeprefix("#")
        name, colon, rest = text.strip().partition(": ")
        if not found:
            found[key] = text.strip()
        elif text.startswith("  ") or not colon:
            # A command goes on after a backslash.
            found[key] = found[key].removesuffix(" \\") + " " + text.strip()
        else:
            key = name.lower()
            found[key] = rest.strip()
    return found
