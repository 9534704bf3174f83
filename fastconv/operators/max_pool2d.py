"""max_pool2d. Saved for the backward pass: the winner's position in each window, no values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from . import _codes, _fallback
from . import _geometry as geometry
from ._define import define
from ._marshal import copy_format
from ._plan import Plan, threads
from .conv2d import _channels_last

Ints = Sequence[int]


def _code_dtype(pool: Ints) -> torch.dtype:
    small = pool[0] * pool[1] <= geometry.MAX_BYTE_POSITIONS
    return torch.uint8 if small else torch.int32


def _output(size: Ints, stride: Ints, pool: Ints) -> tuple[Ints, Ints]:
    """Sizes and strides of y."""
    y_size = (*size[:2], *geometry.pool_size(size[2], size[3], pool))
    return y_size, geometry.strides(y_size, geometry.is_channels_last(size, stride))


@lru_cache(maxsize=4096)
def _fprop_plan(
    size: Ints, stride: Ints, dtype: torch.dtype, pool: Ints, save: bool, device: int, how: tuple
) -> Plan:
    y = _output(size, stride, pool)
    outputs = (*y, dtype), (*y, _code_dtype(pool)) if save else None
    return Plan("max_pool2d_fprop", device, outputs, (copy_format(size, stride),))


def _bind(x: Tensor, pool: Any, save: bool) -> Callable[[Tensor], tuple[Tensor, Tensor | None]]:
    pool, how = tuple(pool), threads(x)
    plan = _fprop_plan(x.shape, x.stride(), x.dtype, pool, save, x.get_device(), how)
    geometry = (pool[:8],)

    def bound(x: Tensor) -> tuple[Tensor, Tensor | None]:
        (x,) = plan.inputs(x)
        y, code = plan.output(0, x.device), plan.output(1, x.device)
        plan.run((x, y, code), geometry, how)
        return y, code

    return bound


def _fprop(x: Tensor, pool: Any, save: bool) -> tuple[Tensor, Tensor | None]:
    return _bind(x, pool, save)(x)


def _fprop_fake(x: Tensor, pool: Any, save: bool) -> tuple[Tensor, Tensor]:
    size, stride = _output(x.shape, x.stride(), pool)
    y = x.new_empty_strided(size, stride)
    if not save:
        return y, x.new_empty(0)
    return y, x.new_empty_strided(size, stride, dtype=_code_dtype(pool))


def _fprop_save(ctx: Any, args: Any, output: Any) -> None:
    x, ctx.pool = args
    ctx.x_hw, ctx.channels_last = x.shape[2:], _channels_last(x)
    ctx.save_for_backward(output[1])


def _fprop_backward(ctx: Any, dy: Tensor) -> tuple[Tensor]:
    (code,) = ctx.saved_tensors
    return (max_pool2d_backward(dy, code, ctx.x_hw, ctx.channels_last, ctx.pool),)


@lru_cache(maxsize=4096)
def _bprop_plan(
    dy_size: Ints, dy_stride: Ints, code_stride: Ints, dtype: torch.dtype, x_hw: Ints,
    channels_last: bool, pool: Ints, device: int, how: tuple,
) -> Plan:  # fmt: skip
    size = (*dy_size[:2], *x_hw)
    copies = copy_format(dy_size, dy_stride), copy_format(dy_size, code_stride)
    dx = size, geometry.strides(size, channels_last), dtype
    return Plan("max_pool2d_bprop", device, (dx,), copies)


def _bprop(dy: Tensor, code: Tensor, x_hw: Any, channels_last: bool, pool: Any) -> Tensor:
    pool, how = tuple(pool), threads(dy)
    forms = dy.shape, dy.stride(), code.stride(), dy.dtype
    rest = tuple(x_hw), channels_last, pool, dy.get_device(), how
    plan = _bprop_plan(*forms, *rest)
    dy, code = plan.inputs(dy, code)
    dx = plan.output(0, dy.device)
    plan.run((dy, code, dx), (pool[:8],), how)
    return dx


def _bprop_fake(dy: Tensor, code: Tensor, x_hw: Any, channels_last: bool, pool: Any) -> Tensor:
    size = (*dy.shape[:2], *x_hw)
    return dy.new_empty_strided(size, geometry.strides(size, channels_last))


def _bprop_save(ctx: Any, args: Any, output: Any) -> None:
    ctx.save_for_backward(args[1])
    ctx.pool = args[4]


max_pool2d_backward = define(
    "max_pool2d_backward(Tensor dy, Tensor code, SymInt[] x_hw, bool channels_last, "
    "int[] pool) -> Tensor",
    tensors=2,
    forward=_bprop,
    fake=_bprop_fake,
    save=_bprop_save,
    backward=lambda ctx, ddx: (_codes.gather(ddx, ctx.saved_tensors[0], ctx.pool), None),
    fallback=_fallback.max_pool2d_backward,
    fold=(0, 1),
)

max_pool2d = define(
    "max_pool2d(Tensor x, int[] pool, bool save) -> (Tensor, Tensor)",
    tensors=1,
    forward=_fprop,
    fake=_fprop_fake,
    save=_fprop_save,
    backward=_fprop_backward,
    fallback=_fallback.max_pool2d_padded,
    code=True,
    fold=(0,),
    bind=_bind,
)


def max_pool2d_with_indices(x: Tensor, pool: Any) -> tuple[Tensor, Tensor]:
    """max_pool2d and the winners' flat positions in the H x W plane, int64 (-1: none)."""
    y, code = max_pool2d.with_code(x, pool)
    indices = torch.empty_like(y, dtype=torch.int64)  # in y's memory format
    return y, indices.copy_(_codes.flat_index(code, x.shape[3], pool))
