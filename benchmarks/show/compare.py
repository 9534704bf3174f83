"""Compares a result with an earlier one of the same part: slower, faster or the same."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import NamedTuple

Spread = dict[str, float]  # q1, median, q3

# The difference between two runs' quartiles on a machine where nothing has changed.
MARGIN = 0.03

# Fields that identify entries, and fields that repeat others or are the same for all.
_NAMES = ("name", "network", "problem", "operation", "what", "mode", "batch", "image_size")
_SILENT = ("blocks", "layers", "problems", "networks", "calls", "startup", "milliseconds", "bytes")


class Change(NamedTuple):
    """An entry's earlier and new medians, and whether their spreads are apart."""

    name: str
    before: float
    after: float
    apart: bool

    @property
    def worse(self) -> bool:
        """Whether the entry now takes more, beyond its spread."""
        return self.apart and self.after > self.before

    def __str__(self) -> str:
        return f"{self.name}: {self.after / self.before:.2f} times what it was"


def spreads(result: dict) -> dict[str, Spread]:
    """All measured spreads, by name."""
    return dict(_spreads(result, ()))


def _spreads(node: object, path: tuple[str, ...]) -> Iterator[tuple[str, Spread]]:
    if isinstance(node, list):
        for item in node:
            yield from _spreads(item, path)
    elif isinstance(node, dict) and "median" in node:
        yield ", ".join(path), node
    elif isinstance(node, dict):
        path += tuple(str(node[name]) for name in _NAMES if name in node)
        for key, value in node.items():
            yield from _spreads(value, path if key in _SILENT else (*path, key))


def changes(old: dict, new: dict) -> tuple[float, list[Change]]:
    """The machine's slowdown, by torch's entries, and the changes of fastconv's entries.

    The changes are corrected for the slowdown.
    """
    before, after = spreads(old), spreads(new)
    names = [name for name in after if name in before]
    theirs = [name for name in names if _side(name) == "torch"]
    machine = [after[name]["median"] / before[name]["median"] for name in theirs]
    drift = statistics.median(machine) if machine else 1.0
    found = []
    for name in names:
        if _side(name) == "fastconv":
            then, now = before[name], {q: v / drift for q, v in after[name].items()}
            slower = now["q1"] > then["q3"] * (1 + MARGIN)
            faster = now["q3"] * (1 + MARGIN) < then["q1"]
            found.append(Change(name, then["median"], now["median"], slower or faster))
    return drift, found


def _side(name: str) -> str:
    """The side of an entry: its name's last part begins with torch or fastconv."""
    return name.rpartition(", ")[2].replace(".", " ").split()[0]


def report(old: dict, new: dict) -> tuple[str, bool]:
    """The changes in words, and whether anything became worse."""
    drift, found = changes(old, new)
    lines = [f"Compared with the earlier result: {len(found)} entries of fastconv's."]
    then, now = old["environment"], new["environment"]
    lines += [
        f"Another {key}: {then.get(key)}, now {now[key]}."
        for key in ("processor", "threads", "torch")
        if then.get(key) != now[key]
    ]
    if not found:
        lines.append("Nothing in them is the same.")
    lines.append(
        f"Torch takes {drift:.2f} times what it did; fastconv's entries are divided by that."
    )
    apart = sorted((c for c in found if c.apart), key=lambda c: c.before / c.after)
    for title, group in (
        ("Slower (or larger) beyond their spread", [c for c in apart if c.worse]),
        ("Faster (or smaller) beyond their spread", [c for c in apart if not c.worse]),
    ):
        lines += [f"{title}: {len(group) or 'none'}.", *(f"  {change}" for change in group)]
    return "\n".join(lines), any(change.worse for change in found)
