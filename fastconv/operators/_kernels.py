"""The convolution kernels of `fastconv._C`, called with tensors. Knows no autograd.

What follows from sizes, strides and settings alone is worked out once, in a plan; and an entry of
`_C` that has checked its arguments gives back a call that takes new addresses for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from .. import _C, precision, variants
from . import _eager
from . import _geometry as geometry
from ._marshal import DTYPES, NO_WORKSPACE, is_dense, pack, workspace

Ints = tuple[int, ...]


class _Plan:
    """A direction's call for one geometry, but for the memory."""

    __slots__ = ("again", "formats", "outputs", "workspace_bytes")

    def __init__(self, formats: tuple, outputs: tuple, workspace_bytes: int) -> None:
        # The memory formats that the two inputs are copied into, None where one is taken as it is.
        self.formats = formats if any(formats) else None
        self.outputs = outputs  # sizes and strides, None where there is nothing
        self.workspace_bytes = workspace_bytes
        self.again: Callable | None = None  # what the entry gave back


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


def _copy(size: Ints, stride: Ints) -> torch.memory_format | None:
    """What a tensor is copied into that is not dense."""
    if is_dense(size, stride):
        return None
    channels_last = geometry.is_channels_last(size, stride)
    return torch.channels_last if channels_last else torch.contiguous_format


def _dense(plan: _Plan, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two inputs as kernels take them."""
    if plan.formats is None:
        return a, b
    return tuple(
        t if copy is None else t.contiguous(memory_format=copy)
        for t, copy in zip((a, b), plan.formats, strict=True)
    )


def _code(code: Tensor | None, pool: Ints) -> Tensor | None:
    """The code in the memory format that the kernels write and read (vmap may have changed it)."""
    if code is None:
        return None
    return code.contiguous(memory_format=torch.channels_last if pool else torch.contiguous_format)


def _workspace_bytes(direction, dtype, x_size, w_size, y_size, conv, pool, relu, device, how):
    """What a kernel needs for itself."""
    entry = _C.conv2d_workspace if device < 0 else _C.cuda_conv2d_workspace
    sizes = tuple(x_size), tuple(w_size), tuple(y_size)
    return entry(direction, DTYPES[dtype], *sizes, conv, pool[:8] or None, relu, *how)


def _run(
    plan: _Plan,
    direction: str,
    like: Tensor,
    tensors: Sequence[Tensor | None],
    geometry: tuple,
    how: tuple,
) -> None:
    """Calls the kernel; `tensors` and `geometry` are its entry's arguments."""
    memory = workspace(plan.workspace_bytes, like) if plan.workspace_bytes else None
    device = like.get_device()
    stream = () if device < 0 else (_eager.cuda_stream(device),)
    if plan.again is not None:
        space = 0 if memory is None else memory.data_ptr()
        plan.again(*[0 if t is None else t.data_ptr() for t in tensors], space, *stream)
        return
    entry = getattr(_C, f"conv2d_{direction}" if device < 0 else f"cuda_conv2d_{direction}")
    space = NO_WORKSPACE if memory is None else pack(memory)
    where = () if device < 0 else (device, *stream)
    plan.again = entry(*map(pack, tensors), *geometry, space, *where, *how)


@lru_cache(maxsize=4096)
def _fprop_plan(
    x_size, x_stride, w_size, w_stride, dtype, bias, conv, pool, relu, save, device, how
) -> _Plan:
    channels_last = geometry.is_channels_last(x_size, x_stride) or geometry.is_channels_last(
        w_size, w_stride
    )
    y_size = geometry.block_size(x_size, w_size, conv, pool)
    code = None
    if save:
        size = geometry.code_size(x_size, w_size, conv, pool, device >= 0)
        code = size, geometry.strides(size, channels_last=bool(pool))
    return _Plan(
        (_copy(x_size, x_stride), _copy(w_size, w_stride)),
        ((y_size, geometry.strides(y_size, channels_last)), code),
        _workspace_bytes("fprop", dtype, x_size, w_size, y_size, conv, pool, relu, device, how),
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
    has_bias = bias is not None
    plan = _fprop_plan(*sizes, dtype, has_bias, conv, pool, relu, save, x.get_device(), how)
    x, weight = _dense(plan, x, weight)
    if has_bias:
        bias = bias.contiguous()
    (size, stride), code = plan.outputs
    y = torch.empty_strided(size, stride, dtype=dtype, device=device)
    if code is not None:
        code = torch.empty_strided(*code, dtype=torch.uint8, device=device)
    _run(plan, "fprop", y, (x, weight, bias, y, code), (conv, pool[:8] or None, relu), how)
    return y, code


@lru_cache(maxsize=4096)
def _dgrad_plan(
    dy_size, dy_stride, w_size, w_stride, dtype, relu, x_hw, channels_last, conv, pool, device, how
) -> _Plan:
    x_size = (dy_size[0], w_size[1] * conv[8], *x_hw)
    return _Plan(
        (_copy(dy_size, dy_stride), _copy(w_size, w_stride)),
        (x_size, geometry.strides(x_size, channels_last)),
        _workspace_bytes("dgrad", dtype, x_size, w_size, dy_size, conv, pool, relu, device, how),
    )


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
    relu, x_hw, w_size = code is not None, tuple(x_hw), weight.shape

    def problem() -> tuple:
        x_size = (dy.shape[0], w_size[1] * conv[8], *x_hw)
        return relu, channels_last, x_size, w_size, conv, pool

    how = _how("dgrad", dy, problem)
    sizes = (dy.shape, dy.stride(), w_size, weight.stride())
    place = (conv, pool, dy.get_device(), how)
    plan = _dgrad_plan(*sizes, dy.dtype, relu, x_hw, channels_last, *place)
    dy, weight = _dense(plan, dy, weight)
    dx = torch.empty_strided(*plan.outputs, dtype=dy.dtype, device=dy.device)
    tensors = (dy, _code(code, pool), weight, dx)
    _run(plan, "dgrad", dx, tensors, (conv, pool[:8] or None), how)
    return dx


@lru_cache(maxsize=4096)
def _wgrad_plan(
    x_size,
    x_stride,
    dy_size,
    dy_stride,
    dtype,
    relu,
    w_size,
    want_weight,
    want_bias,
    channels_last,
    conv,
    pool,
    device,
    how,
) -> _Plan:
    dw = (w_size, geometry.strides(w_size, channels_last)) if want_weight else None
    return _Plan(
        (_copy(x_size, x_stride), _copy(dy_size, dy_stride)),
        (dw, ((w_size[0],), (1,)) if want_bias else None),
        _workspace_bytes("wgrad", dtype, x_size, w_size, dy_size, conv, pool, relu, device, how),
    )


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
    relu, w_size = code is not None, tuple(w_size)
    how = _how("wgrad", dy, lambda: _problem(x, w_size, relu, conv, pool))
    sizes = (x.shape, x.stride(), dy.shape, dy.stride())
    want = (want_weight, want_bias, channels_last)
    plan = _wgrad_plan(*sizes, x.dtype, relu, w_size, *want, conv, pool, x.get_device(), how)
    x, dy = _dense(plan, x, dy)
    dw, dbias = (
        None if like is None else torch.empty_strided(*like, dtype=dy.dtype, device=dy.device)
        for like in plan.outputs
    )
    tensors = (x, dy, _code(code, pool), dw, dbias)
    _run(plan, "wgrad", dy, tensors, (w_size, conv, pool[:8] or None), how)
    return dw, dbias
