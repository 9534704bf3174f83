"""The max-pool kernels. The code is the winner's position in each window."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from .. import geometry
from ..geometry import PoolSpec
from .buffers import copy_format
from .plan import Plan, thread_options

Sizes = Sequence[int]


@lru_cache(maxsize=4096)
def _fprop_plan(
    size: Sizes,
    stride: Sizes,
    dtype: torch.dtype,
    pool: PoolSpec,
    save: bool,
    device: int,
    options: tuple,
) -> Plan:
    y = geometry.pool_output(size, stride, pool)
    outputs = (*y, dtype), (*y, geometry.pool_code_dtype(pool)) if save else None
    return Plan("max_pool2d_fprop", device, outputs, (copy_format(size, stride),))


class PreparedFprop:
    """Max-pool for tensors of certain forms, under certain settings."""

    __slots__ = ("options", "plan", "specs")

    def __init__(self, x: Tensor, pool: PoolSpec, save: bool) -> None:
        self.options, self.specs = thread_options(x), (pool.without_ceil_mode(),)
        forms = x.shape, x.stride(), x.dtype
        self.plan = _fprop_plan(*forms, pool, save, x.get_device(), self.options)

    def run(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The output and, if it is saved, the code."""
        plan = self.plan
        (x,) = plan.inputs(x)
        y, code = plan.output(0, x.device), plan.output(1, x.device)
        plan.run((x, y, code), self.specs, self.options)
        return y, code


@lru_cache(maxsize=4096)
def _bprop_plan(
    dy_size: Sizes,
    dy_stride: Sizes,
    code_stride: Sizes,
    dtype: torch.dtype,
    x_hw: Sizes,
    channels_last: bool,
    pool: PoolSpec,
    device: int,
    options: tuple,
) -> Plan:
    size = (*dy_size[:2], *x_hw)
    copies = copy_format(dy_size, dy_stride), copy_format(dy_size, code_stride)
    dx = size, geometry.strides(size, channels_last), dtype
    return Plan("max_pool2d_bprop", device, (dx,), copies)


def bprop(dy: Tensor, code: Tensor, x_hw: Sizes, channels_last: bool, pool: PoolSpec) -> Tensor:
    """The gradient of x, in the memory format asked for."""
    options = thread_options(dy)
    forms = dy.shape, dy.stride(), code.stride(), dy.dtype
    plan = _bprop_plan(*forms, tuple(x_hw), channels_last, pool, dy.get_device(), options)
    dy, code = plan.inputs(dy, code)
    dx = plan.output(0, dy.device)
    plan.run((dy, code, dx), (pool.without_ceil_mode(),), options)
    return dx
