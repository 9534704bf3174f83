"""The convolution kernels of `fastconv._C`, called with tensors. Knows no autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .. import _C, precision, variants
from . import _geometry as geometry
from ._cuda import place
from ._marshal import DTYPES, NO_WORKSPACE, dense, empty, is_dense, pack, workspace, workspace_bytes

Ints = tuple[int, ...]


class _Plan(NamedTuple):
    """All that a forward call needs besides addresses. Made once per geometry."""

    x_format: torch.memory_format | None  # what a copy of x must be in, None: none needed
    w_format: torch.memory_format | None
    x: tuple  # a buffer without its address
    w: tuple
    bias: tuple
    y: tuple
    code: tuple
    workspace_bytes: int
    pool: Ints | None


def _how(direction: str, like: Tensor, problem: Callable[[], tuple]) -> tuple:
    """Threads and the implementation's name on CPUs; whether TF32 is allowed, and the variant's.

    Args:
        like: any of the tensors.
        problem: gives the rest of the key of `variants.table`, asked where there is a table.
    """
    if like.is_cpu:
        return torch.get_num_threads(), precision.implementation
    tf32 = like.dtype is torch.float32 and precision.tf32()
    if not variants.table:
        return tf32, ""
    return tf32, variants.table.get((direction, like.dtype, tf32, *problem()), "")


def _problem(x: Tensor, w_size: Ints, relu: bool, conv: Ints, pool: Ints) -> tuple:
    """That rest, where there is an x."""
    channels_last = geometry.is_channels_last(x.shape, x.stride())
    return relu, channels_last, x.shape, w_size, conv, pool


def _where(tensor: Tensor, how: tuple) -> tuple:
    """The last arguments of an entry of `_C`."""
    return how if tensor.is_cpu else (*place(tensor), *how)


def _input(
    size: Ints, stride: Ints, dtype: torch.dtype
) -> tuple[torch.memory_format | None, tuple]:
    """How x or w is passed: as it is where it is dense, else as a copy."""
    if is_dense(size, stride):
        return None, _tail(size, stride, dtype)
    channels_last = geometry.is_channels_last(size, stride)
    copy = torch.channels_last if channels_last else torch.contiguous_format
    return copy, _tail(size, geometry.strides(size, channels_last), dtype)


def _tail(size: Ints, stride: Ints, dtype: torch.dtype) -> tuple:
    count = 1
    for n in size:
        count *= n
    return count * dtype.itemsize, DTYPES[dtype], tuple(size), tuple(stride)


@lru_cache(maxsize=4096)
def _plan(x_size, x_stride, w_size, w_stride, dtype, conv, pool, relu, on_cpu, how) -> _Plan:
    x_format, x = _input(x_size, x_stride, dtype)
    w_format, w = _input(w_size, w_stride, dtype)
    channels_last = geometry.is_channels_last(x_size, x_stride) or geometry.is_channels_last(
        w_size, w_stride
    )
    y_size = geometry.block_size(x_size, w_size, conv, pool)
    code_size = geometry.code_size(x_size, w_size, conv, pool, not on_cpu)
    code_stride = geometry.strides(code_size, channels_last=bool(pool))
    c_pool = pool[:8] if pool else None
    return _Plan(
        x_format,
        w_format,
        x,
        w,
        _tail((w_size[0],), (1,), dtype),
        _tail(y_size, geometry.strides(y_size, channels_last), dtype),
        _tail(code_size, code_stride, torch.uint8),
        workspace_bytes(
            "fprop", dtype, tuple(x_size), tuple(w_size), y_size, conv, c_pool, relu, on_cpu, how
        ),
        c_pool,
    )


def fprop(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    conv: Ints,
    pool: Ints = (),
    relu: bool = False,
    save: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The convolution, or with `relu` the fused block: its output and, if asked for, its code."""
    how = _how("fprop", x, lambda: _problem(x, weight.shape, relu, conv, pool))
    dtype, device = x.dtype, x.device
    sizes = (x.shape, x.stride(), weight.shape, weight.stride())
    plan = _plan(*sizes, dtype, conv, pool, relu, x.is_cpu, how)
    if plan.x_format is not None:
        x = x.contiguous(memory_format=plan.x_format)
    if plan.w_format is not None:
        weight = weight.contiguous(memory_format=plan.w_format)
    if bias is not None:
        bias = bias.contiguous()
    y = torch.empty_strided(plan.y[2], plan.y[3], dtype=dtype, device=device)
    code = None
    if save:
        code = torch.empty_strided(plan.code[2], plan.code[3], dtype=torch.uint8, device=device)
    space, memory = NO_WORKSPACE, None
    if plan.workspace_bytes:
        space, memory = workspace(plan.workspace_bytes, x)
    entry = _C.conv2d_fprop if x.is_cpu else _C.cuda_conv2d_fprop
    entry(
        (x.data_ptr(), *plan.x),
        (weight.data_ptr(), *plan.w),
        None if bias is None else (bias.data_ptr(), *plan.bias),
        (y.data_ptr(), *plan.y),
        None if code is None else (code.data_ptr(), *plan.code),
        conv,
        plan.pool,
        relu,
        space,
        *_where(x, how),
    )
    del memory
    return y, code


