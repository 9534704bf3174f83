"""The GPUs that this build has kernels for."""

from __future__ import annotations

import warnings

import torch

from .. import _C, torch_internals

_lasting: dict[int, str] = {}  # reasons that stay for the process, by device
_said: set[str] = set()  # reasons that a warning has told


def why_not_on(device: int) -> str:
    """Why this build has no kernels for a GPU, "" where it has some.

    An error that may pass, such as a lack of memory, is not remembered: the next call asks again.
    """
    if device not in _lasting:
        why, passing = _ask(device)
        if passing:
            return f"{why}; later calls ask again"
        _lasting[device] = why
    return _lasting[device]


def _ask(device: int) -> tuple[str, bool]:
    """Why there are no kernels, and whether that may pass."""
    build = _C.build_info()
    if not build["cuda"]:
        return f"fastconv was built without CUDA ({build['cuda_why']})", False
    if torch.version.cuda is None:
        return "fastconv's kernels are CUDA's, torch's are not", False
    count, error, passing = _C.cuda_device_count()
    if count == 0:
        # With torch's CUDA at work, a driver that the build's runtime refuses is too old for it.
        return error if passing else f"driver too old for fastconv ({error})", passing
    with torch.cuda.device(device):
        error, passing = _C.cuda_why_not_on(device)
    if error and not passing:
        error = f"fastconv was built for {' '.join(build['cuda_targets'])} ({error})"
    return error, passing


@torch_internals.constant  # a compiler cannot look into `_C`
def usable(device: int) -> bool:
    """Whether fastconv's kernels run on a GPU. Warns once per process of each reason against it."""
    why = why_not_on(device)
    if why and why not in _said:
        _said.add(why)
        warnings.warn(f"GPUs are left to torch's own operators: {why}", stacklevel=3)
    return not why
