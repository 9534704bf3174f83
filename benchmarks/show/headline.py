"""Makes README's small table: the mean speedup and memory saving of each part."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from . import table

TRAINING = "training step"

Entries = list[dict]


def _in_mode(mode: str) -> Callable[[dict], dict | None]:
    """An entry's times in one mode; None if not measured."""
    return lambda entry: entry["milliseconds"].get(mode)


def _training_step(entry: dict) -> dict | None:
    return entry["milliseconds"] if entry["mode"] == TRAINING else None


FORWARD, BOTH = (_in_mode(mode) for mode in ("forward", "forward+backward"))

# Each line's title, its result file, the file's entries, and the times of an entry.
LINES: tuple[tuple[str, str, str, Callable[[dict], dict | None]], ...] = (
    ("fused blocks, 8 images, forward", "blocks", "blocks", FORWARD),
    ("fused blocks, 8 images, forward + backward", "blocks", "blocks", BOTH),
    ("fused blocks, 64 images, forward + backward", "blocks-64", "blocks", BOTH),
    ("single layers of known networks, forward + backward", "layers", "layers", BOTH),
    ("training steps of whole networks", "networks", "networks", _training_step),
    ("memory of these training steps", "memory", "networks", lambda entry: entry["bytes"]),
)

FILES = tuple(dict.fromkeys(file for _, file, _, _ in LINES))


def headline(results: dict[str, dict]) -> str:
    """A line per measured part: the ratios' geometric mean, and the least.

    Args:
        results: by the names of the result files; parts may be missing.
    """
    lines = table.head(["compared with the best of torch.nn", "cases", "mean", "least"], 1)
    machines = []
    for what, file, key, times_of in LINES:
        if file not in results:
            continue
        found: Entries = results[file][key]
        measured = [times for times in map(times_of, found) if times]
        ratios = [table.ratio(times) for times in measured]
        if not any("torch.compile" in way for times in measured for way in times):
            what += " (eager)"
        cells = [what, str(len(ratios)), table.multiple(_mean(ratios)), f"{min(ratios):.2f}x"]
        lines.append(table.row(cells))
        machines.append(table.machine(results[file]["environment"]))
    where = "; ".join(_distinct(machines))
    note = "Geometric means of torch / fastconv, float32; (eager): not compared with torch.compile."
    return "\n".join([*lines, "", f"{note} {where}."])


def _mean(ratios: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
