"""Describes the hardware and software of a measurement."""

from __future__ import annotations

import os
import platform
import subprocess

import torch


def environment(device: str = "cpu") -> dict[str, object]:
    """Processor, cores, threads, versions and fastconv's build, and the GPU if it is the device."""
    import fastconv  # here: gpu_check.py asks for the GPU before fastconv is built
    from fastconv.info import processor

    return {
        **(gpu() if device == "cuda" else {}),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch cpu capability": torch.backends.cpu.get_cpu_capability(),
        "fastconv": dict(fastconv.info()),
    }


def gpu() -> dict[str, object]:
    """The GPU, its driver, the libraries' versions, and torch's precision."""
    properties = torch.cuda.get_device_properties()
    return {
        "gpu": properties.name,
        "compute capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory": properties.total_memory,
        "L2 cache": properties.L2_cache_size,
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "convolutions use tf32": torch.backends.cudnn.conv.fp32_precision == "tf32",
    }


def lscpu() -> str:
    """The output of lscpu."""
    return _output("lscpu")


def _output(*command: str) -> str:
    """A command's output; "unknown" if there is no such command."""
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"
    except OSError:
        return "unknown"
