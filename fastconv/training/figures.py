"""Helpers for drawn pictures. A report has a light and a dark version of each."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .._shown import shown
from .atomic import replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 160


class Theme(NamedTuple):
    """Colors of a picture; `page` is the background in page.html."""

    page: str
    text: str
    line: str
    training: str
    validation: str
    test: str
    best: str


LIGHT = Theme("#ffffff", "#1c2430", "#c9d0d8", "#1f77b4", "#c95602", "#555555", "#2a8a2a")
DARK = Theme("#1b2129", "#e6eaf0", "#46515f", "#6db3f2", "#ff9d5c", "#b5bdc8", "#6ccb6c")


def dark_path(path: Path) -> Path:
    """The path of a picture's dark version."""
    return path.with_name(f"{path.stem}-dark{path.suffix}")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure; width and height are in inches."""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(path: Path, figure: Figure) -> None:
    """Writes a figure into a PNG file, replacing an older one atomically."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # characters that the font lacks become boxes
        replace_file(path, lambda temporary: figure.savefig(temporary, dpi=DPI, format="png"))


def draw_both(
    path: Path, size: tuple[float, float], draw: Callable[[Figure, Theme], object]
) -> None:
    """Writes a picture and its dark version into PNG files.

    Args:
        path: the light version's file.
        size: width and height in inches.
        draw: draws into an empty figure.
    """
    from matplotlib import rc_context

    for file, theme in ((path, LIGHT), (dark_path(path), DARK)):
        colors = {
            **dict.fromkeys(("figure.facecolor", "axes.facecolor"), theme.page),
            **dict.fromkeys(("text.color", "axes.labelcolor"), theme.text),
            **dict.fromkeys(("xtick.labelcolor", "ytick.labelcolor"), theme.text),
            **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), theme.line),
            "grid.color": theme.line,
        }
        with rc_context(colors):  # type: ignore[arg-type]
            figure = new_figure(*size)
            draw(figure, theme)
            save_figure(file, figure)


def label(text: str, width: int = 24) -> str:
    """Shortens a user's text to one line of `width` characters that matplotlib can draw."""
    text = shown(text)
    if len(text) > width:
        text = text[: width - 1].rstrip(" ,") + "…"
    return text.replace("$", r"\$")  # no math mode
