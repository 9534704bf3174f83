"""A run's epochs as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .figures import label, new_figure, save_figure

_TRAINING, _VALIDATION, _TEST, _BEST = "#1f77b4", "#d95f02", "#555555", "#2ca02c"
_MARKED = 30  # so many epochs get a mark each


def draw_curves(path: Path, metrics: dict[str, Any]) -> None:
    """Draws loss, accuracy and learning rate over the epochs of a metrics.json into a PNG file.

    A line marks the best epoch, whose weights are kept.
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    epochs = metrics["epochs"]
    columns = {name: [epoch[name] for epoch in epochs] for name in epochs[0]}
    numbers = columns["epoch"]
    settings = metrics["settings"]
    figure = new_figure(10, 4)
    data = label(Path(settings["data"]).name, 60)
    figure.suptitle(f"{label(settings['model'], 60)} with {settings['layers']} layers on {data}")
    loss, accuracy, rate = figure.subplots(1, 3, width_ratios=(4, 4, 3))

    marks = ("o", "s") if len(epochs) <= _MARKED else ("", "")
    training = dict(color=_TRAINING, marker=marks[0], markersize=4)
    validation = dict(color=_VALIDATION, marker=marks[1], markersize=4, linestyle="--")

    loss.plot(numbers, columns["train_loss"], label="training", **training)
    loss.plot(numbers, columns["val_loss"], label="validation", **validation)
    loss.set(title="Cross-entropy", ylim=(0, None))

    accuracy.plot(numbers, columns["val_accuracy"], label="validation", **validation)
    if metrics["test"]:
        test = metrics["test"]["accuracy"]
        accuracy.axhline(test, color=_TEST, linestyle=":", label=f"test: {test:.1%}")
    accuracy.set(title="Accuracy", ylim=(0, 1.03))
    accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))

    rate.plot(numbers, columns["lr"], **training)
    rate.set(title="Learning rate", ylim=(0, None))

    best = metrics["best_epoch"]
    for axes in (loss, accuracy, rate):
        axes.axvline(best, color=_BEST, linewidth=1, zorder=1, label=f"best epoch: {best}")
        axes.set(xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
    loss.legend(loc="upper right")
    accuracy.legend(loc="lower right")
    save_figure(path, figure)
