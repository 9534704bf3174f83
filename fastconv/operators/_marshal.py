"""Tensors as `fastconv._C` takes them: (data_ptr, nbytes, dtype, sizes, strides)."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache

import torch  # before _C, so that both share one OpenMP library
from torch import Tensor

from . import _eager
from . import _geometry as geometry
from ._pages import ask_for_huge_pages

DTYPES = {
    torch.float32: 0,
    torch.float64: 1,
    torch.uint8: 2,
    torch.int32: 3,
    torch.float16: 4,
    torch.bfloat16: 5,
}
# What kernels take, on CPUs and GPUs.
KERNEL_DTYPES = frozenset((torch.float32, torch.float64, torch.float16, torch.bfloat16))

Buffer = tuple[int, int, int, Sequence[int], Sequence[int]]
NO_WORKSPACE: Buffer = (0, 0, 2, (0,), (1,))


def pack(tensor: Tensor | None) -> Buffer | None:
    """A dense tensor as a buffer."""
    if tensor is None:
        return None
    return (
        tensor.data_ptr(),
        tensor.nbytes,
        DTYPES[tensor.dtype],
        tensor.shape,
        tensor.stride(),
    )


def flat(tensor: Tensor | None) -> Buffer | None:
    """The same with its elements in the order of memory."""
    if tensor is None:
        return None
    return tensor.data_ptr(), tensor.nbytes, DTYPES[tensor.dtype], (tensor.numel(),), (1,)


@lru_cache(maxsize=4096)
def is_dense(size: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether the strides are those of one of the two memory formats, wherever they matter."""
    return any(
        all(n == 1 or a == b for n, a, b in zip(size, stride, wanted, strict=True))
        for wanted in (geometry.nchw(size), geometry.nhwc(size))
    )


def copy_format(size: Sequence[int], stride: Sequence[int]) -> torch.memory_format | None:
    """The memory format that a tensor is copied into which is not dense, None for one that is."""
    if is_dense(size, stride):
        return None
    channels_last = geometry.is_channels_last(size, stride)
    return torch.channels_last if channels_last else torch.contiguous_format


# On CPUs one thread's kernels run one after another, so they can share memory; and memory that was
# just used is in the caches and has its pages. Larger workspaces are given back. On a GPU a
# thread's kernels may run at once, on several streams; torch keeps memory there, for each of them.
_KEPT_BYTES = 32 << 20
_kept = threading.local()


def workspace(nbytes: int, like: Tensor) -> Tensor:
    """At least that much memory for a kernel, where `like` is."""
    memory = getattr(_kept, "memory", None) if like.is_cpu else None
    if memory is None or memory.nbytes < nbytes:
        memory = torch.empty_strided((nbytes,), (1,), dtype=torch.uint8, device=like.device)
        if like.is_cpu and nbytes > _KEPT_BYTES:
            ask_for_huge_pages(memory)
        elif like.is_cpu and not _eager.has_no_memory(memory):  # functionalization gives such
            _kept.memory = memory
    return memory
