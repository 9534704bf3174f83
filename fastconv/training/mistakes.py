"""The images that a network was most surely wrong about, on one page."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..data import Images
from .figures import label, new_figure, save_figure

if TYPE_CHECKING:
    from .scores import Mistake

_COLUMNS = 6


def draw_mistakes(path: Path, mistakes: list[Mistake], images: Images, classes: list[str]) -> None:
    """Draws misclassified images into a PNG file, with what they are and were taken for.

    Args:
        path: the file.
        mistakes: see `Scores`; where there are none, the page says so.
        images: the part of the data set that their indices are for.
        classes: the names of its classes.

    Raises:
        fastconv.data.DataError: an image can no longer be read.
    """
    rows = max(1, math.ceil(len(mistakes) / _COLUMNS))
    figure = new_figure(10, 2.3 * rows)
    if not mistakes:
        figure.text(0.5, 0.5, "No mistakes.", ha="center", va="center", fontsize="x-large")
    places = figure.subplots(rows, _COLUMNS, squeeze=False).flatten()
    for axes in places:
        axes.axis("off")
    for number, (axes, mistake) in enumerate(zip(places, mistakes, strict=False), start=1):
        axes.imshow(np.asarray(images.frame(mistake.index)), cmap="gray", vmin=0, vmax=255)
        right, wrong = (label(classes[i], 20) for i in (mistake.label, mistake.predicted))
        caption = f"{number}. {right}\ntaken for\n{wrong} {mistake.probability:.0%}"
        axes.text(0.5, -0.04, caption, transform=axes.transAxes, ha="center", va="top", fontsize=8)
    save_figure(path, figure)
