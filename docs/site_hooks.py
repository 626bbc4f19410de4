"""What MkDocs does not do by itself: links that leave the folder of documentation, and formulas without a script."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

ROOT = Path(__file__).parents[1]
_OUTSIDE = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)#]+)(#[^)]*)?\)")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A link to a file outside of docs/ becomes its name: the site does not hold it."""
    folder = ROOT / "docs" / Path(page.file.src_uri).parent

    def plain(match: re.Match[str]) -> str:
        place = (folder / match[2]).resolve()
        inside = place.is_relative_to(ROOT / "docs")
        return match[0] if inside else f"{match[1]} (`{place.relative_to(ROOT)}` in the repository)"

    return _OUTSIDE.sub(plain, markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Formulas as MathML, which browsers draw themselves."""

    def drawn(match: re.Match[str]) -> str:
        return convert(html.unescape(match[3]), display="block" if match[2] == "[" else "inline")

    return _FORMULA.sub(drawn, content)
