"""Chooses the implementations of CUDA convolutions from a table of measured times.

Without a table a model of one GPU chooses (csrc/cuda). The table is JSON,

    {"implementations": [
        {"direction": "fprop", "problem": "mb32ic64...", "implementation": "mma128x64"}
    ]}

as `benchmarks/gpu_check.py --parts sweep` writes it on its GPU. Tables of earlier versions have the
keys "variants" and "variant" instead.
"""

from __future__ import annotations

import json
from os import PathLike
from typing import Any

from .problem import Problem

DIRECTIONS = ("fprop", "dgrad", "wgrad")

# The implementation's name by direction, dtype, whether TF32 is allowed, whether there is a ReLU,
# whether x is channels_last, sizes of x and of the weight, ConvSpec, and PoolSpec or None.
table: dict[tuple, str] = {}


def load_implementations(path: str | PathLike[str] | None) -> None:
    """Chooses CUDA kernels by a table of measured times, for all later calls of this process.

    A problem that is not in the table uses the default. Kernels differ in the order of their sums,
    so results are the same bit for bit only with the same table.

    Args:
        path: a JSON file, see this module; None for no table, as at the start.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not such a table. The previous table stays.
    """
    global table
    read: dict[tuple, str] = {}
    if path is not None:
        with open(path, encoding="utf-8") as file:
            try:
                read = _read(json.load(file))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}: not a table of implementations: {error!r}") from None
    table = read


def _read(content: Any) -> dict[tuple, str]:
    entries, name = "implementations", "implementation"
    if entries not in content:
        entries, name = "variants", "variant"
    return {
        key(entry["direction"], entry["problem"]): str(entry[name]) for entry in content[entries]
    }


def key(direction: str, text: str) -> tuple:
    """The table's key for a problem, given as the text of a `Problem`."""
    if direction not in DIRECTIONS:
        raise ValueError(f"direction must be one of {', '.join(DIRECTIONS)}, got {direction!r}")
    p = Problem.parse(text)
    kind = (p.dtype, p.tf32, p.relu, p.layout == "nhwc")
    return direction, *kind, p.x_size, p.w_size, p.conv_spec, p.pool_spec
