"""Tensors as `fastconv._C` takes them: (data_ptr, nbytes, dtype, sizes, strides)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch  # before _C, so that both share one OpenMP library
from torch import Tensor

from .. import geometry

DTYPES = {
    torch.float32: 0,
    torch.float64: 1,
    torch.uint8: 2,
    torch.int32: 3,
    torch.float16: 4,
    torch.bfloat16: 5,
}
# The dtypes that kernels take, on CPUs and GPUs.
KERNEL_DTYPES = frozenset((torch.float32, torch.float64, torch.float16, torch.bfloat16))

Buffer = tuple[int, int, int, Sequence[int], Sequence[int]]
EMPTY: Buffer = (0, 0, 2, (0,), (1,))


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


def pack_flat(tensor: Tensor | None) -> Buffer | None:
    """A dense tensor as a buffer of one dimension, its elements in the order of memory."""
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
    """The memory format that a tensor has to be copied into, None for one that is dense."""
    if is_dense(size, stride):
        return None
    channels_last = geometry.is_channels_last(size, stride)
    return torch.channels_last if channels_last else torch.contiguous_format
