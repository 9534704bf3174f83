"""Makes README's small table: the mean speedup and memory saving of each part."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from . import table

TRAINING = "training step"


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
    ("fused blocks in bfloat16, 8 images, forward + backward", "blocks-bfloat16", "blocks", BOTH),
    ("single layers in bfloat16, forward + backward", "layers-bfloat16", "layers", BOTH),
    ("training steps of whole networks", "networks", "networks", _training_step),
    ("memory of these training steps", "memory", "networks", lambda entry: entry["bytes"]),
)

FILES = tuple(dict.fromkeys(file for _, file, _, _ in LINES))


def headline(machines: Sequence[dict[str, dict]]) -> str:
    """A line per measured part: the ratios' geometric mean and the least, of each machine.

    Args:
        machines: the results of each, by the names of the result files; parts may be missing.
    """
    sets = [_instruction_set(results) for results in machines]
    titles = [f"{what}, {isa}" if len(sets) > 1 else what for isa in sets for what in _COLUMNS]
    lines = table.head(["compared with the best of torch.nn", "cases", *titles], 1)
    for what, file, key, times_of in LINES:
        entries = [results[file][key] if file in results else [] for results in machines]
        measured = [[times for times in map(times_of, found) if times] for found in entries]
        if not any(measured):
            continue
        compiled = [_compiled(found) for found in measured]
        if not any(compiled):
            what += EAGER
        cells = [what, str(max(map(len, measured)))]
        for found, also_compiled in zip(measured, compiled, strict=True):
            ratios = [table.ratio(times) for times in found]
            mark = EAGER if any(compiled) and not also_compiled else ""
            mean = table.multiple(_mean(ratios)) + mark if ratios else ""
            cells += [mean, f"{min(ratios):.2f}x" if ratios else ""]
        lines.append(table.row(cells))
    where = "; ".join(_distinct(_machine(result) for some in machines for result in some.values()))
    note = (
        "Geometric means of torch / fastconv, float32 if not named; "
        "(eager): not compared with torch.compile."
    )
    return "\n".join([*lines, "", f"{note} {where}."])


EAGER = " (eager)"
_COLUMNS = ("mean", "least")


def _compiled(measured: list[dict]) -> bool:
    """Whether torch.compile is among the measured ways."""
    return any("torch.compile" in way for times in measured for way in times)


def _machine(result: dict) -> str:
    return table.machine(result["environment"])


def _instruction_set(results: dict[str, dict]) -> str:
    return table.instruction_set(next(iter(results.values()))["environment"])


def _mean(ratios: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
