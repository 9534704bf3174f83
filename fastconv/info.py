"""Reports fastconv's version, its build and the kernels that run here."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from . import _C, kernels
from .precision import get_precision

# The instruction sets that fastconv's tests have run on. This list is maintained by hand.
TESTED = frozenset(("baseline", "avx2", "avx2x16", "avx2x16_amx", "avx512", "avx512_bf16"))


class Info(dict):
    """A dict of `info`'s answers. Its text has one line per answer."""

    def __str__(self) -> str:
        width = max(len(key) for key in self)
        return "\n".join(f"{key:{width}}  {_text(value)}" for key, value in self.items())


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def info() -> Info:
    """Version, build and the kernels that run here.

    Returns:
        A dict with `version`, `compiler`, `cuda build` (yes and the nvcc, or no and the reason),
        `cuda targets`, `cuda switch` (the command that installs the other build), `instruction
        sets` (of the build; those untested or not on this CPU say so), `in use`, `precision`,
        `torch`, `threads` and `gpu`. Its str() is for people.
    """
    build = _C.build_info()
    return Info(
        {
            "version": build["version"],
            "compiler": build["compiler"],
            **cuda(build["cuda"], build["cuda_why"], build["cuda_targets"]),
            "instruction sets": [_isa(name) for name in build["isas"]],
            "in use": _isa(build["isa"]),
            "precision": get_precision(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "gpu": _gpu(build["cuda"]),
        }
    )


def cuda(built: bool, why: str, targets: list[str]) -> dict[str, object]:
    """`info`'s answers about the CUDA kernels, since pip hides the build's own messages."""
    answer, other = ("yes", "OFF") if built else ("no", "ON")
    return {
        "cuda build": f"{answer}: {why}",
        "cuda targets": targets or "none",
        "cuda switch": f"pip install . -C cmake.define.FASTCONV_CUDA={other}",
    }


def _isa(name: str) -> str:
    """An instruction set's name, with what a user should know of it."""
    notes = ["untested"] if name not in TESTED else []
    if name not in _C.build_info()["isas_supported"]:
        notes.append("not on this CPU")
    return f"{name} ({', '.join(notes)})" if notes else name


def _gpu(built: bool) -> str:
    """The GPU's name, or the reason why its kernels do not run."""
    if not torch.cuda.is_available():
        count = _C.cuda_device_count()[0] if built else 0
        return "there is one, but not for this torch" if count else "none"
    name = torch.cuda.get_device_name()
    why = kernels.why_not_on(torch.cuda.current_device())
    return f"{name}, on torch's operators: {why}" if why else name


def processor() -> str:
    """The processor's name, for reports of runs and benchmarks."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
