"""Draws a run's loss and accuracy over its epochs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .figures import Theme, draw_both

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIZE = (4.8, 3.2)  # inches
_MARKED = 30  # at most; epochs that get a mark each


def draw_loss(path: Path, metrics: dict[str, Any]) -> None:
    """Draws the cross-entropy over the epochs of a metrics.json into PNG files, see `draw_both`.

    A line marks the best epoch, whose weights are kept.
    """

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        _draw_columns(axes, metrics, theme, "train_loss", "val_loss")
        axes.set(ylim=(0, None))
        _finish(figure, axes, metrics, theme)

    draw_both(path, _SIZE, draw)


def draw_accuracy(path: Path, metrics: dict[str, Any]) -> None:
    """Draws the accuracy over the epochs and in the test, as `draw_loss` draws the loss."""
    from matplotlib.ticker import PercentFormatter

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        _draw_columns(axes, metrics, theme, "train_accuracy", "val_accuracy")
        test = metrics["test"]["accuracy"]
        axes.axhline(test, color=theme.test, linestyle=":", label=f"test: {test:.1%}")
        axes.set(ylim=(0, 1.03))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        _finish(figure, axes, metrics, theme)

    draw_both(path, _SIZE, draw)


def _draw_columns(
    axes: Axes, metrics: dict[str, Any], theme: Theme, training: str, validation: str
) -> None:
    epochs = metrics["epochs"]
    numbers = [epoch["epoch"] for epoch in epochs]
    marks = ("o", "s") if len(epochs) <= _MARKED else ("", "")
    # Runs started by an older version have no training accuracy in their first epochs.
    first, second = ([e.get(name, math.nan) for e in epochs] for name in (training, validation))
    axes.plot(numbers, first, marks[0] + "-", ms=4, color=theme.training, label="training")
    axes.plot(numbers, second, marks[1] + "--", ms=4, color=theme.validation, label="validation")


def _finish(figure: Figure, axes: Axes, metrics: dict[str, Any], theme: Theme) -> None:
    """Draws the best epoch, the axis of epochs and the legend."""
    best, last = metrics["best_epoch"], metrics["epochs"][-1]["epoch"]
    axes.axvline(best, color=theme.best, linewidth=1, zorder=1, label=f"best epoch: {best}")
    axes.set(xlabel="epoch", xticks=epoch_ticks(last), xlim=(0.5, last + 0.5))
    axes.grid(alpha=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=4, frameon=False, columnspacing=1, handlelength=1)


def epoch_ticks(last: int) -> list[int]:
    """The epochs from 1 to `last` that get a label, the first one among them."""
    from matplotlib.ticker import MaxNLocator

    ticks = MaxNLocator(8, steps=[1, 2, 5, 10], integer=True).tick_values(0, last)
    return [1, *(int(tick) for tick in ticks if 1 < tick <= last)]
