"""The software and hardware of a run, for its metrics.json."""

from __future__ import annotations

import platform

import torch

from ..info import info, processor


def environment() -> dict[str, object]:
    """fastconv's build, torch, Python, threads and processor."""
    return {
        "fastconv": dict(info()),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "processor": processor(),
        "platform": platform.platform(),
    }
