"""YAML from files that others wrote: plain values only, of bounded size, and one kind of error."""

from __future__ import annotations

from typing import Any

import yaml

# Far above any recipe; a few lines of references to references stand for billions of values.
MAX_VALUES = 100_000
# The scanner takes quadratic time in the depth.
MAX_DEPTH = 100


class _BoundedLoader(yaml.SafeLoader):
    """PyYAML's loader of plain values, with a limit on the depth that is checked while it reads."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """See PyYAML; a node below `MAX_DEPTH` others is a ValueError."""
        if self.depth >= MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def read_yaml(text: str) -> Any:
    """The plain values that a YAML text stands for.

    Raises:
        ValueError: Not YAML, a tag that names code, a value that Python cannot hold, nested deeper than `MAX_DEPTH`, or more than
            `MAX_VALUES` values with every reference written out, which is also what a reference to itself is.
    """
    try:
        # The loader is a subclass of the safe one.
        values = yaml.load(text, Loader=_BoundedLoader)
    # The constructors of dates and numbers raise what their parts raise.
    except (yaml.YAMLError, ValueError, KeyError, AttributeError, TypeError, IndexError, OverflowError) as error:
        raise ValueError(str(error)) from error
    left, seen = [values], 0
    while left:
        value = left.pop()
        seen += 1
        if seen + len(left) > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES} values with every reference written out")
        if isinstance(value, dict):
            left += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set):
            left += value
    return values
