"""Memory that a kernel needs for itself.

On CPUs a thread keeps it: its kernels run one after another, and memory that was just used is in
the caches and has its pages. On a GPU a thread's kernels may run at once, on several streams, and
torch keeps memory for each of them.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from .. import torch_internals
from .huge_pages import ask_for_huge_pages

_MOST_KEPT_BYTES = 32 << 20  # larger workspaces are given back after the call
_kept = threading.local()


def workspace(nbytes: int, like: Tensor) -> Tensor:
    """At least that much memory on the device of `like`."""
    memory = getattr(_kept, "memory", None) if like.is_cpu else None
    if memory is None or memory.nbytes < nbytes:
        memory = torch.empty_strided((nbytes,), (1,), dtype=torch.uint8, device=like.device)
        if like.is_cpu and nbytes > _MOST_KEPT_BYTES:
            ask_for_huge_pages(memory)
        elif like.is_cpu and not torch_internals.has_no_memory(memory):  # as functionalize gives
            _kept.memory = memory
    return memory
