"""max_pool2d. Saved for the backward pass: the winner's position in each window, no values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import geometry
from ..geometry import PoolSpec, tensor_is_channels_last
from ..kernels import max_pool2d as kernels
from . import codes, fallback
from .operation import Operation

Sizes = Sequence[int]


def _prepare_fprop(
    x: Tensor, pool: PoolSpec, save: bool
) -> Callable[[Tensor], tuple[Tensor, Tensor | None]]:
    return kernels.PreparedFprop(x, pool, save).run


def _fprop_fake(x: Tensor, pool: PoolSpec, save: bool) -> tuple[Tensor, Tensor]:
    size, stride = geometry.pool_output(x.shape, x.stride(), pool)
    y = x.new_empty_strided(size, stride)
    if not save:
        return y, x.new_empty(0)
    return y, x.new_empty_strided(size, stride, dtype=geometry.pool_code_dtype(pool))


def _fprop_save(ctx: Any, args: Any, output: Any) -> None:
    x, ctx.pool = args
    ctx.x_hw, ctx.channels_last = x.shape[2:], tensor_is_channels_last(x)
    ctx.save_for_backward(output[1])


def _fprop_backward(ctx: Any, dy: Tensor) -> tuple[Tensor]:
    (code,) = ctx.saved_tensors
    return (max_pool2d_backward(dy, code, ctx.x_hw, ctx.channels_last, ctx.pool),)


def _bprop_fake(
    dy: Tensor, code: Tensor, x_hw: Sizes, channels_last: bool, pool: PoolSpec
) -> Tensor:
    size = (*dy.shape[:2], *x_hw)
    return dy.new_empty_strided(size, geometry.strides(size, channels_last))


def _bprop_save(ctx: Any, args: Any, output: Any) -> None:
    ctx.save_for_backward(args[1])
    ctx.pool = args[4]


def _bprop_backward(ctx: Any, ddx: Tensor) -> tuple[Tensor, None]:
    return codes.gather(ddx, ctx.saved_tensors[0], ctx.pool), None


max_pool2d_backward = Operation(
    "max_pool2d_backward(Tensor dy, Tensor code, SymInt[] x_hw, bool channels_last, "
    "int[] pool) -> Tensor",
    tensors=2,
    forward=kernels.bprop,
    fake=_bprop_fake,
    save=_bprop_save,
    backward=_bprop_backward,
    fallback=fallback.max_pool2d_backward,
    fold=(0, 1),
)

max_pool2d = Operation(
    "max_pool2d(Tensor x, int[] pool, bool save) -> (Tensor, Tensor)",
    tensors=1,
    prepare_kernel=_prepare_fprop,
    fake=_fprop_fake,
    save=_fprop_save,
    backward=_fprop_backward,
    fallback=fallback.max_pool2d_padded,
    has_code=True,
    fold=(0,),
)


def max_pool2d_with_indices(x: Tensor, pool: PoolSpec) -> tuple[Tensor, Tensor]:
    """max_pool2d and the winners' flat positions in the H x W plane, int64 (-1: none)."""
    y, code = max_pool2d.with_code(x, pool)
    indices = torch.empty_like(y, dtype=torch.int64)  # in y's memory format
    return y, indices.copy_(codes.flat_index(code, x.shape[3], pool))
