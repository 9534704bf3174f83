"""Checks and measures fastconv on a machine with a GPU, in one command and eight minutes.

    python benchmarks/gpu_check.py --out DIR                        everything
    python benchmarks/gpu_check.py --out DIR --parts build,blocks   some of it
    python benchmarks/gpu_check.py --out DIR --dry-run              every part without a GPU, small

The parts, in this order (the most important first):
    build      installs fastconv if it is missing or has no CUDA kernels; describes the machine
    wrappers   every wrapper of csrc/simt against its definition
    tests      the CUDA tests of the suite
    sanitizer  small problems under compute-sanitizer, where it is installed
    cpu        the CPU kernels' tests on this machine's instruction sets
    blocks     conv + bias + ReLU + max-pool against torch.nn, forward and backward
    layers     the convolution layers of ResNet-50 and VGG-16 in bf16, f16, f32 against torch's
    sweep      all implementations on these layers; a table of the fastest, implementations.json

DIR gets gpu.json, gpu.md (the same, readable) and a log for each part, up to date after each step.
Each part is its own process, since an illegal access ends all CUDA work of its process.
A dry run uses the emulator or this CPU's kernels. Each part then names the steps that it left out.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from gpu.budget import Budget
from gpu.report import Report


class Part(NamedTuple):
    """A part, the seconds that it needs to start, and the seconds after which it is killed."""

    name: str
    least: float
    most: float


PARTS = [
    Part("build", 20, 150),
    Part("wrappers", 20, 50),
    Part("tests", 20, 100),
    Part("sanitizer", 30, 60),
    Part("cpu", 20, 35),
    Part("blocks", 30, 480),
    Part("layers", 20, 480),
    Part("sweep", 20, 480),
]


def choose(text: str | None) -> list[Part]:
    """Parts by name, all by default, always in their own order.

    Raises:
        ValueError: there is no such part.
    """
    if text is None:
        return PARTS
    wanted = [name.strip() for name in text.split(",") if name.strip()]
    names = [part.name for part in PARTS]
    for name in wanted:
        if name not in names:
            raise ValueError(f"no part {name!r}; there are {', '.join(names)}")
    if not wanted:
        raise ValueError(f"no part is named; there are {', '.join(names)}")
    return [part for part in PARTS if part.name in wanted]


def why_no_gpu() -> str:
    """The reason why there is no usable GPU; "" if there is one."""
    try:
        import torch
    except ImportError:
        return "torch is not installed"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA"
    return "" if torch.cuda.is_available() else f"torch {torch.__version__} finds none"


def _run(part: Part, folder: Path, seconds: float, dry: bool = False) -> str:
    """Runs a part in its own process. Returns its failure; "" if it ended well."""
    command = [sys.executable, "-m", "gpu.child"]
    with (folder / f"{part.name}.log").open("w") as log:
        process = subprocess.Popen(
            [*command, part.name, str(folder), str(seconds), *["dry"] * dry],
            cwd=Path(__file__).parent,  # where the module is found
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that its child processes can be killed with it
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"ended after {seconds:.0f} s"
    return "" if code == 0 else f"exit code {code}, see {part.name}.log"


def run(parts: Sequence[Part], folder: Path, budget: Budget, run_part=_run) -> int:
    """Runs the parts while there is time, and writes the report. Returns 0 if all is well."""
    report = Report(folder, fresh=True)
    for part in parts:
        if not budget.allows(part.least):
            why = f"{budget.left():.0f} s are left, it takes {part.least:.0f}"
            report.write(part.name, status="left out", summary=why)
            print(f"{part.name}: left out: {why}", flush=True)
            continue
        print(f"{part.name}: started, {budget.left():.0f} s left", flush=True)
        report.write(part.name, status="started")
        start = time.perf_counter()
        bad = run_part(part, folder, min(part.most, budget.left()))
        report = Report(folder)
        found = report.parts[part.name]
        status = "failed" if bad and not bad.startswith("ended") else found["status"]
        if bad.startswith("ended"):
            status = "out of time"
        summary = "; ".join(filter(None, (found.get("summary", ""), bad)))
        seconds = time.perf_counter() - start
        report.write(part.name, status=status, summary=summary, seconds=round(seconds, 1))
        print(f"{part.name}: {status}: {summary}", flush=True)
    statuses = [found["status"] for found in report.parts.values()]
    return int(not all(status in ("ok", "not here") for status in statuses))


def main() -> int:
    """Runs the parts that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the results")
    names = ",".join(part.name for part in PARTS)
    parser.add_argument("--parts", metavar="NAMES", help=f"only these: {names}")
    parser.add_argument("--minutes", type=float, help="at most (8; a dry run 20)")
    parser.add_argument(
        "--dry-run", action="store_true", help="run every part without a GPU, as far as it goes"
    )
    arguments = parser.parse_args()
    try:
        parts = choose(arguments.parts)
    except ValueError as error:
        parser.error(str(error))
    dry = arguments.dry_run
    if not dry and (why := why_no_gpu()):
        print(f"gpu_check needs a GPU: {why}; --dry-run does without", file=sys.stderr)
        return 2
    folder = arguments.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    minutes = arguments.minutes or (20 if dry else 8)
    budget = Budget(60 * minutes - 5)  # leaves time to kill a part and to write
    if dry:  # a part that compiles first needs the time
        parts = [part._replace(most=60 * minutes) for part in parts]
    code = run(parts, folder, budget, partial(_run, dry=dry))
    print((folder / "gpu.md").read_text())
    return code


if __name__ == "__main__":
    sys.exit(main())
