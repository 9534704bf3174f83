"""What the pictures of a run have in common."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from .._shown import shown
from .atomic import replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 120


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that many inches."""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(path: Path, figure: Figure) -> None:
    """Writes a figure into a PNG file, replacing an older one at once."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a box stands for what the font lacks
        replace_file(path, lambda temporary: figure.savefig(temporary, dpi=DPI, format="png"))


def label(text: str, width: int = 24) -> str:
    """A user's text as matplotlib can draw it: one line of at most `width` characters."""
    text = shown(text)
    if len(text) > width:
        text = text[: width - 1].rstrip(" ,") + "…"
    return text.replace("$", r"\$")  # no mathematics
