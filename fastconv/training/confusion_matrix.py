"""A confusion matrix as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from .figures import label, new_figure, save_figure

# Up to how many classes there is room for the counts, and for the names.
_COUNTS, _NAMES = 20, 60


def draw_confusion_matrix(path: Path, confusion: Tensor, classes: list[str]) -> None:
    """Draws a confusion matrix into a PNG file, coloured by the share of each row.

    Args:
        path: the file.
        confusion: int64 [classes, classes]; rows are the true classes, columns the predicted ones.
        classes: their names.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.ticker import PercentFormatter

    count = len(classes)
    shares = (confusion / confusion.sum(dim=1, keepdim=True).clamp(min=1)).numpy()
    side = min(max(4.0, 2 + 0.55 * count), 10.0)
    figure = new_figure(side * 1.15, side)
    axes = figure.subplots()
    # By the square root, so that rare confusions show.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1))
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
        slanted = dict(rotation=45, ha="right", rotation_mode="anchor")
        axes.set_xticks(range(count), names, fontsize=size, **slanted)
        axes.set_yticks(range(count), names, fontsize=size)
    if count <= _COUNTS:
        for (row, column), images in np.ndenumerate(confusion.numpy()):
            if images:
                colour = "white" if shares[row, column] > 0.3 else "black"
                axes.text(column, row, images, ha="center", va="center", color=colour, fontsize=9)
    save_figure(path, figure)