def _code(code: Tensor | None, pool: Ints) -> Tensor | None:
    """The code in the memory format that the kernels write and read (vmap may have changed it)."""
    if code is None:
        return None
    return code.contiguous(memory_format=torch.channels_last if pool else torch.contiguous_format)


def dgrad(
    dy: Tensor,
    code: Tensor | None,
    weight: Tensor,
    x_hw: Sequence[int],
    channels_last: bool,
    conv: Ints,
    pool: Ints = (),
) -> Tensor:
    """The gradient of x, in the memory format asked for."""
    x_size = (dy.shape[0], weight.shape[1] * conv[8], *x_hw)
    relu = code is not None
    w_size = weight.shape
    how = _how("dgrad", dy, lambda: (relu, channels_last, x_size, w_size, conv, pool))
    dy, weight, code = dense(dy), dense(weight), _code(code, pool)
    dx = empty(x_size, channels_last, dy)
    c_pool = pool[:8] if pool else None
    space, memory = workspace(
        workspace_bytes(
            "dgrad",
            dy.dtype,
            x_size,
            w_size,
            dy.shape,
            conv,
            c_pool,
            relu,
            dy.is_cpu,
            how,
        ),
        dy,
    )
    entry = _C.conv2d_dgrad if dy.is_cpu else _C.cuda_conv2d_dgrad
    entry(pack(dy), pack(code), pack(weight), pack(dx), conv, c_pool, space, *_where(dy, how))
    del memory
    return dx


def wgrad(
    x: Tensor,
    dy: Tensor,
    code: Tensor | None,
    w_size: Ints,
    channels_last: bool,
    want_weight: bool,
    want_bias: bool,
    conv: Ints,
    pool: Ints = (),
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of weight and bias, None where not wanted."""
    relu = code is not None
    how = _how("wgrad", dy, lambda: _problem(x, tuple(w_size), relu, conv, pool))
    x, dy, code = dense(x), dense(dy), _code(code, pool)
    dw = empty(w_size, channels_last, dy) if want_weight else None
    dbias = torch.empty((w_size[0],), dtype=dy.dtype, device=dy.device) if want_bias else None
    c_pool = pool[:8] if pool else None
    space, memory = workspace(
        workspace_bytes(
            "wgrad",
            dy.dtype,
            x.shape,
            w_size,
            dy.shape,
            conv,
            c_pool,
            relu,
            dy.is_cpu,
            how,
        ),
        dy,
    )
    entry = _C.conv2d_wgrad if dy.is_cpu else _C.cuda_conv2d_wgrad
    entry(
        pack(x),
        pack(dy),
        pack(code),
        pack(dw),
        pack(dbias),
        w_size,
        conv,
        c_pool,
        space,
        *_where(dy, how),
    )
    del memory
    return dw, dbias
