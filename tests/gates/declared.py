"""What the main loop of every CUDA kernel must hold.

The main loop is the smallest that holds the named instructions, each at least so often; a name
with modifiers stands for all that have these and more (LDG.128 for LDG.E.128.CONSTANT). No kernel
may be without an entry, no entry without a kernel; the first that matches counts.
"""

import re
from typing import NamedTuple


class Declared(NamedTuple):
    """A kernel's name (a regular expression for `relu_fprop_kernel<float, 4>`) and its rules."""

    kernel: str
    holds: dict[str, int]
    registers: int = 255


PACK = r"<.*\b[248]>"  # the last template argument: elements of a 16-byte access

CONV = "conv2d_(fprop|fprop_pool|dgrad|wgrad)"
MMA = CONV + r"_kernel<.*MmaTile<.*"

DECLARED = [
    # On tensor cores, by a warp's tile: a turn's products and operands, a later one's copies.
    Declared(MMA + ", 64, 64>.*>", {"HMMA.16816": 64, "LDSM.M88.4": 16, "LDGSTS.128": 8}),
    Declared(MMA + ", 64, 32>.*>", {"HMMA.16816": 32, "LDSM.M88.4": 12, "LDGSTS.128": 6}),
    Declared(MMA + ", 32, 32>.*>", {"HMMA.16816": 16, "LDSM.M88.4": 8, "LDGSTS.128": 5}),
    # The products of a step: a and b from shared memory in 16 bytes.
    Declared(rf"{CONV}_kernel<double, .*>", {"DFMA": 8, "LDS.128": 1}),
    Declared(rf"{CONV}_kernel<.*>", {"FFMA": 8, "LDS.128": 1}),
    Declared(r"conv2d_wgrad_sum_kernel<.*>", {"LDG": 1}, registers=64),
    Declared(r"relu_[fb]prop_kernel" + PACK, {"LDG.128": 1, "STG.128": 1}, registers=64),
    Declared(r"relu_[fb]prop_kernel<.*, 1>", {"LDG": 1, "STG": 1}, registers=64),
    # The loop over a window's columns.
    Declared(r"max_pool2d_fprop_kernel" + PACK, {"LDG.128": 1}, registers=64),
    Declared(r"max_pool2d_fprop_kernel<.*, 1>", {"LDG": 1}, registers=64),
    # The loop over the windows of a row that cover a place: a code and a gradient of each.
    Declared(r"max_pool2d_bprop_kernel" + PACK, {"LDG.128": 1, "LDG": 2}, registers=64),
    Declared(r"max_pool2d_bprop_kernel<.*, 1>", {"LDG": 2}, registers=64),
    # The loop over items is their only one.
    Declared(r"max_pool2d_fprop_2x2_kernel<.*>", {"LDG.128": 2, "STG": 1}, registers=64),
    Declared(r"max_pool2d_bprop_2x2_kernel<.*>", {"STG.128": 2, "LDG": 2}, registers=64),
]


def declaration(name: str) -> Declared | None:
    """A kernel's entry."""
    return next((entry for entry in DECLARED if re.fullmatch(entry.kernel, name)), None)
