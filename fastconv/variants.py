"""Which of several CUDA kernels takes a convolution, from a table of measured times.

Without a table a model of one GPU chooses (csrc/cuda/conv2d_choice.h). The table is JSON,

    {"variants": [{"direction": "fprop", "problem": "mb32ic64...", "variant": "mma128x64"}]}

as `benchmarks/gpu_check.py --parts sweep` writes it on the GPU that it is for.
"""

from __future__ import annotations

import json
from os import PathLike

DIRECTIONS = ("fprop", "dgrad", "wgrad")

# The variant's name by direction, dtype, whether TF32 is allowed, whether there is a ReLU, whether
# x is channels_last, sizes of x and of the weight, conv and pool as in operators/_geometry.py.
table: dict[tuple, str] = {}


def load_variants(path: str | PathLike[str] | None) -> None:
    """Takes CUDA kernels from a table of measured ones, for all following calls of this process.

    A problem of which the table says nothing is left to the default. Kernels differ in the order of
    their sums: results are bit for bit the same for one table.

    Args:
        path: a JSON file, see this module; None for no table, as at the start.

    Raises:
        OSError: there is no such file.
        ValueError: it is not such a table; the one before is kept.
    """
    global table
    read: dict[tuple, str] = {}
    if path is not None:
        with open(path, encoding="utf-8") as file:
            try:
                for entry in json.load(file)["variants"]:
                    read[key(entry["direction"], entry["problem"])] = str(entry["variant"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}: not a table of variants: {error!r}") from None
    table = read


def key(direction: str, text: str) -> tuple:
    """Where the table has a problem, given as fastconv.testing.Problem has it as text."""
    from .testing import Problem

    if direction not in DIRECTIONS:
        raise ValueError(f"direction must be one of {', '.join(DIRECTIONS)}, got {direction!r}")
    p = Problem.parse(text)
    kind = (p.dtype, p.tf32, p.relu, p.layout == "nhwc")
    return direction, *kind, p.x_size, p.w_size, p.conv_spec, p.pool_spec
