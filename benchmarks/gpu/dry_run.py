"""Runs the parts of gpu_check.py without a GPU: emulated, or on this CPU, on small problems.

A part's summary names the steps that it did not run. No result is kept, since a CPU's times are
not a GPU's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType

import torch

import gpu.parts
from fastconv.testing import Problem
from gpu.budget import Budget
from gpu.parts import ROOT, Write

# The file whose tests represent all.
TESTS = ROOT / "tests" / "kernels" / "test_relu.py"
ALL_BUT_TESTS = f"not run: all but {TESTS.name}"


def build(write: Write, folder: Path, budget: Budget) -> None:
    """Compiles the emulator for the other parts, and describes this machine."""
    from measure import environment

    if _emulator(write) is not None:
        found = environment.environment()
        summary = f"torch {found['torch']}; not run: installing fastconv"
        write(status="ok", summary=summary, environment=found, lscpu=environment.lscpu())


def _emulator(write: Write) -> ModuleType | None:
    """The compiled emulator; None if its tools are missing."""
    emulated = gpu.parts.the_emulator()
    if missing := emulated.missing():
        write(status="not here", summary=f"needs {', '.join(missing)}")
        return None
    emulated.build("plain")
    return emulated


def wrappers(write: Write, folder: Path, budget: Budget) -> None:
    """Every wrapper in the emulator."""
    if emulated := _emulator(write):
        library = emulated.load("plain")
        told = _also(write, "emulated; not run: what nvcc makes of them")
        gpu.parts.check_wrappers(told, library.call, sys.maxsize)


def _also(write: Write, more: str) -> Write:
    """A function that writes without results and adds text to each summary."""

    def also(result: object = None, summary: str = "", **found: object) -> None:
        write(**found, **({"summary": f"{summary}; {more}"} if summary else {}))

    return also


def tests(write: Write, folder: Path, budget: Budget) -> None:
    """Runs one file's emulated tests."""
    if _emulator(write):
        _run_tests(write, folder, ("--all", "-m", "emulated"), f"emulated; {ALL_BUT_TESTS}")


def _run_tests(
    write: Write, folder: Path, chosen: Sequence[str], more: str, **environment: str
) -> None:
    found = gpu.parts.run_tests(folder, *chosen, TESTS, **environment)
    failed = [*found["failed"], *filter(None, [found["unfinished"]])]
    summary = f"{gpu.parts.told(found)}; {more}"
    write(status="ok" if found["ok"] else "failed", summary=summary, problems=failed)


def sanitizer(write: Write, folder: Path, budget: Budget) -> None:
    """Runs compute-sanitizer's calls in the emulator."""
    import gpu.small_set
    from fastconv.testing import kernels

    if emulated := _emulator(write):
        kernels.modules["emulated"] = emulated.load_kernels("plain")
        count = sum(1 for _ in gpu.small_set.run("emulated"))
        write(status="ok", summary=f"{count} calls; emulated; not run: compute-sanitizer")


def cpu(write: Write, folder: Path, budget: Budget) -> None:
    """Runs one file's tests on the best instruction set."""
    import fastconv

    isa = fastconv._C.build_info()["isa"]
    more = f"{ALL_BUT_TESTS}, and all but {isa}"
    _run_tests(write, folder, ("-m", "not gpu"), more, FASTCONV_ISA=isa)


NOT_MEASURED = "checked on this CPU, in small; not run: a GPU, other sizes, times"


def _in_small(measure: Callable[[Problem], dict]) -> Callable[..., dict]:
    """A measurement of a layer's small version, once for layers whose small version is the same."""
    torch.set_num_threads(1)  # more threads would mostly wait for each other
    once = cache(measure)
    return lambda problem, *_: once(problem.replace(n=2, c=min(problem.c, 8), h=16, w=16, k=16))


def blocks(write: Write, folder: Path, budget: Budget) -> None:
    """Checks all blocks."""
    import gpu.blocks
    from measure import environment
    from parts import blocks

    def measure(problem: Problem) -> dict:
        block = blocks.BLOCKS[0]._replace(problem=problem)
        return {**blocks.run_block(block, problem.n, 1, compiled=False), "wrong": []}

    small = _in_small(measure)

    def run(block: blocks.Block, *_: object) -> dict:
        return small(block.problem)

    gpu.blocks.run(_also(write, NOT_MEASURED), budget, environment.environment(), run)


def layers(write: Write, folder: Path, budget: Budget) -> None:
    """Checks all layers."""
    import gpu.layers
    from gpu import layer_times
    from measure import environment

    small = _in_small(lambda problem: layer_times.measure(problem, 1, "cpu"))
    gpu.layers.run(_also(write, NOT_MEASURED), budget, environment.environment(), small)


def sweep(write: Write, folder: Path, budget: Budget) -> None:
    """Checks all layers with a CPU's implementation."""
    import gpu.sweep
    from measure import environment

    small = _in_small(lambda problem: gpu.sweep.measure(problem, 1, "cpu"))
    gpu.sweep.run(_also(write, NOT_MEASURED), folder, budget, environment.environment(), small)


PARTS = {f.__name__: f for f in (build, wrappers, tests, sanitizer, cpu, blocks, layers, sweep)}
