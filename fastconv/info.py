"""What this fastconv is, how it was built and what runs here."""

from __future__ import annotations

import torch

from . import _C

# Which instruction sets fastconv's tests were ever run on. Kept honest by hand.
TESTED = {"baseline": True, "avx2": True, "avx512": False, "neon": False}


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
    from .precision import get_precision

    build = _C.build_info()
    isas = [isa if TESTED.get(isa) else f"{isa} (untested)" for isa in build["isas"]]
    return Info(
        {
            "version": build["version"],
            "compiler": build["compiler"],
            "cuda build": "yes" if build["cuda"] else f"no: {build['cuda_why']}",
            "cuda targets": build["cuda_targets"] or "none",
            "instruction sets": isas,
            "in use": build["isa"] if TESTED.get(build["isa"]) else f"{build['isa']} (untested)",
            "precision": get_precision(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "gpu": _gpu(build["cuda"]),
        }
    )


def _gpu(built: bool) -> str:
    """The GPU as torch and the build see it."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    if not built:
        return "no GPU" if name is None else f"{name}, not used: fastconv was built without CUDA"
    count, error = _C.cuda_device_count()
    if count and name:
        return name
    if count or not name:
        return f"no GPU ({error})" if error and not count else "no GPU that torch can use"
    return f"{name}, not used: driver too old ({error})"
