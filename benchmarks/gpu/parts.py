"""The parts of gpu_check.py on a GPU; dry_run.py has them without one.

A part prints into its log, and writes each of its steps into the report.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from gpu import outcomes
from gpu.budget import Budget

ROOT = Path(__file__).resolve().parents[2]

Write = Callable[..., None]  # Report.write for one part


def _say(*command: str | Path, cwd: Path, **environment: str) -> tuple[int, str]:
    """Runs a command. Returns its exit code and its output, which also goes to the log."""
    print("$", *command, flush=True)
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=cwd,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    return process.wait(), "".join(lines)


# --- build ----------------------------------------------------------------------------------------

PROBE = """
import torch
from fastconv import kernels
print("why not:", kernels.why_not_on(torch.cuda.current_device()))
"""


def _why_no_kernels(folder: Path) -> str:
    """The reason why the installed fastconv has no kernels for this GPU, from a new process."""
    code, output = _say(sys.executable, "-c", PROBE, cwd=folder)
    lines = output.strip().splitlines() or ["nothing was printed"]
    return lines[-1].removeprefix("why not:").strip() if code == 0 else lines[-1]


def build(write: Write, folder: Path, budget: Budget) -> None:
    """Installs fastconv if it has no kernels for this GPU, and describes this machine."""
    from measure import environment

    write(machine=environment.gpu(), lscpu=environment.lscpu())
    why = _why_no_kernels(folder)
    seconds = 0.0
    if why:
        start = time.perf_counter()
        pip = (sys.executable, "-m", "pip", "install")
        options = ("--no-build-isolation", "--no-deps", "--no-index", "--force-reinstall")
        code, output = _say(*pip, *options, ROOT, cwd=folder)
        seconds = time.perf_counter() - start
        why = _why_no_kernels(folder) if code == 0 else output.strip()[-300:]
    if why:
        write(status="failed", summary=why)
        return
    found = json.loads(_say(sys.executable, "-c", INFO, cwd=folder)[1].splitlines()[-1])
    how = f"installed in {seconds:.0f} s" if seconds else "was installed"
    where = environment.gpu()
    write(
        status="ok",
        summary=f"{how}; {where['gpu']}, driver {where['driver']}, torch {where['torch']}",
        environment=found,
    )


INFO = "import fastconv, json; print(json.dumps(dict(fastconv.info())))"


# --- wrappers -------------------------------------------------------------------------------------


def wrappers(write: Write, folder: Path, budget: Budget) -> None:
    """Checks every wrapper of csrc/simt on the GPU against its definition."""
    if shutil.which("nvcc") is None:
        write(status="not here", summary="needs nvcc")
        return
    library = the_emulator().load_cuda()
    check_wrappers(write, library.call, library.most_shared_bytes())


def the_emulator() -> ModuleType:
    """The tests' package that runs their kernels, in the emulator or on a GPU."""
    sys.path.insert(0, str(ROOT / "tests" / "cuda"))
    import emulated

    return emulated


def check_wrappers(write: Write, call: Callable[..., object], most_shared_bytes: int) -> None:
    """Calls the wrappers, except cases that need more shared memory than a block has."""
    from emulated import wrappers as table

    cases, too_large = table.fitting(most_shared_bytes)
    problems = []
    for case in cases:
        try:
            case.check(call)
        except (AssertionError, RuntimeError) as error:
            problems.append(f"{case.name}: {' '.join(str(error).split())[:300]}")
            print(problems[-1], flush=True)
            write(problems=problems)
    summary = f"{len(cases) - len(problems)} of {len(cases)} wrappers' cases are right"
    if too_large:
        names = ", ".join(case.name for case in too_large)
        summary += f"; not asked: {names}, where a block has {most_shared_bytes >> 10} KiB"
    write(status="failed" if problems else "ok", summary=summary)


# --- tests ----------------------------------------------------------------------------------------


