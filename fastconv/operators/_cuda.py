"""Which GPUs this build has kernels for."""

from __future__ import annotations

import warnings
from functools import lru_cache

import torch

from .. import _C
from . import _eager

_said = False


@lru_cache
def why_not_on(device: int) -> str:
    """Why this build has no kernels for a GPU, "" where it has."""
    build = _C.build_info()
    if not build["cuda"]:
        return f"fastconv was built without CUDA ({build['cuda_why']})"
    if torch.version.cuda is None:
        return "fastconv's kernels are CUDA's, torch's are not"
    count, error = _C.cuda_device_count()
    if count == 0:
        # With torch's CUDA at work, a driver that the build's runtime refuses is too old for it.
        return f"driver too old for fastconv ({error})"
    error = _C.cuda_why_not_on(device)
    return error and f"fastconv was built for {' '.join(build['cuda_targets'])} ({error})"


@_eager.constant  # a compiler cannot look into `_C`
def usable(device: int) -> bool:
    """Whether fastconv's kernels run on that GPU. Says once per process why they do not."""
    global _said
    why = why_not_on(device)
    if why and not _said:
        _said = True
        warnings.warn(f"GPUs are left to torch's own operators: {why}", stacklevel=3)
    return not why
