"""Pieces of an HTML page that needs nothing else: no scripts, no other files.

Texts are escaped here; `content` is HTML already.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template

from .._shown import shown

_TEMPLATE = Path(__file__).with_name("page.html")


def page(title: str, *content: str) -> str:
    """The whole page."""
    template = Template(_TEMPLATE.read_text(encoding="utf-8"))
    return template.substitute(title=escaped(title), body="\n".join(content))


def escaped(value: object) -> str:
    """A value as a line of text; a list's items with commas between them."""
    if isinstance(value, (list, tuple)):
        value = ", ".join(map(str, value))
    return html.escape(shown(value))


def section(title: str, *content: str) -> str:
    """A card with a heading."""
    return "\n".join([f"<section>\n<h2>{escaped(title)}</h2>", *content, "</section>"])


def folded(title: str, content: str, opened: bool = False) -> str:
    """What is shown on a click on its title."""
    state = " open" if opened else ""
    return f"<details{state}>\n<summary>{escaped(title)}</summary>\n{content}\n</details>"


def picture(path: Path, text: str, wide: bool = False) -> str:
    """A PNG file, put into the page. A wide one is scrolled on narrow screens."""
    data = base64.b64encode(path.read_bytes()).decode()
    kind = ' class="wide"' if wide else ""
    return f'<figure{kind}><img alt="{escaped(text)}" src="data:image/png;base64,{data}"></figure>'


def note(text: str) -> str:
    """A line in small print."""
    return f'<p class="quiet">{escaped(text)}</p>'


def code(*lines: str) -> str:
    """Lines to copy."""
    text = "\n".join(map(escaped, lines))
    return f"<pre><code>{text}</code></pre>"


def numbers(tiles: Iterable[tuple[str, str, str]]) -> str:
    """Large numbers, each with its name and what there is to say about it."""
    lines = (
        f"<div><dt>{escaped(name)}</dt>"
        f'<dd>{escaped(value)}<span class="quiet">{escaped(remark)}</span></dd></div>'
        for name, value, remark in tiles
    )
    return "\n".join(['<dl class="numbers">', *lines, "</dl>"])


def items(texts: Iterable[str], numbered: bool = False) -> str:
    """A list."""
    kind = "ol" if numbered else "ul"
    return "\n".join([f"<{kind}>", *(f"<li>{escaped(text)}</li>" for text in texts), f"</{kind}>"])


def pairs(values: Mapping[str, object]) -> str:
    """A table of names and values."""
    rows = (
        f"<tr><th>{escaped(name)}</th><td>{escaped(value)}</td></tr>"
        for name, value in values.items()
    )
    return "\n".join(['<table class="pairs"><tbody>', *rows, "</tbody></table>"])
