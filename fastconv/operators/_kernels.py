"""The convolution kernels of `fastconv._C`, called with tensors. Knows no autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from .. import _C, precision, variants
from . import _geometry as geometry
from ._marshal import DTYPES, copy_format
from ._plan import Plan

Ints = tuple[int, ...]


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


def _code(code: Tensor | None, pool: Ints) -> Tensor | None:
    """The code in the memory format that the kernels write and read (vmap may have changed it)."""
    if code is None:
        return None
    return code.contiguous(memory_format=torch.channels_last if pool else torch.contiguous_format)


def _seen(y_size: Ints, code: bool, pool: Ints) -> Ints | None:
    """The sizes that kernels see a code in, None for its own."""
    return geometry.bits_size(y_size) if code and not pool else None


def _workspace_bytes(direction, dtype, x_size, w_size, y_size, conv, pool, relu, device, how):
    """What a kernel needs for itself."""
    entry = _C.conv2d_workspace if device < 0 else _C.cuda_conv2d_workspace
    sizes = tuple(x_size), tuple(w_size), tuple(y_size)
    return entry(direction, DTYPES[dtype], *sizes, conv, pool[:8] or None, relu, *how)


@lru_cache(maxsize=4096)
def _fprop_plan(
    x_size, x_stride, w_size, w_stride, dtype, conv, pool, relu, save, bias, device, how
):
    channels_last = geometry.is_channels_last(x_size, x_stride) or geometry.is_channels_last(
        w_size, w_stride
    )
    y_size = geometry.block_size(x_size, w_size, conv, pool)
    code = None
    if save:
        code = *geometry.code_form(x_size, w_size, conv, pool, device >= 0), torch.uint8
    return Plan(
        "conv2d_fprop",
        device,
        ((y_size, geometry.strides(y_size, channels_last), dtype), code),
        (copy_format(x_size, x_stride), copy_format(w_size, w_stride)),
        _workspace_bytes("fprop", dtype, x_size, w_size, y_size, conv, pool, relu, device, how),
        (None, None, None, None, _seen(y_size, save, pool)),
    )


Fprop = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor | None]]


def _bound_fprop(
    x: Tensor, weight: Tensor, bias: Tensor | None, conv: Ints, pool: Ints, relu: bool, save: bool
) -> Fprop:
    """fprop for tensors of these very forms, under these settings."""
    how = _how("fprop", x, lambda: _problem(x, weight.shape, relu, conv, pool))
    sizes = (x.shape, x.stride(), weight.shape, weight.stride())
    # whether there is a bias: the entry's call remembers that
    rest = (conv, pool, relu, save, bias is not None, x.get_device(), how)
    plan, device = _fprop_plan(*sizes, x.dtype, *rest), x.device
    as_it_is, geometry = bias is None or bias.is_contiguous(), (conv, pool[:8] or None, relu)

    def bound(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        x, weight = plan.inputs(x, weight)
        if not as_it_is:
            bias = bias.contiguous()
        y, code = plan.output(0, device), plan.output(1, device)
        plan.run((x, weight, bias, y, code), geometry, how)
        return y, code

    return bound


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
    return _bound_fprop(x, weight, bias, conv, pool, relu, save)(x, weight, bias)


def bind_fprop(x: Tensor, weight: Tensor, bias: Tensor | None, *rest: object) -> Fprop:
    """`fprop` with the rest of its arguments, for tensors of these very forms.

    On CPUs under these settings; on GPUs TF32 and variants may change from call to call.
    """
    if not x.is_cpu:
        return lambda x, weight, bias: fprop(x, weight, bias, *rest)
    return _bound_fprop(x, weight, bias, *rest)


@lru_cache(maxsize=4096)
def _dgrad_plan(
    dy_size, dy_stride, w_size, w_stride, dtype, relu, x_hw, channels_last, conv, pool, device, how
):
    x_size = (dy_size[0], w_size[1] * conv[8], *x_hw)
    return Plan(
        "conv2d_dgrad",
        device,
        ((x_size, geometry.strides(x_size, channels_last), dtype),),
        (copy_format(dy_size, dy_stride), copy_format(w_size, w_stride)),
        _workspace_bytes("dgrad", dtype, x_size, w_size, dy_size, conv, pool, relu, device, how),
        (None, _seen(dy_size, relu, pool), None, None),
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
    rest = (relu, x_hw, channels_last, conv, pool, dy.get_device(), how)
    plan = _dgrad_plan(*sizes, dy.dtype, *rest)
    dy, weight = plan.inputs(dy, weight)
    dx = plan.output(0, dy.device)
    plan.run((dy, _code(code, pool), weight, dx), (conv, pool[:8] or None), how)
    return dx


@lru_cache(maxsize=4096)
def _wgrad_plan(
    x_size, x_stride, dy_size, dy_stride, dtype, relu, w_size, channels_last, want_weight,
    want_bias, conv, pool, device, how,
):  # fmt: skip
    return Plan(
        "conv2d_wgrad",
        device,
        (
            (w_size, geometry.strides(w_size, channels_last), dtype) if want_weight else None,
            ((w_size[0],), (1,), dtype) if want_bias else None,
        ),
        (copy_format(x_size, x_stride), copy_format(dy_size, dy_stride)),
        _workspace_bytes("wgrad", dtype, x_size, w_size, dy_size, conv, pool, relu, device, how),
        (None, None, _seen(dy_size, relu, pool), None, None),
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
    wanted = (channels_last, want_weight, want_bias)
    rest = (relu, w_size, *wanted, conv, pool, x.get_device(), how)
    plan = _wgrad_plan(*sizes, x.dtype, *rest)
    x, dy = plan.inputs(x, dy)
    dw, dbias = plan.output(0, dy.device), plan.output(1, dy.device)
    plan.run((x, dy, _code(code, pool), dw, dbias), (w_size, conv, pool[:8] or None), how)
    return dw, dbias
