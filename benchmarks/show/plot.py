"""Draws speedups over torch's layers as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import parts.layers
import parts.sweep
from show import table

# Batches from light to dark; layers slower than torch have another colour.
_FASTER, _SLOWER = ("#8fc1e3", "#1f5f99"), ("#f2b48a", "#c2521b")
_ROW = 0.18  # inches per layer
_BAR = 0.8  # of that, all of a layer's bars


def layers(path: Path, result: dict, source: str = "") -> None:
    """Draws a result of `layers` as a PNG file: a bar, from 1 on, per layer, batch and mode.

    Args:
        source: a note kept in the file, for `source_of`.
    """
    from matplotlib.figure import Figure  # without pyplot: no display, no global state
    from matplotlib.patches import Patch

    rows = parts.layers.rows(result)
    batches = sorted({problem.n for _, problem, _ in rows})[-2:]
    # A line for each network's name and one for each of its layers, from the top.
    lines = list(dict.fromkeys(x for n, p, _ in rows for x in (n, (n, table.shape(p)))))
    names = [line if isinstance(line, str) else line[1] for line in lines]
    height = _BAR / len(batches)
    modes = list(rows[0][2])
    figure = Figure(figsize=(11, 1.5 + _ROW * len(lines)), layout="constrained")
    all_axes = figure.subplots(1, len(modes), sharey=True, squeeze=False)[0]
    for axes, mode in zip(all_axes, modes, strict=True):
        for network, problem, ratios in rows:
            if problem.n in batches:
                i, ratio = batches.index(problem.n), ratios[mode]
                y = lines.index((network, table.shape(problem))) + (i + 0.5) * height - _BAR / 2
                color = (_FASTER if ratio >= 1 else _SLOWER)[i]
                axes.barh(y, ratio - 1, left=1, height=height, color=color)
        _ratio_axis(axes)
        axes.set_title(mode)
    all_axes[0].set_ylim(len(lines) - 0.5, -0.5)
    all_axes[0].set_yticks(range(len(lines)), names, fontsize=8)
    for line, label in zip(lines, all_axes[0].get_yticklabels(), strict=True):
        if isinstance(line, str):
            label.set(fontweight="bold", fontsize=9)
    figure.suptitle("fastconv: times as fast as torch.nn, layer by layer", fontweight="bold")
    figure.legend(
        handles=[
            Patch(color=shades[i], label=f"batch {batch}, {what}")
            for shades, what in ((_FASTER, "faster"), (_SLOWER, "slower"))
            for i, batch in enumerate(batches)
        ],
        loc="outside lower center",
        ncols=4,
        frameon=False,
        title=table.machine(result["environment"]),
        title_fontsize=8,
    )
    figure.savefig(path, dpi=100, format="png", metadata={"Source": source})


def histograms(path: Path, result: dict, source: str = "") -> None:
    """Draws a result of `sweep` as a PNG file: how often each ratio occurs, for each mode.

    Args:
        source: a note kept in the file, for `source_of`.
    """
    import numpy as np
    from matplotlib.figure import Figure

    found = [
        (f"{mode}, compared with {name}", list(values.values()))
        for name, modes in parts.sweep.ratios(result).items()
        for mode, values in modes.items()
    ]
    everything = [ratio for _, values in found for ratio in values]
    low, high = (edge(np.log2(everything)) for edge in (np.min, np.max))
    edges = 2.0 ** np.arange(np.floor(low * 4) / 4, high + 0.25, 0.25)
    figure = Figure(figsize=(11, 1 + 2.2 * len(found)), layout="constrained")
    all_axes = figure.subplots(len(found), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (title, values) in zip(all_axes, found, strict=True):
        _, _, bars = axes.hist(values, edges)
        for bar, left in zip(bars, edges, strict=False):
            bar.set_color((_FASTER if left >= 1 else _SLOWER)[1])
        _ratio_axis(axes)
        axes.set_title(title)
        axes.set_ylabel("convolutions")
    drawn = (
        f"{len(result['problems'])} random convolutions, {result['dtype']}, seed {result['seed']}"
    )
    figure.suptitle(f"fastconv: times as fast as torch.nn, {drawn}", fontweight="bold")
    figure.supxlabel(table.machine(result["environment"]), fontsize=8)
    figure.savefig(path, dpi=100, format="png", metadata={"Source": source})


def source_of(path: Path) -> str | None:
    """The note in a picture; None without a picture."""
    from PIL import Image

    if not path.exists():
        return None
    with Image.open(path) as image:
        return image.info.get("Source")


def _ratio_axis(axes: Any) -> None:
    """Sets a scale on which half and twice as fast are equally far from 1."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: f"{x:g}x" if x >= 1 else f"1/{1 / x:g}")
    )
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", top=True, labeltop=True)
    axes.tick_params(axis="y", length=0)
    axes.spines[["left", "right"]].set_visible(False)
