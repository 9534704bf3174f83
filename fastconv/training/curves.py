"""The picture of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .atomic import replace_file

_LOSS, _ACCURACY, _TEST = "#1f77b4", "#d95f02", "#555555"


def draw_curves(path: Path, metrics: dict[str, Any]) -> None:
    """Draws loss and accuracy over the epochs of a metrics.json into a PNG file."""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    epochs = metrics["epochs"]
    numbers = [epoch["epoch"] for epoch in epochs]
    settings = metrics["settings"]
    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(
        f"{settings['model']} with {settings['layers']} layers on {Path(settings['data']).name}"
    )
    loss, accuracy = figure.subplots(1, 2)

    loss.plot(numbers, [e["train_loss"] for e in epochs], "o-", color=_LOSS, label="training")
    loss.plot(numbers, [e["val_loss"] for e in epochs], "s--", color=_ACCURACY, label="validation")
    loss.set(title="Cross-entropy", xlabel="epoch", ylim=(0, None))

    values = [e["val_accuracy"] for e in epochs]
    accuracy.plot(numbers, values, "s--", color=_ACCURACY, label="validation")
    if metrics["test"]:
        test = metrics["test"]["accuracy"]
        accuracy.axhline(test, color=_TEST, linestyle=":", label=f"test: {test:.1%}")
    accuracy.set(title="Accuracy", xlabel="epoch", ylim=(0, 1))
    accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))

    for axes in (loss, accuracy):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.legend(loc="upper right" if axes is loss else "lower right")
    replace_file(path, lambda temporary: figure.savefig(temporary, dpi=120, format="png"))
