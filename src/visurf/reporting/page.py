"""One self-contained page: styles, scripts and data in a single file that works without a network."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

STYLES = ("uPlot.min.css", "page.css")
SCRIPTS = ("uPlot.iife.min.js", "elements.js", "drawing.js", "curves.js", "summary.js", "viewer.js", "compare.js", "page.js")


def finite(value: Any) -> Any:
    """A value with null for every number that JSON does not have."""
    if isinstance(value, Mapping):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def embedded(data: Any) -> str:
    r"""Data as JSON that may stand inside a script element, whatever texts it holds.

    >>> embedded("</script><!--\u2028")
    '"\\u003c/script\\u003e\\u003c!--\\u2028"'
    """
    text = json.dumps(finite(data), ensure_ascii=True, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def asset(name: str) -> str:
    """A file of the page's own."""
    return (files("visurf.reporting") / "assets" / name).read_text(encoding="utf-8")


def _joined(names: Sequence[str]) -> str:
    return "\n".join(asset(name) for name in names)


def _digest(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def policy(*, served: bool = False) -> str:
    """The page's content security policy: its own script and styles by their hashes, pictures as data, and no network.

    Args:
        served: The page comes from `visurf report --watch` and may ask that server for data and pictures.
    """
    source = " 'self'" if served else ""
    return (
        f"default-src 'none'; script-src {_digest(_joined(SCRIPTS))}; style-src {_digest(_joined(STYLES))}; "
        f"img-src data:{source}; connect-src {source.strip() or chr(39) + 'none' + chr(39)}; base-uri 'none'; form-action 'none'"
    )


def render(data: Mapping[str, Any], title: str) -> str:
    """The whole page.

    Args:
        data: What it shows; `watch` true for a page that asks its server for more.
        title: In the tab.
    """
    pieces = {
        "POLICY": html.escape(policy(served=bool(data.get("watch"))), quote=True),
        "TITLE": html.escape(title),
        "STYLES": _joined(STYLES),
        "DATA": embedded(data),
        "SCRIPTS": _joined(SCRIPTS),
    }
    # One pass over the template: what is filled in is never searched for further slots.
    first, *rest = asset("page.html").split("{{")
    found = [first]
    for part in rest:
        name, _, after = part.partition("}}")
        found += [pieces[name], after]
    return "".join(found)
