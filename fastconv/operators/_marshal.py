"""Tensors as `fastconv._C` takes them: (data_ptr, nbytes, dtype, sizes, strides)."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache

import torch  # before _C, so that both share one OpenMP library
from torch import Tensor

from .. import _C
from . import _geometry as geometry

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


def dense(tensor: Tensor) -> Tensor:
    """The tensor itself where it is contiguous or channels_last, else a contiguous copy."""
    return tensor if is_dense(tensor.shape, tensor.stride()) else tensor.contiguous()


def empty(size: Sequence[int], channels_last: bool, like: Tensor, dtype=None) -> Tensor:
    """Uninitialised memory of the given sizes and memory format."""
    return torch.empty_strided(
        size,
        geometry.strides(size, channels_last),
        dtype=like.dtype if dtype is None else dtype,
        device=like.device,
    )


@lru_cache(maxsize=4096)
def workspace_bytes(direction, dtype, x_size, w_size, y_size, conv, pool, relu, on_cpu, how):
    """What a kernel needs for itself. Depends on the geometry alone, so it is asked once."""
    entry = _C.conv2d_workspace if on_cpu else _C.cuda_conv2d_workspace
    return entry(direction, DTYPES[dtype], x_size, w_size, y_size, conv, pool, relu, *how)


# On CPUs one thread's kernels run one after another, so they can share memory; and memory that was
# just used is in the caches and has its pages. Larger workspaces are given back. On a GPU a
# thread's kernels may run at once, on several streams; torch keeps memory there, for each of them.
_KEPT_BYTES = 32 << 20
_kept = threading.local()


def workspace(nbytes: int, like: Tensor) -> tuple[Buffer, Tensor | None]:
    """The buffer for a kernel and the tensor that keeps it alive."""
    if nbytes == 0:
        return NO_WORKSPACE, None
    memory = getattr(_kept, "memory", None) if like.is_cpu else None
    if memory is None or memory.nbytes < nbytes:
        memory = torch.empty_strided((nbytes,), (1,), dtype=torch.uint8, device=like.device)
        if like.is_cpu and nbytes <= _KEPT_BYTES:
            _kept.memory = memory
    return (memory.data_ptr(), nbytes, 2, (nbytes,), (1,)), memory
