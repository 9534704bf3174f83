"""Measures the install with and without the CUDA kernels: benchmarks/results/install.json.

    python benchmarks/install_times.py        needs nvcc and the tools of CONTRIBUTING.md

It counts processor time, because compilers run on all cores and share them with others.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import progress
from measure.environment import environment

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "install.json"
BUILDS = {"for CPUs": "OFF", "for CPUs and CUDA": "ON"}


def measure(cuda: str, folder: Path) -> float:
    """Seconds of one core that `pip wheel` takes with this FASTCONV_CUDA; the wheel in a folder.

    Raises:
        subprocess.CalledProcessError: pip failed and has printed why.
    """

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = used()
    options = ("--no-build-isolation", "--no-deps", "-C", f"cmake.define.FASTCONV_CUDA={cuda}")
    command = [sys.executable, "-m", "pip", "wheel", *options, "-w", str(folder), str(ROOT)]
    subprocess.run(command, cwd=folder, check=True)
    return used() - before


def main() -> None:
    """Measures both builds and writes them."""
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in progress.each(list(BUILDS), str):
            seconds[name] = measure(BUILDS[name], Path(folder))
    result = {"environment": environment(), "processor seconds": seconds}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
