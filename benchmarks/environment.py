"""Where a measurement was made."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

import fastconv


def environment() -> dict[str, object]:
    """Processor, cores, threads, versions and fastconv's build."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch cpu capability": torch.backends.cpu.get_cpu_capability(),
        "fastconv": dict(fastconv.info()),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
