"""Builds the parts of a self-contained HTML page, without scripts or other files.

The functions escape texts. `content` is HTML already.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from .._shown import shown

if TYPE_CHECKING:
    from PIL.Image import Image

_TEMPLATE = Path(__file__).with_name("page.html")


def page(title: str, *content: str) -> str:
    """The whole page."""
    template = Template(_TEMPLATE.read_text(encoding="utf-8"))
    return template.substitute(title=escaped(title), body="\n".join(content))


def escaped(value: object) -> str:
    """A value as an escaped line of text; commas separate a list's items."""
    if isinstance(value, (list, tuple)):
        value = ", ".join(map(str, value))
    return html.escape(shown(value))


def section(title: str, *content: str) -> str:
    """A card with a heading."""
    return "\n".join([f"<section>\n<h2>{escaped(title)}</h2>", *content, "</section>"])


def folded(title: str, content: str, opened: bool = False) -> str:
    """Content that a click on its title shows."""
    state = " open" if opened else ""
    return f"<details{state}>\n<summary>{escaped(title)}</summary>\n{content}\n</details>"


def picture(path: Path, caption: str, dark: Path | None = None, wide: bool = False) -> str:
    """A PNG file under its caption.

    Args:
        path: the file, which is embedded in the page.
        caption: the text above it.
        dark: the file for readers who prefer dark pages.
        wide: the picture scrolls on narrow screens.
    """
    title = f"<figcaption>{escaped(caption)}</figcaption>"
    light = f'<img alt="{escaped(caption)}" src="{_data("png", path.read_bytes())}">'
    if dark is not None:
        source = _data("png", dark.read_bytes())
        light = (
            f'<picture><source media="(prefers-color-scheme: dark)" srcset="{source}">'
            f"{light}</picture>"
        )
    return f"<figure>{title}{scrolled(light) if wide else light}</figure>"


def gallery(pictures: Iterable[tuple[Image, tuple[str, ...]]]) -> str:
    """Small pictures side by side, each with lines of text below it."""
    items = []
    for image, texts in pictures:
        content = io.BytesIO()
        image.save(content, format="jpeg", quality=85)
        lines = "".join(f"<span>{escaped(text)}</span>" for text in texts)
        items.append(
            f'<figure><img alt="" src="{_data("jpeg", content.getvalue())}">'
            f"<figcaption>{lines}</figcaption></figure>"
        )
    return "\n".join(['<div class="gallery">', *items, "</div>"])


def side_by_side(*content: str) -> str:
    """Columns, or one below the other on narrow screens."""
    return "\n".join(['<div class="columns">', *content, "</div>"])


def scrolled(content: str) -> str:
    """Content that may be wider than a phone's screen, and then scrolls."""
    return f'<div class="scrolled">\n{content}\n</div>'


def _data(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def note(text: str) -> str:
    """A line in small print."""
    return f'<p class="quiet">{escaped(text)}</p>'


def statement(text: str, warning: bool = False) -> str:
    """The page's main sentences; a warning stands out."""
    return f'<p class="{"warning" if warning else "statement"}">{escaped(text)}</p>'


def code(*lines: str) -> str:
    """Lines to copy."""
    text = "\n".join(map(escaped, lines))
    return f"<pre><code>{text}</code></pre>"


def numbers(tiles: Iterable[tuple[str, str, str]]) -> str:
    """Large numbers, each with its name and a note."""
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