def run_tests(folder: Path, *arguments: str | Path, **environment: str) -> dict[str, object]:
    """Runs tests of the installed package, so not from the repository's root."""
    command = (sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--tb=short")
    config = ("-c", ROOT / "pyproject.toml", "--rootdir", ROOT)
    _, output = _say(*command, *config, *arguments, cwd=folder, **environment)
    return outcomes.read(output)


def told(found: dict) -> str:
    """The number of tests with each outcome, in words."""
    counts = ", ".join(f"{n} {outcome.lower()}" for outcome, n in sorted(found["counts"].items()))
    return counts or "no test ran"


def tests(write: Write, folder: Path, budget: Budget) -> None:
    """Runs the tests that need a GPU."""
    found = run_tests(folder, "--all", "-m", "gpu", ROOT / "tests")
    failed = [*found["failed"], *filter(None, [found["unfinished"]])]
    status = "ok" if found["ok"] else "failed"
    write(status=status, summary=told(found), problems=failed)


def cpu(write: Write, folder: Path, budget: Budget) -> None:
    """Runs the CPU kernels' quick tests on each of this machine's instruction sets."""
    import fastconv

    tests = ROOT / "tests" / "kernels"
    files = [tests / f"test_{name}.py" for name in ("conv2d", "fused", "relu", "max_pool2d")]
    results, problems = {}, []
    for isa in fastconv._C.build_info()["isas_supported"]:
        if results and not budget.allows(15):
            write(problems=[*problems, f"{isa}: left out, {budget.left():.0f} s are left"])
            break
        found = run_tests(folder, "-m", "not gpu", *files, FASTCONV_ISA=isa)
        results[isa] = found
        problems += [f"{isa}: {name}" for name in found["failed"]]
        write(
            status="ok" if all(r["ok"] for r in results.values()) else "failed",
            summary="; ".join(f"{isa}: {told(r)}" for isa, r in results.items()),
            problems=problems,
        )


# --- sanitizer ------------------------------------------------------------------------------------


def sanitizer(write: Write, folder: Path, budget: Budget) -> None:
    """Runs every kind of kernel once, on small odd shapes, under compute-sanitizer."""
    program = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(program).exists():
        write(status="not here", summary="compute-sanitizer is not installed")
        return
    done: dict[str, str] = {}
    problems = []
    for tool in ("memcheck", "racecheck"):
        if done and not budget.allows(20):
            done[tool] = "left out"
            continue
        command = (program, "--tool", tool, "--error-exitcode", "9", sys.executable)
        script = Path(__file__).with_name("small_set.py")
        # Each tensor gets its own memory, so that memory beyond it belongs to no other.
        code, output = _say(*command, script, cwd=folder, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
        done[tool] = "clean" if code == 0 else f"exit code {code}"
        if code:
            lines = [line for line in output.splitlines() if line.startswith("=========")]
            problems += [f"{tool}: {line.strip('= ')}" for line in lines[1:6] or ["see the log"]]
        write(
            status="failed" if problems else "ok",
            summary=", ".join(f"{name}: {what}" for name, what in done.items()),
            problems=problems,
        )


# --- blocks, layers, sweep ------------------------------------------------------------------------


def blocks(write: Write, folder: Path, budget: Budget) -> None:
    """Measures all blocks without torch.compile, then with it, within the time budget."""
    import torch

    import gpu.blocks
    from measure import environment

    torch.backends.cudnn.benchmark = True
    gpu.blocks.run(write, budget, environment.environment("cuda"))


def layers(write: Write, folder: Path, budget: Budget) -> None:
    """Measures the layers of ResNet-50 and VGG-16 by dtype, within the time budget."""
    import gpu.layers
    from measure import environment

    gpu.layers.run(write, budget, environment.environment("cuda"))


def sweep(write: Write, folder: Path, budget: Budget) -> None:
    """Measures every implementation on these layers, within the time budget."""
    import gpu.sweep
    from measure import environment

    gpu.sweep.run(write, folder, budget, environment.environment("cuda"))


PARTS = {f.__name__: f for f in (build, wrappers, tests, sanitizer, cpu, blocks, layers, sweep)}
