"""What this fastconv is, how it was built and what runs here."""

from __future__ import annotations

import torch

from . import _C, operators
from .precision import get_precision

# The instruction sets that fastconv's tests ever ran on. Kept honest by hand.
TESTED = frozenset(("baseline", "avx2", "avx2x16", "avx512"))


class Info(dict):
    """A dict of `info`'s answers; as text it is one line for each."""

    def __str__(self) -> str:
        width = max(len(key) for key in self)
        return "\n".join(f"{key:{width}}  {_text(value)}" for key, value in self.items())


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def info() -> Info:
    """Version, build and what runs here.

    Returns:
        A dict with `version`, `compiler`, `cuda build` (yes, or no and why), `cuda targets`,
        `instruction sets` (built in, each tested or untested), `in use`, `precision`, `torch`,
        `threads` and `gpu`. str() of it is meant to be read.
    """
    build = _C.build_info()
    return Info(
        {
            "version": build["version"],
            "compiler": build["compiler"],
            "cuda build": "yes" if build["cuda"] else f"no: {build['cuda_why']}",
            "cuda targets": build["cuda_targets"] or "none",
            "instruction sets": [_isa(name) for name in build["isas"]],
            "in use": _isa(build["isa"]),
            "precision": get_precision(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "gpu": _gpu(build["cuda"]),
        }
    )


def _isa(name: str) -> str:
    return name if name in TESTED else f"{name} (untested)"


def _gpu(built: bool) -> str:
    """The GPU as torch and the build see it."""
    if not torch.cuda.is_available():
        count = _C.cuda_device_count()[0] if built else 0
        return "there is one, but not for this torch" if count else "none"
    name = torch.cuda.get_device_name()
    why = operators.why_not_on(torch.cuda.current_device())
    return f"{name}, on torch's operators: {why}" if why else name
