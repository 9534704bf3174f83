"""The convolution kernels, alone or as fused blocks: fprop, dgrad and wgrad."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import torch
from torch import Tensor

from .. import _C, geometry, implementations, precision
from ..geometry import ConvSpec, PoolSpec
from .buffers import DTYPES, copy_format
from .plan import Plan

Sizes = Sequence[int]
Fprop = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor | None]]


def _options(direction: str, like: Tensor, problem: Callable[[], tuple]) -> tuple:
    """An entry's last two arguments: (threads, implementation) or (TF32 allowed, implementation).

    CPUs take the number of threads, GPUs whether TF32 is allowed.

    Args:
        like: any of the tensors.
        problem: gives the rest of the key of `implementations.table`, asked where there is a table.
    """
    if like.is_cpu:
        return torch.get_num_threads(), precision.implementation
    tf32 = like.dtype is torch.float32 and precision.tf32()
    if not implementations.table:
        return tf32, ""
    return tf32, implementations.table.get((direction, like.dtype, tf32, *problem()), "")


def _problem(x: Tensor, w_size: Sizes, relu: bool, conv: ConvSpec, pool: PoolSpec | None) -> tuple:
    """The rest of the table's key, where there is an x."""
    return relu, geometry.tensor_is_channels_last(x), x.shape, w_size, conv, pool


def _windows(pool: PoolSpec | None) -> tuple[int, ...] | None:
    return None if pool is None else pool.without_ceil_mode()


def _dense_code(code: Tensor | None, pool: PoolSpec | None) -> Tensor | None:
    """The code in the memory format that kernels write and read; vmap may have changed it."""
    if code is None:
        return None
    kept = torch.contiguous_format if pool is None else torch.channels_last
    return code.contiguous(memory_format=kept)


def _code_kernel_size(y_size: Sizes, code: bool, pool: PoolSpec | None) -> Sizes | None:
    """The sizes in which kernels see a code, None for its own."""
    return geometry.bits_size(y_size) if code and pool is None else None


def _workspace_bytes(
    direction: str,
    dtype: torch.dtype,
    x_size: Sizes,
    w_size: Sizes,
    y_size: Sizes,
    conv: ConvSpec,
    pool: PoolSpec | None,
    relu: bool,
    device: int,
    options: tuple,
) -> int:
    entry = _C.conv2d_workspace if device < 0 else _C.cuda_conv2d_workspace
    sizes = tuple(x_size), tuple(w_size), tuple(y_size)
    return entry(direction, DTYPES[dtype], *sizes, conv, _windows(pool), relu, *options)


@lru_cache(maxsize=4096)
def _fprop_plan(
    x_size: Sizes,
    x_stride: Sizes,
    w_size: Sizes,
    w_stride: Sizes,
    dtype: torch.dtype,
    conv: ConvSpec,
    pool: PoolSpec | None,
    relu: bool,
    save: bool,
    bias: bool,  # `_C`'s prepared call remembers whether there is one
    device: int,
    options: tuple,
) -> Plan:
    channels_last = geometry.is_channels_last(x_size, x_stride) or geometry.is_channels_last(
        w_size, w_stride
    )
    y_size = geometry.block_size(x_size, w_size, conv, pool)
    code = None
    if save:
        code = *geometry.code_form(x_size, w_size, conv, pool, device >= 0), torch.uint8
    sizes = x_size, w_size, y_size
    return Plan(
        "conv2d_fprop",
        device,
        ((y_size, geometry.strides(y_size, channels_last), dtype), code),
        (copy_format(x_size, x_stride), copy_format(w_size, w_stride)),
        _workspace_bytes("fprop", dtype, *sizes, conv, pool, relu, device, options),
        (None, None, None, None, _code_kernel_size(y_size, save, pool)),
    )


