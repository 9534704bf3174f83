"""What the drawn pictures of a run have in common: each is there for light and for dark pages."""

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
    """Colours of a picture; `page` is the background that page.html has behind it."""

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
    """Where a picture's dark counterpart is."""
    return path.with_name(f"{path.stem}-dark{path.suffix}")


def draw_both(
    path: Path, size: tuple[float, float], draw: Callable[[Figure, Theme], object]
) -> None:
    """Writes a picture and its dark counterpart as PNG files, replacing older ones at once.

    Args:
        path: the light one.
        size: width and height in inches.
        draw: draws into an empty figure.
    """
    # Without pyplot: no display, no global state.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    for file, theme in ((path, LIGHT), (dark_path(path), DARK)):
        colours = {
            **dict.fromkeys(("figure.facecolor", "axes.facecolor"), theme.page),
            **dict.fromkeys(("text.color", "axes.labelcolor"), theme.text),
            **dict.fromkeys(("xtick.labelcolor", "ytick.labelcolor"), theme.text),
            **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), theme.line),
            "grid.color": theme.line,
        }
        with rc_context(colours), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # a box stands for what the font lacks
            figure = Figure(figsize=size, layout="constrained")
            draw(figure, theme)
            replace_file(file, lambda part, f=figure: f.savefig(part, dpi=DPI, format="png"))


def label(text: str, width: int = 24) -> str:
    """A user's text as matplotlib can draw it: one line of at most `width` characters."""
    text = shown(text)
    if len(text) > width:
        text = text[: width - 1].rstrip(" ,") + "…"
    return text.replace("$", r"\$")  # no mathematics
