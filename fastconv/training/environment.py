"""Where a run took place, for its metrics.json."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from ..info import info


def environment() -> dict[str, object]:
    """fastconv's build, torch, Python, threads and processor."""
    return {
        "fastconv": dict(info()),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "processor": _processor(),
        "platform": platform.platform(),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