class PreparedFprop:
    """fprop for tensors of certain forms, under certain settings."""

    __slots__ = ("device", "options", "packed_bias", "plan", "specs")

    def __init__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        conv: ConvSpec,
        pool: PoolSpec | None,
        relu: bool,
        save: bool,
    ) -> None:
        options = _options("fprop", x, lambda: _problem(x, weight.shape, relu, conv, pool))
        forms = (x.shape, x.stride(), weight.shape, weight.stride(), x.dtype)
        rest = (conv, pool, relu, save, bias is not None, x.get_device(), options)
        self.plan, self.device, self.options = _fprop_plan(*forms, *rest), x.device, options
        self.packed_bias = bias is None or bias.is_contiguous()
        self.specs = conv, _windows(pool), relu

    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The output and, if it is saved, the code."""
        plan, device = self.plan, self.device
        x, weight = plan.inputs(x, weight)
        if bias is not None and not self.packed_bias:
            bias = bias.contiguous()
        y, code = plan.output(0, device), plan.output(1, device)
        plan.run((x, weight, bias, y, code), self.specs, self.options)
        return y, code


def fprop(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    conv: ConvSpec,
    pool: PoolSpec | None,
    relu: bool,
    save: bool,
) -> tuple[Tensor, Tensor | None]:
    """The convolution, or with `relu` the fused block: its output and, to save, its code."""
    return PreparedFprop(x, weight, bias, conv, pool, relu, save).run(x, weight, bias)


def prepare_fprop(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    conv: ConvSpec,
    pool: PoolSpec | None,
    relu: bool,
    save: bool,
) -> Fprop:
    """`fprop` as a function of tensors of these very forms.

    On CPUs it holds for these settings; on GPUs TF32 and implementations may change between calls.
    """
    if x.is_cpu:
        return PreparedFprop(x, weight, bias, conv, pool, relu, save).run
    return partial(fprop, conv=conv, pool=pool, relu=relu, save=save)


@lru_cache(maxsize=4096)
def _dgrad_plan(
    dy_size: Sizes,
    dy_stride: Sizes,
    w_size: Sizes,
    w_stride: Sizes,
    dtype: torch.dtype,
    relu: bool,
    x_hw: Sizes,
    channels_last: bool,
    conv: ConvSpec,
    pool: PoolSpec | None,
    device: int,
    options: tuple,
) -> Plan:
    x_size = geometry.input_size(dy_size[0], w_size, x_hw, conv)
    sizes = x_size, w_size, dy_size
    return Plan(
        "conv2d_dgrad",
        device,
        ((x_size, geometry.strides(x_size, channels_last), dtype),),
        (copy_format(dy_size, dy_stride), copy_format(w_size, w_stride)),
        _workspace_bytes("dgrad", dtype, *sizes, conv, pool, relu, device, options),
        (None, _code_kernel_size(dy_size, relu, pool), None, None),
    )


def dgrad(
    dy: Tensor,
    code: Tensor | None,
    weight: Tensor,
    x_hw: Sizes,
    channels_last: bool,
    conv: ConvSpec,
    pool: PoolSpec | None = None,
) -> Tensor:
    """The gradient of x, in the memory format asked for."""
    relu, x_hw, w_size = code is not None, tuple(x_hw), weight.shape

    def problem() -> tuple:
        x_size = geometry.input_size(dy.shape[0], w_size, x_hw, conv)
        return relu, channels_last, x_size, w_size, conv, pool

    options = _options("dgrad", dy, problem)
    forms = (dy.shape, dy.stride(), w_size, weight.stride(), dy.dtype)
    rest = (relu, x_hw, channels_last, conv, pool, dy.get_device(), options)
    plan = _dgrad_plan(*forms, *rest)
    dy, weight = plan.inputs(dy, weight)
    dx = plan.output(0, dy.device)
    plan.run((dy, _dense_code(code, pool), weight, dx), (conv, _windows(pool)), options)
    return dx


@lru_cache(maxsize=4096)
def _wgrad_plan(
    x_size: Sizes,
    x_stride: Sizes,
    dy_size: Sizes,
    dy_stride: Sizes,
    dtype: torch.dtype,
    relu: bool,
    w_size: Sizes,
    channels_last: bool,
    want_weight: bool,
    want_bias: bool,
    conv: ConvSpec,
    pool: PoolSpec | None,
    device: int,
    options: tuple,
) -> Plan:
    sizes = x_size, w_size, dy_size
    return Plan(
        "conv2d_wgrad",
        device,
        (
            (w_size, geometry.strides(w_size, channels_last), dtype) if want_weight else None,
            ((w_size[0],), (1,), dtype) if want_bias else None,
        ),
        (copy_format(x_size, x_stride), copy_format(dy_size, dy_stride)),
        _workspace_bytes("wgrad", dtype, *sizes, conv, pool, relu, device, options),
        (None, None, _code_kernel_size(dy_size, relu, pool), None, None),
    )


def wgrad(
    x: Tensor,
    dy: Tensor,
    code: Tensor | None,
    w_size: Sizes,
    channels_last: bool,
    want_weight: bool,
    want_bias: bool,
    conv: ConvSpec,
    pool: PoolSpec | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of weight and bias, None where not wanted."""
    relu, w_size = code is not None, tuple(w_size)
    options = _options("wgrad", dy, lambda: _problem(x, w_size, relu, conv, pool))
    forms = (x.shape, x.stride(), dy.shape, dy.stride(), x.dtype)
    wanted = (channels_last, want_weight, want_bias)
    rest = (relu, w_size, *wanted, conv, pool, x.get_device(), options)
    plan = _wgrad_plan(*forms, *rest)
    x, dy = plan.inputs(x, dy)
    dw, dbias = plan.output(0, dy.device), plan.output(1, dy.device)
    specs = w_size, conv, _windows(pool)
    plan.run((x, dy, _dense_code(code, pool), dw, dbias), specs, options)
    return dw, dbias
