"""Draws a confusion matrix as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from .figures import Theme, draw_both, label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The largest numbers of classes for which there is room for counts, and for names.
_COUNTS, _NAMES = 20, 60


def draw_confusion_matrix(path: Path, confusion: Tensor, classes: list[str]) -> None:
    """Draws a confusion matrix into PNG files (see `draw_both`), colored by each row's shares.

    Args:
        path: the light file.
        confusion: int64 [classes, classes]; rows are the true classes, columns the predicted ones.
        classes: their names.
    """
    side = min(max(3.0, 1.5 + 0.5 * len(classes)), 8.0)
    draw_both(
        path, (side * 1.15, side), lambda figure, theme: _draw(figure, theme, confusion, classes)
    )


def _draw(figure: Figure, theme: Theme, confusion: Tensor, classes: list[str]) -> None:
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm
    from matplotlib.ticker import PercentFormatter

    count = len(classes)
    shares = (confusion / confusion.sum(dim=1, keepdim=True).clamp(min=1)).numpy()
    axes = figure.subplots()
    colors = LinearSegmentedColormap.from_list("shares", (theme.page, theme.training))
    # The colour follows the square root, so that rare confusions show.
    norm = PowerNorm(0.5, vmin=0, vmax=1)
    image = axes.imshow(shares, cmap=colors, norm=norm)
    figure.colorbar(
        image,
        ax=axes,
        shrink=0.8,
        ticks=[0, 0.05, 0.2, 0.5, 1],
        format=PercentFormatter(1, decimals=0),
        label="share of the true class",
    )
    axes.set(xlabel="predicted class", ylabel="true class")
    if count <= _NAMES:
        names = [label(name) for name in classes]
        size = "medium" if count <= _COUNTS else "xx-small"
        slanted: dict[str, Any] = dict(rotation=45, ha="right", rotation_mode="anchor")
        axes.set_xticks(range(count), names, fontsize=size, **slanted)
        axes.set_yticks(range(count), names, fontsize=size)
    if count <= _COUNTS:
        lightness = colors(norm(shares))[..., :3] @ (0.299, 0.587, 0.114)
        for (row, column), images in np.ndenumerate(confusion.numpy()):
            if images:
                colour = "black" if lightness[row, column] > 0.5 else "white"
                axes.text(column, row, images, ha="center", va="center", color=colour, fontsize=9)
