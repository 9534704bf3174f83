"""Writes a table of the compiled CUDA kernels: benchmarks/results/cuda_kernels.md.

    python benchmarks/kernel_table.py            writes it
    python benchmarks/kernel_table.py --check    fails if the file differs

It needs no GPU. Registers and instructions come from the installed module (tests/cuda/gates).
Threads and shared memory come from one run of each kernel in the emulator's race build
(tests/cuda/emulated). The blocks per multiprocessor follow from these and NVIDIA's limits.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "cuda"))

import emulated  # noqa: E402
from fastconv.testing import Problem, inputs, kernels  # noqa: E402
from gates import code, loops  # noqa: E402
from gates.declared import declaration  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "cuda_kernels.md"


class Multiprocessor(NamedTuple):
    """A multiprocessor's limits (CUDA programming guide, technical specifications)."""

    shared_bytes: int
    registers: int = 65536
    warps: int = 64
    blocks: int = 32

    def fitting(self, threads: int, registers: int, shared_bytes: int) -> int:
        """Blocks that run on it at once. The driver keeps 1 KB of shared memory for each."""
        warps = threads // 32
        of_a_warp = -(-registers * 32 // 256) * 256  # allocated in units of 256
        by_registers = self.registers // of_a_warp // warps
        by_memory = self.shared_bytes // (-(-shared_bytes // 128) * 128 + 1024)
        return min(self.blocks, self.warps // warps, by_registers, by_memory)


TARGETS = {"sm_80": Multiprocessor(164 << 10), "sm_90a": Multiprocessor(228 << 10)}

# An instruction's kind, by its name; the first match counts. The rest is "other".
KINDS = {
    "tensor cores": "HMMA|DMMA",
    "multiply-add": "[FDH]FMA2?",
    "shared memory": "LDS|LDSM|STS",
    "global memory": "LDG|LDGSTS|STG",
}


def runs() -> Iterator[Callable[[], object]]:
    """Calls that launch every kernel: all tiles, dtypes, vectors and single elements."""
    for dtype in ("f32", "f64", "f16", "bf16", "tf32"):
        for after in ("", "_pool2x2s2x2p0x0d1x1c0", "_pool2x2s1x1p0x0d1x1c0"):
            for layout in ("nchw", "nhwc"):
                text = f"mb1ic16ih3iw4oc16kh2kw2{after}_{dtype}_{layout}"
                yield from convolutions(Problem.parse(text))
            for columns in (64, 32):  # first layers
                text = f"mb1ic3ih3iw4oc{columns}kh2kw2{after}_{dtype}_nchw"
                yield from convolutions(Problem.parse(text))
        for columns in (72, 48):  # wgrad by windows
            text = f"mb1ic16ih3iw4oc{columns}kh2kw2_pool2x2s2x2p0x0d1x1c0_{dtype}_nhwc"
            yield from convolutions(Problem.parse(text))
    for dtype in ("f32", "f64", "f16", "bf16"):
        for pool in ("3x3s1x1", "2x2s2x2", "16x16s16x16"):  # the last's code is int32
            for layout in ("nchw", "nhwc"):
                for size in ("mb1ic16ih16iw16", "mb1ic3ih17iw17"):
                    yield partial(
                        pooled, Problem.parse(f"{size}_pool{pool}p0x0d1x1c0_{dtype}_{layout}")
                    )
        for aligned in (True, False):
            yield partial(relu, Problem.parse(f"mb1ic1ih1iw1_{dtype}").dtype, aligned)


def convolutions(problem: Problem) -> Iterator[Callable[[], object]]:
    """All implementations of all three directions."""
    x, w, bias, dy = inputs.make(problem)
    code = kernels.make_code(problem, 0.5)
    calls = {
        "fprop": partial(kernels.fprop, problem, x, w, bias),
        "dgrad": partial(kernels.dgrad, problem, dy, code, w),
        "wgrad": partial(kernels.wgrad, problem, x, dy, code),
    }
    for direction, call in calls.items():
        for name in kernels.implementations(direction, problem, "emulated"):
            yield partial(call, name, device="emulated")


def pooled(problem: Problem) -> None:
    """A max-pool, forward and backward, with its tensors aligned and not."""
    data = inputs.make(problem)
    for aligned in (True, False):
        options = {"device": "emulated", "aligned": aligned}
        _, winners = kernels.max_pool2d_fprop(problem, data.x, **options)
        kernels.max_pool2d_bprop(problem, data.dy, winners, **options)


def relu(dtype: torch.dtype, aligned: bool) -> None:
    """ReLU, forward and backward."""
    x = torch.ones(100, dtype=dtype)
    _, mask = kernels.relu_fprop(x, device="emulated", aligned=aligned)
    kernels.relu_bprop(x, mask, "emulated", aligned=aligned)


def launches() -> dict[str, tuple[int, int]]:
    """Threads and bytes of shared memory of every kernel, by its short name."""
    module = emulated.load_kernels("race")
    kernels.modules["emulated"] = module
    emulated.configure(module, count=True)
    for run in runs():
        run()
    emulated.configure(module)
    module.take_counters()
    found = json.loads(module.take_launches())
    return {code.short(one["kernel"]): (one["threads"], one["shared_bytes"]) for one in found}


def mix(kernel: code.Kernel) -> str:
    """The main loop's instructions by kind, and their number."""
    entry = declaration(kernel.name)
    loop = entry and loops.main_loop(kernel, entry.holds)
    if not loop:
        return ""
    names = [instruction.opcode.split(".")[0] for instruction in loop]
    kinds = Counter(
        next((kind for kind, names_of in KINDS.items() if re.fullmatch(names_of, name)), "other")
        for name in names
    )
    parts = [f"{kinds[kind]} {kind}" for kind in (*KINDS, "other") if kinds[kind]]
    return f"{len(loop)}: {', '.join(parts)}"


def table() -> str:
    """The whole file."""
    launched = launches()
    rows = []
    for kernel in sorted(code.kernels(), key=lambda k: (k.name, k.target)):
        if kernel.name not in launched:
            raise SystemExit(f"kernel_table.py: no run launches {kernel.name}")
        threads, shared_bytes = launched[kernel.name]
        limits = TARGETS[kernel.target]
        blocks = limits.fitting(threads, kernel.registers, shared_bytes)
        rows.append(
            f"| `{kernel.name}` | {kernel.target} | {threads} | {kernel.registers} | "
            f"{shared_bytes / 1024:.1f} | {blocks} | {blocks * threads / 32 / limits.warps:.0%} | "
            f"{mix(kernel)} |"
        )
    return "\n".join([HEAD.format(compiler=compiler()), *rows, ""])


HEAD = """# CUDA kernels as compiled

Written by `python benchmarks/kernel_table.py`; {compiler}. Nothing here was measured on a GPU:
blocks and occupancy (the warps of those that fit) of a multiprocessor are computed from a block's
threads, registers and shared memory (KiB). A convolution's main loop holds all ways in which its
operands may lie in memory, of which a call takes one: its instructions are counted, not executed.

| kernel | target | threads | registers | shared | blocks | occupancy | main loop's instructions |
|---|---|---|---|---|---|---|---|"""


def compiler() -> str:
    """nvcc's version."""
    text = subprocess.run(["nvcc", "--version"], check=True, capture_output=True, text=True).stdout
    return f"nvcc {re.search(r'release ([0-9.]+)', text)[1]}"


def main() -> int:
    """Reads the command line; writes or checks the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare, do not write")
    arguments = parser.parse_args()
    if missing := [*code.missing(), *emulated.missing()]:
        print(f"kernel_table.py needs {', '.join(missing)}", file=sys.stderr)
        return 2
    found = table()
    if not arguments.check:
        RESULT.write_text(found)
        return 0
    if RESULT.read_text() != found:
        print(f"{RESULT} is not what kernel_table.py writes: run it", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
