"""Declares the instructions that the main loop of every CUDA kernel must hold.

The main loop is the smallest loop with at least the named number of each instruction. A name with
modifiers also matches names with more modifiers (LDG.128 matches LDG.E.128.CONSTANT). Every kernel
must have an entry, and every entry a kernel. The first matching entry counts.
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
# By their name and the last of their template arguments: the operands whose lines, not steps, lie
# together in memory, and whether operands are copied 16 bytes at a time.
MMA_KERNELS = {
    ("conv2d_fprop(_pool|_pool2x2)?", ""): ((), True),
    ("conv2d_dgrad", ""): (("columns",), True),
    ("conv2d_wgrad", ", 4"): (("rows", "columns"), True),
    ("conv2d_wgrad", ", 3"): ((), False),
}
MMA_TILES = {  # rows and columns of a block and of a warp
    "half|bfloat16": [(128, 128, 64, 64), (128, 64, 64, 32), (64, 64, 32, 32), (128, 32, 32, 32)],
    "float": [(128, 128, 64, 32), (128, 64, 64, 32), (64, 64, 32, 32), (128, 32, 32, 32)],
}
# Steps per iteration, a product's instruction, the load of a transposed operand, and the number of
# such loads that replace one ldmatrix.
MMA = {
    "half|bfloat16": (32, "HMMA.16816.F32", "LDSM.MT88.4", 1),
    "float": (16, "HMMA.1688.F32.TF32", "LDS", 4),  # ldmatrix transposes 16 bits
}


def on_tensor_cores(kernel, read, types, rows, columns, warp_rows, warp_columns):
    """An iteration of 64 bytes of steps: products, their operands, copies for a later iteration."""
    (name, last), (transposed, vectors) = kernel, read
    steps, product, transposed_load, loads = MMA[types]
    warps = rows // warp_rows * (columns // warp_columns)
    holds = {
        product: warp_rows * warp_columns // 64,
        **({"LDGSTS.128": (rows + columns) * 4 // (32 * warps)} if vectors else {"LDG": 1}),
    }
    for operand, lines in {"rows": warp_rows, "columns": warp_columns}.items():
        load, times = (transposed_load, loads) if operand in transposed else ("LDSM.M88.4", 1)
        holds[load] = holds.get(load, 0) + times * lines // 8
    sizes = rf"{rows}, {columns}, {steps}, \d+, {warp_rows}, {warp_columns}"
    return Declared(rf"{name}_kernel<.*MmaTile<({types}), {sizes}>{last} ?>", holds)


POOL2X2_TILES = {
    "half|bfloat16": [(128, 128, 64, 64), (64, 128, 32, 64), (32, 128, 32, 32)],
    "float": [(128, 128, 64, 32), (64, 128, 32, 64), (32, 128, 32, 32)],
}
SPARSE = {"half|bfloat16": "HMMA.SP.16832.F32", "float": "HMMA.SP.16816.F32.TF32"}


def of_pool2x2(types, sparse, rows, columns, warp_rows, warp_columns):
    """An iteration of 128 bytes of steps: products, sparse ones of twice as many steps; x
    transposed, gradients of a thread's filters at once; copies of x, gradients and codes.
    """
    _, product, transposed_load, loads = MMA[types]
    size = 4 if types == "float" else 2
    threads = 32 * (rows // warp_rows) * (columns // warp_columns)
    lanes_windows = 32 // size // 4
    run = min(16 // size, warp_rows // 8)
    products = warp_rows * warp_columns // 32
    holds = {
        SPARSE[types] if sparse else product: products // 2 if sparse else products,
        transposed_load: loads * warp_columns // 4,
        f"LDS.{run * size * 8}": lanes_windows * warp_rows // 8 // run,
        "LDGSTS.128": columns * 8 // threads + -(-rows * 2 // threads),
        "LDGSTS": columns * 8 // threads + 2 * -(-rows * 2 // threads),
    }
    sizes = f"{rows}, {columns}, {warp_rows}, {warp_columns}, {str(sparse).lower()}"
    return Declared(rf"conv2d_wgrad_pool2x2_kernel<.*Pool2x2Tile<({types}), {sizes}>.*>", holds)


def of_few_channels(types, warp_rows, warp_columns):
    """A step along the taps: rows by elements, columns in 16 bytes, no copies."""
    _, product, _, _ = MMA[types]
    element, elements = ("LDS", 2) if types == "float" else ("LDS.U16", 4)
    holds = {
        product: warp_rows * warp_columns // 128,
        element: warp_rows // 8 * elements,
        "LDS.128": warp_columns // 16,
    }
    sizes = rf"\d+, \d+, \d+, 1, {warp_rows}, {warp_columns}"
    return Declared(rf"conv2d_few_channels_fprop\w*_kernel<.*MmaTile<({types}), {sizes}>.*>", holds)


DECLARED = [
    Declared(
        r"conv2d_few_channels_wgrad_kernel<float, .*>",
        {"HMMA.1688.F32.TF32": 12, "LDS": 20},
        registers=128,
    ),
    Declared(
        r"conv2d_few_channels_wgrad_kernel<.*>",
        {"HMMA.16816.F32": 12, "LDS.U16": 24, "LDSM.MT88.4": 2},
        registers=128,
    ),
    *(of_few_channels(types, *warp) for types in MMA for warp in ((32, 64), (64, 32))),
    *(
        of_pool2x2(types, sparse, *sizes)
        for types, tiles in POOL2X2_TILES.items()
        for sparse in (False, True)
        for sizes in tiles
    ),
    *(
        on_tensor_cores(kernel, read, types, *sizes)
        for kernel, read in MMA_KERNELS.items()
        for types, tiles in MMA_TILES.items()
        for sizes in tiles
    ),
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
