"""The wide world: families of rendered scenes beside the referring one, each a file of its own, as sources of data.

``world:KIND?domain=DOMAIN&count=N&seed=S`` with ``traces=1`` for labels that bring their reasoning, and the family's own
options. What is asked is answered by the project's own tasks; a world only brings pictures, questions and truths.
"""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

from visurf.mini.worlds.anomaly import SURFACES
from visurf.mini.worlds.asked import Asked, Drawn, World
from visurf.mini.worlds.counting import COUNTING_SHAPES
from visurf.mini.worlds.detection import DETECTION_SHAPES
from visurf.mini.worlds.gui import GUI_WINDOWS
from visurf.mini.worlds.lesion import LESIONS
from visurf.mini.worlds.naming import NAMING
from visurf.mini.worlds.reasoning import REASONING
from visurf.mini.worlds.referring import REFERRING_SHAPES
from visurf.types import DataError, Sample

_ALL = (REFERRING_SHAPES, REASONING, GUI_WINDOWS, SURFACES, LESIONS, COUNTING_SHAPES, NAMING, DETECTION_SHAPES)
WORLDS: dict[str, World] = {world.name: world for world in _ALL}

__all__ = ["WORLDS", "Asked", "Drawn", "World", "world_samples"]


def world_samples(source: str, task: str) -> list[Sample]:
    """The samples of ``world:KIND?...``.

    Args:
        source: The whole source.
        task: The name of the task they are for.

    Raises:
        DataError: An unknown family, domain or option, a value that cannot be read, or a task that needs other targets.
    """
    parts = urlsplit(source)
    options = dict(parse_qsl(parts.query))
    world = WORLDS.get(parts.path)
    if world is None:
        raise DataError(f"{source}: expected world:{'|'.join(WORLDS)}?domain=D&count=N&seed=S&traces=0|1")
    own = "".join(f"&{name}={value}" for name, value in world.options.items())
    expected = f"expected world:{world.name}?domain={'|'.join(world.domains)}&count=N&seed=S&traces=0|1{own}"
    domain = options.pop("domain", next(iter(world.domains)))
    try:
        count, seed = int(options.pop("count", 400)), int(options.pop("seed", 0))
        traces = bool(int(options.pop("traces", 0)))
        if domain not in world.domains or set(options) - set(world.options):
            raise DataError(f"{source}: {expected}")
        if task not in world.tasks:
            raise DataError(f"{source}: asks what the tasks {', '.join(world.tasks)} answer, not {task!r}")
        return world.samples(domain, count, seed, options, traces)
    except (ValueError, KeyError) as error:
        raise error if isinstance(error, DataError) else DataError(f"{source}: {expected}; {error}") from error
